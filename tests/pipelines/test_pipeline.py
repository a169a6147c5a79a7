"""The pipeline on a 16-channel model: plans, songs, streams, and what their settings promise."""

import copy
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.audio.files import audio_writer
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.mastering import soft_limit
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.tokens.tempo import is_tempo, tempo_tag
from musicot_mlx.weights.checkpoint import load_arrays, read_config, save_checkpoint
from tests.support import tiny


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


@pytest.fixture
def noise_file(tmp_path: Path) -> Path:
    """25 s of stereo noise at 16 kHz."""
    waveform = np.random.default_rng(0).normal(0, 0.1, (16000 * 25, 2)).astype(np.float32)
    with audio_writer(tmp_path / "reference.wav", 16000, 2) as write:
        write(waveform)
    return tmp_path / "reference.wav"


def test_a_plan_has_a_thought_for_every_ten_seconds(model: MusicotPipeline) -> None:
    for duration, segments in ((1, 1), (10, 1), (10.2, 2), (95, 10)):
        plan = model.plan("piano", duration=duration, seed=3)
        assert plan.codes.shape == (3, segments)
        np.testing.assert_allclose(np.linalg.norm(plan.embeddings, axis=1), 1, rtol=1e-5)


def test_plan_seeds(model: MusicotPipeline) -> None:
    first = model.plan("piano", duration=60, seed=1)
    model.plan("drums", duration=20, seed=9)  # whatever ran in between
    again, other = (model.plan("piano", duration=60, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(first.codes, again.codes)
    assert (first.codes != other.codes).any()


def test_a_plan_without_thoughts_is_rendered(model: MusicotPipeline) -> None:
    plan = model.plan("piano", duration=3, seed=1)
    song = model.generate(plan=plan.without_thoughts(), seed=1)
    assert song.plan.segments == 0 and song.duration == 3
    assert (song.waveform != model.generate(plan=plan, seed=1).waveform).any()
    with pytest.raises(ValueError, match="the plan has 0"):
        model.generate(plan=model.plan("piano", duration=70).without_thoughts())


def test_plan_round_trip(model: MusicotPipeline, tmp_path: Path) -> None:
    plan = model.plan(
        "piano and drums", duration=30, seed=4, lyrics="[VERSE] la la", tags=["drums"]
    )
    plan.save(tmp_path / "a.plan.json")
    loaded = mc.Plan.load(tmp_path / "a.plan.json", model)
    np.testing.assert_array_equal(loaded.codes, plan.codes)
    np.testing.assert_array_equal(loaded.embeddings, plan.embeddings)
    np.testing.assert_array_equal(loaded.vector, plan.vector)
    assert (loaded.prompt, loaded.tags, loaded.lyrics) == (plan.prompt, plan.tags, plan.lyrics)
    anchors = ["drums", "bass"]
    np.testing.assert_array_equal(loaded.activity(anchors), plan.activity(anchors))
    assert plan.activity(anchors).shape == (3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "song"}, "not a plan"),
        ({"version": 99}, "version 99"),
        ({"codes": [[1, 2, 3]]}, "expected (3, segments)"),
        ({"codes": [[1], [2], [3]]}, "3 begins for 1 segments"),
        ({"duration": 40}, "do not cover"),
        ({"codes": [[1, 2, 99]] * 3}, "0..7"),
        ({"codes": "abc"}, "damaged"),
        ({"vector": [0.5]}, "16 finite"),
        ({"vector": [float("nan")] * 16}, "vector[0] must be of type number"),
        ({"duration": 1e9}, "duration"),
        ({"tags": ["kazoo"]}, "kazoo"),
    ],
)
def test_plans_that_do_not_fit(
    model: MusicotPipeline, change: dict[str, object], words: str
) -> None:
    plan = model.plan("piano", duration=30).to_dict() | change
    with pytest.raises(MusicotError) as caught:
        mc.Plan.load(plan, model)
    assert words in str(caught.value)


def test_stream_is_the_song_in_pieces(model: MusicotPipeline) -> None:
    stream = model.stream("drums", duration=9.5, seed=5)
    chunks = list(stream)
    song = model.generate("drums", duration=9.5, seed=5, gain=stream.gain)
    assert len(chunks) > 2 and stream.settings == song.settings
    assert song.waveform.shape == (round(9.5 * 8000), 2)
    np.testing.assert_allclose(np.concatenate(chunks), song.waveform, atol=1e-5)


def test_the_first_chunk_needs_no_later_tokens(model: MusicotPipeline) -> None:
    seen: list[tuple[str, int]] = []
    chunks = model.stream(
        "drums", duration=30, progress=lambda stage, done, total: seen.append((stage, done))
    )
    next(chunks)
    assert max(done for stage, done in seen if stage == "audio tokens") < 30 * 25 / 2


def test_a_song_knows_how_it_came_about(model: MusicotPipeline, tmp_path: Path) -> None:
    song = model.generate("piano", duration=2, seed=6, audio_temperature=0.9)
    assert song.codes.shape == (1, 50) and song.codes.dtype == np.int32
    assert set(song.timings) == {"text", "plan", "tokens", "diffusion", "decode"}
    audio, sidecar = song.save(tmp_path / "song.flac")
    settings = json.loads(sidecar.read_text())
    assert settings["audio_temperature"] == 0.9 and settings["thought_temperature"] == 0.65
    known = {k: settings[k] for k in ("duration", "seed", "audio_temperature", "steps")}
    again = model.generate(settings["prompt"], **known)
    np.testing.assert_array_equal(again.waveform, song.waveform)


def test_a_given_plan_is_the_one_rendered(model: MusicotPipeline) -> None:
    plan = model.plan("piano", duration=12, seed=8)
    song = model.generate(plan=plan, seed=1)
    np.testing.assert_array_equal(song.plan.codes, plan.codes)
    np.testing.assert_array_equal(song.waveform, model.generate(plan=plan, seed=1).waveform)
    assert (song.codes != model.generate(plan=plan, seed=2).codes).any()
    assert mc.Plan.load(song.settings["plan"], model).codes.tolist() == plan.codes.tolist()


def test_a_reference_lends_its_thoughts_and_nothing_else(
    model: MusicotPipeline, noise_file: Path
) -> None:
    plan = model.plan("piano", reference=noise_file, duration=50)
    from musicot_mlx.audio.files import read_audio

    heard = model.clap.embed_audio(*read_audio(noise_file))  # 25 s: three windows
    codes = np.array(model.rvq.encode(mx.array(heard)[None])[0])
    np.testing.assert_array_equal(plan.codes, codes[:, [0, 0, 1, 2, 2]])  # from beginning to end
    np.testing.assert_array_equal(plan.vector, model.clap.embed_text(["piano"])[0])
    alone = model.plan(reference=noise_file, duration=20)
    np.testing.assert_allclose(np.linalg.norm(alone.vector), 1, rtol=1e-5)


def test_tags_are_those_near_the_prompt(model: MusicotPipeline) -> None:
    near = model.clap.embed_text(["drums"])[0] @ model.clap.embed_text(["piano", "drums"]).T
    assert near[1] > 0.999  # a prompt that is a tag exceeds any threshold below 1
    assert "drums" in model.plan("drums", duration=1).tags
    assert model.plan("drums", duration=1, tags=[]).tags == ()
    with pytest.raises(MusicotError, match="did you mean 'piano'"):
        model.plan("drums", duration=1, tags=["pianoo"])


def test_a_prompt_that_names_no_tempo_gets_that_of_songs_like_it(
    noise_file: Path, tmp_path: Path
) -> None:
    config = copy.deepcopy(tiny.CONFIG)
    config["semantic_lm"]["tags"] = [*tiny.TAGS, tempo_tag(80), tempo_tag(120)]
    model = mc.load(tiny.write_model(tmp_path, config))
    plan = model.plan("piano", duration=30)
    usual = model.semantic_lm.usual_tempo(model.clap.embed_text(["piano"])[0])
    other = next(tag for tag in config["semantic_lm"]["tags"][3:] if tag != usual)
    assert plan.tags[0] == "piano" and plan.tags[-1] == usual
    assert model.plan("piano", duration=1, tags=["piano"]).tags == ("piano",)
    assert model.plan("a lone piano", duration=1).tags == ("piano",)
    assert {usual, other} & {*model.plan(f"piano, {other}", duration=1).tags} == {other}
    assert not any(map(is_tempo, model.plan("piano at 150 BPM", duration=1).tags))  # has no tag
    assert any(map(is_tempo, model.plan(reference=noise_file, duration=1).tags))
    # a segment set to words keeps the song's tempo, unless they name one
    edited = plan.replace(1, "drums").replace(2, f"drums at {other}")
    told = [changes[0].bpm for changes in model.conditioning.changes(edited, 1).values()]
    assert told == [float(tag.split()[0]) for tag in (usual, other)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "  "}, "empty"),
        ({}, "nothing to plan"),
        ({"prompt": "a", "duration": 0.5}, "1 to 300"),
        ({"prompt": "a", "duration": 1e6}, "1 to 300"),
        ({"prompt": "a", "duration": float("nan")}, "1 to 300"),
        ({"prompt": "a", "steps": 0}, "steps"),
        ({"prompt": "a", "sampler": "rk4"}, "sampler"),
        ({"prompt": "a", "audio_temperature": -1.0}, "temperature"),
        ({"prompt": "a", "unconditional": "no"}, "unconditional"),
    ],
)
def test_bad_options_say_so(model: MusicotPipeline, options: dict, words: str) -> None:
    prompt = options.pop("prompt", None)
    with pytest.raises(ValueError, match=words):
        list(model.stream(prompt, **{"duration": 1, **options}))


def test_an_unknown_option_names_the_nearest(model: MusicotPipeline) -> None:
    with pytest.raises(TypeError, match="did you mean steps"):
        model.generate("a", step=3)


def test_loading_is_strict(tiny_model: Path, tmp_path: Path) -> None:
    config, arrays = read_config(tiny_model), load_arrays(tiny_model)
    extra = {"tokenizer.json": tiny_model / "tokenizer.json"}
    key = sorted(arrays)[5]
    for change in ({"vae.surprise": mx.zeros(3)}, {"attic.weight": mx.zeros(3)}, {key: None}):
        changed = {k: v for k, v in (arrays | change).items() if v is not None}
        folder = save_checkpoint(tmp_path / "model", config, changed, extra)
        with pytest.raises(MusicotError, match="vae.surprise|surprise|attic|missing"):
            mc.load(folder)


def test_soft_limit_leaves_what_is_below_the_knee() -> None:
    waveform = np.array([[-3.0], [-0.9], [0.5], [0.95], [1.5]], dtype=np.float32)
    limited = soft_limit(waveform)
    np.testing.assert_array_equal(limited[1:3], waveform[1:3])
    assert (np.abs(limited) <= 1).all() and (np.diff(limited[:, 0]) > 0).all()
