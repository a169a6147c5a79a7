"""Files whose headers lie: what they hold is read, the same by every door, and told once."""

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.audio.files import audio_frames, read_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.training.data import read_data

RATE, SECONDS = 22050, 12
TIME = np.arange(SECONDS * RATE) / RATE
WAVEFORM = np.stack(
    [0.3 * np.sin(2 * np.pi * (220 + 20 * np.floor(TIME)) * TIME), 0.2 * np.sin(2000 * TIME)], 1
) + 0.02 * np.random.default_rng(0).standard_normal((len(TIME), 2))


def _written(path: Path, **options: str) -> bytearray:
    soundfile.write(path, WAVEFORM, RATE, **options)
    return bytearray(path.read_bytes())


def _streamed_flac(path: Path) -> None:
    data = _written(path)
    data[21] &= 0xF0  # STREAMINFO's count of samples, 36 bits
    data[22:26] = bytes(4)
    path.write_bytes(data)


def _sizes(path: Path, riff: int, size: int) -> None:
    """A WAV with other sizes in its header."""
    data = _written(path)
    data[4:8] = struct.pack("<I", riff)
    data[40:44] = struct.pack("<I", size)
    path.write_bytes(data)


def _cut(path: Path, share: float, **options: str) -> None:
    data = _written(path, **options)
    path.write_bytes(data[: int(len(data) * share)])


WHOLE = {  # all samples are there, whatever the header says
    "stream.flac": _streamed_flac,
    "crashed.wav": lambda path: _sizes(path, 0, 0),
    "half-crashed.wav": lambda path: _sizes(path, len(WAVEFORM) * 4 + 36, 0),
    "piped-by-ffmpeg.wav": lambda path: _sizes(path, 2**32 - 1, 2**32 - 1),
    "piped-by-sox.wav": lambda path: _sizes(path, 0x7FFFF024, 0x7FFFF000),
    "lossless.caf": lambda path: _written(path, subtype="ALAC_16"),
    "plain.wav": _written,
    "plain.flac": _written,
}
SHORTER = {  # the seconds that can be read
    "cut.mp3": (lambda path: _cut(path, 0.6), 7.2),
    "cut.flac": (lambda path: _cut(path, 0.6), 7.2),
    "cut.wav": (lambda path: _cut(path, 0.6), 7.2),
    "cut.aiff": (lambda path: _cut(path, 0.6), 7.2),
    "cut.au": (lambda path: _cut(path, 0.6), 7.2),
}
UNSEEKABLE = {
    "gsm.wav": {"subtype": "GSM610"},
    "g721.au": {"subtype": "G721_32"},
    "g721.wav": {"subtype": "G721_32"},
    "nms.wav": {"subtype": "NMS_ADPCM_32"},
    "dwvw.aiff": {"subtype": "DWVW_16"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("audio")
    for name, make in {**WHOLE, **{name: make for name, (make, _) in SHORTER.items()}}.items():
        make(made / name)
    for name, options in UNSEEKABLE.items():
        soundfile.write(made / name, WAVEFORM[:, 0], RATE, **options)
    return made


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        yield found


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_whole_is_read_whole(folder: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if "crashed" in name else "error")
        assert audio_frames(folder / name) == (len(WAVEFORM), RATE)
        found, rate = read_audio(folder / name)
        part, _ = read_audio(folder / name, start=7.0, seconds=2.0)
        end, _ = read_audio(folder / name, start=11.5, seconds=2.0)
    assert rate == RATE and found.dtype == np.float32
    np.testing.assert_allclose(found, WAVEFORM, atol=1 / 32768)
    np.testing.assert_array_equal(part, found[7 * RATE : 9 * RATE])
    np.testing.assert_array_equal(end, found[round(11.5 * RATE) :])


def test_a_crashed_recorder_is_told_of_once(
    folder: Path, told: list[warnings.WarningMessage]
) -> None:
    for _ in range(3):
        audio_frames(folder / "crashed.wav")
        read_audio(folder / "crashed.wav")
    (said,) = told
    assert said.category is MusicotWarning
    assert "crashed.wav was not finished" in str(said.message)


@pytest.mark.parametrize("name", SHORTER)
def test_what_is_cut_off_is_read_to_its_end(
    folder: Path, name: str, told: list[warnings.WarningMessage]
) -> None:
    seconds = SHORTER[name][1]
    found, rate = read_audio(folder / name)
    frames, _ = audio_frames(folder / name)
    assert len(found) == frames == pytest.approx(seconds * rate, abs=0.2 * rate)
    part, _ = read_audio(folder / name, start=5.0, seconds=10.0)
    assert len(part) == frames - 5 * rate
    assert np.abs(part - found[5 * rate :]).max() < 0.02  # MP3s, by a little
    with pytest.raises(MusicotError, match="holds no samples"):
        read_audio(folder / name, start=10.0, seconds=1.0)
    (said,) = told
    assert f"of 12 s that its header promises {frames / rate:.4g} s can be read" in str(
        said.message
    )


@pytest.mark.parametrize("name", UNSEEKABLE)
def test_what_can_not_be_sought_in_is_read(folder: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, rate = read_audio(folder / name)
        assert audio_frames(folder / name) == (len(found), rate)
        assert len(found) / rate == pytest.approx(SECONDS, abs=0.05)
        part, _ = read_audio(folder / name, start=7.0, seconds=2.0)
    np.testing.assert_array_equal(part, found[7 * rate : 9 * rate])
    assert np.corrcoef(found[: len(TIME), 0], WAVEFORM[: len(found), 0])[0, 1] > 0.8


def test_damage_within_a_file(tmp_path: Path, told: list[warnings.WarningMessage]) -> None:
    for name in ("a.flac", "a.mp3"):
        data = _written(tmp_path / name)
        half = len(data) // 2
        data[half : half + 3000] = np.random.default_rng(0).bytes(3000)
        (tmp_path / name).write_bytes(data)
        found, rate = read_audio(tmp_path / name)
        assert 5 < len(found) / rate < 12 and np.isfinite(found).all()
    assert ["cut off or damaged" in str(each.message) for each in told] == [True, True]


def test_mp3s_without_a_count_of_their_frames(
    tmp_path: Path, told: list[warnings.WarningMessage]
) -> None:
    data = _written(tmp_path / "a.mp3")
    whole, rate = read_audio(tmp_path / "a.mp3")
    frame = data.index(data[:2], 40)  # the first one holds the counts
    tag = b"ID3\x04\0\0\0\0\2\0" + bytes(256)
    for head in (b"", tag):
        (tmp_path / "b.mp3").write_bytes(head + data[frame:])
        found, _ = read_audio(tmp_path / "b.mp3")
        assert audio_frames(tmp_path / "b.mp3") == (len(found), rate)
        late = len(found) - len(whole)  # what a decoder needs to begin, which the count leaves out
        assert 0 <= late < 0.2 * rate
        shift = int(np.argmax(np.correlate(found[:8000, 0], whole[:4000, 0], "valid")))
        np.testing.assert_allclose(
            found[shift:][: len(whole)], whole[: len(found) - shift], atol=1e-3
        )
        part, _ = read_audio(tmp_path / "b.mp3", start=7.0, seconds=2.0)
        np.testing.assert_array_equal(part, found[7 * rate : 9 * rate])
    assert not told


def test_mp3s_that_were_joined_are_read_to_the_end(
    tmp_path: Path, told: list[warnings.WarningMessage]
) -> None:
    data = _written(tmp_path / "a.mp3")
    tag = b"ID3\x04\0\0\0\0\2\0" + bytes(256)
    for number, parts in enumerate(([data, data], [tag, data, tag, data])):
        path = tmp_path / f"joined-{number}.mp3"
        path.write_bytes(b"".join(parts))
        found, rate = read_audio(path)
        assert audio_frames(path) == (len(found), rate)
        assert len(found) / rate == pytest.approx(2 * SECONDS, abs=0.3)
        assert np.square(found[-5 * rate : -rate]).mean() > 0.01
    assert ["goes on behind what its header counts" in str(each.message) for each in told] == [
        *(True, True)
    ]
    (tmp_path / "tagged.mp3").write_bytes(data + b"APETAGEX" + bytes(20_000))  # a cover
    assert audio_frames(tmp_path / "tagged.mp3") == (len(WAVEFORM), RATE)
    assert len(told) == 2


def test_oggs_that_were_joined_are_told(
    tmp_path: Path, told: list[warnings.WarningMessage]
) -> None:
    data = _written(tmp_path / "a.ogg")
    (tmp_path / "joined.ogg").write_bytes(data + data)
    assert audio_frames(tmp_path / "a.ogg") == (len(WAVEFORM), RATE)
    assert not told
    assert audio_frames(tmp_path / "joined.ogg") == (len(WAVEFORM), RATE)
    assert ["only the first is read" in str(each.message) for each in told] == [True]


def test_an_empty_wav_with_a_comment_is_empty(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1)), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    for tail in (
        b"",
        b"LIST" + struct.pack("<I", 4) + b"INFO",
        b"id3 " + struct.pack("<I", 3) + b"abc",
    ):
        (tmp_path / "a.wav").write_bytes(data + tail)
        assert audio_frames(tmp_path / "a.wav") == (0, RATE)
        with pytest.raises(MusicotError, match="holds no samples"):
            read_audio(tmp_path / "a.wav")


def test_floats_that_are_integers_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", WAVEFORM * 32768, RATE, subtype="FLOAT")
    with pytest.raises(MusicotError, match="a.wav reaches .*divide it by its full scale"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("path", [None, 5, (WAVEFORM, RATE), WAVEFORM, b"a.wav"])
def test_what_is_no_name_of_a_file(path: object) -> None:
    for read in (read_audio, audio_frames):
        with pytest.raises(MusicotError, match="this audio comes from a file; pass its name"):
            read(path)


def test_a_file_without_a_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(MusicotError, match="can't read .*a.raw as audio"):
        read_audio(tmp_path / "a.raw")


@pytest.mark.parametrize("name", ["stream.flac", "crashed.wav", "cut.mp3", "gsm.wav"])
@pytest.mark.filterwarnings("ignore::musicot_mlx.errors.MusicotWarning")
def test_every_door_has_all_of_it(tiny_model: Path, folder: Path, name: str) -> None:
    model, path = mc.load(str(tiny_model)), folder / name
    waveform, rate = read_audio(path)
    plan = model.plan("piano", duration=20)
    segments = 2 if len(waveform) / rate > 11 else 1
    heard = model.plan_from_audio(path)
    assert heard.segments == segments
    np.testing.assert_array_equal(heard.codes, model.plan_from_audio((waveform, rate)).codes)
    np.testing.assert_array_equal(
        plan.replace(slice(0, 2), path).codes, plan.replace(slice(0, 2), (waveform, rate)).codes
    )
    assert (
        mc.analyze(path, model=model).to_dict() == mc.analyze(waveform, rate, model=model).to_dict()
    )
    model.plan(reference=str(path), duration=20)


def test_commands_tell_once_and_go_on(
    tiny_model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = str(folder / "cut.mp3")
    for command in (
        ["analyze", audio],
        ["plan", "--from-audio", audio],
        ["plan", "--reference", audio, "--duration", "20"],
        ["plan", "-p", "piano", "--duration", "20", "--set", f"0-20=@{audio}"],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([*command, "--model", str(tiny_model)]) == 0
        said = capsys.readouterr().err.splitlines()
        assert sum("cut off or damaged" in line for line in said) == 1, (command, said)


@pytest.mark.filterwarnings("ignore::musicot_mlx.errors.MusicotWarning")
def test_data_sets_take_them(folder: Path) -> None:
    found = read_data(folder, trigger="zyx")
    assert not found.skipped and found.usable == len(WHOLE) + len(SHORTER) + len(UNSEEKABLE)


def test_a_sample_is_nothing_to_hear(tiny_model: Path, tmp_path: Path) -> None:
    model, path = mc.load(str(tiny_model)), tmp_path / "a.wav"
    soundfile.write(path, np.full((1, 2), 0.5), 8000)
    plan = model.plan("piano", duration=20)
    for hear in (
        lambda: model.plan(reference=path, duration=20),
        lambda: plan.replace(0, path),
        lambda: plan.replace(0, (np.full(1, 0.5), 8000)),
    ):
        with pytest.raises(MusicotError, match="s to hear; at least 0.1 s are needed"):
            hear()
