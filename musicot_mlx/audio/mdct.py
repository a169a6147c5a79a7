"""The modified discrete cosine transform (Princen and Bradley, 1986; orthonormal, sine window)."""

from functools import lru_cache

import numpy as np


def sine_window(length: int) -> np.ndarray:
    """(length,), float64; its squares half a length apart add up to 1."""
    return np.sin(np.pi * (np.arange(length) + 0.5) / length)


@lru_cache(maxsize=8)
def mdct_basis(hop_length: int, first: int, last: int) -> np.ndarray:
    """Basis functions of coefficients `first` to `last`, (2 * hop_length, last - first), float64.

    A block of 2 * hop_length samples times it gives its coefficients; coefficients times its
    transpose, blocks added up a hop apart, give the samples again. Coefficient k lies at (k + 0.5)
    / (2 * hop_length) of the sample rate.
    """
    n = np.arange(2 * hop_length)[:, None]
    k = np.arange(first, last)[None]
    window = sine_window(2 * hop_length)[:, None]
    phase = np.pi / hop_length * (n + 0.5 + hop_length / 2) * (k + 0.5)
    return window * np.sqrt(2 / hop_length) * np.cos(phase)
