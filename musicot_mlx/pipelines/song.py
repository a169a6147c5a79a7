"""A song: the waveform, and everything that says how it came about."""

import base64
import itertools
import os
import shutil
import tempfile
import textwrap
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Generic, Self, TypeVar

import numpy as np

from musicot_mlx.atomic import atomic_path, followed, json_text, require_free
from musicot_mlx.audio.files import (
    Encoding,
    audio_writer,
    check_render,
    format_of,
    resample_stream,
    to_pcm16,
)
from musicot_mlx.audio.loudness import limited
from musicot_mlx.errors import MusicotError, MusicotWarning, RunError, SilentRender
from musicot_mlx.pipelines import notebook, worker
from musicot_mlx.pipelines.candidates import candidate_seeds
from musicot_mlx.pipelines.given import number, path_of
from musicot_mlx.pipelines.given import text as plain_text
from musicot_mlx.pipelines.mastering import Mastering, fade_out_seconds
from musicot_mlx.pipelines.options import Options
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.sidecar import (
    WHOLE_NAME,
    expected_sidecar,
    has_whole_name,
    sidecar_to_write,
)
from musicot_mlx.texts import read_json

Wish = TypeVar("Wish", bound=Options)
Made = TypeVar("Made")
REDRAWN = 3  # times that a silent song is drawn again


@dataclass(frozen=True, eq=False, repr=False)
class Song:
    """waveform: float32 (frames, channels) in -1..1 at sample_rate Hz; codes: int32 (codebooks,
    frames).

    settings make the same song again; timings are seconds by stage. gain: dB that the render was
    amplified by. fault: what is broken about the render, "" for nothing, None where nobody looked.
    len(song) are its frames. Songs are equal that sound, and were made, alike; a notebook shows a
    player. Pickled, a song's plan leaves its model behind (Plan).
    """

    waveform: np.ndarray
    sample_rate: int
    codes: np.ndarray
    plan: Plan | None  # None where the model plans nothing
    settings: dict[str, Any]
    timings: dict[str, float] = field(default_factory=dict)
    gain: float = 0.0
    fault: str | None = None

    @property
    def duration(self) -> float:
        """Seconds of audio."""
        return len(self.waveform) / self.sample_rate

    def __len__(self) -> int:
        return len(self.waveform)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Song):
            return NotImplemented
        alike = (self.sample_rate, self.settings, self.plan, self.gain, self.fault) == (
            other.sample_rate, other.settings, other.plan, other.gain, other.fault
        )  # fmt: skip
        return (
            alike
            and np.array_equal(self.waveform, other.waveform)
            and np.array_equal(self.codes, other.codes)
        )

    def __hash__(self) -> int:
        return hash((self.sample_rate, self.waveform.shape, self.codes.tobytes()))

    def __repr__(self) -> str:
        return f"<Song: {notebook.line_of_song(self)}>"

    def _repr_html_(self) -> str:
        return notebook.html_of_song(self)

    def save(
        self,
        path: str | Path | BinaryIO,
        *,
        sample_rate: int | None = None,
        format: str | None = None,
        bit_depth: str = "16",
        bitrate: int | None = None,
        title: str | None = None,
        overwrite: bool = True,
    ) -> list[Path]:
        """Write the audio (WAV, FLAC, MP3, Ogg or M4A by name or `format`) and, beside it, its
        settings as JSON; the files.

        path may be an open binary file, as BytesIO, which gets the audio alone. bit_depth: "16",
        "24" or, for a WAV, "float"; bitrate: kbit/s of MP3 and M4A; title: the prompt, if None.
        overwrite: whether a song of that name is replaced; settings never replace what is not the
        song's own (pipelines/sidecar.py).

        Both appear whole or not at all. Raises RunError when the render is broken (not finite,
        silent, clipped, collapsed) or the disk is full, MusicotError when the place, rate, format
        or its encoding can't be written.
        """
        if self.fault is None:
            check_render(self.waveform, self.sample_rate)
        elif self.fault:
            raise RunError(self.fault)
        return write_song(
            path,
            [self.waveform],
            self.waveform.shape[1],
            self.sample_rate,
            settings=lambda: self.settings,
            made=lambda settings: made_of(self.plan, self.codes, settings, self.gain),
            sample_rate=sample_rate,
            format=format,
            written={"bit_depth": bit_depth, "bitrate": bitrate, "title": title},
            overwrite=overwrite,
        ).files


@dataclass(frozen=True)
class Take:
    """A song that is being made: codes (codebooks, frames) collect what its chunks are made of,
    chunks are the render as it comes, mastering is what that goes through, and told() is what its
    settings say of how it came out.
    """

    plan: Plan | None
    codes: list[np.ndarray]
    chunks: Iterator[np.ndarray]
    mastering: Mastering
    told: Callable[[], dict[str, Any]] = dict


class _Making(Generic[Wish]):
    """What a stream has in the making: it is the affair of the thread that all are made in."""

    def __init__(self, make: Callable[[Wish], Take], wish: Wish) -> None:
        self._make, self._begun = make, False
        self._chunks = self._begin(wish)

    def _begin(self, wish: Wish) -> Iterator[np.ndarray]:
        self.wish, self.take = wish, self._make(wish)
        return self.take.mastering.stream(self.take.chunks)

    def _first(self, wish: Wish) -> Iterator[np.ndarray]:
        """The chunks from the first on, which is what silence has none of."""
        chunks = self._begin(wish) if wish is not self.wish else self._chunks
        return itertools.chain([next(chunks)], chunks)

    def following(self) -> np.ndarray | None:
        """The next chunk that holds anything; None at the end."""
        if not self._begun:
            self._chunks, self._begun = heard(self._first, self.wish), True
        return next(filter(len, self._chunks), None)

    def end(self) -> None:
        """No more chunks."""
        getattr(self.take.chunks, "close", lambda: None)()


class Stream(Iterator[np.ndarray]):
    """Chunks of a song's waveform while later audio is still being made; `plan` (None where the
    model plans nothing) is there at once, `codes` (codebooks, frames) as far as the chunks have
    come.

    Any thread may take chunks, several at once too: each chunk goes to one of them. They are made
    in a thread of their own (pipelines/worker.py), and there progress is called. `close`, the end
    of a `with` block, or letting go of the stream stops the work at its next step; after that there
    are no more chunks.

    The chunks have one gain, which `gain` tells in dB once the first is there: that of the first
    seconds. With it as the option `gain`, `generate` makes the same song. What is silent to its end
    is made again with another seed, which `settings` tell, as `generate` does.
    """

    def __init__(
        self,
        make: Callable[[Wish], Take],
        wish: Wish,
        sample_rate: int,
        settings: Callable[[Wish], dict[str, Any]],
    ) -> None:
        """make(wish) begins a song, settings(wish) are what makes it again."""
        self.sample_rate, self._settings = sample_rate, settings
        self._stopped = threading.Event()
        wish = replace(wish, progress=worker.until(self._stopped, wish.progress))
        try:
            self._making = worker.in_worker(_Making, make, wish)
        except BaseException:  # Ctrl-C, too, while this thread waits
            self._stopped.set()
            raise
        self._end = weakref.finalize(self, worker.end, self._making.end, self._stopped)

    def __next__(self) -> np.ndarray:
        try:
            stopped = self._stopped.is_set()
            chunk = None if stopped else worker.unless_stopped(self._making.following)
        except BaseException:
            self.close()
            raise
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """No more chunks: what is being made stops at its next step."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def plan(self) -> Plan | None:
        return self._making.take.plan

    @property
    def gain(self) -> float:
        """dB."""
        return self._making.take.mastering.gain

    @property
    def codes(self) -> np.ndarray:
        blocks = list(self._making.take.codes) or [np.zeros((1, 0))]
        return np.concatenate(blocks, axis=-1).astype(np.int32)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the song again, as far as it is known."""
        settings = self._settings(self._making.wish) | self._making.take.told()
        return settings if self._making.wish.loudness is False else {**settings, "gain": self.gain}

    def save(
        self,
        path: str | Path | BinaryIO,
        sample_rate: int | None = None,
        *,
        format: str | None = None,
        bit_depth: str = "16",
        bitrate: int | None = None,
        title: str | None = None,
        overwrite: bool = True,
        listen: Callable[[int, int], AbstractContextManager] | None = None,
    ) -> "Saved":
        """Write the song while it is being made, and its settings beside it: the files that the
        song of the same `gain` has, byte for byte.

        sample_rate is the file's in Hz; path and the other options are those of Song.save.
        listen(sample_rate, channels) gives what hears the song as it is written, a function of
        16-bit PCM, or None. Raises RunError like Song.save, once the last chunk has come.
        """
        with self:
            first = next(self)
            rate = sample_rate or self.sample_rate
            with listen(rate, first.shape[1]) if listen else nullcontext() as hear:
                return write_song(
                    path,
                    itertools.chain([first], self),
                    first.shape[1],
                    self.sample_rate,
                    settings=lambda: self.settings,
                    made=lambda settings: made_of(self.plan, self.codes, settings, self.gain),
                    finish=self._making.take.mastering.check.finish,
                    sample_rate=sample_rate,
                    format=format,
                    written={"bit_depth": bit_depth, "bitrate": bitrate, "title": title},
                    overwrite=overwrite,
                    hear=hear,
                )


@dataclass(frozen=True)
class Saved:
    """A stream that was written: its files, its seconds, and whether someone heard it."""

    files: list[Path]
    duration: float
    heard: bool
    channels: int


def write_song(
    path: str | Path | BinaryIO,
    chunks: Iterable[np.ndarray],
    channels: int,
    made_at: int,
    *,
    settings: Callable[[], dict[str, Any]],
    made: Callable[[dict[str, Any]], dict[str, Any]],
    finish: Callable[[], None] = lambda: None,
    sample_rate: int | None = None,
    format: str | None = None,
    written: dict[str, Any],
    overwrite: bool = True,
    hear: Callable[[bytes], None] | None = None,
) -> Saved:
    """Write chunks (frames, channels) of a song as they come and, beside it, its settings.

    made_at is the rate of the chunks in Hz, sample_rate the file's; written are bit_depth, bitrate
    and title of Song.save, as path and overwrite are. finish() is called after the last chunk and
    raises where it is no music; made(settings) tells how the song came out. hear takes the 16-bit
    PCM that is written. The settings are on the disk before the audio takes its
    name, so that neither is ever alone; however a song is cut into chunks, the bytes are the same.
    Raises as Song.save does.
    """
    if hasattr(path, "write"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"song.{format or 'wav'}"
            saved = write_song(
                file,
                chunks,
                channels,
                made_at,
                settings=settings,
                made=made,
                finish=finish,
                sample_rate=sample_rate,
                written=written,
                hear=hear,
            )
            _copy(file, path)
        return replace(saved, files=[])
    path = followed(path_of("path", path))
    rate = number("sample_rate", sample_rate, low=8000, high=192000, whole=True, unit="Hz")
    rate, format, written = rate or made_at, format_of(path, format), _plain(**written)
    if path.suffix.lower() == ".json":
        raise MusicotError(f"{path} is where the settings go; name the audio .{format}")
    if not overwrite:
        require_free(path)
    sidecar, frames = sidecar_to_write(path, format, overwrite=overwrite), 0
    with (
        atomic_path(sidecar, replace=os.path.lexists(sidecar)) as beside,
        audio_writer(
            path,
            rate,
            channels,
            format=format,
            encoding=_encoding(settings(), **written),
            replace=overwrite,
        ) as write,
    ):
        pieces = resample_stream(chunks, made_at, rate)
        for piece in _held(pieces, settings(), rate != made_at, rate):
            write(piece)
            frames += len(piece)
            if hear:
                hear(to_pcm16(piece).tobytes())
        finish()
        told = {**settings(), "format": format, "sample_rate": rate, **_asked(**written)}
        if has_whole_name(sidecar, path):
            told[WHOLE_NAME] = True
        text = json_text(told | made(told), sort_keys=True)
        beside.write_text(text, encoding="utf-8")
    return Saved([path, sidecar], frames / rate, hear is not None, channels)


class Clock:
    """Seconds of a run by stage; work that a stage pulls on is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of a block to `stage`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def passed(blocks: Iterable[np.ndarray], seen: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass blocks on, and remember them in `seen`."""
    for block in blocks:
        seen.append(block)
        yield block


def faded_end(path: str | Path) -> float:
    """Seconds of fade-out at the end of a song, as the .json beside it tells; 0 where none does."""
    try:
        settings = read_json(expected_sidecar(path))
        asked, duration = settings["fade_out"], settings["duration"]
        return 0.0 if settings.get("loop") else fade_out_seconds(asked, duration)
    except (OSError, KeyError, TypeError, ValueError):
        return 0.0


def heard(make: Callable[[Wish], Made], wish: Wish) -> Made:
    """make(wish), and where that is silent again with other seeds, always the same, which is told.

    Raises SilentRender where REDRAWN of them are silent too.
    """
    seeds = candidate_seeds(wish.seed, 1 + REDRAWN)
    for seed, other in itertools.pairwise(seeds):
        try:
            return make(wish)
        except SilentRender as silent:
            words = f"seed {seed}: {str(silent).partition(';')[0]}; drawn again with seed {other}"
            warnings.warn(words, MusicotWarning, stacklevel=2)
            wish = replace(wish, seed=other)
    return make(wish)


def _copy(file: Path, target: BinaryIO) -> None:
    """Write what a file holds to one that is open."""
    try:
        with file.open("rb") as source:
            shutil.copyfileobj(source, target)
        target.flush()
    except TypeError:
        raise MusicotError("a song is bytes; open the file to write with mode 'wb'") from None


def _encoding(
    settings: dict[str, Any], bit_depth: str, bitrate: int | None, title: str | None
) -> Encoding:
    """How a song is written: by title the beginning of its prompt, and how it was made."""
    prompt = settings.get("prompt") or ""
    if title is None:
        title = textwrap.shorten(prompt, 80, placeholder="...")
    made = f"{prompt} (musicot, {settings.get('model')}, seed {settings.get('seed')})"
    return Encoding(bit_depth, bitrate, title, made.strip())


def _plain(bit_depth: Any, bitrate: Any, title: Any) -> dict[str, Any]:
    """How a song is to be written, as plain words and numbers; MusicotError for what is none."""
    return {
        "bit_depth": str(bit_depth),  # 24 is as good as "24"
        "bitrate": number("bitrate", bitrate, whole=True),
        "title": None if title is None else plain_text("title", title).replace("\0", " "),
    }


def _asked(bit_depth: str, bitrate: int | None, title: str | None) -> dict[str, Any]:
    """Of how a song is written what is not the usual."""
    asked = {"bit_depth": bit_depth, "bitrate": bitrate, "title": title}
    return {name: value for name, value in asked.items() if value not in (None, "16")}


def _held(
    pieces: Iterable[np.ndarray], settings: dict[str, Any], resampled: bool, sample_rate: int
) -> Iterable[np.ndarray]:
    """The pieces, limited again where resampling moved peaks that had been limited."""
    if not resampled or settings.get("loudness", False) is False:
        return pieces
    return limited(pieces, sample_rate)


def made_of(
    plan: Plan | None, codes: np.ndarray, settings: dict[str, Any], gain: float
) -> dict[str, Any]:
    """How a song came out, for its .json: its gain in dB, the plan, where the settings don't hold
    it, and the audio tokens (codebooks, frames) as base64 of little-endian 16-bit numbers.
    """
    if plan is None:
        return {}
    tokens = base64.b64encode(codes.astype("<u2").tobytes()).decode()
    outcome: dict[str, Any] = {"codes": tokens, "gain": gain}
    return {"made": outcome if settings.get("plan") else {**outcome, "plan": plan.to_dict()}}
