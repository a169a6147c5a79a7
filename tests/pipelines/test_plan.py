"""Plans: what they hold, how they are edited, and how they are kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import musicot_mlx as mc
from musicot_mlx.audio.files import read_audio, to_pcm16
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot.continuation import join
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.plans import thoughts
from musicot_mlx.pipelines.plans.activity import typical_thoughts
from musicot_mlx.pipelines.plans.origin import Origin
from musicot_mlx.pipelines.plans.thoughts import quantised, slerp, unit, vectors_of
from tests.support.sounds import noise

# --- view ---


def test_activity_is_counted_from_the_typical_thought(model: MusicotPipeline) -> None:
    plan = model.plan("piano", duration=40, seed=1)
    anchors = ["drums", "a slow and quiet piece for piano"]
    cosine = plan.activity(anchors, calibrated=False)
    np.testing.assert_allclose(cosine, plan.embeddings @ model.clap.embed_text(anchors).T)
    found = plan.activity(anchors)
    typical = typical_thoughts(model.rvq) @ model.clap.embed_text(anchors).T
    np.testing.assert_allclose(found * typical.std(0) + typical.mean(0), cosine, atol=1e-5)
    for column in range(2):  # the anchor's own rise and fall is left alone
        assert np.corrcoef(found[:, column], cosine[:, column])[0, 1] > 0.9999


# --- edit ---


def test_an_edit_is_a_new_plan_and_tells_its_history(plan: mc.Plan) -> None:
    before = json.dumps(plan.to_dict())
    edited = plan.replace(1, "solo piano", seed=9).delete(0).repeat(-1, 2)
    assert json.dumps(plan.to_dict()) == before and plan.history == ()
    assert [record["edit"] for record in edited.history] == ["replace", "delete", "repeat"]
    assert edited.history[0] == {
        "edit": "replace", "segments": [1], "by": "solo piano", "seed": 9
    }  # fmt: skip
    assert edited.origins[0] == Origin("words", "solo piano", seed=9)
    assert edited.origins[1] == plan.origins[2] == Origin("drawn", "piano and drums", seed=4)


@pytest.mark.parametrize("where", [1, -3, slice(1, 3), [0, 2]])
def test_replaced_segments_change_and_no_other(plan: mc.Plan, where: object) -> None:
    places = np.arange(4)[where if not isinstance(where, int) else [where]]
    edited = plan.replace(where, "full drum kit", seed=1)
    others = np.delete(np.arange(4), places)
    np.testing.assert_array_equal(edited.codes[:, others], plan.codes[:, others])
    assert (edited.codes[:, places] != plan.codes[:, places]).any()
    assert (edited.duration, edited.prompt, edited.tags) == (35, plan.prompt, plan.tags)
    np.testing.assert_array_equal(
        edited.codes, plan.replace(where, "full  drum kit ", seed=1).codes
    )


def test_words_become_the_nearest_of_several_thoughts(
    model: MusicotPipeline, plan: mc.Plan
) -> None:
    edited = plan.replace(0, "drums", seed=3)
    words = model.clap.embed_text(["drums"])[0]
    drawn = model.draw_thoughts(words, words="drums", segments=1, seed=3, songs=8)
    near = [float(vectors_of(model, codes)[0] @ words) for codes in drawn]
    assert float(edited.embeddings[0] @ words) == pytest.approx(max(near), abs=1e-6)
    assert max(near) > min(near)


def test_audio_fills_the_places_in_turn(
    model: MusicotPipeline, plan: mc.Plan, tmp_path: Path
) -> None:
    path = noise(tmp_path / "chorus.wav", 25)
    waveform, rate = read_audio(path)
    heard = quantised(model, model.clap.embed_audio(waveform, rate))  # (levels, 3)
    edited = plan.replace(slice(0, 4), path)
    np.testing.assert_array_equal(edited.codes, heard[:, [0, 1, 2, 0]])
    assert edited.origins[1] == Origin("audio", file=str(path), start=10.0)
    for source in (f"@{path}", (waveform, rate)):
        np.testing.assert_array_equal(plan.replace(slice(0, 4), source).codes, edited.codes)
    inserted = plan.insert(2, path)
    np.testing.assert_array_equal(inserted.codes[:, 2:5], heard)
    assert inserted.duration == 65 and inserted.segments == 7


def test_thoughts_pass_from_plan_to_plan(model: MusicotPipeline, plan: mc.Plan) -> None:
    other = model.plan("drums", duration=20, seed=7)
    edited = plan.replace(2, other[1])
    np.testing.assert_array_equal(edited.codes[:, 2], other.codes[:, 1])
    assert edited.origins[2] == other.origins[1]
    assert [one.duration for one in plan] == [10, 10, 10, 5]  # a plan can be looped over
    np.testing.assert_array_equal(plan[1:3].codes, plan.codes[:, 1:3])


def test_morph_goes_from_one_to_the_other(model: MusicotPipeline, plan: mc.Plan) -> None:
    other = model.plan("drums", duration=20, seed=7)
    spread_out = other.codes[:, [0, 0, 1, 1]]
    np.testing.assert_array_equal(plan.morph(other, 0).codes, plan.codes)
    whole = plan.morph(other, 1)
    np.testing.assert_array_equal(whole.codes, spread_out)
    np.testing.assert_array_equal(whole.vector, other.vector)
    assert (whole.prompt, whole.tags) == (other.prompt, other.tags)
    half = plan.morph(other, 0.5)
    between = slerp(plan.embeddings, other.embeddings[[0, 0, 1, 1]], 0.5)
    np.testing.assert_array_equal(half.codes, quantised(model, between))
    assert half.origins[0].kind == "morph"
    one = plan.morph(other[1], 0.5, where=2)
    np.testing.assert_array_equal(one.codes[:, [0, 1, 3]], plan.codes[:, [0, 1, 3]])
    np.testing.assert_array_equal(one.codes[:, 2], half.codes[:, 2])
    np.testing.assert_array_equal(one.vector, plan.vector)


@given(st.floats(0, 1), st.integers(0, 10**6))
def test_slerp_keeps_to_the_circle(amount: float, seed: int) -> None:
    a, b = unit(np.random.default_rng(seed).normal(size=(2, 16)))
    found = slerp(a, b, amount)
    whole = np.arccos(np.clip(a @ b, -1, 1))
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert np.arccos(np.clip(a @ found, -1, 1)) == pytest.approx(amount * whole, abs=2e-3)
    np.testing.assert_allclose(slerp(a, a, amount), a, atol=1e-6)
    assert np.isfinite(slerp(a, -a, amount)).all()


def test_redraw_keeps_what_is_locked(plan: mc.Plan) -> None:
    drawn = plan.redraw(lock=[0, -1], seed=11)
    np.testing.assert_array_equal(drawn.codes[:, [0, 3]], plan.codes[:, [0, 3]])
    assert (drawn.codes[:, 1:3] != plan.codes[:, 1:3]).any()
    np.testing.assert_array_equal(drawn.codes, plan.redraw(lock=slice(0, 4, 3), seed=11).codes)
    assert drawn.history[-1]["segments"] == [1, 2] and drawn.origins[1].seed == 11
    # with nothing locked, the plan's own seed draws the plan itself
    np.testing.assert_array_equal(plan.redraw(seed=4).codes, plan.codes)
    again = plan.redraw()  # a seed of its own each time
    assert (again.codes != plan.codes).any() and (again.redraw().codes != again.codes).any()


def test_extend_goes_on(plan: mc.Plan) -> None:
    longer = plan.extend(20, seed=2)
    assert (longer.duration, longer.segments) == (55, 6)
    np.testing.assert_array_equal(longer.codes[:, :4], plan.codes)
    assert plan.extend(5).segments == 4  # the last segment is filled up


@pytest.mark.parametrize(
    ("edit", "order", "duration"),
    [
        (lambda p: p.repeat(slice(1, 3)), [0, 1, 2, 1, 2, 3], 55),
        (lambda p: p.repeat(3), [0, 1, 2, 3, 3], 45),  # in the middle it lasts 10 s
        (lambda p: p.delete([0, 2]), [1, 3], 15),
        (lambda p: p.delete(-1), [0, 1, 2], 30),
        (lambda p: p.reorder([3, 1, 0, 2]), [3, 1, 0, 2], 40),
        (lambda p: p.arrange([0, 0, 3]), [0, 0, 3], 25),
        (lambda p: p.insert(4, p[0]), [0, 1, 2, 3, 0], 50),
        (lambda p: p.insert(0, p[2]), [2, 0, 1, 2, 3], 45),
        (lambda p: p[-2:], [2, 3], 15),
    ],
)
def test_rearranging(plan: mc.Plan, edit: object, order: list[int], duration: float) -> None:
    edited = edit(plan)
    np.testing.assert_array_equal(edited.codes, plan.codes[:, order])
    np.testing.assert_array_equal(edited.embeddings, plan.embeddings[order])
    assert edited.duration == duration and len(edited.origins) == len(order)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda p: p.replace(4, "x"), "no segment 4; this plan has 0 to 3"),
        (lambda p: p.replace(-5, "x"), "no segment -5"),
        (lambda p: p.replace(slice(9, 12), "x"), "no segment is meant"),
        (lambda p: p.replace(0.5, "x"), "whole numbers"),
        (lambda p: p.replace(0, " "), "text of a segment is empty"),
        (lambda p: p.replace(0, "@no.wav"), "no.wav doesn't exist"),
        (lambda p: p.replace(0, 3.5), "can't be made of float"),
        (lambda p: p.replace(0, (np.full((80000, 1), np.nan), 8000)), "NaN"),
        (lambda p: p.morph(p, 1.5), "give 0"),
        (lambda p: p.morph(p, float("nan")), "give 0"),
        (lambda p: p.redraw(lock=range(4)), "all segments are locked"),
        (lambda p: p.extend(-1), "can't be extended"),
        (lambda p: p.extend(300), "at most 300 s"),
        (lambda p: p.repeat(0, 0), "at least once"),
        (lambda p: p.repeat(0, 100), "at most 300 s"),
        (lambda p: p.delete(range(4)), "leave at least one"),
        (lambda p: p.reorder([0, 1]), "each of the segments"),
        (lambda p: p.arrange([]), "no segment is meant"),
        (lambda p: p.insert(9, "x"), "takes 0 to 4"),
        (lambda p: p.insert(0, "x", count=0), "at least 1"),
        (lambda p: replace(p, model=None).replace(0, "x"), "has no model"),
    ],
)
def test_edits_that_can_not_be(plan: mc.Plan, edit: object, words: str) -> None:
    with pytest.raises(MusicotError, match=words) as caught:
        edit(plan)
    assert "\n" not in str(caught.value)


# --- references ---


def test_references_are_followed_from_end_to_end(model: MusicotPipeline, tmp_path: Path) -> None:
    short, long = noise(tmp_path / "a.wav", 4), noise(tmp_path / "b.wav", 95, seed=1)
    heard = {path: model.clap.embed_audio(*read_audio(path)) for path in (short, long)}
    assert len(heard[short]) == 1 and len(heard[long]) == 10
    picked = heard[long][[1, 3, 6, 8]]  # sampled across
    plan = model.plan("piano", reference=long, duration=40)
    np.testing.assert_array_equal(plan.codes, quantised(model, picked))
    blend = model.plan("piano", reference=[short, long], reference_weights=[1, 3], duration=40)
    mixed = quantised(model, 0.25 * heard[short] + 0.75 * picked)
    np.testing.assert_array_equal(blend.codes, mixed)
    for weights, alone in (([1, 0], short), ([0, 2], long)):
        both = model.plan("x", reference=[short, long], reference_weights=weights, duration=40)
        np.testing.assert_array_equal(
            both.codes, model.plan("x", reference=alone, duration=40).codes
        )
    with pytest.raises(MusicotError, match="1 reference weights for 2 references"):
        model.plan("x", reference=[short, long], reference_weights=[1])
    for weights in ([0, 0], [-1, 2], [float("nan"), 1]):
        with pytest.raises(MusicotError, match="numbers of at least 0"):
            model.plan("x", reference=[short, long], reference_weights=weights)
    with pytest.raises(MusicotError, match="no reference"):
        model.plan("x", reference_weights=[1])


def test_only_thoughts_of_a_reference_reach_the_song(
    model: MusicotPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(tmp_path / "a.wav", 12)
    asked = {"reference": path, "duration": 3.0, "seed": 3}
    monkeypatch.setattr(type(model.semantic_tokenizer), "__call__", None)  # never tokenised
    song = model.generate("piano", **asked)
    written = mc.Plan.load(json.loads(json.dumps(model.plan("piano", **asked).to_dict())), model)
    path.unlink()  # the file of thoughts alone makes the same song
    np.testing.assert_array_equal(model.generate(plan=written, seed=3).codes, song.codes)
    np.testing.assert_array_equal(model.generate(plan=written, seed=3).waveform, song.waveform)


def test_an_album_is_not_read_whole(
    model: MusicotPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = noise(tmp_path / "album.flac", 400)
    read: list[float] = []

    def counted(*arguments: object, seconds: float, **options: float) -> object:
        read.append(seconds)
        return read_audio(*arguments, seconds=seconds, **options)

    monkeypatch.setattr(thoughts, "read_audio", counted)
    model.plan(reference=path, duration=30)
    assert read == [10, 10, 10]


def test_a_plan_of_audio_keeps_its_pace(model: MusicotPipeline, tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", 34.5)
    heard = quantised(model, model.clap.embed_audio(*read_audio(path)))
    plan = model.plan_from_audio(path)
    assert plan.duration == 34.5 and plan.prompt is None
    np.testing.assert_array_equal(plan.codes, heard)
    np.testing.assert_array_equal(model.plan_from_audio(path, duration=20).codes, heard[:, :2])
    assert model.plan_from_audio(read_audio(path), "drums").prompt == "drums"
    with pytest.raises(MusicotError, match="less than the 60 s"):
        model.plan_from_audio(path, duration=60)
    with pytest.raises(MusicotError, match="pass a duration"):
        model.plan_from_audio((np.ones((8000 * 301, 1)), 8000))


# --- keep what was liked ---


@pytest.fixture(scope="module")
def song(model: MusicotPipeline) -> mc.Song:
    return model.generate("piano", duration=13, seed=1)


def test_what_precedes_an_edit_stays_the_same_audio(
    model: MusicotPipeline, song: mc.Song, tmp_path: Path
) -> None:
    edited = song.plan.replace(1, "drums", seed=3)
    seen: list[tuple[str, int, int]] = []
    audio, _ = song.save(tmp_path / "before.wav")
    again = model.generate(
        plan=edited, keep=audio, seed=1, progress=lambda *report: seen.append(report)
    )
    # tokens as far as 10 s; sound too, but for the seam and the rest of a latent
    np.testing.assert_array_equal(again.codes[:, :250], song.codes[:, :250])
    assert (again.codes[:, 250:] != song.codes[:, 250:]).any()
    until = 10 * 8000 - 256 - 160
    written, _ = read_audio(audio)
    np.testing.assert_array_equal(to_pcm16(again.waveform[:until]), to_pcm16(written[:until]))
    assert again.gain == song.gain != 0
    assert again.waveform.shape == song.waveform.shape
    assert np.abs(again.waveform[until + 1000 :] - written[until + 1000 :]).max() > 1e-3
    # a partial render: of 4 windows of the diffusion, two steps each, 2 reach beyond 10 s
    assert [report for report in seen if report[0] == "diffusion"][-1] == ("diffusion", 4, 4)
    # from memory it is the same, but for the 16 bits of the file
    remembered = model.generate(plan=edited, keep=song, seed=1)
    np.testing.assert_array_equal(remembered.codes, again.codes)
    np.testing.assert_allclose(remembered.waveform[:until], song.waveform[:until], rtol=1e-6)
    np.testing.assert_allclose(remembered.waveform, again.waveform, atol=0.02)
    chunks = model.stream(plan=edited, keep=audio, seed=1)
    np.testing.assert_allclose(np.concatenate(list(chunks)), again.waveform, atol=1e-5)
    np.testing.assert_array_equal(chunks.codes, again.codes)


def test_a_song_goes_on(model: MusicotPipeline, song: mc.Song) -> None:
    longer = model.generate(plan=song.plan.extend(8, seed=5), keep=song, seed=1)
    assert longer.duration == 21
    np.testing.assert_array_equal(longer.codes[:, :325], song.codes)
    # the fade-out of the shorter song is not kept: its last tokens are rendered anew
    until = round((13 - 1.5) * 8000) - 256 - 160
    np.testing.assert_allclose(longer.waveform[:until], song.waveform[:until], rtol=1e-6)
    level = [float(np.square(longer.waveform[8000 * s : 8000 * s + 4000]).mean()) for s in (11, 12)]
    assert level[1] > level[0] / 4
    unchanged = model.generate(plan=song.plan, keep=song, seed=9)
    np.testing.assert_array_equal(unchanged.codes, song.codes)
    np.testing.assert_allclose(unchanged.waveform[:until], song.waveform[:until], rtol=1e-6)


def test_the_seam_is_no_click() -> None:
    kept = np.full((1000, 1), 0.3, np.float32)
    new = [np.full((n, 1), 0.5, np.float32) for n in (300, 1, 90, 509)]
    found = np.concatenate(list(join(kept, new, before=400, seam=100)))
    assert found.shape == (1500, 1)
    assert (found[:900] == np.float32(0.3)).all() and (found[1000:] == 0.5).all()
    assert np.abs(np.diff(found[:, 0])).max() < 0.003


def test_songs_that_can_not_be_kept(model: MusicotPipeline, song: mc.Song, tmp_path: Path) -> None:
    plan = song.plan
    with pytest.raises(MusicotError, match="differs from its first segment on"):
        model.generate(plan=plan.reorder([1, 0]), keep=song)
    with pytest.raises(MusicotError, match="pass the plan"):
        model.generate("piano", keep=song)
    with pytest.raises(MusicotError, match="was cut after it was made"):
        model.generate(plan=plan, keep=replace(song, waveform=song.waveform[:-8000]))
    with pytest.raises(MusicotError, match="has 1 channels, this model makes 2"):
        model.generate(plan=plan, keep=replace(song, waveform=song.waveform[:, :1]))
    audio, sidecar = song.save(tmp_path / "a.wav")
    good = json.loads(sidecar.read_text())
    for made in (None, 3, {}, {"codes": "%"}, {"codes": "QQ"}, {"codes": ["QQ=="]}):
        sidecar.write_text(json.dumps(good | {"made": made}))
        with pytest.raises(MusicotError, match="tell the audio tokens"):
            model.generate(plan=plan, keep=audio)
    sidecar.unlink()
    with pytest.raises(MusicotError, match="tells how .* was made"):
        model.generate(plan=plan, keep=audio)


def test_the_json_beside_a_song_is_a_plan_too(model: MusicotPipeline, tmp_path: Path) -> None:
    song = model.generate("piano", duration=2, seed=3)
    _, sidecar = song.save(tmp_path / "a.wav")
    loaded = mc.Plan.load(sidecar, model)
    np.testing.assert_array_equal(loaded.codes, song.plan.codes)
    assert loaded.origins == song.plan.origins


def test_candidates_keep_the_same_beginning(model: MusicotPipeline, song: mc.Song) -> None:
    edited = song.plan.replace(1, "drums", seed=3)
    best = model.generate(plan=edited, keep=song, candidates=2, seed=1)
    np.testing.assert_array_equal(best.codes[:, :250], song.codes[:, :250])
    seed = best.settings["chosen"]["scores"][0]["seed"]
    assert seed == 1 and len(best.settings["chosen"]["scores"]) == 2


def test_words_ask_the_render_for_themselves(model: MusicotPipeline, plan: mc.Plan) -> None:
    edited = plan.replace([1, 2], "drums", seed=3)
    assert edited.words() == [None, "drums", "drums", None]
    vectors = edited.vectors()
    np.testing.assert_array_equal(vectors[[0, 3]], [plan.vector] * 2)
    np.testing.assert_array_equal(vectors[[1, 2]], edited.embeddings[[1, 2]])
    np.testing.assert_array_equal(plan.vectors(), plan.vector)
    changes = model.conditioning.changes(edited, 1)
    assert sorted(changes) == [1, 2, 3] and model.conditioning.changes(plan, 1) == {}
    np.testing.assert_array_equal(changes[2][0].clap, edited.embeddings[2])
    assert changes[3][0].tags == model.conditioning.condition(plan.vector, plan.tags, "").tags
    near = model.conditioning.tags(model.clap.embed_text(["drums"])[0], None, "drums")
    assert changes[1][0].tags == model.conditioning.condition(plan.vector, near, "").tags


def test_guests_of_a_song_are_asked_for_themselves(
    model: MusicotPipeline, plan: mc.Plan, tmp_path: Path
) -> None:
    file = noise(tmp_path / "a.wav", 20)
    other = model.plan("a drum kit", duration=10, seed=1)
    edited = plan.replace(0, file).replace(1, other).replace(2, plan[3])
    kinds = [guest and guest.kind for guest in edited.guests()]
    assert kinds == ["audio", "drawn", None, None]
    assert edited.words() == [None, "a drum kit", None, None]
    np.testing.assert_array_equal(edited.vectors()[:2], edited.embeddings[:2])
    changes = model.conditioning.changes(edited, 1)
    assert [changes[i][0].part for i in range(3)] == [f"audio: {file}", "drawn: a drum kit", ""]
    # what the whole song was heard in, or drawn for, is no guest
    heard = model.plan_from_audio(file)
    assert heard.guests() == [None, None] == plan.morph(other, 0.4)[:2].guests()
    assert not any(heard.extend(10).guests())
    assert heard.replace(1, "drums").words() == [None, "drums"]


def test_chords_stay_where_the_first_segment_is_edited(model: MusicotPipeline) -> None:
    plan = replace(model.plan("piano", duration=20), chords=("Am", "F") * 4, bpm=96.0)
    changes = model.conditioning.changes(plan.replace(0, "drums"), 1)
    assert changes[0][0].chords == plan.chord_changes() == changes[1][0].chords
