"""Adapters on networks: mlx-lm's LoRA and DoRA layers put in to train, and read adapters applied.

An applied adapter is added to the weights where they are float32 (on a CPU device, where the sum is
rounded to float16 if the folder holds that, so that `musicot fuse` writes these very numbers), and
where a layer of a float16 network is small: quantised or not it becomes a plain one in float16,
whose 11 bits are as fine as what was stored. So a song takes as many kernels as before, which is
what it takes the time of on a GPU. Large layers would read twice the memory, and bfloat16 would
round the change away: there `AppliedLoRA` stands around the layer, several adapters as one of the
sum of their ranks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.nn.mlx_lm import DoRAEmbedding, DoRALinear, LoRAEmbedding, LoRALinear
from musicot_mlx.weights.adapters import Adapter, Changes, names_of, worn

_FINGERPRINT = 32  # numbers
_SAME_MODEL = 0.9  # cosine of fingerprints; 4 bits a weight leave 0.99, another model some 0.2
_EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)
_QUANTISED = (nn.QuantizedLinear, nn.QuantizedEmbedding)
_SMALL = 2 << 20  # weights of a layer that costs more to start another kernel for than to read
ADAPTABLE = (nn.Linear, nn.QuantizedLinear, *_EMBEDDINGS)


class AppliedLoRA(LoRALinear):
    """mlx-lm's layer to play with: its numbers in the layer's dtype, the scale in lora_b, so that a
    change takes two kernels more and not five.
    """

    def __call__(self, x: mx.array) -> mx.array:
        return mx.addmm(self.linear(x), x @ self.lora_a, self.lora_b)


def dense_weight(layer: nn.Module) -> mx.array:
    """The weight of a linear layer or embedding as float32 (out, in), expanded if quantised."""
    if not isinstance(layer, _QUANTISED):
        return layer.weight.astype(mx.float32)
    return mx.dequantize(
        layer.weight,
        layer.scales,
        layer["biases"] if "biases" in layer else None,
        group_size=layer.group_size,
        bits=layer.bits,
        mode=layer.mode,
    ).astype(mx.float32)


def fingerprint(module: nn.Module) -> list[float]:
    """32 numbers that tell one trained network from another, however it is quantised.

    Sums over equal pieces of its first linear weight by name, scaled to length 1.
    """
    linear = (nn.Linear, nn.QuantizedLinear)
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, linear)}
    weight = np.array(dense_weight(layers[min(layers)])).reshape(-1).astype(np.float64)
    pieces = np.array([piece.sum() for piece in np.array_split(weight, _FINGERPRINT)])
    return [round(float(v), 5) for v in pieces / max(np.linalg.norm(pieces), 1e-12)]


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """What a network is made of, block after block: `blocks` where it has more than `layers`."""
    return getattr(module, "blocks", None) or module.layers


def add_layers(
    module: nn.Module,
    *,
    kind: str,
    num_layers: int,
    rank: int,
    scale: float,
    dropout: float,
    keys: Sequence[str] | None = None,
) -> list[str]:
    """Freeze `module` but for what is to be tuned; paths of what is, from the module's root.

    As mlx-lm's linear_to_lora_layers, which knows neither "full" nor keys that name nothing, and
    whose import brings transformers: of the last num_layers of its blocks (-1: all) every
    linear layer and embedding, or those that `keys` name from their block or from the module; kind
    "full" unfreezes the blocks themselves and makes the module float32. New layers draw from
    mx.random's global state. Raises MusicotError for more layers than there are, and for keys that
    name nothing.
    """
    blocks = blocks_of(module)
    if num_layers > len(blocks):
        raise MusicotError(
            f"asked to tune {num_layers} layers but the model has {len(blocks)}; -1 is all"
        )
    chosen = blocks if num_layers < 0 else blocks[len(blocks) - num_layers :]
    module.freeze()
    if kind == "full":
        if any(isinstance(m, _QUANTISED) for b in chosen for _, m in b.named_modules()):
            raise MusicotError(
                "full tuning needs weights that are not quantised; tune a folder converted without "
                "-q, or pass --fine-tune-type lora"
            )
        # float16 holds neither Adam's epsilon nor squares of gradients, bfloat16 no small step
        module.set_dtype(mx.float32)
        for block in chosen:
            block.unfreeze()
        return [path for path, _ in tree_flatten(module.trainable_parameters())]

    wrapped: set[str] = set()
    for owner in [*chosen, module]:
        adapted = [
            (path, wear(layer, kind=kind, rank=rank, scale=scale, dropout=dropout))
            for path, layer in owner.named_modules()
            if isinstance(layer, ADAPTABLE) and _wanted(path, keys, within=owner is not module)
        ]
        if adapted:
            owner.update_modules(tree_unflatten(adapted))
            wrapped.update(path for path, _ in adapted)
    unused = set(keys or ()) - wrapped
    if unused or not wrapped:
        raise MusicotError(
            f"keys {first_few(sorted(unused))} name no linear layer of a block or of the model; a "
            "block has "
            f"{', '.join(p for p, m in blocks[-1].named_modules() if type(m) in ADAPTABLE)}"
        )
    return [path for path, _ in tree_flatten(module.trainable_parameters())]


def wear(
    layer: nn.Module, *, kind: str, rank: int, scale: float, dropout: float, **_: Any
) -> nn.Module:
    """A linear layer or embedding with a layer of LoRA or DoRA around it, which draws from
    mx.random's global state.
    """
    embedding = isinstance(layer, _EMBEDDINGS)
    if kind == "dora" and isinstance(layer, nn.QuantizedEmbedding):
        raise MusicotError("DoRA does not work on a quantised embedding; use LoRA for that key")
    lora, dora = (LoRAEmbedding, DoRAEmbedding) if embedding else (LoRALinear, DoRALinear)
    adapter_class = dora if kind == "dora" else lora
    return adapter_class.from_base(layer, r=rank, scale=scale, dropout=dropout)


def _wanted(path: str, keys: Sequence[str] | None, *, within: bool) -> bool:
    return within if keys is None else path in keys


def apply_adapters(
    parts: Mapping[str, nn.Module],
    adapters: Sequence[Adapter],
    *,
    model: str,
    stored: Mapping[str, mx.Dtype] | None = None,
) -> int:
    """Put adapters on the parts of a loaded model; how many of their keys were applied: all.

    stored: dtypes in the model's folder by key; None where they are those of the parts. Raises
    MusicotError that names an adapter made for another model, one whose keys match nothing, and
    keys of another shape.
    """
    if not adapters:
        return 0
    for adapter in adapters:
        _require_base(adapter, parts, model)
    modules = {
        f"{part}.{path}" if path else part: layer
        for part, network in parts.items()
        for path, layer in network.named_modules()
    }
    if stored is None:
        stored = {
            f"{part}.{name}": value.dtype
            for part, network in parts.items()
            for name, value in tree_flatten(network.parameters())
        }
    changes: dict[str, list[tuple[Adapter, dict[str, mx.array]]]] = {}
    for adapter in adapters:
        _require_match(adapter, modules, model)
        for path, tensors in adapter.layers().items():
            changes.setdefault(path, []).append((adapter, tensors))
    dtypes = {part: _dtype(network) for part, network in parts.items()}
    for path, layer_changes in changes.items():
        part, _, inside = path.partition(".")
        own = {name: stored[f"{path}.{name}"] for name in names_of(layer_changes)}
        layer = _changed(modules[path], layer_changes, dtypes[part], own)
        if layer is not modules[path]:
            parts[part].update_modules(tree_unflatten([(inside, layer)]))
    for part in {path.partition(".")[0] for path in changes}:
        parts[part].eval()
        mx.eval(parts[part].parameters())
    return sum(len(adapter.arrays) for adapter in adapters)


def _dtype(network: nn.Module) -> mx.Dtype:
    """What hidden states are: the dtype of most plain weights, packed ones telling nothing."""
    packed = ("scales", "biases")
    names = tree_flatten(network.parameters())
    kinds = [v.dtype for name, v in names if name.rpartition(".")[2] not in packed]
    kinds = [kind for kind in kinds if mx.issubdtype(kind, mx.floating)]
    return max(kinds, key=kinds.count)


def _changed(
    layer: nn.Module, changes: Changes, dtype: mx.Dtype, stored: Mapping[str, mx.Dtype]
) -> nn.Module:
    """The layer with changes, in a network of this dtype: itself with other weights, or a layer in
    its place. stored: dtypes in the folder of the parameters that change.
    """
    others = [name for name in stored if name != "weight" or not isinstance(layer, ADAPTABLE)]
    for name in others:  # biases, and norms: fully tuned
        before = layer[name]
        moved = worn(before.astype(mx.float32), changes, name, embedding=False, stored=stored[name])
        layer[name] = moved.astype(before.dtype)
    if len(others) == len(stored):
        return layer
    embedding = isinstance(layer, _EMBEDDINGS)
    packed = isinstance(layer, _QUANTISED)
    if not packed:
        dtype = layer.weight.dtype
    adds = dtype == mx.float32 and not packed
    adds = adds or (dtype != mx.bfloat16 and math.prod(_dense_shape(layer)) <= _SMALL)
    lora = all(adapter.kind == "lora" and "lora_a" in tensors for adapter, tensors in changes)
    if not adds and lora:
        return _stacked(layer, changes, embedding, dtype)
    weight = dense_weight(layer)
    total = worn(weight, changes, "weight", embedding=embedding, stored=stored["weight"])
    if packed:
        before, layer = layer, nn.Embedding(1, 1) if embedding else nn.Linear(1, 1, bias=False)
        if "bias" in before:
            layer.bias = before.bias
    layer.weight = total.astype(dtype)
    return layer


def _stacked(layer: nn.Module, changes: Changes, embedding: bool, dtype: mx.Dtype) -> nn.Module:
    """One LoRA layer for several adapters: their ranks side by side."""
    stacked = (LoRAEmbedding if embedding else LoRALinear).from_base(layer, r=1, scale=1.0)
    if not embedding:
        stacked.__class__ = AppliedLoRA
    stacked.lora_a = mx.concatenate([t["lora_a"] for _, t in changes], axis=1).astype(dtype)
    scaled = [a.strength * a.scale * t["lora_b"].astype(mx.float32) for a, t in changes]
    stacked.lora_b = mx.concatenate(scaled, axis=0).astype(dtype)
    return stacked


def _require_base(adapter: Adapter, parts: Mapping[str, nn.Module], model: str) -> None:
    base = adapter.config.get("base")
    if not isinstance(base, dict):
        return  # not written by `musicot lora`; shapes must tell
    made_for = base.get("model", "another model")
    for part, expected in (base.get("fingerprints") or {}).items():
        if part in parts and len(expected) == _FINGERPRINT:
            if float(np.dot(expected, fingerprint(parts[part]))) > _SAME_MODEL:
                continue
        raise MusicotError(
            f"adapter {adapter.name} was made for {made_for}, not for {model}; load it with "
            f"{made_for}, or tune one on {model}"
        )


def _require_match(adapter: Adapter, modules: Mapping[str, nn.Module], model: str) -> None:
    layers = adapter.layers()
    unknown = [
        path
        for path, tensors in layers.items()
        if path not in modules
        or ("lora_a" in tensors and not isinstance(modules[path], ADAPTABLE))
        or ("lora_a" not in tensors and not set(tensors) <= set(modules[path].keys()))
    ]
    if len(unknown) == len(layers):
        raise MusicotError(
            f"adapter {adapter.name} changes nothing: none of its {len(adapter.arrays)} keys "
            f"belongs to a layer of {model} (it has {first_few(sorted(layers)) or 'no key'})"
        )
    if unknown:
        raise MusicotError(
            f"adapter {adapter.name}: {len(unknown)} of its {len(layers)} layers are not in "
            f"{model}: {first_few(sorted(unknown))}"
        )
    wrong = [
        f"{path} is {shape}, {model} has {expected}"
        for path, tensors in layers.items()
        for shape, expected in [_shapes(modules[path], tensors)]
        if shape != expected
    ]
    if wrong:
        two = first_few(sorted(wrong), limit=2)
        raise MusicotError(f"adapter {adapter.name} does not fit: {two}")


def _shapes(layer: nn.Module, tensors: Mapping[str, mx.array]) -> tuple[Any, Any]:
    """The shapes that an adapter's tensors are for, and those of the layer."""
    adaptable = isinstance(layer, ADAPTABLE)
    if "lora_a" not in tensors:
        names = sorted(tensors)
        own = [
            _dense_shape(layer) if adaptable and n == "weight" else layer[n].shape for n in names
        ]
        return [tensors[n].shape for n in names], own
    shape = _dense_shape(layer)
    a, b = tensors["lora_a"].shape, tensors["lora_b"].shape
    lora_shape = (a[0], b[1]) if isinstance(layer, _EMBEDDINGS) else (b[1], a[0])
    if a[1] != b[0] or ("m" in tensors and tensors["m"].shape != (shape[0],)):
        return (a, b), shape
    return lora_shape, shape


def _dense_shape(layer: nn.Module) -> tuple[int, int]:
    out, inner = layer.weight.shape
    return (out, inner * 32 // layer.bits) if isinstance(layer, _QUANTISED) else (out, inner)
