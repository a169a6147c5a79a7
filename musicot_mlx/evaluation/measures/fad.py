"""Frechet audio distance: how far the embeddings of generated music lie from those of real music.

Two sets of embeddings are taken for Gaussians (Kilgour et al., arXiv 1812.08466):

    FAD = |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^1/2)

The definition is fadtk's (Gui et al., arXiv 2311.01616): covariances over n - 1, and FAD-infinity
from a straight line through the FAD of subsets of n embeddings over 1/n, since FAD falls as n
grows. Where we differ: the trace of the square root is the sum of the singular values of the
product of two factors C = F F^T, which stays exact where there are fewer embeddings than dimensions
(a general matrix square root of a singular product does not), and the embeddings of one song stay
together when subsets are drawn, as they are alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 8  # songs from which FAD-infinity is extrapolated


@dataclass(frozen=True)
class Gaussian:
    """Mean (dim,) and a factor (dim, rank) of the covariance, factor @ factor.T."""

    mean: np.ndarray
    factor: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The covariance (dim, dim)."""
        return self.factor @ self.factor.T


@dataclass(frozen=True)
class Extrapolation:
    """FAD at infinitely many embeddings: value, and r2 (0-1) of the line it was read from."""

    value: float
    r2: float


def gaussian(embeddings: np.ndarray) -> Gaussian:
    """Mean and covariance of embeddings (n, dim). Raises ValueError for fewer than two of them."""
    x = np.asarray(embeddings, np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"embeddings {x.shape}: expected at least 2 finite rows (n, dim)")
    mean = x.mean(axis=0)
    factor = (x - mean).T / np.sqrt(len(x) - 1)  # (dim, n)
    if factor.shape[1] > factor.shape[0]:  # as few columns as the rank needs
        values, vectors = np.linalg.eigh(factor @ factor.T)
        factor = vectors * np.sqrt(values.clip(min=0.0))
    return Gaussian(mean, factor)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Frechet distance of two Gaussians, squared as FAD has it; 0 for equal ones."""
    if first.mean.shape != second.mean.shape:
        raise ValueError(f"dimensions {first.mean.shape} and {second.mean.shape} differ")
    shift = first.mean - second.mean
    # (C1 C2)^1/2 has the eigenvalues of (F1^T C2 F1)^1/2: the singular values of F1^T F2
    shared = np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum()
    spread = np.square(first.factor).sum() + np.square(second.factor).sum()
    return max(float(shift @ shift + spread - 2 * shared), 0.0)


def fad(reference: np.ndarray, generated: np.ndarray) -> float:
    """FAD of two sets of embeddings (n, dim)."""
    return frechet_distance(gaussian(reference), gaussian(generated))


def fad_infinity(
    reference: Gaussian, songs: Sequence[np.ndarray], *, steps: int = 15, seed: int = 0
) -> Extrapolation | None:
    """FAD at infinite n, from subsets of a third of the songs up to all of them.

    songs: embeddings (windows, dim) a song. None where there are fewer than 8 songs.
    """
    if len(songs) < LEAST:
        return None
    rng = np.random.default_rng(seed)
    inverse, values = [], []
    for count in np.linspace(max(LEAST // 2, len(songs) // 3), len(songs), steps).astype(int):
        drawn = np.concatenate([songs[i] for i in rng.permutation(len(songs))[:count]])
        inverse.append(1 / len(drawn))
        values.append(frechet_distance(reference, gaussian(drawn)))
    slope, value = np.polyfit(inverse, values, 1)
    left = np.square(np.array(values) - (slope * np.array(inverse) + value)).sum()
    spread = np.square(np.array(values) - np.mean(values)).sum()
    return Extrapolation(float(value), float(1 - left / spread) if spread > 0 else 1.0)


def fad_of_songs(reference: Gaussian) -> Callable[[Sequence[np.ndarray]], float]:
    """FAD as a function of a list of songs' embeddings, which is what a bootstrap asks for."""

    def measure(songs: Sequence[np.ndarray]) -> float:
        return frechet_distance(reference, gaussian(np.concatenate(list(songs))))

    return measure
