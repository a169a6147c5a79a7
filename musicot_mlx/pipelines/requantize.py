"""A model folder stored anew with other bits a weight, from the weights that it has."""

from pathlib import Path

import mlx.core as mx

from musicot_mlx.pipelines.families import family_of
from musicot_mlx.weights.checkpoint import (
    has_embeddings,
    load_arrays,
    part,
    quantization_of,
    quantize_arrays,
    read_config,
    save_checkpoint,
)
from musicot_mlx.weights.config import network_from_dict
from musicot_mlx.weights.quantized import dequantised, scale_dtype


def store_with_bits(folder: Path, target: Path, *, bits: int, group_size: int = 64) -> Path:
    """Write `folder` to `target` with matrices of `bits` bits; 16 is not quantised.

    Fewer bits go to the parts that its family quantises, as few as these bear. What was quantised
    is expanded and rounded again: for speed and memory, not for listening.
    """
    family = family_of(folder)
    parts = family.get("parts")
    config = read_config(folder, model_types=(family.model_type,))
    arrays, stored = load_arrays(folder), {}
    chosen = family.quantised or tuple(parts)
    for name, (network, config_class) in parts.items():
        if name not in config:  # which a model may be without
            continue
        plain = _expanded(part(arrays, name), quantization_of(config, name))
        if bits < 16 and name in chosen:
            module = network_from_dict(network, config_class, config[name], where=name)
            plain = quantize_arrays(
                module,
                plain,
                group_size=group_size,
                bits=max(bits, family.least_bits.get(name, 0)),
                embeddings=has_embeddings(family.embeddings, name),
            )
        stored |= {f"{name}.{key}": value for key, value in plain.items()}
    config.pop("quantization", None)
    if bits < 16:
        whole = {"bits": bits, "group_size": group_size, "mode": "affine"}
        config["quantization"] = whole | {name: False for name in parts if name not in chosen}
        for name, least in family.least_bits.items():
            if name in chosen and bits < least:
                config["quantization"][name] = {**whole, "bits": least}
    files = {path.name: path for path in folder.glob("*tokenizer.json")}
    return save_checkpoint(target, config, stored, files)


def _expanded(arrays: dict[str, mx.array], quantization: dict | None) -> dict[str, mx.array]:
    """The arrays of one part, every quantised matrix in 16 bits."""
    out = {}
    for key, value in arrays.items():
        path, _, leaf = key.rpartition(".")
        if f"{path}.scales" not in arrays:
            out[key] = value
        elif leaf == "weight":
            dtype = scale_dtype(arrays[f"{path}.scales"])
            out[key] = dequantised(arrays, path, quantization, dtype)
    return out
