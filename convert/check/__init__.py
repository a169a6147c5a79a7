"""PyTorch beside MLX, part by part, on the same input: what `musicot convert --check` prints.

The PyTorch side is the checkpoint in float32, the MLX side the written folder as it runs here, so
the differences hold both the port and what 16 bits and quantisation cost. Each has its tolerance,
by how coarsely its part is stored: a generous one, as one weight gone wrong shows in full size.

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
from musicot_mlx.weights.checkpoint import load_arrays, part, quantization_of, read_config

# Largest error as a share of the largest value, and share of codes that may differ.
_FLOATS = {mx.float32: (1e-3, 0.02), mx.float16: (0.05, 0.25), mx.bfloat16: (0.1, 0.5)}
_BITS = {8: (0.1, 0.5), 6: (0.2, 0.5), 5: (0.3, 0.5), 4: (0.5, 0.8), 3: (0.8, 0.9), 2: (1.0, 0.9)}


@dataclass(frozen=True)
class Difference:
    """What was compared, the largest absolute difference, and the largest value of the reference.

    For codes both are shares: of codes that differ, and 1. tolerance: the error that the storing of
    the part explains, as a share of `scale`.
    """

    part: str
    what: str
    error: float
    scale: float
    tolerance: float = float("inf")

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance * self.scale  # NaN fails too

    def __str__(self) -> str:
        found = f"{self.error:.2e} of {self.scale:.2g}"
        if self.what.endswith("codes"):
            found = f"{100 * self.error:.2f} % differ"
        over = "" if self.passed else f"  LOOK: over {self.tolerance * self.scale:.2g}"
        return f"{self.part:<19} {self.what:<16} {found}{over}"


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
    differences = []
    with torch.inference_mode():
        comparisons = family.get("check")(checkpoint_path(source), Path(target))
        for number, (name, compare) in enumerate(comparisons):
            progress("check", number, len(comparisons))
            floats, codes = tolerances(Path(target), name)
            for what, ours, theirs in compare(np.random.default_rng(0)):
                tolerance = codes if what.endswith("codes") else floats
                differences.append(Difference(name, what, *_difference(ours, theirs), tolerance))
    progress("check", len(comparisons), len(comparisons))
    return differences


def tolerances(folder: Path, name: str) -> tuple[float, float]:
    """What may differ of a part (of any, where the name is of none): share of the largest value,
    share of the codes.
    """
    config, arrays = read_config(folder, model_types=None), load_arrays(folder, lazy=True)
    own = part(arrays, name)
    packing = quantization_of(config, name if own else "")
    packed = any(key.endswith(".scales") for key in own or arrays)
    kinds = {value.dtype for value in (own or arrays).values()}
    allowed = [_FLOATS[kind] for kind in kinds if kind in _FLOATS]
    return max([*allowed, *([_BITS[packing["bits"]]] if packed else [])])


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
