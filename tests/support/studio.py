"""A studio in a process of its own, as users run it: the real server on a free port."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A server that runs: its address, its data folder, and a client of it."""

    process: subprocess.Popen
    address: str
    folder: Path
    client: httpx.Client

    def get(self, path: str, **given: Any) -> httpx.Response:
        return self.client.get(f"/v1{path}", **given)

    def post(self, path: str, body: Any = None, **given: Any) -> httpx.Response:
        return self.client.post(f"/v1{path}", json=body, **given)

    def plan(self, prompt: str = "piano", **options: Any) -> dict[str, Any]:
        """A new plan."""
        found = self.post("/plans", {"prompt": prompt, "options": options})
        assert found.status_code == 201, found.text
        return found.json()

    def edit(self, plan: str, edit: str, **given: Any) -> httpx.Response:
        return self.post(f"/plans/{plan}/edits", {"edit": edit, **given})

    def ask(self, **body: Any) -> list[dict[str, Any]]:
        """New songs."""
        found = self.post("/songs", body)
        assert found.status_code == 202, found.text
        return found.json()["songs"]

    def wait(self, ready: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What `ready` gives as soon as that is something."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := ready():
                return found
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s")

    def finished(self, song: str) -> dict[str, Any]:
        """A song once it has finished."""
        over = ("done", "failed", "cancelled")
        return self.wait(lambda: (each := self.song(song))["status"] in over and each)

    def running(self, song: str) -> dict[str, Any]:
        """A song as soon as some of it is there."""
        return self.wait(lambda: (each := self.song(song))["made_seconds"] and each)

    def song(self, song: str) -> dict[str, Any]:
        """A song as it is."""
        return self.get(f"/songs/{song}").json()

    def error(self, found: httpx.Response, status: int) -> str:
        """The sentence of a refusal, which has the one shape that all have."""
        assert found.status_code == status, found.text
        told = found.json()["error"]
        assert set(told) == {"message", "type", "param", "code"} and told["code"] == status
        sentence = told["message"]
        assert sentence.endswith((".", "!", "?")) and "\n" not in sentence, sentence
        assert str(self.folder) not in sentence and "Traceback" not in sentence, sentence
        return sentence

    def complaints(self) -> str:
        """What it wrote on standard error, but for conversions, which begin before it listens."""
        told = (self.folder.parent / f"{self.folder.name}.err").read_text()
        return "\n".join(line for line in told.splitlines() if not line.startswith("converting "))


@contextmanager
def serving(
    folder: Path,
    *options: str,
    command: str = "serve",
    python: Sequence[str] = ("-m", "musicot_mlx"),
) -> Iterator[Server]:
    """A server within the block; it must end well and have told of no fault of its own. python:
    what runs as musicot.
    """
    if "--library" not in options:
        options += ("--no-library",)
    with open(folder.parent / f"{folder.name}.err", "a") as errors:
        process = subprocess.Popen(
            [sys.executable, *python, command, "--port", "0", "--data-dir", str(folder), *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=tiny.environment(),
        )
    try:
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), (folder.parent / f"{folder.name}.err").read_text()
        with httpx.Client(base_url=address.partition("?")[0], timeout=60) as client:
            server = Server(process, address, folder, client)
            yield server
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        assert not server.complaints(), server.complaints()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """(id, name, data) of server-sent events, pings left out."""
    told: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            told[name] = value
        elif told:
            yield told["id"], told["event"], json.loads(told["data"])
            told = {}
