"""Residual quantiser: vector_quantize_pytorch.ResidualVQ -> models/rvq.py."""

import re
from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

RULES: list[Rule] = [
    # (1, codes, dim); (codes, dim) in files of its first versions
    Rule(r"layers\.(\d+)\._codebook\.embed", r"codebooks.\1.weight", "codebook"),
    # what the moving averages of training need
    Rule(r"layers\.\d+\._codebook\.(?:initted|cluster_size|embed_avg)", None),
]
_EMBED = re.compile(r"layers\.(\d+)\._codebook\.embed")


def quantiser(state: Mapping[str, Any]) -> dict[str, Any]:
    """The quantiser's entries of a state dict, bare or behind `rq.` (open-musiclm's ClapQuantized).

    Empty where there is no quantiser.
    """
    for prefix in ("", "rq."):
        entries = {key[len(prefix) :]: state[key] for key in state if key.startswith(prefix)}
        if any(_EMBED.fullmatch(key) for key in entries):
            return entries
    return {}


def inferred_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The `rvq` section of an MLX config.json, from the shapes of a state dict.

    Raises MusicotError for levels of different sizes or missing ones, and for projections.
    """
    if any(key.startswith("project_") for key in shapes):
        raise MusicotError(
            "this ResidualVQ projects to another dimension (codebook_dim), which musicot does not "
            "support; train it with codebook_dim equal to dim"
        )
    levels = {int(m[1]): shape for key, shape in shapes.items() if (m := _EMBED.fullmatch(key))}
    sizes = {shape[-2:] for shape in levels.values()}
    if sorted(levels) != list(range(len(levels))) or len(sizes) != 1:
        raise MusicotError(
            f"this ResidualVQ has levels {sorted(levels)} of sizes {sorted(sizes)}; expected "
            "levels from 0 on, all of one size"
        )
    size, dim = sizes.pop()
    return {"dim": dim, "codebooks": len(levels), "codebook_size": size}
