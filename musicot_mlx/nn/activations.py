"""Activations by the names that configs have for them, and SwiGLU."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}


def check_activation(name: str) -> None:
    """Raise ValueError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")


@partial(mx.compile, shapeless=True)
def swiglu(up: mx.array, gate: mx.array) -> mx.array:
    """up * silu(gate) as one kernel; mlx-lm's takes the gate first."""
    return up * nn.silu(gate)
