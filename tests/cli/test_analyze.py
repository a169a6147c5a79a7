"""What a song holds and whether it followed its plan: cosines, r, stems, sections, the command."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.audio.files import write_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.agreement import pearson, stem_agreement, stem_files
from musicot_mlx.evaluation.measures.sections import section_starts
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.plans.activity import activity
from musicot_mlx.weights.checkpoint import load_arrays, read_config, save_checkpoint
from tests.support import tiny_magenta_model

RATE = 8000
ANCHORS = ["drums", "piano"]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _music(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose band and loudness change every 10 s, float32 (samples, 1)."""
    rng = np.random.default_rng(seed)
    pieces = []
    for i in range(int(np.ceil(seconds / 10))):
        time = np.arange(10 * RATE) / RATE
        tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * time) * (time % rng.uniform(0.1, 1))
        pieces.append(0.3 * tone + 0.02 * (i + 1) * rng.normal(size=tone.shape))
    return np.concatenate(pieces)[: round(seconds * RATE), None].astype(np.float32)


def _heard_as_planned(model: MusicotPipeline, waveform: np.ndarray) -> mc.Plan:
    """A plan whose thoughts are what the waveform sounds like."""
    seconds = len(waveform) / RATE
    return replace(
        model.plan("piano", duration=seconds), embeddings=model.clap.embed_audio(waveform, RATE)
    )


def test_pearson() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 9, 3))
    second[:, 1], first[4] = 0.7, np.nan  # a column that never varies, a row that is not known
    kept = np.arange(9) != 4
    r = pearson(first, second)
    assert r[0] == pytest.approx(np.corrcoef(first[kept, 0], second[kept, 0])[0, 1])
    assert np.isnan(r[1]) and abs(r[2]) < 1
    assert np.isnan(pearson(first[:3], second[:3])).all()  # three lie near a line by chance
    with pytest.raises(ValueError, match="differ"):
        pearson(first, second[:, :2])


def test_audio_that_is_its_plan_follows_it(model: MusicotPipeline) -> None:
    waveform = _music(63)
    plan = _heard_as_planned(model, waveform)
    found = mc.analyze(waveform, RATE, model=model, plan=plan, anchors=ANCHORS)
    np.testing.assert_allclose(found.cosine, 1, atol=1e-5)
    assert found.achieved.shape == (7, 2) and found.mean_cosine == pytest.approx(1)
    assert all(r == pytest.approx(1, abs=1e-4) for r in found.correlation.values())
    turned = replace(plan, embeddings=np.roll(plan.embeddings, 1, axis=0))
    away = mc.analyze(waveform, RATE, model=model, plan=turned, anchors=ANCHORS)
    assert away.mean_cosine < found.mean_cosine and away.correlation["drums"] < 0.9
    json.dumps(found.to_dict(), allow_nan=False)


def test_silence_is_left_out(model: MusicotPipeline) -> None:
    waveform = _music(70)
    plan = _heard_as_planned(model, waveform)
    waveform[10 * RATE : 20 * RATE] = 0
    found = mc.analyze(waveform, RATE, model=model, plan=plan, anchors=ANCHORS)
    assert np.isnan(found.cosine).tolist() == [False, True, *[False] * 5]
    assert np.isnan(found.achieved[1]).all() and found.loudness[1] == 0
    assert found.correlation["drums"] == pytest.approx(1, abs=1e-4)
    assert found.to_dict()["cosine"][1] is None


def test_a_plan_of_another_length_is_held_against_what_there_is(model: MusicotPipeline) -> None:
    waveform = _music(50)
    plan = _heard_as_planned(model, waveform)
    shorter = mc.analyze(waveform[: 30 * RATE], RATE, model=model, plan=plan, anchors=ANCHORS)
    assert shorter.planned.shape == shorter.achieved.shape == (3, 2)
    np.testing.assert_allclose(shorter.cosine, 1, atol=1e-5)
    cut = replace(plan, embeddings=plan.embeddings[:4])
    longer = mc.analyze(waveform, RATE, model=model, plan=cut, anchors=ANCHORS)
    assert np.isnan(longer.cosine[4]) and np.isfinite(longer.achieved).all()


def test_a_plan_alone(model: MusicotPipeline) -> None:
    plan = model.plan("piano", duration=30)
    found = mc.analyze(model=model, plan=plan, anchors=ANCHORS)
    np.testing.assert_array_equal(found.planned, plan.activity(ANCHORS))
    assert found.achieved is None and found.correlation == {} and found.mean_cosine is None


def test_a_clap_that_stands_alone_listens_too(model: MusicotPipeline) -> None:
    waveform = _music(20)
    alone = mc.analyze(waveform, RATE, model=model.clap, anchors=ANCHORS)
    cosines = alone.embeddings @ model.clap.embed_text(ANCHORS).T
    np.testing.assert_allclose(alone.achieved, cosines, atol=1e-6)
    whole = mc.analyze(waveform, RATE, model=model, anchors=ANCHORS)
    assert whole.calibrated and not alone.calibrated
    np.testing.assert_array_equal(whole.embeddings, alone.embeddings)


def test_the_command_with_a_clap_alone(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, arrays = read_config(tiny_model), load_arrays(tiny_model)
    clap = {"model_type": "clap", "clap": config["clap"]}
    only = {key: value for key, value in arrays.items() if key.startswith("clap.")}
    save_checkpoint(here / "clap", clap, only, {"tokenizer.json": tiny_model / "tokenizer.json"})
    write_audio("song.wav", _music(12), RATE)
    assert main(["analyze", "song.wav", "--model", "clap", "--json", "--png", "a.png"]) == 0
    assert np.array(json.loads(capsys.readouterr().out)["achieved"]).shape == (2, 6)
    for flag in ("--plan", "--copy-of"):
        assert main(["analyze", "song.wav", "--model", "clap", flag, "song.wav"]) == 2
        assert "knows no thoughts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        (np.zeros((RATE * 3, 1)), "silent from end to end"),
        (np.ones((RATE // 2, 1)), "lasts 0.50 s; at least 1 s"),
        (np.full((RATE * 3, 1), np.nan), "NaN"),
        (None, "nothing to analyze"),
    ],
)
def test_audio_that_says_nothing(
    model: MusicotPipeline, audio: np.ndarray | None, words: str
) -> None:
    with pytest.raises(MusicotError, match=words):
        mc.analyze(audio, RATE, model=model)
    with pytest.raises(MusicotError, match="list of texts"):
        mc.analyze(_music(10), RATE, model=model, anchors=[])


def test_stems_are_held_against_the_thoughts_of_the_mix(
    model: MusicotPipeline, tmp_path: Path
) -> None:
    waveform = _music(60)
    fade = np.repeat([0.1, 0.5, 0.9, 0.2, 0.7, 0.3], 10 * RATE)[:, None].astype(np.float32)
    parts = {"drums": waveform * fade, "piano": waveform * (1 - fade), "bass": waveform * 0.02}
    (tmp_path / "stems").mkdir()
    for name, part in parts.items():
        soundfile.write(tmp_path / "stems" / f"{name}.wav", part, RATE)
    soundfile.write(tmp_path / "mix.wav", waveform, RATE)
    files = stem_files(tmp_path / "stems")
    heard = model.clap.embed_audio(waveform, RATE)
    rvq = ResidualVQ(RVQConfig(dim=16, codebooks=1, codebook_size=6))
    rvq.codebooks[0].weight = mx.array(heard)  # a quantiser that knows these six segments
    fitted = SimpleNamespace(clap=model.clap, rvq=rvq, anchors=model.clap.embed_text)
    found = stem_agreement(tmp_path / "mix.wav", files, model=fitted)
    assert found.stems == ("bass", "drums", "piano") and found.loudness.shape == (6, 3)
    rms = [np.sqrt(np.square(part).mean()) for part in np.split(parts["drums"], 6)]
    np.testing.assert_allclose(found.loudness[:, 1], rms, rtol=1e-2)
    near = activity(heard, model.clap.embed_text(found.stems), rvq=rvq)
    np.testing.assert_allclose(found.activity, near, atol=1e-2)
    assert found.r["bass"] is None  # too quiet, as section 5.3 has it
    expected = np.corrcoef(found.loudness[:, 1], found.activity[:, 1])[0, 1]
    assert found.r["drums"] == pytest.approx(expected, abs=1e-5)
    soundfile.write(tmp_path / "stems" / "drums.wav", waveform[: 20 * RATE], RATE)
    with pytest.raises(MusicotError, match="lasts 20.0 s, the song 60.0 s"):
        stem_agreement(tmp_path / "mix.wav", files, model=fitted)


def test_sections_begin_where_the_sound_changes() -> None:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.normal(size=RATE * 60)
    assert section_starts(noise, RATE) == []
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE * 20) / RATE)
    noise[RATE * 20 : RATE * 40] = 0.02 * noise[RATE * 20 : RATE * 40] + 0.3 * tone
    assert section_starts(noise, RATE) == [20.0, 40.0]


def test_the_command_finds_the_plan_beside_the_song(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "35"]
    assert main([*generate, "--steps", "1", "-o", "song.wav"]) == 0
    plan = ["plan", "--model", str(tiny_model), "-p", "piano", "--duration", "35"]
    assert main([*plan, "-o", "song.plan.json"]) == 0
    reports = []
    for extra in ([], ["--plan", "song.plan.json", "--png", "song.png"]):
        capsys.readouterr()
        assert main(["analyze", "song.wav", "--anchors", "drums,piano", "--json", *extra]) == 0
        told = capsys.readouterr()
        reports.append(json.loads(told.out))
        assert (
            "drums planned" in told.err
            and "its plan by a cosine of" in told.err
            and "r takes 6" in told.err
        )
    for key in ("planned", "achieved", "cosine", "r"):
        assert reports[0][key] == reports[1][key]  # drawn again from the settings, the same plan
    assert Path("song.png").read_bytes().startswith(b"\x89PNG")
    for file in ("song.plan.json", "song.json"):
        assert main(["analyze", file, "--model", str(tiny_model), "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert "achieved" not in alone and len(alone["planned"]) == 4


def test_a_family_with_an_ear_of_its_own(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked against heard in MusicCoCa's space, thought by thought, with anchors as its mapper has
    them; tokens that copies are looked for in it has none.
    """
    monkeypatch.setattr("musicot_mlx.pipelines.song.check_render", lambda *_: None)
    tiny_magenta_model.write(here / "magenta")
    generate = "generate --model magenta -p piano --duration 7 -o song.wav"
    assert main(generate.split()) == 0
    capsys.readouterr()
    analyze = "analyze song.wav --anchors drums,piano"
    assert main([*analyze.split(), "--json", "--png", "song.png"]) == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert "drums planned" in told.err and "its plan by a cosine of" in told.err
    model = mc.load(here / "magenta")
    plan = mc.Plan.load("song.json", model)
    waveform, rate = soundfile.read("song.wav")
    heard = model.clap.embed_audio(waveform, rate)
    assert heard.shape == plan.embeddings.shape == (7, 20)
    np.testing.assert_allclose(report["cosine"], (heard * plan.embeddings).sum(1), atol=1e-4)
    np.testing.assert_allclose(report["planned"], plan.activity(["drums", "piano"]), atol=1e-4)
    achieved = activity(heard, model.anchors(["drums", "piano"]), rvq=model.rvq)
    np.testing.assert_allclose(report["achieved"], achieved, atol=1e-4)
    assert set(report["r"]) == {"drums", "piano"} and report["segment_seconds"] == 1
    assert main(["analyze", "song.json", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["planned"]) == 7
    assert main(["analyze", "song.wav", "--copy-of", "song.wav"]) == 2
    assert "--copy-of means nothing to magenta" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("analyze", "Missing argument 'FILE'"),
        ("analyze no.wav", "no.wav does not exist"),
        ("analyze .", "is a folder"),
        ("analyze text.wav", "can't read text.wav as audio"),
        ("analyze short.wav", "short.wav lasts 0.50 s"),
        ("analyze silent.wav", "silent.wav is silent from end to end"),
        ("analyze other.json", "not a plan"),
        ("analyze song.wav --plan no.json", "can't read the plan no.json"),
        ("analyze song.wav --plan other.json", "not a plan"),
        ("analyze song.wav --plan foreign.plan.json", "expected (3, segments)"),
        ("analyze other.json --stems .", "needs audio"),
        ("analyze song.wav --stems none", "no folder of stems at none"),
        ("analyze song.wav --anchors ,", "expected names with commas"),
        ("analyze song.wav --png song.wav/a.png", "song.wav is no folder"),
    ],
)
def test_wrong_input_is_one_line(
    tiny_model: Path,
    here: Path,
    model: MusicotPipeline,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    Path("text.wav").write_text("RIFF, but no audio")
    write_audio("short.wav", np.ones((RATE // 2, 1)), RATE)
    write_audio("silent.wav", np.zeros((RATE * 2, 1)), RATE)
    write_audio("song.wav", _music(2), RATE)
    Path("other.json").write_text('{"a": 1}')
    foreign = model.plan("piano", duration=2).to_dict() | {"codes": [[1]] * 6}
    Path("foreign.plan.json").write_text(json.dumps(foreign))
    before = sorted(os.listdir())
    model_flag = ["--model", str(tiny_model)] if len(arguments.split()) > 1 else []
    assert main([*arguments.split(), *model_flag]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_plan_beside_the_song_that_is_damaged_is_left_out(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio("song.wav", _music(12), RATE)
    settings = {"thought_temperature": 1.0, "plan": {"format": "musicot-plan", "version": 9}}
    Path("song.json").write_text(json.dumps(settings))
    assert main(["analyze", "song.wav", "--model", str(tiny_model)]) == 0
    told = capsys.readouterr()
    assert "left out" in told.err and "version 9" in told.err and " planned" not in told.out
