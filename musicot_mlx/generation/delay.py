"""MusicGen's delay pattern (arXiv 2306.05284, section 2.2): codebook k is written k steps late.

Position 0 holds no code at all. Position p holds, for a codebook delayed by d, the code of frame
p - 1 - d, or `pad_id` where there is no such frame. In stereo the codebooks of both channels
interleave (left 0, right 0, left 1, ...) and the two of a pair share their delay. So F frames take
F + K positions for K delays, of which all but the first are drawn: F + K - 1 steps, and a duration
is always counted in frames, never in steps.
"""

import numpy as np


def delays(codebooks: int, channels: int = 1) -> np.ndarray:
    """Steps by which each codebook is late, (codebooks,)."""
    return np.arange(codebooks) // channels


def frames_of(seconds: float, frame_rate: float) -> int:
    """Frames of so many seconds of audio, at least 1; raises ValueError for no duration."""
    if not 0 < seconds < float("inf"):
        raise ValueError(f"the duration is {seconds} s, expected more than 0")
    return max(1, round(seconds * frame_rate))


def delayed(codes: np.ndarray, pad_id: int, *, channels: int = 1) -> np.ndarray:
    """Codes (..., codebooks, frames) in the pattern: (..., codebooks, frames + delays)."""
    *rows, codebooks, frames = codes.shape
    late = delays(codebooks, channels)
    out = np.full((*rows, codebooks, frames + late[-1] + 1), pad_id, dtype=np.int32)
    for codebook, delay in enumerate(late):
        out[..., codebook, 1 + delay : 1 + delay + frames] = codes[..., codebook, :]
    return out


def undelayed(positions: np.ndarray, *, channels: int = 1) -> np.ndarray:
    """The codes (..., codebooks, frames) that stand in (..., codebooks, frames + delays).

    A stretch of positions gives the frames that are whole in it. Raises ValueError when that is
    not one.
    """
    codebooks, length = positions.shape[-2:]
    late = delays(codebooks, channels)
    frames = length - late[-1] - 1
    if frames < 1:
        raise ValueError(
            f"{length} positions hold no whole frame, expected at least {late[-1] + 2}"
        )
    rows = [positions[..., k, 1 + d : 1 + d + frames] for k, d in enumerate(late)]
    return np.stack(rows, axis=-2)
