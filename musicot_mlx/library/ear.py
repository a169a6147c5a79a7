"""What a library hears in a song: CLAP's vectors, tempo, key, and the instruments of each window.

All of it is what `musicot analyze` hears by: the embedder of a loaded model, audio/signals.py,
audio/harmony.py, and the tagger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.audio.files import read_audio
from musicot_mlx.audio.harmony import heard_harmony, pitch_classes, spans_of
from musicot_mlx.audio.signals import tempo
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.device import turn
from musicot_mlx.models.tagger import CLEARLY, LEAST_SECONDS, Tagger
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.clap import load as load_clap
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import require, titles
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
    seconds = len(waveform) / sample_rate
    if seconds < LEAST_SECONDS:
        raise MusicotError(f"it lasts {seconds:.2g} s; a song of {LEAST_SECONDS:g} s can be heard")
    if float(np.sqrt(np.square(waveform, dtype=np.float64).mean())) < SILENT:
        raise MusicotError("it is silent")
    pace = tempo(waveform, sample_rate)
    found = heard_harmony(pitch_classes(waveform, sample_rate), spans_of(seconds, pace))
    key = str(found[0]) if any(chord != NO_CHORD for chord in found[1]) else None
    return Signal(waveform, sample_rate, pace or None, key)


class Ear:
    """The CLAP of a model, and the tagger, both ready to listen.

    model: one loaded, with the capability "clap", or the name of one, of which no more than CLAP is
    loaded, when it is first needed. Raises MusicotError for a model without CLAP.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.name = model if isinstance(model, str) else str(getattr(model, "name", "clap"))

    @cached_property
    def embedder(self) -> ClapEmbedder:
        model = self._model
        if isinstance(model, (str, Path)):
            return load_clap(mlx_folder(str(model)), name=str(model))
        require(model, "clap", f"this model has no CLAP to hear by; pass {titles('clap')}")
        return model if isinstance(model, ClapEmbedder) else model.clap

    @cached_property
    def tagger(self) -> Tagger:
        return load_tagger()

    @property
    def space(self) -> str:
        """The id of the space of all vectors."""
        return self.embedder.space

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
        features = self.embedder.config.feature_config
        seconds = features.window_samples / features.sampling_rate
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
