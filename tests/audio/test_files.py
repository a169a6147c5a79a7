"""Audio files: what goes in comes out, broken input is named, broken renders are refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.audio import files
from musicot_mlx.errors import MusicotError, MusicotWarning, RunError

RATE = 22050


def _music(seconds: float = 4.0, channels: int = 2) -> np.ndarray:
    """Plucked notes over a bass and a beat: float32 (frames, channels)."""
    time = np.arange(int(seconds * RATE)) / RATE
    rng = np.random.default_rng(0)
    notes = np.repeat(rng.choice([262.0, 330.0, 392.0, 440.0], len(time) // 5512 + 1), 5512)
    melody = np.sin(2 * np.pi * notes[: len(time)] * time) * np.exp(-(time % 0.25) * 8)
    bass = np.sin(2 * np.pi * 65 * time) * (0.6 + 0.4 * np.cos(2 * np.pi * time / 2))
    beat = rng.standard_normal(len(time)) * np.exp(-(time % 0.5) * 40)
    mix = 0.3 * melody + 0.2 * bass + 0.1 * beat
    return np.stack([mix] * channels, axis=1).astype(np.float32)


@pytest.mark.parametrize("format", files.FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip_and_same_bytes(tmp_path: Path, format: str, channels: int) -> None:
    waveform = _music(1.0, channels)
    first = files.write_audio(tmp_path / f"a.{format}", waveform, RATE)
    second = files.write_audio(tmp_path / f"b.{format}", waveform, RATE)
    assert first.read_bytes() == second.read_bytes()
    found, rate = files.read_audio(first)
    assert rate == RATE and found.dtype == np.float32 and found.shape[1] == channels
    if format == "mp3":
        assert abs(len(found) - len(waveform)) < 0.1 * RATE
    else:
        assert np.abs(found - waveform).max() <= 0.5 / 32768 + 1e-9
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a.{format}", f"b.{format}"]


def test_pieces_make_the_same_file(tmp_path: Path) -> None:
    waveform = _music(1.0)
    whole = files.write_audio(tmp_path / "a.wav", waveform, RATE)
    with files.audio_writer(tmp_path / "b.wav", RATE, 2) as write:
        for start in range(0, len(waveform), 1000):
            write(waveform[start : start + 1000])
    assert whole.read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize("target", [RATE, 16000, 48000])
def test_resampled_pieces_make_the_same_waveform(target: int) -> None:
    waveform = _music(1.0)
    pieces = (waveform[start : start + 3000] for start in range(0, len(waveform), 3000))
    joined = np.concatenate(list(files.resample_stream(pieces, RATE, target)))
    whole = files.resample(waveform, RATE, target)
    assert joined.shape == whole.shape
    np.testing.assert_allclose(joined, whole, atol=1e-5)


def test_interrupted_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        with files.audio_writer(path, RATE, 1) as write:
            write(np.zeros((100, 1), np.float32))
            raise KeyboardInterrupt
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize(
    ("name", "format", "words"),
    [
        ("a.ogg", None, "can't write .ogg audio"),
        ("a.wav", "mp3", "ends in .wav but the format asked for is mp3"),
        ("no/a.wav", None, "the folder .*no doesn't exist"),
        (".", None, "is a folder"),
    ],
)
def test_places_that_cannot_be_written(
    tmp_path: Path, name: str, format: str | None, words: str
) -> None:
    with pytest.raises(MusicotError, match=words):
        files.write_audio(tmp_path / name, _music(0.1), RATE, format=format or None)
    assert not os.listdir(tmp_path)


def test_a_stereo_mp3_is_the_music_and_the_same_each_time(tmp_path: Path) -> None:
    time = np.arange(3 * 44100)[:, None] / 44100
    waveform = (0.4 * np.sin(2 * np.pi * time * [300, 350])).astype(np.float32)
    made = [files.write_audio(tmp_path / f"{i}.mp3", waveform, 44100) for i in range(3)]
    heard, _ = files.read_audio(made[0])
    off = heard[: len(waveform)] - waveform
    assert np.sqrt(np.mean(off**2)) < 0.02 * np.sqrt(np.mean(waveform**2))
    assert len({file.read_bytes() for file in made}) == 1


def test_mp3_rate_is_checked(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match="MP3 has no 96000 Hz"):
        files.write_audio(tmp_path / "a.mp3", _music(0.1), 96000)


def test_full_disk_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    usage = files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(RunError, match="no space left while writing"):
        files.write_audio(tmp_path / "a.wav", _music(0.1), RATE)
    assert not os.listdir(tmp_path)


def test_text_is_atomic(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "{}")
    with pytest.raises(RuntimeError):
        with atomic_path(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert (tmp_path / "a.json").read_text() == "{}"
    assert os.listdir(tmp_path) == ["a.json"]


def test_broken_audio_is_named(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match="doesn't exist"):
        files.read_audio(tmp_path / "no.wav")
    with pytest.raises(MusicotError, match="is a folder"):
        files.read_audio(tmp_path)
    (tmp_path / "text.wav").write_text("not audio at all")
    with pytest.raises(MusicotError, match="can't read .*text.wav as audio"):
        files.read_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(MusicotError, match="holds no samples"):
        files.read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.full((9, 1), np.nan), RATE, subtype="FLOAT")
    with pytest.raises(MusicotError, match="NaN or infinite"):
        files.read_audio(tmp_path / "nan.wav")


def _time(seconds: float = 4.0) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def _noise(seconds: float = 4.0) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(int(seconds * RATE))


BROKEN = {
    "empty": (lambda: np.zeros((0, 2)), "empty"),
    "NaN": (lambda: np.where(_time() > 2, np.nan, 0.1), "NaN"),
    "zeros": (lambda: np.zeros(4 * RATE), "silent"),
    "constant offset": (lambda: np.full(4 * RATE, 0.5), "silent"),
    "faint hiss": (lambda: 1e-5 * _noise(), "silent"),
    "faint band": (lambda: 0.01 * _music(), "silent"),
    "clipped": (lambda: np.clip(20 * _music(), -1, 1), "clipped"),
    "white noise": (lambda: 0.1 * _noise(), "noise"),
    "one tone": (lambda: 0.3 * np.sin(2 * np.pi * 440 * _time()), "collapsed"),
    "held chord": (
        lambda: 0.1 * sum(np.sin(2 * np.pi * f * _time()) for f in (220, 277, 330)),
        "collapsed",
    ),
    "40 ms loop": (lambda: np.tile(0.1 * _noise(0.04), 100), "collapsed"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_renders_are_refused(name: str) -> None:
    make, words = BROKEN[name]
    with pytest.raises(RunError, match=words):
        files.check_render(make().astype(np.float32), RATE)


MUSIC = {
    "band": lambda: _music(),
    "quiet band": lambda: 0.03 * _music(),
    "vibrato": lambda: (
        0.2 * np.sin(2 * np.pi * 220 * _time() + 3 * np.sin(2 * np.pi * 5 * _time()))
    ),
    "drums alone": lambda: 0.3 * _noise() * np.exp(-(_time() % 0.5) * 30),
    "fading chord": lambda: 0.1 * np.sin(2 * np.pi * 220 * _time()) * np.exp(-_time()),
    "one short tone": lambda: 0.3 * np.sin(2 * np.pi * 440 * _time(1.0)),
    "silence, then music": lambda: np.concatenate([np.zeros((RATE, 2)), _music()]),
}


@pytest.mark.parametrize("name", MUSIC)
def test_music_passes(name: str) -> None:
    files.check_render(MUSIC[name]().astype(np.float32), RATE)


def test_check_is_the_same_in_pieces() -> None:
    check = files.RenderCheck(RATE)
    waveform = np.tile(0.1 * _noise(0.04), 100).astype(np.float32)[:, None]
    for start in range(0, len(waveform), 777):
        check.add(waveform[start : start + 777])
    with pytest.raises(RunError, match="collapsed"):
        check.finish()


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    for name in ("b.flac", "a.wav", ".hidden.wav"):
        soundfile.write(tmp_path / name, _music(0.1), RATE)
    soundfile.write(tmp_path / "c.opus", _music(0.1), 24000, format="OGG", subtype="OPUS")
    (tmp_path / "d.m4a").write_bytes(b"of another kind")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), RATE)
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.warns(MusicotWarning) as told:
        found = files.readable_files(tmp_path)
    assert [path.name for path in found] == ["a.wav", "b.flac", "c.opus"]
    said = sorted(str(each.message) for each in told)
    assert "skipped d.m4a: can't read" in said[0] and "skipped empty.wav" in said[1]
    assert len(said) == 2
