"""Activations by the names that configs have for them."""

import mlx.nn as nn

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}


def check_activation(name: str) -> None:
    """Raise ValueError for a name that is not in ACTIVATIONS."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
