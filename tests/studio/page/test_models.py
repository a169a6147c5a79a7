"""What a model takes, the page offers: by its record, never by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import tiny_magenta_model
from tests.support.studio_page import StudioPage, server, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def _told(studio: StudioPage, change: Callable[[dict[str, Any]], None]) -> None:
    """Load the page with another record of models than the server's."""

    def answer(route: Any) -> None:
        found = route.fetch()
        told = found.json()
        change(told)
        route.fulfill(response=found, json=told)

    studio.page.route("**/v1/models", answer)
    studio.page.reload()
    studio.ready()


def _asked(studio: StudioPage, path: str) -> list[Any]:
    """What the page sends there from now on; nothing of it reaches the server."""
    bodies: list[Any] = []

    def keep(route: Any) -> None:
        if route.request.method != "POST":
            return route.continue_()
        bodies.append(route.request.post_data_json)
        error = {"error": {"message": "Not here.", "type": "invalid_request", "code": 422}}
        return route.fulfill(status=422, json=error)

    studio.page.route(path, keep)
    return bodies


def test_every_option_has_a_field(studio: StudioPage) -> None:
    studio.page.get_by_role("button", name="Options").click()
    model = studio.api("/v1/models")["models"][0]
    for option in model["options"]:
        if option["kind"] == "file":
            found = studio.page.get_by_role("group", name=option["label"], exact=False)
        else:
            found = studio.page.locator(f"#desk [name='{option['name']}']")
        assert found.count() == 1, option["name"]


def test_candidates_are_made_and_the_best_is_kept(studio: StudioPage) -> None:
    studio.plan("solo piano", duration=4)
    studio.page.get_by_role("button", name="Options").click()
    studio.page.locator("#desk [name=candidates]").fill("2")
    studio.render()
    studio.finished()
    assert "the best of 2, seed " in studio.page.locator(".take-text").inner_text()
    until(lambda: studio.loudness() > 0.01, "sound")  # heard when it is whole, no sooner


def test_a_file_that_is_too_large_is_not_sent(studio: StudioPage, recording: Path) -> None:
    def small(told: dict[str, Any]) -> None:
        told["max_upload_bytes"] = 2**18

    _told(studio, small)
    sent = _asked(studio, "**/v1/uploads*")
    studio.drop_file("#desk", recording)
    studio.says("beat.wav is larger than the 0.3 MB that are taken.")
    assert sent == []


def test_adapters_go_with_a_plan(studio: StudioPage) -> None:
    def with_adapter(told: dict[str, Any]) -> None:
        told["models"][0]["adapters"] = [{"name": "my songs"}]

    _told(studio, with_adapter)
    sent = _asked(studio, "**/v1/plans")
    studio.page.get_by_role("button", name="Options").click()
    studio.page.get_by_label("my songs", exact=True).check()
    studio.page.get_by_label("Weight of my songs").fill("0.5")
    studio.page.get_by_role("textbox", name="What the music should be").fill("solo piano")
    studio.page.get_by_role("button", name="Plan", exact=True).click()
    studio.says("Not here.")
    assert sent[0]["adapters"] == [{"name": "my songs", "weight": 0.5}]


def test_a_model_without_plans_makes_songs_of_words(
    browser: "Browser", tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    with server(tmp_path, "--model", str(tiny_musicgen_upstream)) as address:
        tab = StudioPage.opened(browser, address)
        assert tab.page.get_by_role("button", name="Plan", exact=True).count() == 0
        tab.page.get_by_role("textbox", name="What the music should be").fill("techno")
        tab.page.locator("#desk [name=duration]").fill("2")
        tab.page.locator("#desk [name=takes]").fill("2")
        tab.page.get_by_role("button", name="Options").click()
        tab.page.locator("#desk [name=loudness]").fill("off")
        tab.render()
        tab.expect_count(".take[data-status=done]", 2)
        assert tab.page.locator(".take-name").all_inner_texts() == ["Seed 0", "Seed 1"]
        assert tab.page.locator(".card").count() == 0
        songs = tab.api("/v1/songs")["songs"]
        assert {song["options"]["loudness"] for song in songs} == {False}
        tab.close()
    assert tab.faults == []


def test_a_segment_has_settings_of_its_own(browser: "Browser", tmp_path: Path) -> None:
    model = tiny_magenta_model.write(tmp_path / "magenta", seed=1)
    with server(tmp_path, "--model", str(model)) as address:
        tab = StudioPage.opened(browser, address)
        tab.page.get_by_role("textbox", name="What the music should be").fill("jazz")
        tab.page.locator("#desk [name=duration]").fill("5")
        tab.page.get_by_role("button", name="Plan", exact=True).click()
        tab.card(1).wait_for()
        assert tab.page.get_by_role("button", name="Harmony").count() == 0  # it knows no chords
        tab.key(1, "s")
        tab.page.locator(".popup [name=drums]").select_option("none")
        tab.page.get_by_role("button", name="Set", exact=True).click()
        tab.says("Segment 2 is set.")
        assert tab.card(1).locator(".controls").inner_text() == "drums: none"
        assert tab.card(0).locator(".controls").count() == 0
        tab.key(1, "s")
        tab.page.locator(".popup [name=drums]").select_option("")  # as in the whole song again
        tab.page.get_by_role("button", name="Set", exact=True).click()
        tab.expect_count(".controls", 0)
        tab.close()
    assert tab.faults == []
