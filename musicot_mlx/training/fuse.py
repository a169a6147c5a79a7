"""An adapter fused into its model: a folder that generates what model and adapter do.

Only the layers that the adapter changes are touched; every other array is copied as it is stored,
and a PyTorch checkpoint's are those of its conversion. A changed layer holds the very numbers that
are played with the adapter worn: float16 stays float16, bfloat16 would round the change away and
becomes float32. A quantised layer is expanded, changed and quantised again, as mlx-lm does it,
which costs the rounding of one more quantisation (its LoRALinear.fuse takes one adapter, in the
layer's dtype; here several with strengths are added in float32); `dequantize` writes every layer
unquantised instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.nn.mlx_lm import LoRAEmbedding
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import family_of
from musicot_mlx.pipelines.given import flag, path_of, shown
from musicot_mlx.weights.adapters import (
    Adapter,
    kept_as,
    names_of,
    read_adapters,
    worn,
)
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    quantization_of,
    read_config,
    save_checkpoint,
)
from musicot_mlx.weights.hub import resolve
from musicot_mlx.weights.quantized import dequantised, scale_dtype

DTYPES = ("float16", "bfloat16", "float32")
_WEIGHTS = (".safetensors", ".index.json")


@dataclass(frozen=True)
class Fused:
    """What was written; error: the largest rounding of a weight, its layer's largest being 1."""

    folder: Path
    keys: int
    layers: int
    error: float

    def __str__(self) -> str:
        rounding = (
            f"; stored weights are within {self.error:.1e} of exact, which --dequantize --dtype "
            "float32 writes"
            if self.error
            else ""
        )
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
    """Write the folder `save_path`: `model` with the adapters in its weights, always an MLX folder.

    dtype: "float16", "bfloat16" or "float32" for all that is not quantised, but for what decides,
    such as codebooks, which stays float32, and for parts that float16 is too narrow for, which
    become bfloat16; as stored where None, and float32 where adapters change bfloat16. Raises
    MusicotError for adapters that don't fit, as loading them does.
    """
    path_of("model", model), path_of("save_path", save_path)
    if dtype is not None and dtype not in DTYPES:
        raise MusicotError(f"dtype is {shown(dtype)}; ask for one of {', '.join(DTYPES)}")
    if flag(dequantize) is None:
        raise MusicotError(f"dequantize is {shown(dequantize)}; pass True or False")
    adapters = read_adapters(adapter_path)
    if not adapters:
        raise MusicotError("nothing to fuse; pass --adapter-path")
    folder, target = mlx_folder(model), Path(save_path)
    if target.resolve() in (folder.resolve(), resolve(model).resolve()):
        raise MusicotError(f"{target} is the model itself; pass another --save-path")
    loaded = load(str(model), adapter_path=adapter_path)  # refuses what does not fit
    config, arrays = read_config(folder, model_types=None), load_arrays(folder)
    family = family_of(folder)

    def kind(path: str, name: str) -> mx.Dtype:
        """The dtype asked for, as this weight bears it."""
        part, _, inside = f"{path}.{name}".partition(".")
        return getattr(mx, family.stored(part, inside, dtype))

    changes: dict[str, list[tuple[Adapter, dict[str, mx.array]]]] = {}
    for adapter in adapters:
        for path, tensors in adapter.layers().items():
            changes.setdefault(path, []).append((adapter, tensors))

    missing = [
        f"{path}.{name}"
        for path, layer_changes in changes.items()
        for name in names_of(layer_changes)
        if f"{path}.{name}" not in arrays
    ]
    if missing:
        raise MusicotError(
            f"{folder} holds no {first_few(sorted(missing))}, which the adapters change"
        )

    worst, packed = 0.0, {key[: -len(".scales")] for key in arrays if key.endswith(".scales")}

    def write(path: str, name: str, packing: dict[str, Any] | None) -> None:
        """A parameter with what the adapters do to it, stored as it was or unquantised."""
        nonlocal worst
        value, stored = _dense(arrays, path, name, packing), arrays[f"{path}.{name}"].dtype
        if layer_changes := changes.get(path):
            embedding = _is_embedding(loaded, path)
            value = worn(value, layer_changes, name, embedding=embedding, stored=stored)
        if dtype:
            stored = kind(path, name)
        else:
            stored = kept_as(stored) if packing is None else scale_dtype(arrays[f"{path}.scales"])
        if packing is not None and dequantize:
            for gone in ("scales", "biases"):
                arrays.pop(f"{path}.{gone}", None)
            packing = None
        arrays.update(_stored(path, name, value.astype(stored), packing))
        error = mx.abs(_dense(arrays, path, name, packing) - value).max() / mx.abs(value).max()
        worst = max(worst, error.item())

    for path, layer_changes in changes.items():
        for name in names_of(layer_changes):
            quantised = name == "weight" and path in packed
            write(path, name, _packing(config, path) if quantised else None)
    if dequantize:
        for path in packed - set(changes):
            write(path, "weight", _packing(config, path))
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if dtype:
        for key, value in arrays.items():
            if _is_plain_float(key, value, arrays):
                path, _, name = key.rpartition(".")
                arrays[key] = value.astype(kind(path, name))
    others = {
        file.name: file
        for file in folder.iterdir()
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name != "config.json"
    }
    save_checkpoint(target, config, arrays, others)
    keys = sum(len(adapter.arrays) for adapter in adapters)
    return Fused(target, keys, len(changes), worst)


def _packing(config: dict[str, Any], path: str) -> dict[str, Any]:
    """group_size, bits and mode of a quantised layer."""
    quantization = quantization_of(config, path.partition(".")[0])
    if quantization is None:
        raise MusicotError(f"{path} is quantised but config.json has no quantization entry")
    return {
        "group_size": quantization["group_size"],
        "bits": quantization["bits"],
        "mode": quantization.get("mode", "affine"),
    }


def _dense(
    arrays: dict[str, mx.array], path: str, name: str, packing: dict[str, Any] | None
) -> mx.array:
    """A parameter of a layer, float32."""
    if packing is None:
        return arrays[f"{path}.{name}"].astype(mx.float32)
    return dequantised(arrays, path, packing)


def _stored(
    path: str, name: str, value: mx.array, packing: dict[str, Any] | None
) -> dict[str, mx.array]:
    """A parameter's arrays as they go to disk."""
    if packing is None:
        return {f"{path}.{name}": value}
    names = (f"{path}.{each}" for each in ("weight", "scales", "biases"))
    return dict(zip(names, mx.quantize(value, **packing), strict=False))


def _is_embedding(loaded: Any, path: str) -> bool:
    part, _, inside = path.partition(".")
    shelf = getattr(loaded, "shelf", None)  # of a model whose networks take turns in memory
    network = shelf(part)[0] if shelf else getattr(loaded, part)
    layer = dict(network.named_modules())[inside]
    return isinstance(layer, (nn.Embedding, nn.QuantizedEmbedding, LoRAEmbedding))


def _is_plain_float(key: str, value: mx.array, arrays: dict[str, mx.array]) -> bool:
    path, _, name = key.rpartition(".")
    packing = name in ("scales", "biases") and f"{path}.scales" in arrays
    return mx.issubdtype(value.dtype, mx.floating) and not packing
