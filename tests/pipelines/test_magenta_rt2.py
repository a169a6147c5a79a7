"""Songs of Magenta RealTime 2: a plan drives the frames, and what did not change stays."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.magenta_rt2.options import MagentaOptions
from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
from musicot_mlx.tokens.magenta_rt2 import DRUMS, frame_ids
from tests.support import tiny_magenta_model

SECOND = 48000


@pytest.fixture(scope="module")
def model() -> MagentaPipeline:
    return tiny_magenta_model.pipeline()


@pytest.fixture(scope="module")
def song(model: MagentaPipeline) -> mc.Song:
    """Two whole thoughts of a second and the beginning of a third."""
    return model.generate("calm piano", duration=2.1, seed=3)


def wish(model: MagentaPipeline, **options: object) -> MagentaOptions:
    return MagentaOptions.of(model.sampling, **options)


def test_a_song(model: MagentaPipeline, song: mc.Song, tmp_path: Path) -> None:
    assert song.waveform.shape == (round(2.1 * SECOND), 2) and song.sample_rate == SECOND
    assert song.codes.shape == (12, 54) and song.plan.codes.shape == (4, 3)
    stream = model.stream("calm piano", duration=2.1, seed=3)
    np.testing.assert_array_equal(np.concatenate(list(stream)), song.waveform)
    np.testing.assert_array_equal(stream.codes, song.codes)
    other = model.generate("calm piano", duration=2, seed=4)
    assert (other.codes[:, :50] != song.codes[:, :50]).any()
    song.save(tmp_path / "a.wav")
    settings = json.loads((tmp_path / "a.json").read_text())
    assert settings["space"] == "musiccoca-20" and settings["made"]["plan"]["prompt"]


def test_a_shorter_song_begins_alike(model: MagentaPipeline, song: mc.Song) -> None:
    """A frame's draw depends on its number and the seed, not on how much is asked for."""
    short = model.generate(plan=song.plan[0], seed=3)
    np.testing.assert_array_equal(short.codes[:, :25], song.codes[:, :25])


def test_what_did_not_change_stays(model: MagentaPipeline, song: mc.Song, tmp_path: Path) -> None:
    plan = song.plan.replace(2, "drums")
    assert (plan.codes[:, :2] == song.plan.codes[:, :2]).all()
    edited = model.generate(plan=plan, keep=song, seed=3)
    np.testing.assert_array_equal(edited.codes[:, :50], song.codes[:, :50])
    assert (edited.codes[:, 50:] != song.codes[:, 50:]).any()
    kept = 49 * 1920  # the codec hears one frame ahead
    np.testing.assert_array_equal(edited.waveform[:kept], song.waveform[:kept])
    assert (edited.waveform[kept:] != song.waveform[kept:]).any()
    # as if it had been made in one go, which only the draws of the new frames can tell
    whole = model.generate(plan=plan, seed=3)
    np.testing.assert_array_equal(whole.codes, edited.codes)
    np.testing.assert_array_equal(whole.waveform, edited.waveform)
    song.save(tmp_path / "a.wav")
    again = model.generate(plan=plan, keep=tmp_path / "a.wav", seed=3)
    np.testing.assert_array_equal(again.waveform, edited.waveform)
    with pytest.raises(MusicotError, match="differs from its first segment on"):
        model.generate(plan=song.plan.replace(0, "drums"), keep=song)


def test_edits_of_a_plan(model: MagentaPipeline, song: mc.Song, tmp_path: Path) -> None:
    plan = song.plan
    redrawn = plan.redraw(lock=[1], seed=9)
    assert (redrawn.codes[:, 1] == plan.codes[:, 1]).all()
    assert (redrawn.codes[:, [0, 2]] != plan.codes[:, [0, 2]]).any()
    assert (plan.morph(redrawn, 1.0).codes == redrawn.codes).all()
    assert plan.extend(0.8).segments == 3 and plan.extend(1).segments == 4
    alike = plan.redraw(seed=9, variation=0.0)
    assert (alike.codes == alike.codes[:, :1]).all()
    with pytest.raises(TypeError, match="unknown option 'thought_temperature'"):
        plan.redraw(thought_temperature=1.0)
    noise = np.random.default_rng(0).standard_normal(SECOND * 2).astype(np.float32) * 0.1
    heard = model.plan_from_audio((noise, SECOND))
    assert heard.segments == 2 and heard.origins[1].start == 1
    assert (plan.replace(0, heard).codes[:, 0] == heard.codes[:, 0]).all()
    assert plan.activity(["piano", "drums"]).shape == (3, 2)
    plan.save(tmp_path / "p.json")
    np.testing.assert_array_equal(mc.Plan.load(tmp_path / "p.json", model).codes, plan.codes)


def test_plans_are_as_long_as_songs(model: MagentaPipeline, tmp_path: Path) -> None:
    """Whatever other families allow."""
    plan = model.plan("calm piano", duration=590).extend(10)
    assert plan.duration == 600 and plan.segments == 600
    plan.save(tmp_path / "p.json")
    assert mc.Plan.load(tmp_path / "p.json", model) == plan
    for longer in (lambda: plan.extend(1), lambda: plan.repeat(0), lambda: plan.insert(0, "drums")):
        with pytest.raises(MusicotError, match="would last 601 s; a plan covers at most 600 s"):
            longer()
    with pytest.raises(MusicotError, match="a plan covers 1 to 600 s, so pass a duration"):
        model.plan_from_audio((np.zeros((8000 * 601, 1)), 8000))


def test_one_seed_and_no_variation_is_upstreams_thought(model: MagentaPipeline) -> None:
    plan = model.plan("calm piano", duration=3, seed=5, variation=0.0)
    assert (plan.codes == plan.codes[:, :1]).all()
    vector = model.clap.map_text(["calm piano"], [5])
    np.testing.assert_allclose(model.rvq.encode(mx.array(vector)[None])[0][:, 0], plan.codes[:, 0])
    varied = model.plan("calm piano", duration=3, seed=5, variation=1.0)
    assert (varied.codes != varied.codes[:, :1]).any()


def test_a_plan_of_another_space_is_refused(model: MagentaPipeline) -> None:
    plan = mc.load("musicot-mini").plan("solo piano", duration=10)
    with pytest.raises(MusicotError, match="made in the space 'clap-musicot-mini-256'"):
        model.generate(plan=plan)


def test_requests(model: MagentaPipeline, song: mc.Song) -> None:
    """Each frame asks for the thought of its segment; a glide goes to the next in steps."""
    plan = song.plan.replace(1, "drums")
    asked = wish(model, drums="none", style_strength=5.0, style_levels=2)
    rows = model.requests(plan, 54, asked)
    for frame, segment in ((0, 0), (24, 0), (25, 1), (53, 2)):
        expected = frame_ids(plan.codes[:2, segment], drums="none", strengths=(5.0, 1.0, 1.0))
        np.testing.assert_array_equal(rows[frame], expected)
    gliding = model.requests(plan, 54, wish(model, glide=0.2))
    plain = model.requests(plan, 54, wish(model))
    changed = np.flatnonzero((gliding != plain).any(axis=1))
    assert changed.min() >= 20 and not set(changed) & set(range(25, 45))
    assert len(np.unique(gliding[20:25], axis=0)) <= 5


def test_follow_goes_on_from_the_nearest(
    model: MagentaPipeline, song: mc.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[np.ndarray] = []

    def embed(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """The second version of each thought is nearer."""
        heard.append(waveform)
        near = song.plan.embeddings[(len(heard) - 1) // 2 % 3]
        return (near if len(heard) % 2 == 0 else -near)[None]

    monkeypatch.setattr(model.clap, "embed_audio", embed)
    followed = model.generate(plan=song.plan, follow=2, seed=3)
    found = followed.settings["followed"]
    assert [row["kept"] for row in found] == [1, 1]
    assert found[0]["cosines"] == pytest.approx([-1, 1], abs=1e-5)
    assert [len(sound) for sound in heard[2:4]] == [SECOND] * 2
    stream = model.stream(plan=song.plan, follow=2, seed=3, loudness=False)
    assert "followed" not in stream.settings  # not yet
    assert len(list(stream)) and stream.settings["followed"] == found
    plain = model.generate(plan=song.plan, follow=1, seed=3)
    np.testing.assert_array_equal(plain.codes, song.codes)
    assert (followed.codes[:, :25] != plain.codes[:, :25]).any()


def test_a_refresh_cuts_no_choice(
    model: MagentaPipeline, song: mc.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thought is heard whole wherever the refresh falls; each version forgets its own past."""
    monkeypatch.setattr("musicot_mlx.generation.magenta_rt2.LEFT", 2)
    heard: list[int] = []

    def embed(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        heard.append(len(waveform))
        return song.plan.embeddings[:1]  # none is nearer, so the first one is kept

    monkeypatch.setattr(model.clap, "embed_audio", embed)
    followed = model.generate(plan=song.plan, follow=2, refresh=0.72, seed=3)
    assert heard == [SECOND - 1920] * 2 + [SECOND] * 2 and len(followed.settings["followed"]) == 2
    plain = model.generate(plan=song.plan, refresh=0.72, seed=3)
    np.testing.assert_array_equal(followed.codes, plain.codes)
    assert (plain.codes[:, 18:] != song.codes[:, 18:]).any()
    assert wish(model, refresh=0.001).refresh_frames(25.0) == 1  # not never


def test_candidates(model: MagentaPipeline) -> None:
    best = model.generate("calm piano", duration=1, seed=1, candidates=3)
    chosen = best.settings["chosen"]
    assert len(chosen["scores"]) == 3
    alone = model.generate("calm piano", duration=1, seed=best.settings["seed"])
    np.testing.assert_array_equal(alone.codes, best.codes)


def test_a_recording_goes_on(model: MagentaPipeline, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal((SECOND, 1)) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, SECOND)
    longer = model.generate("calm piano", duration=2, continuation=tmp_path / "a.wav", seed=2)
    codes = model.encode(np.repeat(soundfile.read(tmp_path / "a.wav")[0][:, None], 2, 1), SECOND)
    np.testing.assert_array_equal(longer.codes[:, :25], codes)
    assert longer.plan.origins[0].kind == "audio" and longer.plan.origins[1].kind == "drawn"
    with pytest.raises(MusicotError, match="ask for a longer duration"):
        model.generate("calm piano", duration=1, continuation=tmp_path / "a.wav")


def test_candidates_go_on_from_a_recording_that_is_encoded_once(
    model: MagentaPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((SECOND, 1), 0.1), SECOND)
    encode, rates = model.encode, []
    monkeypatch.setattr(
        model, "encode", lambda *heard: rates.append(heard[1]) or encode(*heard), raising=True
    )
    asked = {"duration": 2.5, "continuation": tmp_path / "a.wav", "loudness": False}
    best = model.generate("calm piano", candidates=3, seed=2, **asked)
    assert rates == [SECOND]
    alone = model.generate("calm piano", seed=best.settings["seed"], **asked)
    np.testing.assert_array_equal(alone.waveform, best.waveform)
    assert alone.plan == best.plan and alone.plan.origins[0].kind == "audio"


def test_refresh_forgets(
    model: MagentaPipeline, song: mc.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same wherever a run begins, and another song from the refresh on."""
    monkeypatch.setattr("musicot_mlx.generation.magenta_rt2.LEFT", 2)
    fresh = model.generate(plan=song.plan, refresh=0.8, seed=3)
    np.testing.assert_array_equal(fresh.codes[:, :20], song.codes[:, :20])
    assert (fresh.codes[:, 20:] != song.codes[:, 20:]).any()
    kept = model.generate(plan=song.plan.replace(2, "drums"), keep=fresh, refresh=0.8, seed=3)
    whole = model.generate(plan=song.plan.replace(2, "drums"), refresh=0.8, seed=3)
    np.testing.assert_array_equal(kept.codes, whole.codes)


@pytest.fixture(autouse=True)
def any_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights make noise, which no song may be saved as."""
    monkeypatch.setattr("musicot_mlx.pipelines.song.check_render", lambda *_: None)


@pytest.fixture(autouse=True)
def quiet(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    yield
    assert not [w for w in recwarn if w.category is mc.errors.MusicotWarning]


def test_drums_are_the_ones_that_frames_know() -> None:
    assert MagentaOptions.about()["drums"].metadata["choices"] == tuple(DRUMS)


def test_bad_wishes(model: MagentaPipeline) -> None:
    for options, words in (
        ({"drums": "loud"}, "ask for one of free, none, play"),
        ({"style_strength": 7.0}, "ask for -1 to 6.8"),
        ({"follow": 2, "candidates": 2}, "of the song or of each thought"),
        ({"duration": 601}, "ask for 1 to 600 s"),
    ):
        with pytest.raises(MusicotError, match=words):
            model.generate("piano", **options)
    with pytest.raises(TypeError, match="did you mean drums"):
        model.generate("piano", drum="none")
