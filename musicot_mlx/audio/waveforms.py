"""The door for waveforms that callers bring: float32 in -1..1, scaled by what their type says.

A WAV reader gives int16 as often as floats, and an int16 waveform taken as floats is other music.
"""

from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError

FULL_SCALE = {"int8": 2**7, "uint8": 2**7, "int16": 2**15, "int32": 2**31}
LOUDEST = 100.0  # 40 dB over full scale: floats beyond are integers' values, whatever their type
LOWEST_RATE = 1000  # Hz; below it something else was passed, and seconds would be hours
MOST_CHANNELS = 8  # more of them than samples are samples


def as_waveform(waveform: Any, where: str = "the waveform") -> np.ndarray:
    """A waveform as float32 (samples,) or (samples, channels) in -1..1, from an array or list of
    floats, or of int8, uint8 (128 is silence), int16 or int32, scaled by their full scale.

    Raises MusicotError for other types (int64 doesn't tell its scale) and shapes, an empty one,
    samples that are not finite, and floats that were never brought to -1..1.
    """
    waveform = scaled(waveform, where)
    if waveform.ndim == 2 and waveform.shape[1] > max(waveform.shape[0], MOST_CHANNELS):
        raise MusicotError(
            f"{where} has shape {waveform.shape}, that is {waveform.shape[1]} channels; "
            "pass (samples, channels), so waveform.T"
        )
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise MusicotError(
            f"{where} has shape {waveform.shape}; expected (samples,) or (samples, channels) "
            "with at least one sample"
        )
    if not np.isfinite(waveform).all():
        raise MusicotError(f"{where} holds NaN or infinite samples; decode or render it again")
    peak = float(max(waveform.max(), -waveform.min()))
    if peak > LOUDEST:
        raise MusicotError(
            f"{where} reaches {peak:.6g} but floats lie in -1..1; divide it by its full scale "
            "(32768 for what was 16-bit)"
        )
    return waveform


def scaled(waveform: Any, where: str = "the waveform") -> np.ndarray:
    """float32 of any shape, integers divided by their type's full scale; floats stay what they are.

    Raises MusicotError for what holds no samples: another type, or lists of several lengths.
    """
    try:
        samples = np.asarray(waveform)
    except (ValueError, TypeError, RuntimeError) as error:
        raise MusicotError(f"{where} is no array of samples ({error}); pass float32") from error
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    scale = FULL_SCALE.get(samples.dtype.name)
    if scale is None:
        raise MusicotError(
            f"{where} holds {samples.dtype}, whose full scale is not known; pass floats in -1..1, "
            "or int8, uint8, int16 or int32"
        )
    if samples.dtype.kind == "u":
        samples = samples.astype(np.int16) - scale
    # a float64 of a whole song would be twice the song: int16 and narrower are exact in float32
    wide = np.float64 if samples.dtype.itemsize > 2 else np.float32
    return (samples.astype(wide) / wide(scale)).astype(np.float32, copy=False)


def as_rate(sample_rate: Any, where: str = "the waveform") -> int:
    """A sample rate in Hz as a plain int; MusicotError for anything but a whole number of at
    least LOWEST_RATE."""
    try:
        rate = int(sample_rate)
        whole = rate == sample_rate and rate >= LOWEST_RATE
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise MusicotError(
            f"{where} has the sample rate {sample_rate!r}; pass a whole number of Hz, such as 44100"
        )
    return rate
