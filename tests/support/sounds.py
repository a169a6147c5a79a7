"""Sounds to borrow from."""

from pathlib import Path

import numpy as np

from musicot_mlx.audio.files import write_audio


def noise(path: Path, seconds: float, seed: int = 0) -> Path:
    """Stereo noise at 8 kHz whose level changes every 10 s."""
    waveform = np.random.default_rng(seed).normal(0, 0.1, (round(8000 * seconds), 2))
    waveform *= (1 + np.arange(len(waveform)) // 80000)[:, None] ** -1.0
    return write_audio(path, waveform.astype(np.float32), 8000)
