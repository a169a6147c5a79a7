"""Audio files: what goes in comes out, broken input is named, broken renders are refused."""

import os
import shutil
import sys
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


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for ffmpeg, alone on the path: it copies, and keeps what it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tool = folder / "ffmpeg"
    tool.write_text(
        f"#!{sys.executable}\nimport shutil, sys\n"
        f"open({str(folder / 'called')!r}, 'a').write('|'.join(sys.argv[1:]) + chr(10))\n"
        "source = sys.argv[sys.argv.index('-i') + 1]\n"
        "if open(source, 'rb').read(3) == b'bad': sys.exit('moov atom not found')\n"
        "shutil.copy(source, sys.argv[-1])\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder / "called"


@pytest.mark.parametrize("format", files.FORMATS[:4])
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip_and_same_bytes(tmp_path: Path, format: str, channels: int) -> None:
    waveform = _music(1.0, channels)
    first = files.write_audio(tmp_path / f"a.{format}", waveform, RATE)
    second = files.write_audio(tmp_path / f"b.{format}", waveform, RATE)
    assert first.read_bytes() == second.read_bytes()
    found, rate = files.read_audio(first)
    assert rate == RATE and found.dtype == np.float32 and found.shape[1] == channels
    if format in ("mp3", "ogg", "m4a"):
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
        ("a.aiff", None, "can't write .aiff audio"),
        ("a.wav", "mp3", "ends in .wav but the format asked for is mp3"),
        ("a.txt/a.wav", None, "a.txt is no folder"),
        (".", None, "is a folder"),
    ],
)
def test_places_that_cannot_be_written(
    tmp_path: Path, name: str, format: str | None, words: str
) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(MusicotError, match=words):
        files.write_audio(tmp_path / name, _music(0.1), RATE, format=format or None)
    assert os.listdir(tmp_path) == ["a.txt"]


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
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
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


@pytest.mark.parametrize(
    ("name", "encoding", "subtype", "step"),
    [
        ("a.wav", files.Encoding("24"), "PCM_24", 2.0**-23),
        ("a.wav", files.Encoding("float"), "FLOAT", 0.0),
        ("a.flac", files.Encoding("24"), "PCM_24", 2.0**-23),
    ],
)
def test_bit_depths(
    tmp_path: Path, name: str, encoding: files.Encoding, subtype: str, step: float
) -> None:
    waveform = 0.5 * _music(1.0)
    path = files.write_audio(tmp_path / name, waveform, RATE, encoding=encoding)
    assert soundfile.info(path).subtype == subtype
    assert np.abs(files.read_audio(path)[0] - waveform).max() <= step


@pytest.mark.parametrize(("rate", "kbps"), [(44100, 128), (44100, 320), (22050, 64), (8000, 32)])
def test_bit_rates(tmp_path: Path, rate: int, kbps: int) -> None:
    waveform = 0.2 * np.random.default_rng(0).standard_normal((10 * rate, 1)).astype(np.float32)
    encoding = files.Encoding(bitrate=kbps)
    path = files.write_audio(tmp_path / "a.mp3", waveform, rate, encoding=encoding)
    assert path.stat().st_size * 8 / 10 / 1000 == pytest.approx(kbps, rel=0.06)


@pytest.mark.parametrize("format", ["flac", "mp3", "ogg"])
def test_tags_in_any_script(tmp_path: Path, format: str) -> None:
    encoding = files.Encoding(title="静かなピアノ, café\0\ud800", comment="solo\n\0piano")
    path = files.write_audio(tmp_path / f"a.{format}", _music(1.0), RATE, encoding=encoding)
    with soundfile.SoundFile(path) as file:
        if format != "mp3":
            assert (file.title, file.comment) == ("静かなピアノ, café", "solo piano")
    if format == "mp3":
        tag = path.read_bytes()[:200]
        assert tag[:4] == b"ID3\x04" and "\x03静かなピアノ, café".encode() in tag
        assert b"COMM" in tag and b"\x03eng\0solo piano" in tag
    assert len(files.read_audio(path)[0]) == pytest.approx(RATE, abs=0.1 * RATE)


def test_a_converter_writes_and_reads_m4a(tmp_path: Path, ffmpeg: Path) -> None:
    encoding = files.Encoding(bitrate=96, title="piano", comment="c")
    path = files.write_audio(tmp_path / "a.m4a", 0.5 * _music(1.0), RATE, encoding=encoding)
    assert "-c:a|aac|-b:a|96000" in ffmpeg.read_text() and "title=piano" in ffmpeg.read_text()
    waveform, rate = files.read_audio(path)
    assert rate == RATE and np.abs(waveform - 0.5 * _music(1.0)).max() <= 2.0**-23
    assert ffmpeg.read_text().count("pcm_f32le") == 1
    (tmp_path / "b.m4a").write_bytes(b"bad")
    with pytest.raises(MusicotError, match="can't read .*b.m4a as audio .ffmpeg: moov atom"):
        files.read_audio(tmp_path / "b.m4a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.m4a", "b.m4a", "bin"]


def test_without_a_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MusicotError, match="no converter for .m4a here; install ffmpeg"):
        files.write_audio(tmp_path / "a.m4a", _music(0.1), RATE)
    (tmp_path / "b.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    with pytest.raises(MusicotError, match="can't read .*b.m4a as audio .*or install ffmpeg"):
        files.read_audio(tmp_path / "b.m4a")
    assert os.listdir(tmp_path) == ["b.m4a"]


@pytest.mark.parametrize(
    ("format", "encoding", "words"),
    [
        ("mp3", files.Encoding("24"), "MP3 has no bit depth 24, but none to choose"),
        ("flac", files.Encoding("float"), "FLAC has no bit depth float, but 16 or 24"),
        ("wav", files.Encoding(bitrate=128), "a bit rate is for mp3 and m4a"),
        ("mp3", files.Encoding(bitrate=1000), "ask for 32 to 320"),
        ("mp3", files.Encoding(bitrate=320), "at most 160 kbit/s"),
    ],
)
def test_encodings_that_a_format_has_not(
    tmp_path: Path, format: str, encoding: files.Encoding, words: str
) -> None:
    with pytest.raises(MusicotError, match=words):
        files.write_audio(tmp_path / f"a.{format}", _music(0.1), RATE, encoding=encoding)
    assert not os.listdir(tmp_path)


def test_windows_of_a_song_join_to_the_song(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music = 0.5 * _music(4.0)
    music[:, 1] *= 0.3
    soundfile.write(tmp_path / "a.wav", music, RATE, subtype="FLOAT")
    whole = files.resample(music.mean(axis=1), RATE, 24000)
    monkeypatch.setattr("musicot_mlx.audio.reading._BLOCK", 10_007)  # it comes in many blocks
    for audio in (tmp_path / "a.wav", (music, RATE), (music.mean(axis=1), RATE)):
        windows = list(files.mono_windows(audio, sample_rate=24000, seconds=1.5))
        assert [len(window) for window in windows] == [36000, 36000, len(whole) - 72000]
        assert all(window.ndim == 1 and window.dtype == np.float32 for window in windows)
        assert np.abs(np.concatenate(windows) - whole).max() < 1e-3
    at_rate = list(files.mono_windows((music, RATE), sample_rate=RATE, seconds=100))
    assert len(at_rate) == 1 and np.array_equal(at_rate[0], music.mean(axis=1))


def test_windows_of_no_song_are_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(MusicotError, match="holds no samples"):
        list(files.mono_windows(tmp_path / "none.wav", sample_rate=24000))
    with pytest.raises(MusicotError, match="NaN or infinite"):
        list(files.mono_windows((np.full(500, np.nan), RATE), sample_rate=24000))


def test_what_is_no_file_is_no_audio_file(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "device.wav").symlink_to("/dev/zero")
    (tmp_path / "nowhere.wav").symlink_to("nothing")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "song.wav").write_bytes(b"")
    assert [path.name for path in files.audio_files(tmp_path)] == ["nowhere.wav", "song.wav"]
