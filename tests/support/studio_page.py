"""The studio's page as a test drives it: a server of its own, and what a person does on it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Download, Locator, Page

DEBIAN = Path("/usr/bin/chromium")
# root needs --no-sandbox; without the rest Chromium looks for hosts that tests must not need
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 60.0  # seconds that a song may take where tests share the machine


def chromium() -> Path | None:
    """Debian's browser where it is installed; None for the one that Playwright brought, if any."""
    return DEBIAN if DEBIAN.exists() else None


@contextmanager
def server(folder: Path, *options: str, port: int = 0, crash: bool = False) -> Iterator[str]:
    """A studio with its data below the folder; the address that it listens on. crash: it is killed
    in the end, and can tidy up nothing.
    """
    command = [sys.executable, "-m", "musicot_mlx", "studio", "--no-open", "--port", str(port)]
    command += ["--data-dir", str(folder / "data"), "--library", str(folder / "library")]
    command += options
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ}
        )
        assert process.stdout
        try:
            address = process.stdout.readline().strip()
            errors.seek(0)
            assert address.startswith("http://"), errors.read().decode()
            yield address.rstrip("/")
        finally:
            process.kill() if crash else process.terminate()
            process.wait(timeout=20)
            process.stdout.close()


@dataclass
class StudioPage:
    """A tab of the studio. faults: what its console complained of."""

    page: "Page"
    address: str
    faults: list[str] = field(default_factory=list)

    @classmethod
    def opened(
        cls, browser: "Browser", address: str, begin: str = "#new", **options: Any
    ) -> "StudioPage":
        """A new tab of a browser without history, ready. begin: the plan it opens, as #p_1; an
        empty page by default.
        """
        context = browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **options})
        context.set_default_timeout(1000 * PATIENCE)
        tab = cls(context.new_page(), address)
        tab.page.on("pageerror", lambda error: tab.faults.append(str(error)))
        tab.page.on(
            "console",
            lambda said: tab.faults.append(said.text) if "Content Security" in said.text else None,
        )
        tab.page.goto(f"{address}/{begin}")
        tab.ready()
        return tab

    @property
    def context(self) -> "BrowserContext":
        return self.page.context

    def ready(self) -> int:
        """Wait until the page is; milliseconds that it took from the first byte on."""
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return int(self.page.get_attribute("html", "data-ready") or 0)

    def api(self, path: str, method: str = "GET", body: object = None) -> Any:
        """What the server answers, as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = Request(self.address + path, data=data, headers=headers, method=method)
        with urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    def bytes_of(self, path: str) -> bytes:
        with urlopen(self.address + path) as answer:
            return answer.read()

    # --- what a person does -----------------------------------------------------------------------

    def plan(self, prompt: str, *, duration: float = 20, seed: int = 0, takes: int = 1) -> None:
        """Write the words, set the fields and have it planned."""
        segments = -(-duration // 10)
        self.page.get_by_role("textbox", name="What the music should be").fill(prompt)
        for name, value in (("duration", duration), ("seed", seed), ("takes", takes)):
            self.page.locator(f"#desk [name={name}]").fill(str(value))
        self.page.get_by_role("button", name="Plan", exact=True).click()
        self.expect_count(".card", int(segments))

    def render(self) -> None:
        self.page.get_by_role("button", name="Render").click()

    def finished(self, count: int = 1) -> None:
        """Wait until so many takes are done, and were heard."""
        self.expect_count(".take[data-status=done]", count)
        self.page.locator(".take .take-text", has_text="like its plan").nth(count - 1).wait_for()

    def card(self, segment: int) -> "Locator":
        return self.page.locator(".card").nth(segment)

    def key(self, segment: int, key: str) -> None:
        """A key on a card."""
        self.card(segment).focus()
        self.page.keyboard.press(key)

    def set_words(self, segment: int, words: str) -> None:
        """Other words for a segment, by the pointer."""
        self.card(segment).locator(".words").click()
        self.page.keyboard.type(words)
        self.page.keyboard.press("Enter")
        self.page.locator(".card .words", has_text=words).first.wait_for()

    def drop_file(self, target: str, *paths: Path) -> None:
        """Files let go over the first element that the selector finds."""
        transfer = self.page.evaluate_handle(
            """(files) => {
                const transfer = new DataTransfer();
                for (const [name, data] of files) {
                    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
                    transfer.items.add(new File([bytes], name));
                }
                return transfer;
            }""",
            [[path.name, _base64(path)] for path in paths],
        )
        for event in ("dragover", "drop"):
            self.page.dispatch_event(target, event, {"dataTransfer": transfer})

    def download(self, act: Callable[[], None]) -> "Download":
        with self.page.expect_download() as download:
            act()
        return download.value

    # --- what the page shows ----------------------------------------------------------------------

    def expect_count(self, selector: str, count: int) -> None:
        until(lambda: self.page.locator(selector).count() == count, f"{count} x {selector}")

    def says(self, text: str) -> None:
        """Wait for a sentence, wherever it is told."""
        self.page.locator(".says", has_text=text).first.wait_for()

    def refused(self, field: "Locator") -> str:
        """What is told at a field, once it is: there, tied to it, with the focus on it."""
        until(lambda: field.get_attribute("aria-invalid") == "true", "the fault")
        assert field.evaluate("it => it === document.activeElement")
        fault = self.page.locator(f"#{field.get_attribute('aria-describedby')}")
        below, above = fault.bounding_box(), field.bounding_box()
        assert below and above and 0 <= below["y"] - above["y"] - above["height"] < 12
        return fault.inner_text()

    def note(self, segment: int) -> "Locator":
        """What is told on a card."""
        return self.card(segment).locator(".note")

    def asked(self) -> list[list[float]]:
        """The heat map as it is drawn: of each row, what its cells ask for (0 to 1)."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll(".heat")].map((row) =>
                [...row.querySelectorAll(".cell")].map((cell) =>
                    Number(cell.style.getPropertyValue("--asked"))))"""
        )

    def column(self, segment: int) -> list[float]:
        return [row[segment] for row in self.asked()]

    def words(self) -> list[str]:
        return [text.strip() for text in self.page.locator(".card .words").all_inner_texts()]

    def position(self) -> float:
        """Seconds into the song that the player shows."""
        minutes, _, seconds = self.page.inner_text("#clock").split("/")[0].strip().partition(":")
        return 60 * int(minutes) + int(seconds)

    def loudness(self) -> float:
        """What the meter shows of the sound that comes out, 0 to 1."""
        return float(
            self.page.evaluate("document.querySelector('#meter').style.getPropertyValue('--level')")
            or 0
        )

    def made(self, prompt: str, *, duration: float = 10, seed: int = 0) -> dict[str, Any]:
        """A song that is done and was heard, made without the page."""
        body = {"prompt": prompt, "seed": seed, "options": {"duration": duration}}
        plan = self.api("/v1/plans", "POST", body)["id"]
        song = self.api("/v1/songs", "POST", {"plan": plan})["songs"][0]["id"]
        return until(lambda: (found := self.api(f"/v1/songs/{song}"))["heard"] and found, "a song")

    def waveform_is_tall(self) -> bool:
        """Whether the first waveform has more than the line of what isn't made yet."""
        return self.page.evaluate(
            """() => {
                const {width, height} = document.querySelector(".waveform");
                const context = document.querySelector(".waveform").getContext("2d");
                return context.getImageData(0, 0, width, height / 3).data.some((it) => it > 0);
            }"""
        )

    def close(self) -> None:
        """Nothing that this tab asked for holds up the next one."""
        for song in self.api("/v1/songs?limit=100")["songs"]:
            if song["status"] in ("queued", "running"):
                self.api(f"/v1/songs/{song['id']}/cancel", "POST")
        self.context.close()


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for it; what it gave."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"still waiting for {what}"
        time.sleep(0.02)
    return found


def violations(page: "Page", impacts: Sequence[str] = ("serious", "critical")) -> list[str]:
    """What axe finds wrong with the page as it stands, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:160]}"
        for each in found
        if each["impact"] in impacts
        for node in each["nodes"]
    ]


def _base64(path: Path) -> str:
    import base64

    return base64.b64encode(path.read_bytes()).decode()
