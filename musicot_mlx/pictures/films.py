"""Films: what a file shows at times evenly spaced over its length, by PyAV (FFmpeg)."""

from collections.abc import Callable, Iterator, Sequence
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

    frames: (count, ...), some of them more than once where few are shown. seconds: its length, None
    where the file doesn't tell. has_sound: whether there is any to be heard.
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
    """What a film shows at `count` times, evenly spaced from its first frame to its end, so that a
    frame counts as long as it is shown: always the same ones, the first and the last too.

    prepare: what is kept of a frame uint8 (height, width, 3), which is the frame turned upright; a
    film's frames as they are may be gigabytes. Where a file tells more frames than there are, their
    times are read by decoding them. Raises MusicotError for a missing file, one that is no film or
    holds no pictures, and where PyAV is not installed.
    """
    path = Path(path)
    with _opened(path) as (container, stream):
        seconds, has_sound = _seconds(container, stream), bool(container.streams.audio)
        times, end, keys_only = _told(container, stream)
    wanted = _shown(times, end, count)
    kept, met = _at(path, wanted, keys_only, prepare)
    if len(met) < len(times):  # damaged, cut off, or told wrong
        wanted = _shown(*_even(met), count)
        kept, _ = _at(path, wanted, keys_only, prepare)
    if not wanted:
        raise MusicotError(f"film {path} holds no frame that can be decoded; encode it again")
    return Film(np.stack([kept[number] for number in wanted]), seconds, has_sound)


def _told(container: Any, stream: Any) -> tuple[list[int], int, bool]:
    """When each frame is shown, and when the last one ends, in the stream's units, as the file
    tells without decoding; and whether that is of key frames alone.
    """
    import av

    found, keys, length = [], [], 0
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                found.append(packet.pts)
                length = packet.duration or length
                if packet.is_keyframe:
                    keys.append(packet.pts)
    except (av.FFmpegError, IndexError):  # the latter of a stream that begins only now
        pass  # cut off here
    times, end = _even(found, length)
    if len(times) > _LONG:
        return _even(keys)[0], end, True
    return times, end, False


def _even(times: Sequence[int | None], length: int = 0) -> tuple[list[int], int]:
    """Times in order, and when the last one ends; frames of a file that tells none, or some twice,
    are numbered instead.

    length: of the last one; where that isn't known, it is as long as the others are on average.
    """
    if None in times or len(set(times)) < len(times):
        return list(range(len(times))), len(times)
    found = sorted(each for each in times if each is not None)
    if len(found) > 1:
        length = length or max(1, (found[-1] - found[0]) // (len(found) - 1))
    return found, found[-1] + length if found else 0


def _shown(times: list[int], end: int, count: int) -> list[int]:
    """The numbers of the frames that are shown at `count` times from the first one to the end."""
    if not times:
        return []
    steps = max(1, count - 1)
    at = [times[0] + (end - times[0]) * step // steps for step in range(count)]
    return (np.searchsorted(times, at, side="right") - 1).tolist()


def _at(
    path: Path, wanted: list[int], keys_only: bool, prepare: Callable[[np.ndarray], np.ndarray]
) -> tuple[dict[int, np.ndarray], list[int | None]]:
    """The frames of these numbers, and the times of all that were met on the way to the last."""
    kept, met, numbers = {}, [], set(wanted)
    for number, frame in enumerate(_decoded(path, keys_only)):
        met.append(frame.pts)
        if number in numbers:
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            kept[number] = prepare(np.ascontiguousarray(upright))
        if wanted and number == wanted[-1]:
            break
    return kept, met


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
            except (av.FFmpegError, IndexError):
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
