"""What embedders share: a waveform in mono and in windows, texts and windows in batches."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import soxr

from musicot_mlx.audio.waveforms import as_rate, as_waveform


def mono_at(waveform: np.ndarray, sample_rate: int, wanted: int) -> np.ndarray:
    """The mean of the channels, float32 (samples,), at the wanted rate in Hz.

    Raises MusicotError for what is no waveform (audio/waveforms.py).
    """
    mono, sample_rate = as_waveform(waveform), as_rate(sample_rate)
    mono = mono if mono.ndim == 1 else mono.mean(axis=1)
    return mono if sample_rate == wanted else soxr.resample(mono, sample_rate, wanted)


def cut(mono: np.ndarray, size: int, shortest: int) -> list[np.ndarray]:
    """Consecutive windows of `size` samples, the last as short as it comes.

    A last one of less than `shortest` is dropped unless it is the only one.
    """
    rest = len(mono) % size
    if rest < min(shortest, size) and len(mono) > size:
        mono = mono[: len(mono) - rest]
    return [mono[start : start + size] for start in range(0, max(len(mono), 1), size)]


def batched(
    embed: Callable[[slice], mx.array], count: int, dim: int, *, batch_size: int
) -> np.ndarray:
    """What `embed` gives for all rows, float32 (count, dim), a batch at a time."""
    out = np.zeros((count, dim), dtype=np.float32)
    for start in range(0, count, batch_size):
        rows = slice(start, start + batch_size)
        out[rows] = np.array(embed(rows))
    return out
