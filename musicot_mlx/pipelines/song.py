"""A song: the waveform, and everything that says how it came about."""

import base64
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from musicot_mlx.atomic import write_json
from musicot_mlx.audio.files import (
    audio_writer,
    check_render,
    format_of,
    resample,
    resample_stream,
    to_pcm16,
)
from musicot_mlx.audio.loudness import limited
from musicot_mlx.errors import MusicotWarning, RunError, SilentRender
from musicot_mlx.pipelines.candidates import candidate_seeds
from musicot_mlx.pipelines.mastering import Mastering
from musicot_mlx.pipelines.musicot.plan import Plan
from musicot_mlx.pipelines.options import Options

Wish = TypeVar("Wish", bound=Options)
Made = TypeVar("Made")
REDRAWN = 3  # times that a silent song is drawn again


@dataclass(frozen=True)
class Song:
    """waveform: float32 (frames, channels) in -1..1 at sample_rate Hz; codes: int32 (codebooks,
    frames).

    settings make the same song again; timings are seconds by stage. gain: dB that the render was
    amplified by. fault: what is broken about the render, "" for nothing, None where nobody looked.
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

    def save(
        self, path: str | Path, *, sample_rate: int | None = None, format: str | None = None
    ) -> list[Path]:
        """Write the audio (WAV, FLAC or MP3 by name or `format`) and, beside it, its settings as
        JSON.

        Both appear whole or not at all. Raises RunError when the render is broken (not finite,
        silent, clipped, collapsed) or the disk is full, MusicotError when the place or format can't
        be written.
        """
        path, rate = Path(path), sample_rate or self.sample_rate
        format = format_of(path, format)
        if self.fault is None:
            check_render(self.waveform, self.sample_rate)
        elif self.fault:
            raise RunError(self.fault)
        waveform = resample(self.waveform, self.sample_rate, rate)
        with audio_writer(path, rate, waveform.shape[1], format=format) as write:
            for piece in _held([waveform], self.settings, rate != self.sample_rate, rate):
                write(piece)
        sidecar = path.with_suffix(".json")
        settings = {**self.settings, "format": format, "sample_rate": rate}
        settings |= made_of(self.plan, self.codes, settings, self.gain)
        write_json(sidecar, settings, sort_keys=True)
        return [path, sidecar]


@dataclass(frozen=True)
class Take:
    """A song that is being made: codes (codebooks, frames) collect what its chunks are made of,
    chunks are the render as it comes, and mastering is what that goes through.
    """

    plan: Plan | None
    codes: list[np.ndarray]
    chunks: Iterator[np.ndarray]
    mastering: Mastering


class Stream(Iterator[np.ndarray]):
    """Chunks of a song's waveform while later audio is still being made; `plan` (None where the
    model plans nothing) is there at once, `codes` (codebooks, frames) as far as the chunks have
    come.

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
        self.sample_rate = sample_rate
        self._make, self._settings, self._begun = make, settings, False
        self._chunks = self._begin(wish)

    def _begin(self, wish: Options) -> Iterator[np.ndarray]:
        self._wish, self._take = wish, self._make(wish)
        return self._take.mastering.stream(self._take.chunks)

    def _first(self, wish: Options) -> Iterator[np.ndarray]:
        """The chunks from the first on, which is what silence has none of."""
        chunks = self._begin(wish) if wish is not self._wish else self._chunks
        return itertools.chain([next(chunks)], chunks)

    def __next__(self) -> np.ndarray:
        if not self._begun:
            self._chunks, self._begun = heard(self._first, self._wish), True
        return next(self._chunks)

    @property
    def plan(self) -> Plan | None:
        return self._take.plan

    @property
    def gain(self) -> float:
        """dB."""
        return self._take.mastering.gain

    @property
    def codes(self) -> np.ndarray:
        blocks = self._take.codes or [np.zeros((1, 0))]
        return np.concatenate(blocks, axis=-1).astype(np.int32)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the song again, as far as it is known."""
        settings = self._settings(self._wish)
        return settings if self._wish.loudness is False else {**settings, "gain": self.gain}

    def save(
        self,
        path: Path,
        sample_rate: int,
        *,
        listen: Callable[[int, int], AbstractContextManager] | None = None,
    ) -> "Saved":
        """Write the song while it is being made, and its settings beside it.

        sample_rate is the file's in Hz. listen(sample_rate, channels) gives what hears the song as
        it is written, a function of 16-bit PCM, or None. Raises RunError like Song.save, once the
        last chunk has come.
        """
        first, frames = next(self), 0
        with (
            audio_writer(path, sample_rate, first.shape[1]) as write,
            listen(sample_rate, first.shape[1]) if listen else nullcontext() as hear,
        ):
            chunks = itertools.chain([first], self)
            resampled = resample_stream(chunks, self.sample_rate, sample_rate)
            changed = sample_rate != self.sample_rate
            for chunk in _held(resampled, self.settings, changed, sample_rate):
                write(chunk)
                frames += len(chunk)
                if hear:
                    hear(to_pcm16(chunk).tobytes())
            self._take.mastering.check.finish()
        settings = {**self.settings, "format": format_of(path), "sample_rate": sample_rate}
        settings |= made_of(self.plan, self.codes, settings, self.gain)
        sidecar = path.with_suffix(".json")
        write_json(sidecar, settings, sort_keys=True)
        return Saved([path, sidecar], frames / sample_rate, hear is not None)


@dataclass(frozen=True)
class Saved:
    """A stream that was written: its files, its seconds, and whether someone heard it."""

    files: list[Path]
    duration: float
    heard: bool


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
    made: dict[str, Any] = {"codes": tokens, "gain": gain}
    return {"made": made if settings.get("plan") else {**made, "plan": plan.to_dict()}}
