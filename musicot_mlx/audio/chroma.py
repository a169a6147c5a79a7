"""Chroma: which pitch class is loudest when, the melody that MusicGen's melody models follow.

transformers.MusicgenMelodyFeatureExtractor (a librosa filter bank over power spectra, then one-hot)
without its optional step of separating stems by Demucs first: the whole mix is listened to, drums
and bass as well.
"""

from functools import lru_cache

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.mel import stft

SAMPLE_RATE = 32000  # Hz
_CENTER, _WIDTH = 5.0, 2.0  # octaves above 27.5 / 2 Hz: which octaves count most


def chroma(
    waveform: mx.array,
    *,
    sample_rate: int = SAMPLE_RATE,
    n_fft: int = 16384,
    hop_length: int = 4096,
    bins: int = 12,
) -> mx.array:
    """One-hot float32 (batch, frames, bins) of a mono waveform (batch, samples), C first.

    samples // hop_length + 1 frames, 7.8 a second; what is shorter than n_fft samples is padded
    with silence on both sides. Raises ValueError for another shape.
    """
    if waveform.ndim != 2 or not waveform.shape[1]:
        raise ValueError(f"waveform is {waveform.shape}, expected (batch, samples), mono")
    missing = max(0, n_fft - waveform.shape[1])
    waveform = mx.pad(waveform, ((0, 0), (missing // 2, missing - missing // 2)))
    spectrum = stft(waveform, n_fft=n_fft, hop_length=hop_length)
    power = mx.square(mx.real(spectrum)) + mx.square(mx.imag(spectrum))
    filters = mx.array(_filters(n_fft, sample_rate, bins))
    loudest = mx.argmax(power @ filters, axis=-1)  # (batch, frames)
    return (loudest[..., None] == mx.arange(bins)).astype(mx.float32)


def chroma_filter_bank(n_fft: int, *, sample_rate: int, bins: int = 12) -> np.ndarray:
    """Gaussian bumps around each pitch class in every octave, float64 (n_fft // 2 + 1, bins)."""
    frequency = np.linspace(0, sample_rate, n_fft, endpoint=False)[1:]
    pitch = bins * np.log2(frequency / (440.0 / 16))  # in steps above A0
    # 0 Hz has no pitch: one and a half octaves below the first bin, so that it belongs nowhere
    pitch = np.concatenate([[pitch[0] - 1.5 * bins], pitch])
    width = np.concatenate([np.maximum(np.diff(pitch), 1.0), [1.0]])
    half = np.round(bins / 2)
    distance = np.remainder(pitch[:, None] - np.arange(bins) + half + 10 * bins, bins) - half
    filters = np.exp(-0.5 * (2 * distance / width[:, None]) ** 2)
    filters /= np.sqrt(np.sum(filters**2, axis=1, keepdims=True))
    filters *= np.exp(-0.5 * ((pitch / bins - _CENTER) / _WIDTH) ** 2)[:, None]
    filters = np.roll(filters, -3 * (bins // 12), axis=1)  # from A first to C first
    return filters[: n_fft // 2 + 1]


@lru_cache(maxsize=4)
def _filters(n_fft: int, sample_rate: int, bins: int) -> np.ndarray:
    return chroma_filter_bank(n_fft, sample_rate=sample_rate, bins=bins).astype(np.float32)
