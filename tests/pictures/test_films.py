"""Films: which frames are looked at, and what is told of those that can't be."""

import itertools
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from musicot_mlx.errors import MusicotError
from musicot_mlx.pictures import films
from musicot_mlx.pictures.films import read_film

av = pytest.importorskip("av")


def write_film(
    path: Path,
    frames: int,
    *,
    codec: str = "ffv1",
    sound: bool = False,
    pictures: bool = True,
    times: Sequence[int] = (),
) -> Path:
    """Frame n is grey of brightness 4 n, its upper left quarter black; 10 a second, or at these
    times in tenths of a second.
    """
    with av.open(str(path), "w") as container:
        if pictures:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if sound:
            audio = container.add_stream("pcm_s16le", rate=8000)
            audio.layout = "mono"
            samples = np.zeros((1, 8000), np.int16)
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.sample_rate = 8000
            for packet in [*audio.encode(heard), *audio.encode()]:
                container.mux(packet)
        for number in range(frames if pictures else 0):
            picture = np.full((48, 64, 3), 4 * number, np.uint8)
            picture[:24, :32] = 0
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 10)
            for packet in stream.encode(frame):
                container.mux(packet)
        if pictures:
            for packet in stream.encode():
                container.mux(packet)
    return path


def numbers(film: films.Film) -> list[int]:
    return (film.frames[:, -1, -1, 0].astype(int) // 4).tolist()


def test_frames_are_evenly_spaced_from_first_to_last(tmp_path: Path) -> None:
    film = read_film(write_film(tmp_path / "a.mkv", 63))
    assert numbers(film) == list(range(0, 63, 2)) and film.frames.shape == (32, 48, 64, 3)
    assert film.seconds == pytest.approx(6.3, abs=0.2) and not film.has_sound
    assert np.array_equal(read_film(tmp_path / "a.mkv").frames, film.frames)


@pytest.mark.parametrize("codec", ["ffv1", "mpeg4"])
def test_told_or_counted_the_frames_are_the_same(tmp_path: Path, codec: str) -> None:
    # Matroska tells no number of frames, MP4 does
    suffix = ".mkv" if codec == "ffv1" else ".mp4"
    film = read_film(write_film(tmp_path / f"a{suffix}", 40, codec=codec), count=5)
    off = np.abs(np.array(numbers(film)) - [0, 10, 20, 30, 39]).max()
    assert off <= (1 if codec == "mpeg4" else 0)


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "ffv1"), (".mp4", "mpeg4")])
def test_a_frame_counts_as_long_as_it_is_shown(tmp_path: Path, suffix: str, codec: str) -> None:
    """A slide that stands for four seconds, twenty frames of motion, a slide of two seconds."""
    times = [0, *range(40, 60), 60, 80]
    film = read_film(write_film(tmp_path / f"a{suffix}", 23, codec=codec, times=times), count=9)
    shown = [max(n for n, at in enumerate(times) if at <= k * 81 / 8) for k in range(9)]
    off = np.abs(np.array(numbers(film)) - shown).max()
    assert shown == [0, 0, 0, 0, 1, 11, 21, 21, 22] and off <= (1 if codec == "mpeg4" else 0)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_times_that_a_file_does_not_tell_are_numbers(tmp_path: Path, codec: str) -> None:
    """A bare stream has none, and AVI mixes those of frames that are stored in another order."""
    for suffix in (".avi", ".h264" if codec == "libx264" else ".m4v"):
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec}")
        seen = numbers(read_film(write_film(tmp_path / f"a{suffix}", 40, codec=codec), count=5))
        assert np.abs(np.array(seen) - [0, 10, 20, 30, 39]).max() <= 1


def test_a_film_of_one_frame_and_one_with_sound(tmp_path: Path) -> None:
    film = read_film(write_film(tmp_path / "a.mkv", 1, sound=True))
    assert numbers(film) == [0] * 32 and film.has_sound


def test_a_short_film_repeats_frames(tmp_path: Path) -> None:
    film = read_film(write_film(tmp_path / "a.mkv", 3), count=8)
    assert numbers(film) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_each_frame_is_prepared_as_it_comes(tmp_path: Path) -> None:
    write_film(tmp_path / "a.mkv", 9)
    film = read_film(tmp_path / "a.mkv", count=4, prepare=lambda frame: frame[:2, :2].mean())
    assert film.frames.shape == (4,)


def test_a_film_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "a.avi", 60, codec="mjpeg").read_bytes()  # the header says 60
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    seen = numbers(read_film(tmp_path / "cut.avi", count=4))
    assert seen[0] <= 1 and 10 < seen[-1] < 50 and seen == sorted(set(seen))


def test_a_stream_that_begins_in_the_middle_ends_the_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV knows the streams of a file's beginning alone: a packet of another is an IndexError."""
    write_film(tmp_path / "a.mkv", 10)
    opened = films._opened

    @contextmanager
    def damaged(path: Path) -> Iterator[tuple[Any, Any]]:
        with opened(path) as (container, stream):

            def until(packets: Iterable) -> Iterator:
                yield from itertools.islice(packets, 6)
                raise IndexError("list index out of range")

            yield (
                SimpleNamespace(
                    streams=container.streams,
                    duration=container.duration,
                    demux=lambda stream: until(container.demux(stream)),
                    decode=lambda stream: until(container.decode(stream)),
                ),
                stream,
            )

    monkeypatch.setattr(films, "_opened", damaged)
    assert numbers(read_film(tmp_path / "a.mkv", count=6)) == list(range(6))


def test_of_a_long_film_key_frames_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(tmp_path / "a.mp4", 60, codec="mpeg4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        keys = [n for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert 4 < len(keys) < 50, "the film tells nothing"
    monkeypatch.setattr(films, "_LONG", 50)
    seen = numbers(read_film(tmp_path / "a.mp4", count=7))
    shown = [max(n for n in keys if n <= 10 * k) for k in range(7)]
    assert np.abs(np.array(seen) - shown).max() <= 1


@pytest.mark.parametrize(
    ("turned", "matrix"),
    [(0, (1, 0, 0, 1)), (90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))],
)
def test_a_film_is_turned_upright(tmp_path: Path, turned: int, matrix: tuple[int, ...]) -> None:
    """By the matrix of an MP4 (tkhd), 90 being a phone's that is held upright: clockwise."""
    path = write_film(tmp_path / "a.mp4", 20, codec="mpeg4")
    film = bytearray(path.read_bytes())
    at = film.index(b"tkhd") + 44
    one, (a, b, c, d) = 1 << 16, matrix
    film[at : at + 36] = struct.pack(">9i", one * a, one * b, 0, one * c, one * d, 0, 0, 0, 1 << 30)
    path.write_bytes(film)
    frame = read_film(path, count=2).frames[1]
    upright = np.rot90(frame, turned // 90)  # turned back
    assert upright.shape == (48, 64, 3)
    assert upright[:20, :28].max() < 20 and upright[28:].min() > 40 < upright[:, 36:].min()


def test_what_is_no_film_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film at all" * 50)
    write_film(tmp_path / "b.mkv", 0, sound=True, pictures=False)
    cases = {
        "none.mp4": "does not exist",
        ".": "is a folder",
        "a.mp4": "can't read .* as a film",
        "b.mkv": "holds no pictures; it holds sound alone",
    }
    for name, words in cases.items():
        with pytest.raises(MusicotError, match=words) as caught:
            read_film(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MusicotError, match=r"musicot-mlx\[video\]"):
        read_film("a.mp4")
