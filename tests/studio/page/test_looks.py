"""What holds of the whole page: accessibility in both themes, the phone, its size, its sources."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import musicot_mlx
from tests.support.studio_page import StudioPage, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

STATIC = Path(musicot_mlx.__file__).parent / "studio" / "static"
SCRIPTS = sorted(path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html"))
MOST_BYTES = 200_000
THEMES = ("light", "dark")
# What browsers have only on pages that came over TLS or from this machine; a studio on another
# machine of the house is neither.
SECURE_ONLY = (
    "randomUUID",
    "crypto.subtle",
    "navigator.clipboard",
    "audioWorklet",
    "serviceWorker",
)
UNSAFE = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(")
# Names of chords that run into the next one, or out of the plan: a part of one is another chord.
CUT_CHORDS = """() => {
    const names = [...document.querySelectorAll(".chord span")].filter((it) => it.textContent);
    if (!names.length) return ["there are none"];
    const end = document.querySelector(".chords").getBoundingClientRect().right;
    const boxes = names.map((it) => it.getBoundingClientRect());
    const meet = (a, b) => a.right > b.left && a.left < b.right && a.top < b.bottom - 1
        && a.bottom > b.top + 1;
    return names.filter((name, i) => name.scrollWidth > name.offsetWidth + 1
        || boxes[i].right > end + 1 || boxes.slice(i + 1).some((next) => meet(boxes[i], next))
    ).map((it) => it.textContent);
}"""

# Buttons of a take whose words run into the next button.
MEETING = """() => [...document.querySelectorAll(".take .label")].flatMap((label) => {
    const buttons = [...label.querySelectorAll("button")].filter((it) => it.offsetParent);
    const boxes = buttons.map((it) => it.getBoundingClientRect());
    return buttons.filter((it, i) => it.scrollWidth > it.clientWidth + 1 || boxes.slice(i + 1)
        .some((next) => boxes[i].right > next.left + 1 && boxes[i].bottom > next.top + 1
            && next.bottom > boxes[i].top + 1 && next.right > boxes[i].left + 1)
    ).map((it) => it.textContent || it.ariaLabel);
})"""


@pytest.fixture(scope="module")
def plan(browser: "Browser", address: str) -> str:
    """A plan that became a song."""
    tab = StudioPage.opened(browser, address)
    made = tab.made("solo piano", duration=14)
    tab.close()
    return made["plan"]["id"]


def _crowded(route: "Route") -> None:
    """Ten minutes of what is hard to set: words without an end, words from right to left."""
    answer = route.fetch()
    plan = answer.json()
    first, words = plan["segments"][0], ["x" * 300, "موسيقى هادئة"]
    plan["duration"] = 600
    plan["segments"] = [
        {**first, "index": at, "start": 10 * at, "end": 10 * at + 10, "label": words[at % 2]}
        for at in range(60)
    ]
    route.fulfill(response=answer, json=plan)


@pytest.mark.parametrize("width", [1360, 390])
def test_axe_finds_nothing_serious(browser: "Browser", address: str, plan: str, width: int) -> None:
    tab = StudioPage.opened(browser, address, viewport={"width": width, "height": 844})
    found: list[str] = []

    def look() -> None:
        for theme in THEMES:
            tab.page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            found.extend(f"{theme}: {each}" for each in violations(tab.page))

    tab.page.get_by_role("button", name="Options").click()
    look()
    tab.page.goto(f"{address}/#{plan}")
    tab.page.reload()
    tab.ready()
    tab.finished()
    tab.card(0).locator(".outcome").wait_for()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width  # but the timeline
    assert tab.page.evaluate(CUT_CHORDS) == []
    tab.key(0, "m")
    look()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("button", name="Keys").click()
    look()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_role("button", name="Today: what was made").click()
    tab.page.locator(".side .find").first.wait_for()
    tab.page.get_by_role("button", name="This take: what can be done").first.press("Enter")
    look()
    tab.page.keyboard.press("Escape")  # the menu, then the panel
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#side").is_hidden()
    tab.render()
    tab.page.locator("[aria-label='Cancel this take']:visible").first.wait_for()
    assert tab.page.evaluate(MEETING) == []
    tab.page.get_by_role("button", name="Cancel", exact=True).press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "render"  # the button is gone
    tab.page.route("**/v1/plans/*", _crowded)
    tab.page.reload()
    tab.expect_count(".card", 60)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.emulate_media(forced_colors="active")
    look()
    tab.key(59, "Enter")  # the last of them, in sight
    assert 0 < tab.card(59).bounding_box()["x"] < width
    tab.page.keyboard.press("Escape")
    tab.page.unroute("**/v1/plans/*")
    tab.plan("bossa nova, soft guitar", duration=40)
    assert tab.page.evaluate(CUT_CHORDS) == []
    tab.api(f"/v1/songs/{tab.api('/v1/songs?limit=1')['songs'][0]['id']}", "DELETE")
    tab.close()
    assert found == []


def test_the_switch_turns_the_theme(studio: StudioPage) -> None:
    def colour() -> str:
        return studio.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, button = colour(), studio.page.get_by_role("button", name=re.compile("^Theme"))
    button.click()  # light
    assert colour() == light
    button.click()
    assert colour() != light
    studio.page.reload()
    studio.ready()
    assert colour() != light  # remembered


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) < MOST_BYTES


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_ours_and_make_no_markup_of_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [
        word for word in (*UNSAFE, *SECURE_ONLY) if re.search(rf"{re.escape(word)}\b", text)
    ]
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert len(text.splitlines()) <= 600


def test_nothing_is_loaded_from_elsewhere(studio: StudioPage) -> None:
    addresses = studio.page.evaluate(
        "performance.getEntriesByType('resource').map((each) => each.name)"
    )
    assert addresses and all(each.startswith(studio.address) for each in addresses)
