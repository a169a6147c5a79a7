"""An MLX folder turned back into the PyTorch checkpoint it was made from, to train it further.

    python -m musicot_mlx.convert.to_pytorch MLX_FOLDER CHECKPOINT

Conversion joins, moves and transposes weights by tables of rules. None of it mixes two numbers, so
a checkpoint whose every element is its own index, sent through the same tables, says where each
number of the MLX folder came from; no second set of tables is kept. Weights that were quantised
come back at the precision that they have in the folder. PyTorch is imported where it is used.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from musicot_mlx.convert.rules import Rule, apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.families import family_of
from musicot_mlx.weights.checkpoint import load_arrays, part, quantization_of, read_config

if TYPE_CHECKING:
    from torch import Tensor

    from musicot_mlx.reference.musicot import MusicotReference

EXACT_FLOAT32 = 2**24  # integers below it survive float32, which rules take


def to_pytorch(folder: Path) -> "MusicotReference":
    """The PyTorch model of a musicot MLX folder, in float32.

    Raises MusicotError where the folder is not one of musicot, or its weights don't fit its config.
    """
    from musicot_mlx.reference.musicot import PARTS, MusicotReference

    folder = Path(folder)
    family = family_of(folder)
    if not family.can("to_pytorch"):
        raise MusicotError(f"{folder} is a {family.title} folder, and no PyTorch class takes it")
    config = read_config(folder, model_types=(family.model_type,))
    reference = MusicotReference({k: v for k, v in config.items() if k != "quantization"})
    arrays = load_arrays(folder)
    state = {}
    for name in PARTS:
        keymap = import_module(f"musicot_mlx.convert.keymaps.{name}")
        own = getattr(reference, name).state_dict()
        part_arrays = _dequantised(part(arrays, name), quantization_of(config, name))
        for key, value in _inverted(keymap.RULES, own, part_arrays, f"{folder}: {name}").items():
            state[f"{name}.{key}"] = value
    reference.load_state_dict(state)
    for layer in reference.rvq.layers:  # codebooks that were read, not to be drawn from data
        layer._codebook.initted.fill_(True)
        layer._codebook.embed_avg.copy_(layer._codebook.embed)
        layer._codebook.cluster_size.fill_(1.0)
    return reference.eval()


def _dequantised(arrays: dict[str, mx.array], size: dict[str, Any] | None) -> dict[str, np.ndarray]:
    out = {}
    for key, value in arrays.items():
        path, _, name = key.rpartition(".")
        if name in ("scales", "biases") and f"{path}.scales" in arrays:
            continue
        if name == "weight" and f"{path}.scales" in arrays:
            scales, biases = arrays[f"{path}.scales"], arrays.get(f"{path}.biases")
            value = mx.dequantize(
                value,
                scales.astype(mx.float32),
                None if biases is None else biases.astype(mx.float32),
                group_size=size["group_size"],
                bits=size["bits"],
            )
        out[key] = np.array(value.astype(mx.float32))
    return out


def _inverted(
    rules: list[Rule], own: "dict[str, Tensor]", arrays: dict[str, np.ndarray], where: str
) -> "dict[str, Tensor]":
    """A PyTorch state of the shapes of `own` with the values of `arrays`; what conversion drops
    stays as it is in `own`.
    """
    import torch

    flat = [value.float().flatten() for value in own.values()]
    values = torch.cat(flat).numpy().copy()
    starts = np.cumsum([0, *(len(f) for f in flat)])
    if len(values) >= EXACT_FLOAT32:
        raise MusicotError(f"{where} has {len(values)} numbers; the way back holds 16.7 million")
    index = {
        key: mx.array(np.arange(start, end, dtype=np.float32).reshape(value.shape))
        for (key, value), start, end in zip(own.items(), starts[:-1], starts[1:], strict=True)
    }
    where_from = apply_rules(rules, index, where=where)
    if where_from.keys() != arrays.keys():
        odd = sorted(where_from.keys() ^ arrays.keys())[:3]
        raise MusicotError(f"{where}: the weights don't fit the config: {', '.join(odd)}")
    for key, source in where_from.items():
        if tuple(source.shape) != arrays[key].shape:
            raise MusicotError(f"{where}: {key} is {arrays[key].shape}, not {source.shape}")
        values[np.array(source).astype(np.int64).ravel()] = arrays[key].ravel()
    pieces = zip(own.items(), starts[:-1], starts[1:], strict=True)
    return {
        key: torch.from_numpy(values[start:end]).reshape(value.shape).to(value.dtype)
        for (key, value), start, end in pieces
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m musicot_mlx.convert.to_pytorch", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="musicot MLX folder")
    parser.add_argument("checkpoint", type=Path, help="folder to write")
    args = parser.parse_args(argv)
    try:
        from tokenizers import Tokenizer

        model, words = to_pytorch(args.folder), args.folder / "tokenizer.json"
        if not words.is_file():
            raise MusicotError(f"{args.folder} lacks tokenizer.json; get the model again")
        model.save_pretrained(args.checkpoint, Tokenizer.from_file(str(words)))
    except MusicotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {args.checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
