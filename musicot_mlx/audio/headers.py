"""Headers that hide samples from libsndfile, mended on the way to it; the files stay as they are.

It reads no more of a file than its header tells of. A WAV whose recorder crashed tells of nothing.
An MP3 without a count of its frames (a stream that was recorded, the second half of a file) is
guessed at by its first frame, which a variable bitrate belies, and of MP3s that were joined only
the first is told of.
"""

import mmap
import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from musicot_mlx.errors import MusicotWarning

_COUNTS = re.compile(rb"Xing|Info|VBRI")  # what the header of an MP3's counts begins with
_TAIL = 8192  # bytes behind an MP3's frames in which there may be tags, but hardly music


@contextmanager
def readable(path: Path) -> Iterator["str | bytes | int | mmap.mmap"]:
    """What soundfile is to open so that it reads all of a file: its name, or mended bytes."""
    if (found := _unfinished_wav(path)) is not None:
        with found:
            yield found
    elif os.name == "posix" and path.suffix.lower() in (".mp3", ".mpga") and _hides_frames(path):
        with _piped(path) as source:
            yield source
    else:
        if path.suffix.lower() in (".ogg", ".oga", ".opus") and _joined_ogg(path):
            tell(f"{path} holds several songs, one behind the other; only the first is read, "
                 "ffmpeg makes one file of them")  # fmt: skip
        yield file_name(path)


def tell(text: str) -> None:
    """Warn of a file, once: Python drops what the same line has said before."""
    warnings.warn(text, MusicotWarning, stacklevel=1)


def file_name(path: Path) -> str | bytes:
    """A path as soundfile takes it: as its bytes, since a name of other letters than the locale's
    has no str that soundfile can encode. Windows has no such names, and wants a str.
    """
    return os.fsencode(path) if os.name == "posix" else str(path)


def _unfinished_wav(path: Path) -> mmap.mmap | None:
    """The bytes of a WAV whose recorder crashed, with a length put in; None for any other file.

    Such a file says that its data has 0 bytes, and goes on behind them. If that is chunks to the
    end, it is as empty as it says.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] + head[8:] != b"RIFFWAVE":
            return None
        empty = (at for name, at, size in _chunks(file, 12) if name == b"data" and not size)
        place, end = next(empty, None), path.stat().st_size
        if place is None or place + 8 >= end:
            return None
        last = [at + 8 + size for _, at, size in _chunks(file, place + 8)][-1:]
        if last and last[0] in (end, end + 1):
            return None
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tell(f"{path} was not finished: its header says it is empty; what stands behind it is read")
    found[place + 4 : place + 8] = min(end - place - 8, 2**32 - 1).to_bytes(4, "little")
    return found


def _chunks(file: BinaryIO, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and size of the chunks of a RIFF file from `at` on, as long as they are any."""
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode().isprintable():
            return
        size = int.from_bytes(head[4:], "little")
        yield head[:4], at, size
        at += 8 + size + size % 2


def _hides_frames(path: Path) -> bool:
    """Whether an MP3 has no count of its frames, or goes on with frames behind those it counts."""
    with path.open("rb") as file:
        first, head = _first_frame(file)
        counts = _COUNTS.search(head)
        if counts is None:
            return True
        flags, at = int.from_bytes(head[counts.end() :][:4]), counts.end() + 4
        at += 4 * (flags & 1)  # the bytes stand behind the frames
        if counts[0] == b"VBRI" or not flags & 2:
            return False
        end = first + int.from_bytes(head[at : at + 4])
        file.seek(end)
        behind = file.read(3)
    joined = behind == b"ID3" or behind[:1] == b"\xff" and behind[1:2] >= b"\xe0"
    if not joined or path.stat().st_size - end < _TAIL:
        return False
    tell(f"{path} goes on behind what its header counts (MP3s joined?); all of it is read")
    return True


def _joined_ogg(path: Path) -> bool:
    """Whether a stream begins in an Ogg where music has begun already, as web radio is recorded."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        music = data.find(b"OggS\0\0")  # the first page that begins no stream
        return music >= 0 and data.find(b"OggS\0\2", music) >= 0


def _first_frame(file: BinaryIO) -> tuple[int, bytes]:
    """Where the first frame of an MP3 begins, behind its tags, and what it begins with."""
    head, first = file.read(10), 0
    if head[:3] == b"ID3":
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
        first = 10 + size + 10 * bool(head[5] & 0x10)
    file.seek(first)
    return first, file.read(64)  # counts stand at 13 to 38, by the kind of frame


@contextmanager
def _piped(path: Path) -> Iterator[int]:
    """The reading end of a pipe of an MP3's frames, its counts blotted out: of a pipe libsndfile
    asks no length, so it reads to the end.
    """
    source, sink = os.pipe()

    def feed() -> None:
        try:
            with open(sink, "wb") as out, path.open("rb") as file:
                _, head = _first_frame(file)
                out.write(_COUNTS.sub(bytes(4), head))
                shutil.copyfileobj(file, out)
        except BrokenPipeError:
            pass  # no more was asked for

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        yield source
    finally:
        os.close(source)
        feeder.join()
