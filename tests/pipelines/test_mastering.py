"""Songs are handed on at one loudness, they end, and silence is drawn again or refused."""

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.audio.files import read_audio
from musicot_mlx.audio.loudness import integrated_loudness, true_peak
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError, MusicotWarning, RunError, SilentRender
from musicot_mlx.pipelines.candidates import candidate_seeds
from musicot_mlx.pipelines.mastering import Mastering, fade_out_seconds, folded, soft_limit
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.options import AS_MADE, Options
from musicot_mlx.pipelines.song import REDRAWN
from musicot_mlx.tokens.tempo import TEMPO_TAGS
from tests.support import tiny

RATE = 8000


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


def _tones(seconds: float = 8.0, level: float = 0.1) -> np.ndarray:
    """Plucked tones (frames, 1)."""
    time = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * time) * np.exp(-(time % 0.5) * 6)).astype(np.float32)[
        :, None
    ]


def _whole(waveform: np.ndarray, **wish: object) -> np.ndarray:
    options = Options.of(None, **wish)
    return Mastering(options, RATE, len(waveform)).whole([waveform], waveform.shape[1]).waveform


@pytest.mark.parametrize("level", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("target", [-16.0, -23.0])
def test_a_song_has_the_loudness_asked_for(level: float, target: float) -> None:
    song = _whole(_tones(level=level), loudness=target)
    assert integrated_loudness(song, RATE) == pytest.approx(target, abs=0.3)
    assert true_peak(song) <= -1.0


def test_it_can_be_left_as_it_was_made() -> None:
    made = _tones(level=1.5)
    np.testing.assert_array_equal(_whole(made, **AS_MADE), soft_limit(made))
    faded = _whole(made, loudness=False)
    np.testing.assert_array_equal(faded[: 6 * RATE], soft_limit(made)[: 6 * RATE])
    assert np.abs(faded[-80:]).max() < 0.01
    amplified = _whole(_tones(level=0.1), gain=6.0, fade_out=0.0)
    np.testing.assert_allclose(amplified, _tones(level=0.1) * 10**0.3, rtol=1e-6)


def test_fades() -> None:
    steady = np.full((4 * RATE, 1), 0.1, np.float32)
    steady[::2] *= -1  # no mean, which would count as silence
    wish = {"gain": 0.0, "fade_in": 0.5, "fade_out": 1.0}
    song = np.abs(_whole(steady, **wish)[:, 0]) / 0.1
    assert (np.diff(song[: RATE // 2]) >= -1e-6).all() and song[0] < 1e-4
    np.testing.assert_allclose(song[RATE // 2 : 3 * RATE], 1, rtol=1e-5)
    assert (np.diff(song[3 * RATE :]) <= 1e-6).all() and song[-1] < 1e-4
    assert song[3 * RATE + RATE // 2] == pytest.approx(0.5, abs=0.01)
    assert fade_out_seconds(None, 30) == 1.5 and fade_out_seconds(None, 3) == 0.5
    assert fade_out_seconds(0.0, 30) == 0 and fade_out_seconds(9, 3) == 3


@pytest.mark.parametrize("size", [333, 8000, 64000])
def test_a_stream_is_the_song_of_its_gain(size: int) -> None:
    waveform = _tones(level=0.5) * np.linspace(0.3, 1.0, 8 * RATE, dtype=np.float32)[:, None]
    chunks = [waveform[start : start + size] for start in range(0, len(waveform), size)]
    mastering = Mastering(Options.of(None), RATE, len(waveform))
    came = list(mastering.stream(iter(chunks)))
    np.testing.assert_array_equal(
        np.concatenate(came), _whole(waveform, gain=float(mastering.gain))
    )
    if size < 8000:  # the gain of the first three seconds, told with the first chunk
        assert len(came) > 2
        early = [*chunks[:73], *(0 * chunk for chunk in chunks[73:])]
        other = Mastering(Options.of(None), RATE, len(waveform))
        next(other.stream(iter(early)))
        assert other.gain == mastering.gain


def test_a_loop_goes_on_where_it_began() -> None:
    """A tone whose period does not fit the loop: cut, it clicks; folded, it goes on."""
    time = np.arange(3 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 100.3 * time)).astype(np.float32)[:, None]
    loop, step = 2 * RATE, 0.3 * 2 * np.pi * 100.3 / RATE
    cut, song = tone[:loop], folded(tone[: loop + 1200].copy(), loop)
    assert abs(cut[0, 0] - cut[-1, 0]) > 3 * step
    twice = np.concatenate([song, song])
    assert song.shape == (loop, 1) and np.abs(np.diff(twice[:, 0])).max() < 1.5 * step
    np.testing.assert_array_equal(song[1200:], tone[1200:loop])


def _silent_seeds(monkeypatch: pytest.MonkeyPatch, *seeds: int) -> None:
    """Make the songs of these seeds silent."""
    decode = MusicotPipeline.decode

    def faint(self: MusicotPipeline, plan: mc.Plan, latents: Iterator, wish: object, *rest: object):
        for chunk in decode(self, plan, latents, wish, *rest):
            yield chunk * (1e-4 if wish.seed in seeds else 1)

    monkeypatch.setattr(MusicotPipeline, "decode", faint)


def test_silence_is_drawn_again(model: MusicotPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    other = candidate_seeds(7, 2)[1]
    expected = model.generate("piano", duration=2, seed=other)
    _silent_seeds(monkeypatch, 7)
    with pytest.warns(MusicotWarning, match=f"seed 7: .* silent .*again with seed {other}"):
        song = model.generate("piano", duration=2, seed=7)
    np.testing.assert_array_equal(song.waveform, expected.waveform)
    assert song.settings == expected.settings and song.settings["seed"] == other
    with pytest.warns(MusicotWarning, match="again with seed"):
        stream = model.stream("piano", duration=2, seed=7)
        chunks = list(stream)
    assert stream.settings["seed"] == other and stream.plan.seed == other
    np.testing.assert_allclose(np.concatenate(chunks), song.waveform, atol=1e-5)
    # as it is made, it is what it is, and no file
    faint = model.generate("piano", duration=2, seed=7, **AS_MADE)
    with pytest.raises(RunError, match="silent"):
        faint.save("never.wav")
    scores = model.generate("piano", duration=2, seed=7, candidates=2).settings["chosen"]["scores"]
    assert [each["broken"] for each in scores] == [True, False]


def test_silent_seeds_are_refused(
    tiny_model: Path,
    model: MusicotPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _silent_seeds(monkeypatch, *candidate_seeds(7, 1 + REDRAWN))
    for make in (model.generate, lambda *a, **k: list(model.stream(*a, **k))):
        with warnings.catch_warnings(), pytest.raises(SilentRender, match="is silent"):
            warnings.simplefilter("ignore")
            make("piano", duration=2, seed=7)
    command = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "2"]
    for extra in ([], ["--stream"], ["--candidates", "2"]):
        output = tmp_path / "a.wav"
        assert main([*command, "--seed", "7", "-o", str(output), *extra]) == 1
        assert "is silent" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_flags(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def song(*extra: str) -> np.ndarray:
        file = str(tmp_path / "a.wav")
        command = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "4"]
        assert main([*command, "-o", file, "--overwrite", *extra]) == 0
        return read_audio(file)[0]

    def settings() -> dict:
        return json.loads((tmp_path / "a.json").read_text())

    assert integrated_loudness(song(), RATE) == pytest.approx(-16, abs=0.3)
    assert settings()["loudness"] == -16 and settings()["made"]["gain"] != 0
    quiet = song("--loudness", "-23", "--fade-out", "0")
    assert integrated_loudness(quiet, RATE) == pytest.approx(-23, abs=0.3)
    made = song("--no-loudness", "--fade-out", "0")
    assert settings()["loudness"] is False and settings()["made"]["gain"] == 0
    again = tmp_path / "again.wav"
    assert main(["generate", "--config-from", str(tmp_path / "a.json"), "-o", str(again)]) == 0
    np.testing.assert_array_equal(read_audio(again)[0], made)
    faded = song("--no-loudness", "--fade-in", "1", "--fade-out", "1")
    np.testing.assert_array_equal(faded[RATE : 3 * RATE], made[RATE : 3 * RATE])
    assert np.abs(faded[[0, -1]]).max() < 1e-3
    # what is resampled keeps its peaks below the ceiling too
    assert true_peak(song("--loudness", "-8", "--sample-rate", "11025")) <= -1.0
    # a stream's gain stands in its settings, until another loudness is asked for
    song("--stream")
    streamed = str(tmp_path / "stream.json")
    (tmp_path / "a.json").rename(streamed)
    louder = ["--config-from", streamed, "--loudness", "-30", "-o", str(again), "--overwrite"]
    assert main(["generate", *louder]) == 0
    assert integrated_loudness(read_audio(again)[0], RATE) == pytest.approx(-30, abs=0.3)
    capsys.readouterr()
    for flags, words in (
        (["--loudness", "3"], "from -40 to -6 LUFS, or off"),
        (["--loudness", "-16", "--no-loudness"], "not both"),
        (["--fade-out", "-1"], "from 0 to 60 seconds"),
    ):
        assert main(["generate", "--model", str(tiny_model), "-p", "a", *flags]) == 2
        assert words in capsys.readouterr().err


def test_options_of_python(model: MusicotPipeline) -> None:
    with pytest.raises(MusicotError, match="loudness is 0 LUFS; ask for -40 to -6 LUFS"):
        model.generate("piano", duration=1, loudness=0)
    with pytest.raises(MusicotError, match="loudness is 'loud'"):
        model.generate("piano", duration=1, loudness="loud")


@pytest.mark.parametrize(("bpm", "asked"), [(120, 10), (120, 3), (97, 19.8), (61, 5)])
def test_loops_are_whole_bars(tmp_path: Path, bpm: float, asked: float) -> None:
    config = copy.deepcopy(tiny.CONFIG)
    config["semantic_lm"]["tags"] = [*tiny.TAGS, *TEMPO_TAGS]
    model = mc.load(tiny.write_model(tmp_path, config))
    prompt = f"piano at {bpm} BPM"
    song = model.generate(prompt, duration=asked, seed=3, loop=True)
    bars = song.duration * bpm / 240
    assert bars == pytest.approx(round(bars), abs=1e-3)
    assert abs(song.duration - asked) <= 120 / bpm + 1e-3
    steps = np.abs(np.diff(song.waveform, axis=0))
    assert np.abs(song.waveform[0] - song.waveform[-1]).max() <= steps.max()
    # its plan makes the same loop again
    again = model.generate(plan=song.plan, seed=3, loop=True)
    np.testing.assert_array_equal(again.waveform, song.waveform)
    assert song.settings["loop"] is True and song.settings["duration"] == asked
    if asked == 3:
        for options, words in (
            ({"fade_out": 1.0}, "no end to fade"),
            ({"plan": song.plan, "keep": song}, "nothing of a song can be kept"),
            ({"plan": model.plan(prompt, duration=1)}, "not one bar"),
        ):
            with pytest.raises(MusicotError, match=words):
                model.generate(None if "plan" in options else prompt, loop=True, **options)
        with pytest.raises(MusicotError, match="without streaming"):
            model.stream(prompt, loop=True)


def test_how_files_are_written(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", str(tiny_model), "-p", "solo piano", "--duration", "2"]
    first, again = tmp_path / "a.wav", tmp_path / "b.wav"
    assert main([*command, "--bit-depth", "24", "-o", str(first)]) == 0
    assert "a.wav: 2.0 s, stereo, 8 kHz" in capsys.readouterr().out
    assert (
        main(["generate", "--config-from", str(first.with_suffix(".json")), "-o", str(again)]) == 0
    )
    assert soundfile.info(again).subtype == "PCM_24" and first.read_bytes() == again.read_bytes()
    for extra in ([], ["--stream"]):
        flac = tmp_path / "c.flac"
        assert main([*command, "-o", str(flac), "--overwrite", *extra]) == 0
        with soundfile.SoundFile(flac) as file:
            assert file.title == "solo piano" and file.comment.endswith("seed 0)")
        assert main([*command, "-o", str(flac), "--title", "Mine", "--overwrite", *extra]) == 0
        assert soundfile.SoundFile(flac).title == "Mine"
    capsys.readouterr()
    assert main([*command, "--bitrate", "128", "-o", str(flac), "--overwrite"]) == 2
    assert "a bit rate is for mp3 and m4a" in capsys.readouterr().err
