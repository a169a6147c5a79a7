"""Spectra: mel filter banks and windows in numpy, short-time Fourier transform and log-mel in MLX.

The filter banks follow librosa and transformers.audio_utils.mel_filter_bank number for number. MLX
has no STFT, so it is framing by strides, a window and mx.fft.rfft. Everything is float32 (complex64
in between), whatever the network's dtype.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np

MelScale = Literal["slaney", "htk"]

# Slaney's scale (Auditory Toolbox, 1998): 200/3 Hz a mel up to 1 kHz, then 27 mels a factor of 6.4.
_LINEAR_HZ, _LINEAR_MELS, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27.0


def hertz_to_mel(frequency: np.ndarray | float, scale: MelScale = "slaney") -> np.ndarray:
    """Frequencies in Hz on the mel scale, float64."""
    frequency = np.asarray(frequency, dtype=np.float64)
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    above = np.maximum(frequency, _LINEAR_HZ)
    log_part = _LINEAR_MELS + np.log(above / _LINEAR_HZ) / _LOG_STEP
    return np.where(frequency < _LINEAR_HZ, 3.0 * frequency / 200.0, log_part)


def mel_to_hertz(mels: np.ndarray | float, scale: MelScale = "slaney") -> np.ndarray:
    """Mels back to frequencies in Hz, float64."""
    mels = np.asarray(mels, dtype=np.float64)
    if scale == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    above = np.maximum(mels, _LINEAR_MELS)
    log_part = _LINEAR_HZ * np.exp(_LOG_STEP * (above - _LINEAR_MELS))
    return np.where(mels < _LINEAR_MELS, 200.0 * mels / 3.0, log_part)


def mel_filter_bank(
    n_fft: int,
    num_mel_bins: int,
    *,
    sample_rate: int,
    min_frequency: float,
    max_frequency: float,
    scale: MelScale = "slaney",
    norm: Literal["slaney"] | None = "slaney",
) -> np.ndarray:
    """Triangular mel filters, float64 (n_fft // 2 + 1, mels): power @ filters = mel spectrum.

    scale places the centres; norm="slaney" divides each triangle by half its width in Hz, so that
    white noise is flat; None leaves peaks of 1. Raises ValueError when the band lies outside 0 Hz
    .. half the sample rate.
    """
    if not 0 <= min_frequency < max_frequency <= sample_rate / 2:
        raise ValueError(
            f"mel band {min_frequency}-{max_frequency} Hz must lie in 0-{sample_rate / 2} Hz, "
            "half the sample rate, lowest first"
        )
    ends = hertz_to_mel(np.array([min_frequency, max_frequency]), scale)
    edges = mel_to_hertz(np.linspace(ends[0], ends[1], num_mel_bins + 2), scale)
    bins = np.linspace(0, sample_rate // 2, n_fft // 2 + 1)[:, None]  # Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0.0, np.minimum(rising, falling))  # (bins, mels)
    if norm == "slaney":
        filters *= 2.0 / (edges[2:] - edges[:-2])
    return filters


def hann_window(length: int) -> np.ndarray:
    """Periodic Hann window, float64 (length,): the one STFTs use, not the symmetric one."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


def stft(waveform: mx.array, *, n_fft: int, hop_length: int, centered: bool = True) -> mx.array:
    """Complex64 spectrum (batch, frames, n_fft // 2 + 1) of a waveform (batch, samples).

    The window is periodic Hann.
    centered reflects n_fft // 2 samples at both ends, so frame i is centred on sample i *
    hop_length and there are samples // hop_length + 1 of them. Raises ValueError when the waveform
    is too short for one frame.
    """
    shortest = n_fft // 2 + 1 if centered else n_fft
    if waveform.ndim != 2 or waveform.shape[1] < shortest:
        raise ValueError(
            f"stft expects (batch, samples) with at least {shortest} samples for n_fft={n_fft}, "
            f"got {tuple(waveform.shape)}"
        )
    waveform = waveform.astype(mx.float32)
    if centered:
        edge = n_fft // 2
        waveform = mx.pad(waveform, ((0, 0), (edge, edge)), mode="reflect")
    waveform = mx.contiguous(waveform)  # as_strided counts in the memory it is given
    batch, samples = waveform.shape
    frames = 1 + (samples - n_fft) // hop_length
    framed = mx.as_strided(waveform, (batch, frames, n_fft), (samples, hop_length, 1))
    return mx.fft.rfft(framed * _window(n_fft), axis=-1)  # (batch, frames, bins)


@dataclass(frozen=True)
class LogMel:
    """Log-mel front end: called on a waveform (batch, samples), float32 (batch, frames, mels).

    decibels gives 10 * log10(max(power, floor)), otherwise the natural log of the same. The
    defaults after the sizes are CLAP's (laion_clap and transformers.ClapFeatureExtractor without
    fusion).
    """

    sample_rate: int  # Hz
    n_fft: int  # samples; the window is as long
    hop_length: int  # samples
    num_mel_bins: int
    min_frequency: float  # Hz
    max_frequency: float  # Hz
    scale: MelScale = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    centered: bool = True
    decibels: bool = True
    floor: float = 1e-10

    def __call__(self, waveform: mx.array) -> mx.array:
        spectrum = stft(
            waveform, n_fft=self.n_fft, hop_length=self.hop_length, centered=self.centered
        )
        power = mx.square(mx.real(spectrum)) + mx.square(mx.imag(spectrum))
        mel = mx.maximum(power @ _filters(self), self.floor)  # (batch, frames, mels)
        return 10.0 * mx.log10(mel) if self.decibels else mx.log(mel)


@lru_cache(maxsize=16)
def _window(n_fft: int) -> mx.array:
    window = mx.array(hann_window(n_fft).astype(np.float32))
    mx.eval(window)
    return window


@lru_cache(maxsize=16)
def _filters(front_end: LogMel) -> mx.array:
    filters = mel_filter_bank(
        front_end.n_fft,
        front_end.num_mel_bins,
        sample_rate=front_end.sample_rate,
        min_frequency=front_end.min_frequency,
        max_frequency=front_end.max_frequency,
        scale=front_end.scale,
        norm=front_end.norm,
    )
    filters = mx.array(filters.astype(np.float32))
    mx.eval(filters)
    return filters
