"""A model with ears whose words mean something: how much of a sound lies in each of four bands."""

from pathlib import Path

import numpy as np
import soundfile

from musicot_mlx.pipelines.alone import CLAP

RATE = 8000
BANDS = {"deep": 100.0, "low": 400.0, "middle": 1200.0, "high": 3000.0}  # Hz


class BandEar:
    """Unit vectors (windows, 4) of windows of one second; a word is the axis of its band."""

    family, window_seconds = CLAP, 1.0

    def __init__(self, space: str = "bands-4") -> None:
        self.space, self.name, self.heard = space, "bands", 0

    def embed_text(self, texts: list[str]) -> np.ndarray:
        rows = [[float(word in text) + 0.01 for word in BANDS] for text in texts]
        return _unit(np.array(rows, np.float32))

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        self.heard += 1
        edges = [0, 200, 700, 2000, sample_rate // 2]
        rows = []
        for start in range(0, len(waveform) - sample_rate // 2, sample_rate):
            power = np.abs(np.fft.rfft(waveform[start : start + sample_rate, 0], sample_rate)) ** 2
            rows.append([power[a:b].sum() for a, b in zip(edges, edges[1:], strict=False)])
        return _unit(np.sqrt(np.array(rows, np.float32)))


def song(path: Path, *bands: str, seed: int = 0) -> Path:
    """A file of a second a band, in this order; another seed is another content."""
    time = np.arange(RATE) / RATE
    tones = [0.3 * np.sin(2 * np.pi * (BANDS[band] + seed) * time) for band in bands]
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(tones)[:, None].astype(np.float32), RATE)
    return path


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
