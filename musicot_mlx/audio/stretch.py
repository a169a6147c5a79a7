"""Speed without pitch, and pitch without speed, by WSOLA (Verhelst and Roelands 1993).

Windows overlap by half. Each is taken from near where the wanted speed would have it, there where
it goes on most like the one before: the offset of the strongest correlation.
"""

import numpy as np
import soxr

from musicot_mlx.audio.waveforms import scaled

WINDOW_SECONDS = 0.046  # a little over two periods of a 50 Hz bass
SLOWEST, FASTEST = 0.25, 4.0


def stretched(waveform: np.ndarray, sample_rate: int, speed: float) -> np.ndarray:
    """A waveform (samples,) or (samples, channels) played `speed` times as fast, its pitch as it
    was: float32, of round(samples / speed) samples.

    Raises ValueError for a speed beyond SLOWEST to FASTEST.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise ValueError(f"speed is {speed}, expected {SLOWEST:g} to {FASTEST:g}")
    waveform = scaled(waveform)
    total = round(len(waveform) / speed)
    if speed == 1 or not total:
        return waveform[:total]
    hop = max(8, round(WINDOW_SECONDS * sample_rate / 2))
    size, reach = 2 * hop, hop // 2
    rows = waveform.reshape(len(waveform), -1)  # (samples, channels)
    padded = np.pad(rows, ((size, 2 * size + reach), (0, 0)))
    mono = padded.mean(axis=1)
    window = np.hanning(size + 1)[:-1].astype(np.float32)[:, None]  # halves add up to 1
    out = np.zeros((total + 2 * size, rows.shape[1]), np.float32)
    last = len(padded) - size - reach
    at = size - hop  # where in `padded` the window before began
    for start in range(0, total + hop, hop):  # in `out`, which begins half a window early
        aim = min(max(reach, size - hop + round(start * speed)), last)
        if start:
            wanted = mono[at + hop : at + hop + size]  # how the window before goes on
            at = aim - reach + _most_alike(mono[aim - reach : aim + reach + size], wanted)
        else:
            at = aim
        out[start : start + size] += window * padded[at : at + size]
    return out[hop : hop + total].reshape(total, *waveform.shape[1:])


def _most_alike(near: np.ndarray, wanted: np.ndarray) -> int:
    """Where in `near` a stretch begins that correlates most with `wanted`."""
    length = 1 << (len(near) + len(wanted) - 1).bit_length()
    spectrum = np.fft.rfft(near, length) * np.conj(np.fft.rfft(wanted, length))
    products = np.fft.irfft(spectrum, length)[: len(near) - len(wanted) + 1]
    return int(np.argmax(products))


def transposed(waveform: np.ndarray, sample_rate: int, cents: float) -> np.ndarray:
    """A waveform as many cents higher, as fast as it was: float32 of the same shape.

    Raises ValueError for more than two octaves.
    """
    ratio = 2.0 ** (cents / 1200)
    if not SLOWEST <= ratio <= FASTEST:
        raise ValueError(f"cents are {cents}, expected -2400 to 2400")
    waveform = scaled(waveform)
    if not cents:
        return waveform
    longer = stretched(waveform, sample_rate, 1 / ratio)
    played = soxr.resample(longer, sample_rate * ratio, sample_rate)  # ratio times as fast
    out = np.zeros_like(waveform)
    count = min(len(out), len(played))
    out[:count] = played[:count]
    return out
