"""An adapter melted into its model: a folder that generates what model and adapter do.

Only the layers that the adapter changes are touched; every other array is copied as it is stored.
A quantised layer is expanded, changed and quantised again, as mlx-lm does it, which costs the
rounding of one more quantisation (its LoRALinear.fuse takes one adapter, in the layer's dtype; here
several with strengths are added in float32); `dequantize` writes every layer unquantised instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.errors import MusicotError
from musicot_mlx.nn.mlx_lm_light import LoRAEmbedding
from musicot_mlx.weights.adapters import Adapter, change, read_adapters
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    quantization_of,
    read_config,
    save_checkpoint,
)
from musicot_mlx.weights.hub import resolve

_WEIGHTS = (".safetensors", ".index.json")


@dataclass(frozen=True)
class Fused:
    """What was written; error: the largest rounding of a weight, its layer's largest being 1."""

    folder: Path
    keys: int
    layers: int
    error: float

    def __str__(self) -> str:
        rounding = f"; stored weights are within {self.error:.1e} of exact" if self.error else ""
        return f"{self.folder}: {self.keys} adapter keys fused into {self.layers} layers{rounding}"


def fuse(
    model: str | Path,
    adapter_path: str | Path | list[str],
    save_path: str | Path,
    *,
    load: Callable[..., Any],
    dequantize: bool = False,
    dtype: str | None = None,
) -> Fused:
    """Write the folder `save_path`: `model` with the adapters in its weights.

    dtype: "float16", "bfloat16" or "float32" for all that is not quantised; as stored where None.
    Raises MusicotError for adapters that don't fit, which loading them tells.
    """
    adapters = read_adapters(adapter_path)
    if not adapters:
        raise MusicotError("nothing to fuse; pass --adapter-path")
    folder, target = resolve(model), Path(save_path)
    if target.resolve() == folder.resolve():
        raise MusicotError(f"{target} is the model itself; pass another --save-path")
    loaded = load(str(model), adapter_path=adapter_path)  # refuses what does not fit
    config, arrays = read_config(folder, model_types=None), load_arrays(folder)
    kind = getattr(mx, dtype) if dtype else None
    stored = kind or next(v.dtype for v in arrays.values() if mx.issubdtype(v.dtype, mx.floating))
    changes: dict[str, list[tuple[Adapter, dict[str, mx.array]]]] = {}
    for adapter in adapters:
        for path, tensors in adapter.layers().items():
            changes.setdefault(path, []).append((adapter, tensors))

    worst = 0.0
    for path, found in changes.items():
        if f"{path}.weight" in arrays:
            packing = _packing(config, path) if f"{path}.scales" in arrays else None
            weight = _dense(arrays, path, packing)
            embedding = _is_embedding(loaded, path)
            wanted = [(a, t) for a, t in found if "weight" in t or "lora_a" in t]
            exact = weight + sum(change(weight, a, t, embedding=embedding) for a, t in wanted)
            keep = packing if not dequantize else None
            arrays.update(_stored(path, exact, keep, stored))
            error = mx.abs(_dense(arrays, path, keep) - exact).max() / mx.abs(exact).max()
            worst = max(worst, error.item())
        _move_others(arrays, path, found)
    if dequantize:
        packed = [k for k, v in arrays.items() if k.endswith(".scales") and v is not None]
        for path in (key[: -len(".scales")] for key in packed):
            weight = _dense(arrays, path, _packing(config, path))
            arrays.update(_stored(path, weight, None, stored))
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if kind is not None:
        arrays = {
            key: value.astype(kind) if _is_plain_float(key, value, arrays) else value
            for key, value in arrays.items()
        }
    others = {
        file.name: file
        for file in folder.iterdir()
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name != "config.json"
    }
    save_checkpoint(target, config, {k: v for k, v in arrays.items() if v is not None}, others)
    keys = sum(len(adapter.arrays) for adapter in adapters)
    return Fused(target, keys, len(changes), worst)


def _packing(config: dict[str, Any], path: str) -> dict[str, Any]:
    """group_size, bits and mode of a quantised layer."""
    found = quantization_of(config, path.partition(".")[0])
    if found is None:
        raise MusicotError(f"{path} is quantised but config.json has no quantization entry")
    return {
        "group_size": found["group_size"],
        "bits": found["bits"],
        "mode": found.get("mode", "affine"),
    }


def _dense(arrays: dict[str, Any], path: str, packing: dict[str, Any] | None) -> mx.array:
    """The weight of a layer, float32."""
    weight = arrays[f"{path}.weight"]
    if packing is None:
        return weight.astype(mx.float32)
    scales, biases = arrays[f"{path}.scales"], arrays.get(f"{path}.biases")
    return mx.dequantize(weight, scales, biases, **packing, dtype=mx.float32)


def _stored(
    path: str, weight: mx.array, packing: dict[str, Any] | None, dtype: mx.Dtype
) -> dict[str, mx.array | None]:
    """A layer's arrays as they go to disk; None for those that are no more."""
    if packing is None:
        gone = {f"{path}.scales": None, f"{path}.biases": None}
        return {f"{path}.weight": weight.astype(dtype), **gone}
    packed = mx.quantize(weight.astype(dtype), **packing)
    names = (f"{path}.{name}" for name in ("weight", "scales", "biases"))
    return dict(zip(names, packed, strict=False))


def _move_others(
    arrays: dict[str, Any], path: str, changes: list[tuple[Adapter, dict[str, mx.array]]]
) -> None:
    """Biases and norms of full tuning, by each adapter's strength."""
    before = {
        name: arrays[f"{path}.{name}"].astype(mx.float32)
        for adapter, tensors in changes
        if adapter.kind == "full"
        for name in tensors
        if name != "weight"
    }
    for adapter, tensors in changes:
        for name in set(tensors) & set(before):
            step = adapter.strength * (tensors[name].astype(mx.float32) - before[name])
            value = arrays[f"{path}.{name}"]
            arrays[f"{path}.{name}"] = (value.astype(mx.float32) + step).astype(value.dtype)


def _is_embedding(loaded: Any, path: str) -> bool:
    part, _, inside = path.partition(".")
    layer = dict(getattr(loaded, part).named_modules())[inside]
    return isinstance(layer, (nn.Embedding, nn.QuantizedEmbedding, LoRAEmbedding))


def _is_plain_float(key: str, value: Any, arrays: dict[str, Any]) -> bool:
    if value is None or not mx.issubdtype(value.dtype, mx.floating):
        return False
    path, _, name = key.rpartition(".")
    return name not in ("scales", "biases") or arrays.get(f"{path}.scales") is None
