"""Residual quantisers, read for conversion: vector_quantize_pytorch.ResidualVQ as a state dict.

open-musiclm's `clap.rvq.*.pt` (its trainer saves `rq.state_dict()`) is one; a whole ClapQuantized
has the same keys behind `rq.`. Euclidean codebooks without projections, as both are made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.keymaps import rvq as keymap
from musicot_mlx.convert.pickles import lazy_arrays, pickled_state
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.weights.files import load_file, plain_names

PARTS = {"rvq": (ResidualVQ, RVQConfig)}
EXAMPLE = "python -c \"import musicot_mlx as mc; print(mc.load('{name}').config)\""


def read(source: Path, config: Mapping[str, Any], scratch: Path, **_: Any) -> Checkpoint | None:
    """The checkpoint of a ResidualVQ in a .pt or .safetensors file, or in a folder with one.

    Raises MusicotError for codebooks that were never fitted, projections, and levels missing.
    """
    if config:
        return None
    if source.is_file() and source.suffix == ".safetensors":
        state: Mapping[str, Any] | None = plain_names(load_file(source), source)
    else:
        state = pickled_state(source)
    state = keymap.quantiser(state or {})
    if not state:
        return None
    section = keymap.inferred_config({key: tuple(value.shape) for key, value in state.items()})
    for key, value in state.items():
        if key.endswith(".initted") and not bool(value.reshape(-1)[0].item()):
            raise MusicotError(f"{source}: {key} is false, so these codebooks were never fitted")
    arrays = state if source.suffix == ".safetensors" else lazy_arrays(state, scratch)
    return Checkpoint(
        config={"model_type": "rvq", "rvq": section},
        arrays={"rvq": apply_rules(keymap.RULES, arrays, where="rvq")},
        parts=PARTS,
        files={},
        example=EXAMPLE,
    )
