"""Songs as the trainer reads them: metadata, audio at any rate and format, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.reference.data import SongData, SongEntry, read_roll, read_window  # noqa: E402


def record(name: str, **changes: object) -> dict:
    return {
        "audio_file": name,
        "text_prompt": "calm piano",
        "lyrics": "[VERSE] la la",
        "genre_tags": ["jazz"],
        "instrument_tags": "piano, double bass,",
        "duration": 2.0,
        "artist": "nobody",
        "title": "nothing",
        **changes,
    }


def write_tone(path: Path, rate: int, channels: int, *, hertz: float = 440.0) -> Path:
    """Two seconds of a tone that starts at 0.5 s, the same in all channels."""
    t = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * hertz * t) * (t >= 0.5)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate)
    return path


def write_metadata(folder: Path, records: object) -> Path:
    (folder / "metadata.json").write_text(json.dumps(records))
    return folder


def make_songs(folder: Path, count: int) -> list[dict]:
    for i in range(count):
        write_tone(folder / f"{i}.wav", 8000, 1)
    return [record(f"{i}.wav") for i in range(count)]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (22050, 2), (44100, 2), (48000, 1)])
def test_audio_of_any_rate(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = write_tone(tmp_path / name, rate, channels)
    for wanted in (1, 2):
        audio = read_window(path, 0.75, 1.0, sample_rate=16000, channels=wanted)
        assert audio.shape == (16000, wanted) and audio.dtype == np.float32
        np.testing.assert_array_equal(audio[:, 0], audio[:, -1])
        spectrum = np.abs(np.fft.rfft(audio[:, 0] * np.hanning(16000)))
        assert spectrum.argmax() == 440  # one bin a Hz
        middle = audio[4000:12000]
        assert 0.45 < np.sqrt(2 * (middle**2).mean()) < 0.55


def test_window_lies_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", 44100, 1)
    audio = read_window(path, 0.25, 0.5, sample_rate=8000)[:, 0]
    assert np.abs(audio[:1990]).max() < 0.01 and np.abs(audio[2010:2100]).max() > 0.4
    late = read_window(path, 1.5, 1.0, sample_rate=8000)[:, 0]  # half of it after the end
    assert np.abs(late[:3900]).max() > 0.4 and not late[4010:].any()
    assert not read_window(path, 5.0, 1.0, sample_rate=8000).any()


def test_channels_are_mixed_and_repeated(tmp_path: Path) -> None:
    audio = np.stack([np.full(8000, 0.5), np.full(8000, -0.25)], axis=1)
    soundfile.write(tmp_path / "a.wav", audio, 8000, subtype="FLOAT")
    mono = read_window(tmp_path / "a.wav", 0, 1, sample_rate=8000)
    np.testing.assert_allclose(mono, 0.125, atol=1e-6)
    stereo = read_window(tmp_path / "a.wav", 0, 1, sample_rate=8000, channels=2)
    np.testing.assert_allclose(stereo, audio, atol=1e-6)


def test_entry_holds_what_the_record_says(tmp_path: Path) -> None:
    windows = [{"start": 0.0, "end": 10.0, "captions": ["solo piano"]}]
    entry = SongEntry.parse(
        record("a.wav", genre_tags=["jazz", "piano"], captions=["slow"], windows=windows), tmp_path
    )
    assert entry.path == tmp_path / "a.wav" and entry.duration == 2.0
    assert entry.tags == ("jazz", "piano", "double bass")  # each once, no empty ones
    assert entry.prompts == ("calm piano", "slow") and entry.lyrics == "[VERSE] la la"
    rng = np.random.default_rng(0)
    near = {entry.caption(rng, 0.0, 10.0) for _ in range(100)}
    assert near == {"calm piano", "slow", "solo piano"}
    assert "solo piano" not in {entry.caption(rng, 20.0, 10.0) for _ in range(50)}


def test_bare_records_are_enough(tmp_path: Path) -> None:
    bare = {"audio_file": "a.wav", "text_prompt": "x", "duration": 1}
    entry = SongEntry.parse({**bare, "lyrics": None, "genre_tags": None, "captions": "y"}, tmp_path)
    assert entry.tags == () and entry.lyrics == "" and entry.prompts == ("x", "y")


@pytest.mark.parametrize(
    ("told", "bpm", "first_bar"),
    [
        ({}, 0, 0),
        ({"bpm": 100}, 0, 0),  # a tag, but nobody knows where its bars begin
        ({"first_bar": 0.5}, 0, 0),
        ({"bpm": 100, "first_bar": 0.5}, 100, 0.5),
        ({"bpm": "200", "first_bar": 0}, 100, 0),
        ({"bpm": "brisk", "first_bar": 0}, 0, 0),
    ],
)
def test_bars_are_known_by_tempo_and_place(
    tmp_path: Path, told: dict, bpm: float, first_bar: float
) -> None:
    entry = SongEntry.parse(record("a.wav", **told), tmp_path)
    assert (entry.bpm, entry.first_bar) == (bpm, first_bar)


@pytest.mark.parametrize(("count", "held_out"), [(2, [0]), (20, [0]), (41, [0, 20, 40])])
def test_every_twentieth_song_is_held_out(tmp_path: Path, count: int, held_out: list[int]) -> None:
    data = SongData(write_metadata(tmp_path, make_songs(tmp_path, count)))
    assert [int(e.path.stem) for e in data.validation] == held_out
    assert len(data.training) + len(held_out) == count
    assert not {e.path for e in data.training} & {e.path for e in data.validation}
    assert data.tags() == ["double bass", "jazz", "piano"]


def test_score_is_cut_and_padded(tmp_path: Path) -> None:
    assert read_roll(tmp_path / "a.wav", 0.0, 10) is None
    np.savez(tmp_path / "a.npz", roll=np.eye(50, dtype=np.uint8))
    roll = read_roll(tmp_path / "a.wav", 1.0, 40)
    assert roll.shape == (40, 50) and roll[0, 25] == 1 and roll[24, 49] == 1
    assert not roll[25:].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r[0].update(audio_file="gone.wav"), "1 files that are not there: gone.wav"),
        (lambda r: r[1].update(text_prompt="  "), "1.wav: text_prompt is empty"),
        (lambda r: r[1].update(text_prompt=None), "1.wav: text_prompt is empty"),
        (lambda r: r[1].update(first_bar="soon"), "1.wav: first_bar is 'soon'"),
        (lambda r: r[1].pop("duration"), "1.wav: duration is None"),
        (lambda r: r[1].update(duration="long"), "1.wav: duration is 'long'"),
        (lambda r: r[1].update(duration=float("nan")), "1.wav: duration is nan"),
        (lambda r: r[0].pop("audio_file"), "has no audio_file"),
        (lambda r: r.__setitem__(0, "a song"), "has no audio_file"),
        (lambda r: r[0].update(windows=[{"start": 0}]), "each of windows needs start and captions"),
        (lambda r: r.pop(), "names 1 songs; at least 2 are needed"),
        (lambda r: r.append(r[0]), "names several songs '0'"),
    ],
)
def test_refusals(tmp_path: Path, change, words: str) -> None:
    records = make_songs(tmp_path, 2)
    change(records)
    with pytest.raises(MusicotError, match=words) as error:
        SongData(write_metadata(tmp_path, records))
    assert "\n" not in str(error.value)


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match="is not there; make one with"):
        SongData(tmp_path)
    (tmp_path / "metadata.json").write_text("[{")
    with pytest.raises(MusicotError, match="is not JSON"):
        SongData(tmp_path)
    with pytest.raises(MusicotError, match="must hold a list"):
        SongData(write_metadata(tmp_path, {"songs": []}))
    (tmp_path / "a.wav").write_bytes(b"RIFF, but not really")
    with pytest.raises(MusicotError, match="can't read .*a.wav: ") as error:
        read_window(tmp_path / "a.wav", 0, 1, sample_rate=8000)
    assert "\n" not in str(error.value)
