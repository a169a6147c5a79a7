"""Networks at the speed that MLX's Linux CPU backend allows, in float32.

Nothing else needs this folder: without it everything runs, slower. `optimise` puts other classes
under the blocks of a loaded network, with the same parameters; tests hold the two together.
Importing the package loads no MLX, because openblas.py must come before it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mlx.nn as nn


def optimise(network: "nn.Module") -> "nn.Module":
    """The network itself, its blocks in the form that MLX's CPU backend runs fastest."""
    from musicot_mlx.cpu.twins import TWINS

    for _, block in network.named_modules():
        block.__class__ = TWINS.get(type(block), type(block))
    return network
