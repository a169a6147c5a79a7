"""Songs found by how they sound, and what is found put on a segment."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.studio_page import StudioPage, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("lancedb", reason="the library needs the extra [library]")


@pytest.fixture(scope="module")
def drums(browser: "Browser", address: str) -> None:
    """A song of drums is in the library: songs that are made are added by themselves."""
    tab = StudioPage.opened(browser, address)
    song = tab.made("full drum kit")["id"]
    body = {"words": "drums", "limit": 50}

    def added() -> bool:
        found = tab.api("/v1/library/search", "POST", body)["found"]
        return any(find["song"] == song for find in found)

    until(added, "the song in the library")
    tab.close()


@pytest.fixture
def made(drums: None, studio: StudioPage) -> StudioPage:
    """A plan beside the library, which is open."""
    studio.plan("solo piano")
    studio.page.get_by_role("button", name="Library: find songs by how they sound").click()
    return studio


def test_a_find_is_dropped_on_a_segment(made: StudioPage) -> None:
    before = made.asked()
    made.page.keyboard.type("drums")
    made.page.keyboard.press("Enter")
    find = made.page.locator(".find", has_text="full drum kit").first
    find.drag_to(made.card(1))
    made.says("Segment 2 now follows full drum kit.")
    assert made.asked()[0][1] > before[0][1] + 0.2  # more drums
    made.page.keyboard.press("Control+z")
    until(lambda: made.asked() == before, "the undo")
    find.get_by_role("button", name="what can be done").click()  # the keyboard's way
    made.page.get_by_role("menuitem", name="Put on segment 1").click()
    made.says("Segment 1 now follows full drum kit.")
    assert made.asked()[0][0] > before[0][0] + 0.2


def test_songs_are_found_by_a_recording(made: StudioPage, recording: Path) -> None:
    made.drop_file(".side [role=search]", recording)
    made.says("for beat.wav.")
    assert made.page.locator(".find").count() >= 1
    made.page.locator(".find").first.get_by_role("button", name="what can be done").click()
    made.page.get_by_role("menuitem", name="Copy").click()
    made.key(0, "v")
    until(lambda: made.words()[0] != "solo piano", "the paste")


def test_a_recording_is_a_reference(studio: StudioPage, recording: Path, tmp_path: Path) -> None:
    letter = tmp_path / "letter.wav"
    letter.write_bytes(b"Dear listener, " * 40)
    studio.drop_file("#desk", recording, letter)
    tag = studio.page.locator(".dropzone .tag", has_text="beat.wav")
    tag.wait_for()
    studio.page.locator(".dropzone .says[data-kind=error]", has_text="can't be used").wait_for()
    assert studio.page.locator(".dropzone .tag").count() == 1  # the one that is audio stays
    studio.plan("solo piano")
    studio.page.reload()
    studio.ready()
    studio.page.get_by_role("button", name="Options").click()
    tag.wait_for()
    studio.page.get_by_role("button", name="Leave out beat.wav").click()
    assert tag.count() == 0
