"""A residual quantiser: vector_quantize_pytorch's ResidualVQ beside ours."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from musicot_mlx.convert.keymaps.rvq import quantiser
from musicot_mlx.convert.pickles import pickled_state
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.rvq import load
from musicot_mlx.reference.musicot import build_rvq
from musicot_mlx.weights.config import config_to_dict
from musicot_mlx.weights.files import plain_names

Pairs = Iterator[tuple[str, mx.array, torch.Tensor]]


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Codes of unit vectors, and the vectors that they stand for."""
    if source.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = plain_names(load_file(source), source)
    else:
        state = pickled_state(source)
    ours = load(target)
    theirs = build_rvq(config_to_dict(ours.config)).eval()
    state = quantiser(state)
    expected = theirs.state_dict()
    try:
        theirs.load_state_dict({k: v.reshape(expected[k].shape) for k, v in state.items()})
    except (KeyError, RuntimeError) as error:
        raise MusicotError(f"{source} doesn't fit ResidualVQ: {error}") from error

    def compare(rng: np.random.Generator) -> Pairs:
        x = rng.normal(size=(1, 256, ours.config.dim)).astype(np.float32)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        codes = theirs(torch.from_numpy(x))[1]  # (batch, time, codebooks)
        yield "codes", ours.encode(mx.array(x)), codes.transpose(1, 2)
        decoded = theirs.get_output_from_indices(codes)
        yield "vectors", ours.decode(mx.array(codes.transpose(1, 2).numpy())), decoded

    return [("rvq", compare)]
