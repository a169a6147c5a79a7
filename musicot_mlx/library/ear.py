"""What a library hears in a song: vectors of its windows, tempo, key, instruments of each window.

All of it is what `musicot analyze` hears by: the embedder of a loaded model, audio/signals.py,
audio/harmony.py, and the tagger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from musicot_mlx.audio.files import read_audio
from musicot_mlx.audio.harmony import heard_harmony, pitch_classes, spans_of
from musicot_mlx.audio.signals import tempo
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.device import turn
from musicot_mlx.models.tagger import CLEARLY, LEAST_SECONDS, Tagger
from musicot_mlx.pipelines.clap import load as load_clap
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import family_of, load, require, titles
from musicot_mlx.pipelines.plans.thoughts import SHORTEST_HEARD
from musicot_mlx.pipelines.tagger import load_tagger
from musicot_mlx.tokens.harmony import NO_CHORD

SILENT = 1e-4  # RMS, -80 dBFS


@dataclass(frozen=True)
class Signal:
    """A song as it was read: waveform float32 (frames, channels) at a rate in Hz, and what signal
    processing tells of it. tempo: BPM, None where nothing repeats; key: None where nothing sounds.
    """

    waveform: np.ndarray
    sample_rate: int
    tempo: float | None
    key: str | None

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.waveform) / self.sample_rate


@dataclass(frozen=True)
class Heard:
    """The windows of a song: unit vectors float32 (windows, dim), and of each the families of
    instruments in it. `seconds` is the length of a window; the last may be shorter.
    """

    vectors: np.ndarray
    families: tuple[tuple[str, ...], ...]
    seconds: float


def read_signal(path: str | Path) -> Signal:
    """A song from its file, with tempo and key; no network takes part, so that a thread can read
    the next song while one is embedded.

    Raises MusicotError for audio that can't be read, lasts less than 1 s or is silent.
    """
    return measured(*read_audio(path))


def measured(waveform: np.ndarray, sample_rate: int) -> Signal:
    """A waveform with its tempo and key; raises as read_signal does."""
    require_audible(waveform, sample_rate, "it", LEAST_SECONDS)
    seconds = len(waveform) / sample_rate
    pace = tempo(waveform, sample_rate)
    found = heard_harmony(pitch_classes(waveform, sample_rate), spans_of(seconds, pace))
    key = str(found[0]) if any(chord != NO_CHORD for chord in found[1]) else None
    return Signal(waveform, sample_rate, pace or None, key)


def require_audible(
    waveform: np.ndarray, sample_rate: int, name: str, least: float = SHORTEST_HEARD
) -> None:
    """Raise MusicotError for audio that is silent, or shorter than `least` seconds."""
    seconds = len(waveform) / sample_rate
    if seconds < least:
        raise MusicotError(f"{name} lasts {seconds:.2g} s; a song of {least:g} s can be heard")
    if float(np.sqrt(np.square(waveform, dtype=np.float64).mean())) < SILENT:
        raise MusicotError(f"{name} is silent")


class Embedder(Protocol):
    """Texts and waveforms to unit vectors of one space: ClapEmbedder, MusicCoCaEmbedder."""

    @property
    def window_seconds(self) -> float: ...

    def embed_text(self, texts: list[str]) -> np.ndarray: ...

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray: ...


class Ear:
    """What a model hears with, and the tagger, both ready to listen.

    model: one loaded, with the capability "ear", or the name of one, which is loaded when it is
    first needed, its CLAP alone where it has one. Raises MusicotError for a model without ears.
    """

    def __init__(self, model: Any) -> None:
        self._given = model
        self.name = str(model if isinstance(model, (str, Path)) else getattr(model, "name", "clap"))

    @cached_property
    def _model(self) -> Any:
        if not isinstance(self._given, (str, Path)):
            model = self._given
        elif "clap" in family_of(folder := mlx_folder(self.name)).get("parts"):
            model = load_clap(folder, name=self.name)
        else:
            model = load(self.name)
        require(model, "ear", f"{self.name} can't hear; pass a model of {titles('ear')}")
        return model

    @cached_property
    def embedder(self) -> Embedder:
        return self._model if hasattr(self._model, "embed_audio") else self._model.clap

    @cached_property
    def tagger(self) -> Tagger:
        return load_tagger()

    @property
    def space(self) -> str:
        """The id of the space of all vectors."""
        own = getattr(self.embedder, "space", None)
        return self._model.space.id if own is None else own

    def words(self, text: str) -> np.ndarray:
        """The unit vector (dim,) of words."""
        with turn():
            return self.embedder.embed_text([text])[0]

    def vectors(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Unit vectors float32 (windows, dim) of audio."""
        with turn():
            return self.embedder.embed_audio(waveform, sample_rate)

    def hear(self, song: Signal) -> Heard:
        """The windows of a song that was read."""
        vectors = self.vectors(song.waveform, song.sample_rate)
        seconds = self.embedder.window_seconds
        with turn():
            chances = self.tagger.tag(song.waveform, song.sample_rate)
        names, step = self.tagger.config.labels, self.tagger.config.window_seconds
        return Heard(vectors, tuple(_families(chances, names, step, i * seconds, seconds)
                                    for i in range(len(vectors))), seconds)  # fmt: skip


def _families(
    chances: np.ndarray, names: Sequence[str], step: float, start: float, seconds: float
) -> tuple[str, ...]:
    """The labels that clearly play in a window, by the tagger's windows (windows, labels) of `step`
    seconds in which its middle half lies.
    """
    first, last = int((start + 0.25 * seconds) // step), int((start + 0.75 * seconds) // step)
    loudest = chances[min(first, len(chances) - 1) : last + 1].max(axis=0)
    return tuple(name for name, chance in zip(names, loudest, strict=True) if chance > CLEARLY)
