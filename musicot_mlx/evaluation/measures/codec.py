"""How much a codec loses: signal-to-noise, log-mel error, and two faults that hide in averages.

A decoder that works in frames likes to leave a comb of steady tones at multiples of the frame rate,
quiet enough to escape error measures and plain to the ear in a soft passage; or clicks where frames
meet. Both are measured against the original, because music has steady tones and clicks of its own.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import median_filter

from musicot_mlx.audio.mel import hann_window, mel_filter_bank

N_FFT, HOP, MELS, FLOOR = 2048, 512, 128, 1e-5  # of the log-mel error
COMB_LOW, COMB_HIGH = 4000.0, 16000.0  # Hz where the comb is looked for
BINS_A_TOOTH = 32  # frequency bins from one tooth to the next
CLICK = 20.0  # how often its neighbourhood's median a click rises
CLICK_SECONDS = 0.004  # half a neighbourhood


@dataclass(frozen=True)
class RoundTrip:
    """An original against its round trip.

    snr: dB. log_mel_error: mean absolute difference in nats. comb: dB that the teeth of a comb rise
    above what lies between them, more than in the original. clicks: a second, more than there.
    """

    snr: float
    log_mel_error: float
    comb: float
    clicks: float


def compare(
    original: np.ndarray, decoded: np.ndarray, sample_rate: int, tooth_hz: float
) -> RoundTrip:
    """All four measures of mono waveforms (samples,) of one length; tooth_hz: the frame rate.

    Raises ValueError for waveforms of different length or under a second.
    """
    original, decoded = (np.asarray(x, np.float32) for x in (original, decoded))
    if original.shape != decoded.shape or original.ndim != 1 or len(original) < sample_rate:
        raise ValueError(
            f"shapes {original.shape} and {decoded.shape}: expected two (samples,) of one length, "
            "a second or more"
        )
    return RoundTrip(
        signal_to_noise(original, decoded),
        log_mel_error(original, decoded, sample_rate),
        comb(decoded, sample_rate, tooth_hz) - comb(original, sample_rate, tooth_hz),
        click_rate(decoded, sample_rate) - click_rate(original, sample_rate),
    )


def signal_to_noise(original: np.ndarray, decoded: np.ndarray) -> float:
    """Signal-to-noise ratio in dB."""
    noise = np.square(original - decoded, dtype=np.float64).sum()
    return float(10 * np.log10(max(np.square(original, dtype=np.float64).sum(), 1e-12)
                               / max(noise, 1e-12)))  # fmt: skip


def log_mel_error(original: np.ndarray, decoded: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference of log-mel magnitudes: 128 bins, 2048/512, natural log, floor
    1e-5.
    """
    first, second = (_log_mel(x, sample_rate) for x in (original, decoded))
    return float(np.abs(first - second).mean())


def comb(waveform: np.ndarray, sample_rate: int, tooth_hz: float) -> float:
    """How far teeth at multiples of tooth_hz rise above the bins around them, in dB.

    The mean over time of the power in dB is high where a tone is steady and low where notes pass,
    so that a faint comb shows. 0 for music and noise; the median over 4 to 16 kHz.
    """
    size = round(BINS_A_TOOTH * sample_rate / tooth_hz)  # a tooth then falls on every 32nd bin
    size = min(size, len(waveform))
    starts = range(0, len(waveform) - size + 1, size // 2)
    window = hann_window(size).astype(np.float32)
    level = np.zeros(size // 2 + 1)
    for start in starts:
        power = np.square(np.abs(np.fft.rfft(waveform[start : start + size] * window)))
        level += 10 * np.log10(power + 1e-10)
    level /= len(starts)
    bins = size * tooth_hz / sample_rate
    first, last = (int(np.ceil(hz / tooth_hz)) for hz in (COMB_LOW, COMB_HIGH))
    teeth = np.rint(np.arange(first, last) * bins).astype(int)
    teeth = teeth[teeth < len(level) - BINS_A_TOOTH // 2]
    around = median_filter(level, BINS_A_TOOTH)
    return float(np.median(level[teeth] - around[teeth])) if len(teeth) else 0.0


def click_rate(waveform: np.ndarray, sample_rate: int) -> float:
    """Clicks a second: samples whose second difference stands alone above what is around them."""
    bend = np.abs(np.diff(waveform, 2))
    reach = 2 * round(CLICK_SECONDS * sample_rate) + 1
    usual = median_filter(bend[: len(bend) // 4 * 4].reshape(-1, 4).max(axis=1), reach // 4)
    peak = bend[: len(bend) // 4 * 4].reshape(-1, 4).max(axis=1)
    is_click = peak > CLICK * usual + 1e-3
    begins = is_click[1:] & ~is_click[:-1]
    return float(begins.sum() / (len(waveform) / sample_rate))


def _log_mel(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Natural log of mel magnitudes (frames, 128), as the training's log-mel error has them."""
    padded = np.pad(waveform, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = hann_window(N_FFT).astype(np.float32)
    filters = mel_filter_bank(
        N_FFT,
        MELS,
        sample_rate=sample_rate,
        min_frequency=0.0,
        max_frequency=sample_rate / 2,
        scale="htk",
        norm=None,
    ).astype(np.float32)
    out = np.empty((len(frames), MELS), np.float32)
    for first in range(0, len(frames), 512):
        size = np.abs(np.fft.rfft(frames[first : first + 512] * window, axis=1))
        out[first : first + 512] = size.astype(np.float32) @ filters
    return np.log(np.maximum(out, FLOOR))
