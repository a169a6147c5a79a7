"""The studio under load, under fire, and killed in the middle.

    PYTHONPATH=. python benchmarks/studio.py --json benchmarks/results/studio.json

The real server in a process of its own: how soon it answers and is heard, twenty clients with five
hundred requests and a `kill -9` among them, what memory does, ten thousand requests made from the
OpenAPI document (on a tiny model, so that none waits for a song), an upload of two gigabytes. The
figures are those of this machine; first audio is the least of some runs, for others' work on the
machine only adds to it.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from musicot_mlx.evaluation.speed.hardware import facts
from tests.support import tiny
from tests.support.fuzz import fuzz
from tests.support.studio import Server, serving

CLIENTS, REQUESTS, FUZZED = 20, 500, 10_400
PARTS = 4  # of the requests, after each of which memory is looked at
SHORT = 3.0  # seconds of a song under load


def resident(process: subprocess.Popen) -> float:
    """MB of a process that are in memory."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(process.pid)], capture_output=True)
    return round(int(told.stdout) / 1024, 1)


def heard(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds from the start of the process to its page, and from a click to the first sample."""
    began = time.perf_counter()
    with serving(folder) as server:
        server.client.get("/docs")
        ready = time.perf_counter() - began
        plan = server.plan("bossa nova", duration=30)["id"]
        first, whole, stopped = [], [], []
        for seed in range(runs):
            began = time.perf_counter()
            (song,) = server.ask(plan=plan, seed=seed, keep=None)
            with server.client.stream("GET", f"/v1/songs/{song['id']}/audio") as stream:
                for number, _ in enumerate(stream.iter_raw()):
                    if not number:
                        first.append(time.perf_counter() - began)
            whole.append(time.perf_counter() - began)
            server.finished(song["id"])
        for seed in range(runs):
            (song,) = server.ask(plan=plan, seed=100 + seed, keep=None)
            server.running(song["id"])
            began = time.perf_counter()
            server.post(f"/songs/{song['id']}/cancel")
            server.wait(lambda song=song: not list((folder / "songs").glob(f"{song['id']}.live")))
            stopped.append(time.perf_counter() - began)
        # what an edit at the end saves
        (old,) = server.ask(plan=plan, seed=0)
        server.finished(old["id"])
        server.edit(plan, "replace", segments=[2], source={"words": "solo piano"})
        (new,) = server.ask(plan=plan, seed=0)
        kept = server.finished(new["id"])
    return {
        "ready_seconds": round(ready, 2),
        "first_audio_seconds": _spread(first),
        "whole_song_seconds": _spread(whole),
        "cancelled_seconds": _spread(stopped),
        "kept": kept["kept"] | {"render_seconds": kept["render_seconds"]},
    }


def _spread(values: list[float]) -> dict[str, float]:
    found = {"least": min(values), "median": statistics.median(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


class Crowd:
    """Clients that ask for songs until so many requests are answered; each asks again what got no
    answer, under the same key, as one does whose server was gone for a while.
    """

    def __init__(self, address: str, requests: int) -> None:
        self.address, self.left = address, requests
        self.statuses: Counter[int] = Counter()
        self.songs: list[str] = []
        self.unanswered = 0
        self._lock = threading.Lock()

    def run(self, number: int) -> None:
        with httpx.Client(base_url=self.address, timeout=30) as client:
            asked = 0
            while True:
                with self._lock:
                    if self.left <= 0:
                        return
                    self.left -= 1
                asked += 1
                self._ask(client, f"{number}-{asked}")

    def _ask(self, client: httpx.Client, key: str) -> None:
        body = {"prompt": "solo piano", "seed": len(key), "options": {"duration": SHORT}}
        while True:
            try:
                answer = client.post("/v1/songs", json=body, headers={"idempotency-key": key})
                break
            except httpx.TransportError:  # the server is dead
                with self._lock:
                    self.unanswered += 1
                time.sleep(0.2)
        with self._lock:
            self.statuses[answer.status_code] += 1
            if answer.status_code in (200, 202):
                self.songs += [song["id"] for song in answer.json()["songs"]]
        if answer.status_code == 429:
            time.sleep(max(3.0, float(answer.headers["retry-after"])))


def crowd(folder: Path, port: int) -> dict[str, Any]:
    """Twenty clients at once, and the server killed when half of their requests are answered."""
    options = ["--port", str(port)]
    memory: dict[str, float] = {}
    with serving(folder, *options) as server:
        everyone = Crowd(server.address, REQUESTS)
        threads = [threading.Thread(target=everyone.run, args=(k,)) for k in range(CLIENTS)]
        for thread in threads:
            thread.start()
        server.wait(lambda: len(_done(server)) >= 10, 300)
        memory["after_10_songs"] = resident(server.process)
        server.wait(lambda: everyone.left <= REQUESTS / 2 and len(_done(server)) >= 10, 900)
        memory["before_the_kill"] = resident(server.process)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        done_before = len(list((folder / "songs").glob("s_*.json")))
    with serving(folder, *options) as server:
        for thread in threads:
            thread.join()
        server.wait(lambda: not server.get("/songs").json()["queue"], 600)
        memory["at_the_end"] = resident(server.process)
        songs = list(_songs(server))
        left = [p.name for p in (folder / "songs").iterdir() if p.name[0] == "." or
                p.suffix == ".live"]  # fmt: skip
        again = server.plan("x", duration=10)["id"]  # it still works
        assert again
    ids = [song["id"] for song in songs]
    files = {path.stem for path in (folder / "songs").glob("s_*.wav")}
    return {
        "clients": CLIENTS,
        "requests_answered": sum(everyone.statuses.values()),
        "statuses": {str(status): count for status, count in sorted(everyone.statuses.items())},
        "requests_sent_to_a_dead_server": everyone.unanswered,
        "songs_promised": len(everyone.songs),
        "songs_there": len(ids),
        "songs_done": sum(song["status"] == "done" for song in songs),
        "songs_done_before_the_kill": done_before,
        "lost": len(set(everyone.songs) - set(ids)),
        "doubled": len(ids) - len(set(ids)) + len(set(ids) - set(everyone.songs)),
        "without_file": len(set(ids) - files),
        "half_written_files": len(left),
        "memory_mb": memory,
    }


def _songs(server: Server) -> Iterator[dict[str, Any]]:
    before = None
    while page := server.get("/songs", params={"limit": 200} | (
        {} if before is None else {"before": before}
    )).json()["songs"]:  # fmt: skip
        yield from page
        before = page[-1]["number"]


def _done(server: Server) -> list[Any]:
    return server.get("/songs", params={"status": "done", "limit": 50}).json()["songs"]


def fire(folder: Path, requests: int) -> dict[str, Any]:
    """Requests made from the OpenAPI document; what is left of the server then."""
    model = tiny.write_model(folder.parent / "tiny")
    with serving(folder, "--model", str(model)) as server:
        outside = _outside(folder)
        server.finished(server.ask(prompt="piano", options={"duration": 3})[0]["id"])
        memory = {"before": resident(server.process)}
        began, found = time.perf_counter(), Counter()
        for part in range(1, PARTS + 1):
            found += fuzz(server, requests // PARTS, number=part)
            memory[f"after_{part * requests // PARTS}"] = resident(server.process)
        seconds, complaints = time.perf_counter() - began, server.complaints()
        huge = two_gigabytes(server)
        for song in server.get("/songs").json()["queue"]:
            server.post(f"/songs/{song}/cancel")
        unchanged = _outside(folder) == outside
    return {
        "requests": sum(found.values()),
        "statuses": {str(status): count for status, count in sorted(found.items())},
        "seconds": round(seconds, 1),
        "answers_of_500": found[500],
        "tracebacks": complaints.count("Traceback") + complaints.count("this is a bug"),
        "files_outside": not unchanged,
        "memory_mb": memory,
        "upload_of_two_gigabytes": huge,
    }


def _outside(folder: Path) -> set[Path]:
    """What lies beside the data folder."""
    return {path for path in folder.parent.rglob("*") if not path.is_relative_to(folder)}


def two_gigabytes(server: Server) -> dict[str, float]:
    """How much of an upload of two gigabytes is sent before it ends, its length untold."""
    place, sent, began = urlsplit(server.address), 0, time.perf_counter()
    block = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    head = "POST /v1/uploads?name=a.wav HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection((place.hostname, place.port)) as sender:
        sender.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            while sent < 2 << 30:
                sender.sendall(block)
                sent += 1 << 20
        except OSError:
            pass
    return {"sent_mb": sent >> 20, "seconds": round(time.perf_counter() - began, 2)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["heard", "crowd", "fire"],
                        help="what is measured; the rest of the file stays")  # fmt: skip
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--fuzzed", type=int, default=FUZZED)
    parser.add_argument("--port", type=int, default=8799)
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json.is_file() else {}
    measures = {
        "heard": lambda folder: heard(folder, args.runs),
        "crowd": lambda folder: crowd(folder, args.port),
        "fire": lambda folder: fire(folder, args.fuzzed),
    }
    for part in args.parts:
        with tempfile.TemporaryDirectory() as name:
            load = round(os.getloadavg()[0], 1)
            found[part] = {**measures[part](Path(name) / "data"), "load": load}
        print(part, json.dumps(found[part], indent=1), flush=True)
        found["machine"] = facts()
        args.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
