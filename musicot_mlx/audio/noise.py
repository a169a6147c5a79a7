"""The noise that the VAE's decoder puts where it finds no phase; the same numbers on both sides."""

from functools import lru_cache

import numpy as np

FRAMES = 512  # after which it comes again: six seconds


@lru_cache(maxsize=4)
def noise_spectra(channels: int, bins: int) -> np.ndarray:
    """Complex normal noise of unit power, float32 (FRAMES, 2, channels, bins), real parts first."""
    shape = (FRAMES, 2, channels, bins)
    table = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return table * np.float32(0.5**0.5)
