"""What a model takes, the page offers: by its record, never by its name."""

from collections.abc import Callable
from typing import Any

from tests.support.studio_page import StudioPage, until


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


def test_a_model_without_plans_makes_songs_of_words(studio: StudioPage) -> None:
    def with_another(told: dict[str, Any]) -> None:
        wanted = ("duration", "top_k", "loudness")
        options = [each for each in told["models"][0]["options"] if each["name"] in wanted]
        other = {**told["models"][0], "name": "words alone", "edits": [], "options": options}
        told["models"].append({**other, "capabilities": ["songs"]})

    _told(studio, with_another)
    sent = _asked(studio, "**/v1/songs")
    studio.page.get_by_label("Model").select_option("words alone")
    assert studio.page.get_by_role("button", name="Plan", exact=True).count() == 0
    assert studio.page.locator("#desk [name=key]").count() == 0
    studio.page.get_by_role("textbox", name="What the music should be").fill("techno")
    studio.page.locator("#desk [name=duration]").fill("8")
    studio.page.locator("#desk [name=takes]").fill("2")
    studio.page.get_by_role("button", name="Options").click()
    studio.page.locator("#desk [name=loudness]").fill("off")
    studio.render()
    studio.says("Not here.")
    (body,) = sent
    assert body == {
        "model": "words alone",
        "prompt": "techno",
        "options": {"duration": 8, "loudness": False},
        "adapters": [],
        "seeds": [0, 1],
    }
