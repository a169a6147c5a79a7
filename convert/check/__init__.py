"""PyTorch beside MLX, part by part, on the same input: what `musicot convert --check` prints.

The PyTorch side is the checkpoint in float32, the MLX side the written folder as it runs here, so
the differences hold both the port and what 16 bits and quantisation cost.

A module of this package compares one family: its comparisons(source, target) lists (part,
compare), and compare(rng) yields (what, MLX's array, PyTorch's tensor).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch

from musicot_mlx.convert.convert import checkpoint_path
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.families import family_of, known


@dataclass(frozen=True)
class Difference:
    """What was compared, the largest absolute difference, and the largest value of the reference.

    For codes both are shares: of codes that differ, and 1.
    """

    part: str
    what: str
    error: float
    scale: float

    def __str__(self) -> str:
        if self.what.endswith("codes"):
            return f"{self.part:<19} {self.what:<16} {100 * self.error:.2f} % differ"
        return f"{self.part:<19} {self.what:<16} {self.error:.2e} of {self.scale:.2g}"


def check(
    source: str | Path, target: str | Path, *, progress: Callable[[str, int, int], None]
) -> list[Difference]:
    """Differences between a PyTorch checkpoint and the MLX folder made from it.

    Raises MusicotError for a kind of model that has no check.
    """
    family = family_of(target)
    if not family.check:
        checked = ", ".join(each.title for each in known() if each.check)
        raise MusicotError(f"--check can't compare a {family.title}; it knows {checked}")
    found = []
    with torch.inference_mode():
        comparisons = family.get("check")(checkpoint_path(source), Path(target))
        for number, (part, compare) in enumerate(comparisons):
            progress("check", number, len(comparisons))
            rows = compare(np.random.default_rng(0))
            found += [Difference(part, what, *_difference(a, b)) for what, a, b in rows]
    progress("check", len(comparisons), len(comparisons))
    return found


def _difference(ours: mx.array | np.ndarray, theirs: torch.Tensor) -> tuple[float, float]:
    if isinstance(ours, mx.array):
        ours = ours.astype(mx.float32)
    a, b = np.array(ours), theirs.numpy().astype(np.float32)
    if a.shape != b.shape:
        raise ValueError(f"MLX gives shape {a.shape}, PyTorch {b.shape}")
    if not theirs.is_floating_point():
        return float((a != b).mean()), 1.0
    return float(np.abs(a - b).max()), float(np.abs(b).max())


def sound(sample_rate: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A few decaying tones and some hiss, float32 (samples,)."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in rng.uniform(80, sample_rate / 4, 4))
    hiss = 0.01 * rng.standard_normal(len(time))
    return (0.1 * tones * np.exp(-(time % 0.5) * 4) + hiss).astype(np.float32)


def long(x: np.ndarray) -> torch.Tensor:
    """Token ids as PyTorch wants them."""
    return torch.from_numpy(np.asarray(x)).long()
