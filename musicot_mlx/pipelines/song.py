"""A song: the waveform, and everything that says how it came about."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import write_text
from musicot_mlx.audio.files import audio_writer, check_render, format_of, resample
from musicot_mlx.pipelines.plan import Plan


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
        write_text(sidecar, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        return [path, sidecar]


def soft_limit(waveform: np.ndarray, knee: float = 0.9) -> np.ndarray:
    """Samples beyond `knee` bent towards 1 by tanh, the rest untouched; the same for every
    chunking.
    """
    size = np.abs(waveform)
    bent = knee + (1 - knee) * np.tanh((size - knee) / (1 - knee))
    return np.where(size > knee, np.sign(waveform) * bent, waveform).astype(np.float32)
