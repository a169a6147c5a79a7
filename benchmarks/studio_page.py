"""How soon the studio's page is there, and how soon a song is heard on it.

    python -m benchmarks.studio_page --json benchmarks/results/studio-page.json

A server of its own and a headless Chromium, both warm: the page is loaded, a song of 30 s planned
and rendered, and a segment changed and rendered again, so many times. Heard is what the page's own
meter shows of the sound that comes out. Each figure is the median of its runs, beside the best;
`load` says what else the machine did (1 is one busy core): the medians hold for that alone.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import musicot_mlx
from musicot_mlx.evaluation.speed import hardware
from tests.support.studio_page import FLAGS, StudioPage, chromium, server, until

STATIC = Path(musicot_mlx.__file__).parent / "studio" / "static"
DURATION = 30.0  # seconds of each song
SILENT = 0.01  # of the meter


def one(tab: StudioPage, seed: int) -> dict[str, float]:
    """Seconds from each press to what it brings."""
    tab.page.goto("about:blank")
    tab.page.goto(f"{tab.address}/#new")
    took = {"ready": tab.ready() / 1000}
    took["plan"] = _took(lambda: tab.plan("jazz trio with piano", duration=DURATION, seed=seed))
    took["heard"] = _took(lambda: _heard(tab))
    tab.finished()
    tab.set_words(2, "full drum kit")
    took["heard_again"] = _took(lambda: _heard(tab))
    tab.finished(2)
    return took


def _heard(tab: StudioPage) -> None:
    """Render, and wait for the first sound of it."""
    if tab.page.get_by_role("button", name="Pause").count():
        tab.page.get_by_role("button", name="Pause").click()
    tab.render()
    until(lambda: tab.loudness() > SILENT, "sound")


def _took(act: Any) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    load = round(os.getloadavg()[0], 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder)) as address,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        tab = StudioPage.opened(browser, address)
        one(tab, 0)  # warm
        runs = [one(tab, seed) for seed in range(1, args.runs + 1)]
        tab.close()
        version = browser.version
        browser.close()
    seconds = {
        name: {"median": median(run[name] for run in runs), "best": min(run[name] for run in runs)}
        for name in runs[0]
    }
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    results = {
        "recipe": f"{args.runs} warm runs, songs of {DURATION:g} s, headless Chromium {version}",
        "machine": hardware.facts(),
        "load": load,
        "bytes": sum(path.stat().st_size for path in files),
        "files": len(files),
        "seconds": seconds,
    }
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
