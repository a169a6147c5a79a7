"""A plan on the page: seen at once, and changed by words, by dropping, by keys."""

from pathlib import Path

import pytest

from tests.support.studio_page import StudioPage, until

PROMPT = "solo piano"

# an edit's answer comes after its event, and what the event asks for comes last of all
LATE_ANSWERS = """() => {
  const ask = window.fetch;
  window.fetch = async (url, options) => {
    const answer = await ask(url, options);
    const of = (options?.method ?? "GET") + new URL(url, location).pathname;
    const late = /^POST.*edits$/.test(of) ? 300 : /^GET.*plans\\/[^/]+$/.test(of) ? 1000 : 0;
    await new Promise((done) => setTimeout(done, late));
    return answer;
  };
}"""


def test_a_plan_is_seen_before_a_second_is_made(studio: StudioPage) -> None:
    studio.page.get_by_role("textbox", name="What the music should be").fill(PROMPT)
    studio.page.get_by_label("Duration").fill("25")
    studio.page.keyboard.press("Tab")
    studio.page.get_by_role("textbox", name="What the music should be").press("Enter")
    studio.expect_count(".card", 3)
    assert studio.words() == [PROMPT] * 3
    assert studio.page.locator(".heat [role=rowheader]").all_inner_texts()[:2] == ["drums", "bass"]
    piano = studio.page.locator(".heat [role=rowheader]").all_inner_texts().index("piano")
    drums, played = studio.asked()[0], studio.asked()[piano]
    assert sum(played) > sum(drums)  # solo piano
    assert studio.page.locator(".chord").count() > 2
    assert studio.page.locator(".section").count() >= 1
    widths = [box.bounding_box()["width"] for box in studio.page.locator(".cards > li").all()]
    assert widths[2] == pytest.approx(widths[0] / 2, rel=0.03)  # five seconds are half of ten


def test_the_heat_map_reads_words_of_ones_own(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    rows = len(studio.asked())
    field = studio.page.get_by_label("A word to read the plan by")
    field.fill("church organ, vinyl crackle")
    field.press("Enter")
    studio.expect_count(".heat", rows + 2)
    assert studio.page.locator(".heat").last.locator(".label").inner_text() == "vinyl crackle"
    studio.page.reload()
    studio.ready()
    studio.expect_count(".heat", rows + 2)
    studio.page.get_by_role("button", name="Take out vinyl crackle").click()
    studio.expect_count(".heat", rows + 1)


def test_words_change_a_segment(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    before = studio.asked()
    studio.set_words(1, "full drum kit")
    assert studio.words() == [PROMPT, "full drum kit"]
    until(lambda: studio.asked()[0][1] > before[0][1] + 0.2, "drums")
    assert studio.column(0) == [row[0] for row in before]
    studio.key(0, "Enter")  # the keyboard's way
    studio.page.keyboard.type("string quartet")
    studio.page.keyboard.press("Enter")
    until(lambda: studio.words()[0] == "string quartet", "the words")
    assert studio.card(0).evaluate("card => card === document.activeElement")


def test_a_file_is_dropped_on_a_segment(studio: StudioPage, recording: Path) -> None:
    studio.plan(PROMPT)
    before = studio.asked()
    studio.drop_file(".cards > li:nth-child(2) .card", recording)
    studio.says("Segment 2 now follows beat.wav.")
    assert "beat.wav" in studio.words()[1]
    assert studio.column(0) == [row[0] for row in before]
    assert studio.column(1) != [row[1] for row in before]


def test_a_file_on_its_way_tells_how_far_it_is_and_can_be_given_up(
    studio: StudioPage, recording: Path
) -> None:
    studio.plan(PROMPT)
    before, sent = studio.asked(), len(studio.api("/v1/uploads")["uploads"])
    network = studio.context.new_cdp_session(studio.page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 150_000}
    network.send("Network.emulateNetworkConditions", slow)
    for place, selector in ((".card", ".card .note"), ("#desk", ".dropzone .says")):
        studio.drop_file(place, recording)
        says = studio.page.locator(selector).first
        until(lambda says=says: "left" in says.inner_text(), "the time that is left")
        assert "Sending beat.wav" in says.inner_text() and " %" in says.inner_text()
        assert 0 < says.get_by_role("progressbar").evaluate("it => it.value") < 1
        says.get_by_role("button", name="Cancel").press("Enter")
        until(lambda says=says: says.inner_text() == "beat.wav was left out.", "the end of it")
        near = "(document.activeElement.closest('.card, .dropzone') ?? {}).tagName"
        assert studio.page.evaluate(near) == "DIV"  # the button is gone, the keyboard is not
    assert studio.asked() == before and len(studio.api("/v1/uploads")["uploads"]) == sent
    studio.drop_file(".card", recording)  # the segment is another one when it has come
    studio.page.locator(".card progress").wait_for()
    studio.key(1, "d")
    studio.expect_count(".card", 3)
    network.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    studio.says("The plan changed while beat.wav came")
    assert studio.words() == [PROMPT] * 3
    studio.key(2, "v")
    studio.says("Segment 3 now follows beat.wav.")


def test_what_is_no_audio_is_told_in_a_sentence(studio: StudioPage, tmp_path: Path) -> None:
    studio.plan(PROMPT)
    path = tmp_path / "letter.wav"
    path.write_bytes(b"Dear listener, " * 40)
    before = studio.asked()
    studio.drop_file(".card", path)
    until(lambda: "can't be used" in studio.note(0).inner_text(), "the sentence on the card")
    assert studio.asked() == before
    studio.card(1).get_by_role("button", name="Lock").click()  # a fresh card has forgotten it
    until(lambda: studio.note(0).count() == 0, "the card without it")
    studio.drop_file(".cards > li:nth-child(2) .card", path)  # not even sent
    until(lambda: "is locked" in studio.note(1).inner_text(), "the sentence on the locked card")


def test_a_segment_is_dragged_onto_another(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=30)
    studio.set_words(0, "full drum kit")
    studio.card(0).drag_to(studio.card(2))
    studio.page.get_by_role("button", name="Copy it here").click()
    until(lambda: studio.column(2) == studio.column(0), "the copy")
    assert studio.words() == ["full drum kit", PROMPT, "full drum kit"]
    studio.key(1, "c")  # the same by keys
    studio.key(2, "v")
    until(lambda: studio.column(2) == studio.column(1), "the paste")


def test_a_slider_morphs_and_shows_it_meanwhile(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    studio.set_words(0, "full drum kit")
    begin, end = studio.column(1), studio.column(0)
    studio.card(0).drag_to(studio.card(1))
    slider = studio.page.get_by_role("slider", name="How far")
    slider.fill("80")
    until(lambda: studio.column(1) not in (begin, end), "the preview")
    shown = studio.column(1)
    studio.page.keyboard.press("Escape")  # left as it was
    until(lambda: studio.column(1) == begin, "what was there")
    studio.key(1, "m")  # the keyboard's way
    studio.page.get_by_label("Towards").select_option("0")
    studio.page.get_by_role("slider", name="How far").fill("80")
    studio.page.get_by_role("button", name="Morph", exact=True).click()
    studio.says("80 % of the way")
    assert studio.column(1) == shown


def test_a_locked_segment_stays(studio: StudioPage) -> None:
    studio.plan(PROMPT, duration=30)
    before = studio.asked()
    studio.card(1).get_by_role("button", name="Lock").click()
    studio.page.locator(".card.locked").wait_for()
    studio.page.get_by_role("button", name="Draw all that isn't locked anew").click()
    until(lambda: studio.column(0) != [row[0] for row in before], "new thoughts")
    assert studio.column(1) == [row[1] for row in before]
    studio.key(1, "r")
    until(lambda: "is locked" in studio.note(1).inner_text(), "the sentence")
    assert "is locked" in studio.page.locator("#announcer").inner_text()
    studio.key(1, "l")
    studio.expect_count(".card.locked", 0)
    studio.key(1, "r")
    until(lambda: studio.column(1) != [row[1] for row in before], "its own new thought")


def test_segments_are_doubled_moved_deleted_and_brought_back(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    studio.set_words(0, "brass band")
    studio.key(0, "d")
    studio.expect_count(".card", 3)
    assert studio.words() == ["brass band", "brass band", PROMPT]
    studio.key(1, "Alt+ArrowRight")
    until(lambda: studio.words() == ["brass band", PROMPT, "brass band"], "the move")
    assert studio.card(2).evaluate("card => card === document.activeElement")
    studio.key(0, "Delete")
    studio.expect_count(".card", 2)
    studio.page.keyboard.press("Control+z")
    studio.expect_count(".card", 3)
    studio.page.get_by_role("button", name="Undo").click()
    until(lambda: studio.words() == ["brass band", "brass band", PROMPT], "the move undone")
    studio.page.get_by_role("button", name="Redo").click()
    until(lambda: studio.words() == ["brass band", PROMPT, "brass band"], "the move again")
    studio.page.get_by_role("button", name="Longer").click()
    studio.expect_count(".card", 4)


def test_no_late_answer_undoes_an_edit(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    studio.page.evaluate(LATE_ANSWERS)
    for count in (3, 4):
        studio.key(0, "d")
        studio.expect_count(".card", count)
    for _ in range(40):  # two seconds, in which all answers come
        studio.page.wait_for_timeout(50)
        assert studio.page.locator(".card").count() == 4
    studio.key(1, "Delete")
    studio.expect_count(".card", 3)


def test_every_edit_is_in_the_menu(studio: StudioPage) -> None:
    studio.plan(PROMPT)
    studio.card(0).get_by_role("button", name="what can be done").press("Enter")
    items = studio.page.get_by_role("menuitem").all_inner_texts()
    assert [text.split("\n")[0] for text in items] == [
        *("Other words …", "Lock", "Draw anew", "Morph …", "From an audio file …", "Chords …"),
        *("Copy", "Paste", "Duplicate", "Insert before …", "Earlier", "Later", "Delete"),
    ]
    studio.page.keyboard.press("ArrowDown")
    studio.page.keyboard.press("Enter")
    studio.page.locator(".card.locked").wait_for()
    assert studio.page.get_by_role("menu").count() == 0
    studio.key(1, "Shift+F10")
    studio.page.get_by_role("menuitem", name="Other words").press("Enter")
    studio.page.keyboard.type("string quartet")
    studio.page.keyboard.press("Enter")
    until(lambda: studio.words()[1] == "string quartet", "the words")


def test_all_of_it_is_reached_by_the_keyboard(studio: StudioPage) -> None:
    def focused() -> str:
        return studio.page.evaluate("document.activeElement.ariaLabel ?? ''")

    studio.page.get_by_role("button", name="bossa nova").press("Enter")  # gone with the plan
    studio.expect_count(".card", 3)
    assert focused() == "What the music should be"
    studio.plan(PROMPT, duration=30)
    plan = studio.page.get_by_role("button", name="Plan", exact=True)
    plan.press("Enter")
    studio.says("Planned in")
    assert plan.evaluate("it => it === document.activeElement")

    studio.page.locator(".score").focus()
    stops = []
    while not (stops and "A word" in stops[-1]):
        studio.page.keyboard.press("Tab")
        stops.append(focused())
        assert len(stops) < 30, stops
    assert [each[:9] for each in stops if each.startswith("Segment")] == ["Segment 1"] * 2
    studio.card(0).focus()  # one card is a stop, with what is in it; the arrows go on
    studio.page.keyboard.press("ArrowRight")
    studio.page.keyboard.press("End")
    assert focused().startswith("Segment 3")
    studio.page.keyboard.press("Tab")
    studio.page.keyboard.press("Enter")
    studio.page.locator(".card.locked").wait_for()
    assert focused() == "Lock"  # the card was drawn anew, and the keyboard is where it was
    studio.page.keyboard.press("m")
    studio.page.keyboard.press("Escape")  # given up, back where it was
    until(lambda: focused().startswith("Segment 3"), "the focus")


def test_key_and_chords_are_changed(studio: StudioPage) -> None:
    studio.plan("folk in A minor")
    studio.page.get_by_role("button", name="Harmony").click()
    studio.page.get_by_label("Chords, one a bar").fill("Am F C G")
    studio.page.keyboard.press("Enter")
    until(lambda: studio.page.locator(".chord").nth(1).inner_text() == "F", "the chords")
    studio.key(1, "h")
    studio.page.keyboard.type("Dm")
    studio.page.keyboard.press("Enter")
    until(lambda: "Dm" in studio.page.locator(".chord").all_inner_texts(), "a segment's chords")
    assert studio.page.locator(".chord").first.inner_text() == "Am"


def test_a_wish_that_can_not_be_is_told_at_its_field(studio: StudioPage) -> None:
    plan = studio.page.get_by_role("button", name="Plan", exact=True)
    prompt = studio.page.get_by_role("textbox", name="What the music should be")
    plan.click()
    assert studio.refused(prompt).startswith("Say what the music should be")
    prompt.fill(PROMPT)
    for name, value, sentence in (
        ("key", "H minor", "'H minor' is no key"),  # found while it is planned
        ("duration", "3000", "ask for 1 to 300 s"),  # an option out of bounds
        ("seed", "-3", "A whole number from 0 on"),
        ("chords", "Q R", "'Q' is no chord"),  # in what isn't open
    ):
        field = studio.page.locator(f"#desk [name={name}]")
        field.evaluate("(it, value) => (it.value = value)", value)
        plan.click()
        assert sentence in studio.refused(field)
        field.fill("" if name != "seed" else "0")
        assert studio.page.locator(".fault").count() == 0
    assert studio.page.locator(".card").count() == 0
    studio.plan(PROMPT, takes=1)
    studio.page.locator("#desk [name=candidates]").fill("99")
    studio.render()
    assert "16" in studio.refused(studio.page.locator("#desk [name=candidates]"))
    studio.page.locator("#desk [name=takes]").fill("9")
    studio.render()
    assert "from 1 to 8" in studio.refused(studio.page.locator("#desk [name=takes]"))
    assert studio.page.locator(".take").count() == 0


def test_what_a_dialog_can_not_do_is_told_in_it(studio: StudioPage) -> None:
    studio.plan("folk in A minor")
    studio.page.get_by_role("button", name="Harmony").click()
    for label, value in (("Chords, one a bar", "Q R"), ("Key", "H minor")):
        field = studio.page.locator(".popup").get_by_label(label)
        field.fill(value)
        field.press("Enter")
        assert "is no" in studio.refused(field)
        field.fill("")
    studio.page.keyboard.press("Escape")
    studio.key(1, "h")
    studio.page.keyboard.type("H9x")
    studio.page.keyboard.press("Enter")
    assert "H9x" in studio.refused(studio.page.locator(".popup textarea"))
    studio.page.keyboard.press("Escape")
    studio.key(1, "m")
    studio.page.get_by_role("button", name="Morph", exact=True).click()
    assert "words" in studio.refused(studio.page.get_by_label("Words to go to"))
    studio.page.keyboard.press("Escape")
    word = studio.page.get_by_label("A word to read the plan by")
    word.fill("x" * 200)
    word.press("Enter")
    assert studio.refused(word)


def test_what_people_write_is_never_markup(studio: StudioPage) -> None:
    studio.plan('<img src=x onerror="document.title=1">piano')
    studio.set_words(0, "<b>drums</b>")
    assert studio.words()[0] == "<b>drums</b>"
    assert studio.page.locator(".card img, .card b").count() == 0
    assert studio.page.title() == "musicot studio"
