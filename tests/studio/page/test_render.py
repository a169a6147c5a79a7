"""Songs on the page: heard while they are made, made anew from a change on, cancelled, compared."""

import json
import time
from typing import Any

from tests.support.studio_page import StudioPage, until

PROMPT = "solo piano"
# What screen readers are told by themselves from now on.
LISTEN = """() => {
    window.spoken = [];
    for (const place of document.querySelectorAll("[role=status], [aria-live]"))
        new MutationObserver(() => {
            const copy = place.cloneNode(true);
            for (const part of copy.querySelectorAll("[aria-hidden=true]")) part.remove();
            if (spoken.at(-1) !== copy.textContent) spoken.push(copy.textContent);
        }).observe(place, {childList: true, characterData: true, subtree: true});
}"""


def _lane(studio: StudioPage, at: int = 0) -> str:
    return studio.page.locator(".take").nth(at).get_attribute("data-status") or ""


def _samples(studio: StudioPage, song: str) -> bytes:
    return studio.bytes_of(f"/v1/songs/{song}/audio")[44:]


def test_a_song_is_heard_while_it_is_made_and_cancelled_at_once(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=120)
    studio.page.evaluate(LISTEN)
    studio.render()
    until(lambda: studio.loudness() > 0.02, "the first second")
    until(studio.waveform_is_tall, "the waveform")
    assert _lane(studio) == "running"  # two minutes take longer than that
    assert studio.page.get_by_role("button", name="Pause").is_enabled()
    progress = studio.page.locator(".take .take-text")
    until(lambda: "s left" in progress.inner_text(), "the time that is left")
    until(lambda: studio.position() >= 1, "a second heard")
    assert _lane(studio) == "running"
    assert len(studio.page.evaluate("spoken")) < 5  # a screen reader is not read each number
    studio.page.get_by_role("button", name="Cancel", exact=True).click()
    until(lambda: _lane(studio) == "cancelled", "the cancel")
    until(lambda: studio.loudness() == 0, "silence")
    song = studio.page.locator(".take").get_attribute("data-song")
    until(lambda: studio.api(f"/v1/songs/{song}")["status"] == "cancelled", "the server's word")


def test_only_what_follows_a_change_is_made_anew(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=20, seed=5)
    studio.render()
    studio.finished()
    first = studio.page.locator(".take").first.get_attribute("data-song")
    assert studio.page.locator(".outcome").count() == 2  # what was heard against what was asked
    assert studio.page.locator(".cell .heard").count() == len(studio.asked()) * 2
    own = studio.page.get_by_label("A word to read the plan by")
    own.fill("church organ")
    own.press("Enter")  # heard by words of one's own, too
    cells = studio.page.locator(".cell .heard")
    until(lambda: cells.count() == len(studio.asked()) * 2 > 12, "what is heard of the word")
    studio.set_words(1, "full drum kit")
    until(
        lambda: studio.page.locator(".outcome").nth(1).inner_text() == "changed since this take",
        "the outdated outcome",
    )
    assert "heard" in studio.page.locator(".outcome").nth(0).inner_text()
    studio.render()
    studio.finished(2)
    lane = studio.page.locator(".take").first
    assert "kept the first 0:" in lane.inner_text() and "which saved" in lane.inner_text()
    second = lane.get_attribute("data-song")
    kept = studio.api(f"/v1/songs/{second}")["kept"]["seconds"]
    assert kept > 5
    size = int(2 * 44100 * (kept - 1))  # before the last second that was kept, to the sample
    begin, again = _samples(studio, str(first)), _samples(studio, str(second))
    assert begin[:size] == again[:size] and begin != again


def test_seeds_side_by_side_are_compared_at_the_same_position(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=10, takes=2, seed=3)
    studio.render()
    studio.finished(2)
    names = studio.page.locator(".take-name").all_inner_texts()
    assert names == ["Seed 3", "Seed 4"]
    studio.page.get_by_role("slider", name="Position in the song").fill("4")
    if studio.page.get_by_role("button", name="Pause").count() == 0:
        studio.page.get_by_role("button", name="Play").click()
    until(lambda: studio.loudness() > 0.01, "sound")
    studio.page.keyboard.press("Escape")
    studio.page.locator(".score").focus()
    studio.page.keyboard.press("2")
    until(
        lambda: studio.page.locator(".take.chosen .take-name").inner_text() == "Seed 4", "the take"
    )
    assert 3 <= studio.position() <= 8
    until(lambda: studio.loudness() > 0.01, "the other seed")
    studio.page.keyboard.press(" ")
    studio.page.get_by_role("button", name="Play").wait_for()


def test_all_is_there_after_a_reload(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=10, seed=11)
    studio.set_words(0, "brass band")
    studio.render()
    studio.finished()
    wave = studio.page.locator(".take").get_attribute("data-song")
    asked = studio.asked()
    studio.page.get_by_role("textbox", name="What the music should be").fill("a draft not planned")
    studio.page.reload()
    studio.ready()
    studio.expect_count(".take[data-status=done]", 1)
    prompt = studio.page.get_by_role("textbox", name="What the music should be")
    assert prompt.input_value() == "a draft not planned"
    assert studio.words() == ["brass band"] and studio.asked() == asked
    assert studio.page.locator(".take").get_attribute("data-song") == wave
    studio.page.get_by_role("button", name="Play").click()
    until(lambda: studio.loudness() > 0.01, "sound")
    studio.page.evaluate("localStorage.clear()")  # another browser
    studio.page.goto("about:blank")
    studio.page.goto(studio.address + "/")
    studio.ready()
    studio.expect_count(".take[data-status=done]", 1)
    assert prompt.input_value() == PROMPT and studio.words() == ["brass band"]
    studio.page.keyboard.press("Control+z")
    until(lambda: studio.words() == [PROMPT], "the undo of another browser")


def test_a_hidden_tab_holds_no_connection_and_catches_up(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=4)
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    studio.page.evaluate(hide, True)
    plan = studio.page.url.rpartition("#")[2]
    song = studio.api("/v1/songs", "POST", {"plan": plan})["songs"][0]["id"]
    edit = {"edit": "replace", "segments": [0], "source": {"words": "brass band"}}
    studio.api(f"/v1/plans/{plan}/edits", "POST", edit)  # another tab's
    until(lambda: studio.api(f"/v1/songs/{song}")["heard"], "the song")
    assert studio.page.locator(".take").count() == 0 and studio.words() == [PROMPT]
    studio.page.evaluate(hide, False)
    studio.finished()
    until(lambda: studio.words() == ["brass band"], "the edit")
    until(studio.waveform_is_tall, "the waveform")
    studio.page.evaluate(hide, True)
    studio.api(f"/v1/plans/{plan}/undo", "POST")
    studio.key(0, "r")  # of a plan that is another one by now
    until(lambda: "changed elsewhere" in studio.note(0).inner_text(), "the sentence on the card")
    assert studio.words() == [PROMPT]  # as it is, and not drawn anew
    studio.api(f"/v1/songs/{song}", "DELETE")
    studio.page.evaluate(hide, False)
    studio.expect_count(".take", 0)


def test_a_song_goes_on_after_its_tab_is_closed(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=10, seed=21)
    studio.render()
    until(lambda: studio.page.locator(".take").count() == 1, "the lane")
    song = studio.page.locator(".take").get_attribute("data-song")
    studio.page.goto("about:blank")
    until(lambda: studio.api(f"/v1/songs/{song}")["status"] == "done", "the song")
    studio.page.goto(studio.address + "/")
    studio.ready()
    studio.expect_count(".take[data-status=done]", 1)
    held = "Object.defineProperty(AudioContext.prototype, 'state', {get: () => 'suspended'})"
    studio.page.evaluate(held)  # as a browser does that wants a press first, or has no loudspeaker
    studio.page.get_by_role("button", name="Play").click()
    why = studio.page.locator(".why")
    until(lambda: "holds back sound" in why.inner_text(), "the reason of the silence")


def test_the_history_of_the_day_opens_a_song_again(studio: StudioPage) -> None:
    studio.made("techno", duration=4)
    studio.plan(PROMPT, duration=4)
    studio.page.get_by_role("button", name="New song").click()
    assert studio.page.locator(".take").count() == studio.page.locator(".card").count() == 0
    gone = {"error": {"message": "the file is gone from the disk.", "code": 404}}
    studio.page.route("**/audio?format=pcm", lambda route: route.fulfill(status=404, json=gone))
    studio.page.get_by_role("button", name="Today: what was made").click()
    studio.page.locator(".side .find .title", has_text="techno").first.click()
    told = studio.page.locator(".take .says[data-kind=error]")
    until(lambda: told.inner_text() == "the file is gone from the disk.", "it in the song's row")
    studio.expect_count(".take[data-status=done]", 1)
    assert studio.words() == ["techno"]
    prompt = studio.page.get_by_role("textbox", name="What the music should be")
    assert prompt.input_value() == "techno"


def test_a_song_is_saved_and_its_settings_bring_all_back(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=10, seed=9)
    studio.set_words(0, "solo cello")
    studio.render()
    studio.finished()
    asked = studio.asked()

    def saved(item: str) -> bytes:
        studio.page.get_by_role("button", name="This take: what can be done").click()
        download = studio.download(lambda: studio.page.get_by_role("menuitem", name=item).click())
        return download.path().read_bytes()

    gone = {"error": {"message": "the file is gone from the disk.", "code": 404}}
    studio.page.route("**/file?format=flac", lambda route: route.fulfill(status=404, json=gone))
    studio.page.get_by_role("button", name="This take: what can be done").click()
    studio.page.get_by_role("menuitem", name="Save as FLAC").click()
    told = studio.page.locator(".take .says[data-kind=error]")
    until(lambda: told.inner_text() == "the file is gone from the disk.", "it in the song's row")
    assert saved("Save as WAV")[:4] == b"RIFF"
    assert saved("Save as OGG")[:4] == b"OggS"
    assert json.loads(saved("Save its plan"))["format"] == "musicot-plan"
    sidecar = saved("Save its settings")
    studio.page.get_by_role("button", name="New song").click()
    with studio.page.expect_file_chooser() as chooser:
        studio.page.get_by_role("button", name="Open a song's .json, or a plan").click()
    chooser.value.set_files(
        {"name": "song.json", "mimeType": "application/json", "buffer": sidecar}
    )
    studio.says("Opened song.json.")
    assert studio.words() == ["solo cello"] and studio.asked() == asked
    assert studio.page.locator("#desk [name=seed]").input_value() == "9"
    prompt = studio.page.get_by_role("textbox", name="What the music should be")
    assert prompt.input_value() == PROMPT


def test_a_render_waits_for_the_edit_before_it(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=10)

    def late(route: Any) -> None:
        time.sleep(0.4)
        route.continue_()

    studio.page.route("**/edits*", late)
    studio.card(0).locator(".words").click()
    studio.page.keyboard.type("brass band")
    studio.page.keyboard.press("Enter")
    studio.render()
    until(lambda: studio.page.locator(".take").count() == 1, "the lane")
    song = studio.api("/v1/songs?limit=1")["songs"][0]
    assert song["plan"]["version"] == 2
    assert studio.words() == ["brass band"]


def test_an_answer_that_comes_late_undoes_nothing(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=4)

    def late(route: Any) -> None:
        if route.request.method != "POST":
            return route.continue_()
        answer = route.fetch()  # "queued", as it was then
        until(lambda: studio.api("/v1/songs?limit=1")["songs"][0]["heard"], "the song")
        return route.fulfill(response=answer)

    studio.page.route("**/v1/songs", late)
    with studio.page.expect_response("**/v1/songs"):
        studio.render()
    studio.page.wait_for_timeout(200)
    assert _lane(studio) == "done"
