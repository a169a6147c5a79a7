"""A model folder stored anew with other bits a weight, from the weights that it has."""

from pathlib import Path

import mlx.core as mx

from musicot_mlx.pipelines.musicot.pipeline import PARTS
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    part,
    quantization_of,
    quantize_arrays,
    read_config,
    save_checkpoint,
)
from musicot_mlx.weights.config import config_from_dict


def store_with_bits(folder: Path, target: Path, *, bits: int, group_size: int = 64) -> Path:
    """Write `folder` to `target` with matrices of `bits` bits; 16 is float16, not quantised.

    What was quantised is expanded and rounded again: for speed and memory, not for listening.
    """
    config, arrays = read_config(folder), load_arrays(folder)
    stored: dict[str, mx.array] = {}
    for name, (network, config_class) in PARTS.items():
        plain = _expanded(part(arrays, name), quantization_of(config, name))
        if bits < 16:
            module = network(config_from_dict(config_class, config[name], where=name))
            plain = quantize_arrays(module, plain, group_size=group_size, bits=bits)
        stored |= {f"{name}.{key}": value for key, value in plain.items()}
    config.pop("quantization", None)
    if bits < 16:
        config["quantization"] = {"bits": bits, "group_size": group_size, "mode": "affine"}
    return save_checkpoint(target, config, stored, {"tokenizer.json": folder / "tokenizer.json"})


def _expanded(arrays: dict[str, mx.array], quantization: dict | None) -> dict[str, mx.array]:
    """The arrays of one part, every quantised matrix as float16."""
    out = {}
    for key, value in arrays.items():
        path, _, leaf = key.rpartition(".")
        if f"{path}.scales" not in arrays:
            out[key] = value
        elif leaf == "weight":
            out[key] = mx.dequantize(
                value,
                arrays[f"{path}.scales"],
                arrays.get(f"{path}.biases"),
                group_size=quantization["group_size"],
                bits=quantization["bits"],
                mode=quantization.get("mode", "affine"),
                dtype=mx.float16,
            )
    return out
