"""A song: the waveform, and everything that says how it came about."""

import base64
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import write_json
from musicot_mlx.audio.files import (
    RenderCheck,
    audio_writer,
    check_render,
    format_of,
    resample,
    resample_stream,
    to_pcm16,
)
from musicot_mlx.pipelines.musicot.plan import Plan


@dataclass(frozen=True)
class Song:
    """waveform: float32 (frames, channels) in -1..1 at sample_rate Hz; codes: int32 (codebooks,
    frames).

    settings make the same song again; timings are seconds by stage.
    """

    waveform: np.ndarray
    sample_rate: int
    codes: np.ndarray
    plan: Plan | None  # None where the model plans nothing
    settings: dict[str, Any]
    timings: dict[str, float] = field(default_factory=dict)

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
        check_render(self.waveform, self.sample_rate)
        with audio_writer(path, rate, self.waveform.shape[1], format=format) as write:
            write(resample(self.waveform, self.sample_rate, rate))
        sidecar = path.with_suffix(".json")
        settings = {**self.settings, "format": format, "sample_rate": rate}
        settings |= made_of(self.plan, self.codes, settings)
        write_json(sidecar, settings, sort_keys=True)
        return [path, sidecar]


class Stream(Iterator[np.ndarray]):
    """Chunks of a song's waveform while later audio is still being made; `plan` (None where the
    model plans nothing) is there at once, `codes` (codebooks, frames) as far as the chunks have
    come.
    """

    def __init__(
        self, plan: Plan | None, codes: list[np.ndarray], chunks: Iterator[np.ndarray]
    ) -> None:
        self.plan, self._codes, self._chunks = plan, codes, chunks

    def __next__(self) -> np.ndarray:
        return next(self._chunks)

    @property
    def codes(self) -> np.ndarray:
        blocks = self._codes or [np.zeros((1, 0))]
        return np.concatenate(blocks, axis=-1).astype(np.int32)

    def save(
        self,
        path: Path,
        settings: dict[str, Any],
        made_at: int,
        sample_rate: int,
        *,
        listen: Callable[[int, int], AbstractContextManager] | None = None,
    ) -> "Saved":
        """Write the song while it is being made, and its settings beside it.

        made_at is the model's rate in Hz, sample_rate the file's. listen(sample_rate, channels)
        gives what hears the song as it is written, a function of 16-bit PCM, or None. Raises
        RunError like Song.save, once the last chunk has come.
        """
        first = next(self)
        check, frames = RenderCheck(sample_rate), 0
        with (
            audio_writer(path, sample_rate, first.shape[1]) as write,
            listen(sample_rate, first.shape[1]) if listen else nullcontext() as hear,
        ):
            chunks = resample_stream(itertools.chain([first], self), made_at, sample_rate)
            for chunk in chunks:
                check.add(chunk)
                write(chunk)
                frames += len(chunk)
                if hear:
                    hear(to_pcm16(chunk).tobytes())
            check.finish()
        settings = {**settings, "format": format_of(path), "sample_rate": sample_rate}
        settings |= made_of(self.plan, self.codes, settings)
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


def joined(chunks: Iterable[np.ndarray], samples: int, channels: int) -> np.ndarray:
    """The waveform (samples, channels) of its chunks, one array filled as they come: joining a list
    would hold the song twice.
    """
    song = np.empty((samples, channels), dtype=np.float32)
    made = 0
    for chunk in chunks:
        song[made : made + len(chunk)] = chunk
        made += len(chunk)
    return song[:made]


def made_of(plan: Plan | None, codes: np.ndarray, settings: dict[str, Any]) -> dict[str, Any]:
    """How a song came out, for its .json: the plan, where the settings don't hold it, and the audio
    tokens (codebooks, frames) as base64 of little-endian 16-bit numbers.
    """
    if plan is None:
        return {}
    made: dict[str, Any] = {"codes": base64.b64encode(codes.astype("<u2").tobytes()).decode()}
    return {"made": made if settings.get("plan") else {**made, "plan": plan.to_dict()}}


def soft_limit(waveform: np.ndarray, knee: float = 0.9) -> np.ndarray:
    """Samples beyond `knee` bent towards 1 by tanh, the rest untouched; the same for every
    chunking.
    """
    size = np.abs(waveform)
    bent = knee + (1 - knee) * np.tanh((size - knee) / (1 - knee))
    return np.where(size > knee, np.sign(waveform) * bent, waveform).astype(np.float32)
