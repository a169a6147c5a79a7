"""Films: some frames of a file, evenly spaced from its first to its last, by PyAV (FFmpeg)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError

_LONG = 15_000  # frames, ten minutes at 25 a second: of longer films key frames alone are decoded


@dataclass(frozen=True)
class Film:
    """What was read of a film.

    frames: (count, ...), those of a short film more than once. seconds: its length, None where the
    file doesn't tell. has_sound: whether there is any to be heard.
    """

    frames: np.ndarray
    seconds: float | None
    has_sound: bool


def read_film(
    path: str | Path,
    *,
    count: int = 32,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
) -> Film:
    """`count` frames of a film, evenly spaced: always the same ones, the first and the last too.

    prepare: what is kept of a frame uint8 (height, width, 3), which is the frame turned upright; a
    film's frames as they are may be gigabytes. Where a file tells no number of frames, or a wrong
    one, they are counted by decoding them. Raises MusicotError for a missing file, one that is no
    film or holds no pictures, and where PyAV is not installed.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        told, seconds = stream.frames, _seconds(container, stream)
        has_sound = bool(container.streams.audio)
    keys_only = told > _LONG
    total = told if 0 < told <= _LONG else sum(1 for _ in _decoded(path, keys_only))
    kept, found = _at(path, _spaced(total, count), keys_only, prepare)
    if found < total:  # the header promised more
        kept, found = _at(path, _spaced(found, count), keys_only, prepare)
    if not found:
        raise MusicotError(f"film {path} holds no frame that can be decoded; encode it again")
    return Film(np.stack([kept[index] for index in _spaced(found, count)]), seconds, has_sound)


def _spaced(total: int, count: int) -> list[int]:
    """The numbers of `count` frames of `total`, from the first to the last."""
    return [round(index) for index in np.linspace(0, max(0, total - 1), count).tolist()]


def _at(
    path: Path, wanted: list[int], keys_only: bool, prepare: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[int, np.ndarray], int]:
    """The frames of these numbers, and how many were met on the way to the last of them."""
    kept, found, numbers = {}, 0, set(wanted)
    for number, frame in enumerate(_decoded(path, keys_only)):
        found = number + 1
        if number in numbers:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            kept[number] = prepare(np.ascontiguousarray(upright))
        if found > wanted[-1]:
            break
    return kept, found


def _decoded(path: Path, keys_only: bool) -> Iterator[Any]:
    """The frames that can be decoded, up to damage or the end."""
    import av

    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        if keys_only:
            stream.codec_context.skip_frame = "NONKEY"
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except av.FFmpegError:
                return  # cut off here
            if frame is None:
                return
            yield frame


def _seconds(container: Any, stream: Any) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures."""
    try:
        import av
    except ImportError as error:
        raise MusicotError(
            f"can't look at film {path}: PyAV is missing; pip install 'musicot-mlx[video]'"
        ) from error
    if not path.is_file():
        raise MusicotError(f"film {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MusicotError(f"can't read {path} as a film ({why}); pass an MP4 or MOV") from error
    with container:
        if not container.streams.video:
            sound = "; it holds sound alone" if container.streams.audio else ""
            raise MusicotError(f"{path} holds no pictures{sound}; pass a film")
        yield container, container.streams.video[0]
