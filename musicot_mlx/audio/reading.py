"""Audio files in: every kind that libsndfile reads, as much of each as there is.

A header may promise what a file doesn't hold: a FLAC that was streamed tells no length, an MP3 that
was cut off tells its old one, a recorder that crashed left a WAV of no length at all. So what is
promised is tried first, and where it fails the samples are read in order, to where they end.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from musicot_mlx.audio.converter import INSTALL, SUFFIXES, as_wav
from musicot_mlx.audio.headers import readable, tell
from musicot_mlx.audio.waveforms import as_waveform
from musicot_mlx.errors import MusicotError

_BLOCK = 1 << 18  # frames read at a time where they are read in order
_CUT = re.compile(r"(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)")  # in libsndfile's log
_TO_THE_END = 0x7F000000  # bytes: a size from here on is a pipe's, ffmpeg's, sox's or arecord's
_MOST = 1 << 28  # frames, 1.7 hours at 44.1 kHz: more are no promise to make room for at once


def read_audio(
    path: str | Path, *, start: float = 0.0, seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Waveform float32 (frames, channels) and its sample rate in Hz, from any file soundfile reads:
    all of it, or up to `seconds` from `start` on.

    What a cut or damaged file still holds is read, with a MusicotWarning. Raises MusicotError for a
    missing, broken or empty file, and for samples that are not finite.
    """
    with _opened(path) as file:
        rate, promised = int(file.samplerate), _promised(file)
        first = round(start * rate)
        count = None if seconds is None else round(seconds * rate)
        waveform = _as_promised(file, first, count)
    found = promised if waveform is None or count is not None else first + len(waveform)
    if waveform is None:
        waveform, found = _in_order(path, first, count)
    if count is None or found < first + count:
        _tell(path, promised, found, rate)
    if not len(waveform):
        raise MusicotError(f"audio file {path} holds no samples")
    return as_waveform(waveform, f"audio file {path}"), rate


def audio_frames(path: str | Path) -> tuple[int, int]:
    """How many frames can be read of an audio file, and its sample rate in Hz; the samples stay
    unread where its header is right.

    Raises MusicotError for a missing or broken file.
    """
    with _opened(path) as file:
        rate, promised = int(file.samplerate), _promised(file)
        found = file.frames if not file.frames or _ends_as_promised(file) else None
    if found is None:
        found = sum(map(len, _blocks(path)))
    _tell(path, promised, found, rate)
    return found, rate


def audio_texts(path: str | Path) -> dict[str, str]:
    """What the tags of an audio file tell: title, artist, genre, license, copyright, comment, date;
    none of them has to be there. Raises MusicotError for a missing or broken file.
    """
    with _opened(path) as file:
        return {name: text.strip() for name, text in file.copy_metadata().items() if text.strip()}


class _InOrder(soundfile.SoundFile):
    """A file read from front to back: soundfile seeks after every read of what can be sought in,
    which fails at an end that the header didn't tell.
    """

    def seekable(self) -> bool:
        return False


def _promised(file: soundfile.SoundFile) -> int:
    """The frames that the header speaks of, which libsndfile cuts down to those that a WAV, AIFF or
    AU has room for; where it says but "to the end", as programs write into a pipe, it is those.
    """
    cut = _CUT.search(file.extra_info)
    if cut is None or int(cut[1]) >= _TO_THE_END:
        return file.frames
    return round(file.frames * int(cut[1]) / max(int(cut[2]), 1))


def _as_promised(file: soundfile.SoundFile, first: int, count: int | None) -> np.ndarray | None:
    """The frames from `first` on, `count` of them or all; None where they aren't what the header
    promises.
    """
    first = min(first, file.frames)
    wanted = file.frames - first if count is None else min(count, file.frames - first)
    if wanted > _MOST:
        return None
    try:
        if first:
            file.seek(first)
        waveform = file.read(wanted, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        return None
    return waveform if len(waveform) == wanted else None


def _ends_as_promised(file: soundfile.SoundFile) -> bool:
    """Whether the last frame that the header promises is there."""
    if not file.seekable() or file.frames > _MOST:
        return False
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except soundfile.SoundFileError:
        return False


def _in_order(path: str | Path, first: int, count: int | None) -> tuple[np.ndarray, int]:
    """The same by reading from the beginning, and where in the file that ended."""
    last = None if count is None else first + count
    kept, at = [], 0
    for block in _blocks(path):
        kept.append(block[max(0, first - at) : None if last is None else max(0, last - at)])
        at += len(block)
        if last is not None and at >= last:
            break
    return np.concatenate(kept) if kept else np.zeros((0, 1), np.float32), at


def audio_blocks(path: str | Path) -> Iterator[tuple[np.ndarray, int]]:
    """float32 (frames, channels) and the sample rate in Hz, block by block from the beginning to
    where the samples end or can't be read: of hours of sound no more than a block in memory.

    Raises MusicotError for a missing or broken file.
    """
    with _opened(path, _InOrder) as file:
        came, rate = False, int(file.samplerate)
        while True:
            block = np.full((_BLOCK, file.channels), np.nan, np.float32)
            try:
                found = file.read(out=block)
            except soundfile.SoundFileError:
                found = block[~np.isnan(block).all(axis=1)]  # what came before the damage
                if not came and not len(found):
                    raise
                yield found, rate
                return
            if not len(found):
                return
            came = True
            yield found, rate


def _blocks(path: str | Path) -> Iterator[np.ndarray]:
    return (block for block, _ in audio_blocks(path))


def _tell(path: str | Path, promised: int, found: int, rate: int) -> None:
    """Say what is missing of a file; a file that promised nothing has all that it can have."""
    if found < promised <= _MOST:
        tell(
            f"{path} is cut off or damaged: of {promised / rate:.4g} s that its header promises "
            f"{found / rate:.4g} s can be read"
        )


@contextmanager
def _opened(
    path: str | Path, kind: type[soundfile.SoundFile] = soundfile.SoundFile
) -> Iterator[soundfile.SoundFile]:
    if not isinstance(path, (str, Path)):
        raise MusicotError(
            f"this audio comes from a file; pass its name, not {type(path).__name__}"
        )
    path = Path(path)
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "doesn't exist"
        raise MusicotError(f"audio file {path} {reason}")
    try:
        with (
            as_wav(path) as heard,
            readable(heard) as source,
            kind(source, closefd=False) as file,
        ):
            yield file
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError) as error:
        why = getattr(error, "error_string", None) or str(error)
        raise MusicotError(
            f"can't read {path} as audio ({why.strip().rstrip('.')}); pass a WAV, FLAC or MP3 file"
            + (f", or {INSTALL}" if path.suffix.lower() in SUFFIXES else "")
        ) from error
