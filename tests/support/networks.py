"""Random weights for networks under test, large enough that every layer shows in the output."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from musicot_mlx.pipelines.family import Family


def randomize(network: nn.Module, *, seed: int = 0, dtype: mx.Dtype = mx.float32) -> nn.Module:
    """Fill every parameter from one key; norms stay near one. Returns the network."""
    leaves = tree_flatten(network.parameters())
    keys = mx.random.split(mx.random.key(seed), len(leaves))

    def fill(name: str, shape: tuple[int, ...], key: mx.array) -> mx.array:
        noise = mx.random.normal(shape, key=key)
        if "norm" in name and name.endswith("weight"):
            return 1 + 0.2 * noise
        if len(shape) < 2:
            return 0.1 * noise
        if "embed" in name or "codebooks" in name or "relative" in name:
            return noise
        fan_in = noise.size // shape[0]
        return 1.5 * noise * fan_in**-0.5

    filled = [
        (name, fill(name, leaf.shape, key).astype(dtype))
        for key, (name, leaf) in zip(keys, leaves, strict=True)
    ]
    network.load_weights(filled)
    return network


def as_stored(network: nn.Module, family: Family, part: str) -> None:
    """Give a network the types that a converted checkpoint of 16 bits has for it."""
    network.load_weights(
        [
            (name, value.astype(getattr(mx, family.stored(part, name, "float16"))))
            for name, value in tree_flatten(network.parameters())
        ]
    )
