"""A server that is killed while a song is made: the open page finds all again by itself."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.support.studio_page import StudioPage, server, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_a_killed_server_loses_nothing(browser: "Browser", tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the studio needs the extra [studio]")
    with server(tmp_path, crash=True) as address:
        tab = StudioPage.opened(browser, address)
        tab.plan("solo piano", duration=10)
        tab.set_words(0, "brass band")
        asked = tab.asked()
        tab.render()
        tab.expect_count(".take[data-status=running]", 1)
    queue = tab.page.locator("#queue")
    until(lambda: "does not answer" in queue.inner_text(), "the sentence of the loss")
    with server(tmp_path, port=urlsplit(address).port or 0):
        tab.finished()  # the queue goes on, and the page with it
        assert tab.words() == ["brass band"] and tab.asked() == asked
        until(lambda: "does not answer" not in queue.inner_text(), "the connection")
        tab.page.get_by_role("button", name="Undo").click()
        until(lambda: tab.words() == ["solo piano"], "the undo")
        play = tab.page.get_by_role("button", name="Play")
        until(lambda: tab.loudness() > 0.01 or (play.count() and play.click()), "sound")
        tab.close()
    assert tab.faults == []
