"""Confidence intervals by drawing the songs again: how sure a figure is, whatever it measures.

Songs are drawn with replacement and the figure is taken anew (Efron 1979). A figure that grows when
songs repeat, as FAD does, is centred again: the interval is as wide as the draws and lies around
the figure of all songs.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")
DRAWS, LEVEL = 400, 0.95


@dataclass(frozen=True)
class Interval:
    """A figure of n songs and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The interval as JSON, four significant decimals."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def interval(
    items: Sequence[Item],
    measure: Callable[[Sequence[Item]], float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval | None:
    """The figure of all items with its interval; None where it is undefined.

    measure takes a list of items as long as `items`, some of them several times; draws for which it
    is NaN (nothing of one kind was drawn) do not count.
    """
    if not len(items):
        return None
    value = measure(items)
    if not np.isfinite(value):
        return None
    rng = np.random.default_rng(seed)
    resampled = [
        measure([items[i] for i in rng.integers(len(items), size=len(items))]) for _ in range(draws)
    ]
    resampled = np.array([x for x in resampled if np.isfinite(x)])
    if len(resampled) < 2:
        return Interval(float(value), float(value), float(value), len(items))
    low, middle, high = np.quantile(resampled, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    shift = value - middle
    return Interval(float(value), float(low + shift), float(high + shift), len(items))


def mean_interval(values: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> Interval | None:
    """The mean of finite values with its interval."""
    finite = [float(v) for v in values if np.isfinite(v)]
    return interval(finite, lambda drawn: float(np.mean(drawn)), draws=draws, seed=seed)
