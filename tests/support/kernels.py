"""Kernels that a GPU would start for a graph, counted on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest

from musicot_mlx.evaluation.speed.cost import operations

# A view of an array costs nothing to make.
VIEWS = {
    "AsStrided",
    "Broadcast",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unflatten",
}


@contextmanager
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """mx.fast's functions as the one node that each is there; a CPU takes them to pieces.

    What comes out of them is of the right shape and type, and means nothing.
    """

    def one(x: mx.array, *others: Any, **named: Any) -> mx.array:
        others = [v for v in (*others, *named.values()) if isinstance(v, mx.array)]
        return mx.depends([x], others)[0] if others else mx.negative(x)

    with monkeypatch.context() as patch:
        for name in ("rms_norm", "layer_norm", "rope", "scaled_dot_product_attention"):
            patch.setattr(mx.fast, name, one)
        yield


def kernels(outputs: Any) -> int:
    """How many kernels a graph that is not evaluated yet would start."""
    return sum(count for name, count in operations(outputs).items() if name not in VIEWS)
