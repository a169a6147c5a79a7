"""Adapter folders: a small change to a model's weights, kept apart from the model.

The layout is mlx-lm's: `adapters.safetensors` with `lora_a` (in, rank), `lora_b` (rank, out) and,
for DoRA, `m` (out,) of every layer that changes, or whole weights for full tuning, and
`adapter_config.json`. Keys begin with the part they belong to (`semantic_lm.`, `diffusion.`,
`decoder.`). Where we differ: beside its LoRA an adapter may hold whole parameters, if its config
says so; the config says which model the adapter was made for (`base`), and an
adapter whose keys match nothing is an error instead of a song that sounds as if nothing had
happened.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.texts import read_json
from musicot_mlx.weights.files import SAVE_AGAIN, load_file
from musicot_mlx.weights.hub import resolve

ADAPTER_FILE, ADAPTER_CONFIG = "adapters.safetensors", "adapter_config.json"
KINDS = ("lora", "dora", "full")
WHOLE = "whole_parameters"  # in the config: as Adapter.whole
_LEAVES = {"lora": {"lora_a", "lora_b"}, "dora": {"lora_a", "lora_b", "m"}}


@dataclass(frozen=True)
class Adapter:
    """An adapter as read: where from, how strongly it is to count, its config and its arrays."""

    name: str
    strength: float
    config: dict[str, Any]
    arrays: dict[str, mx.array]

    @property
    def spec(self) -> str:
        """What `read_adapters` takes to read it again."""
        return self.name if self.strength == 1.0 else f"{self.name}:{self.strength:g}"

    @property
    def kind(self) -> str:
        """lora, dora or full."""
        return self.config.get("fine_tune_type", "lora")

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by."""
        return float((self.config.get("lora_parameters") or {}).get("scale", 1.0))

    @property
    def whole(self) -> bool:
        """Whether it also holds parameters as they are, of layers that wear no LoRA."""
        return bool(self.config.get(WHOLE))

    def layers(self) -> dict[str, dict[str, mx.array]]:
        """Arrays by layer: path with its part in front -> last name -> array."""
        by_layer: dict[str, dict[str, mx.array]] = {}
        for key, value in self.arrays.items():
            path, _, leaf = key.rpartition(".")
            by_layer.setdefault(path, {})[leaf] = value
        return by_layer


def read_adapters(spec: str | Path | Sequence[str | Path] | None) -> list[Adapter]:
    """Adapters of a folder or Hub id, or of several; `folder:0.5` counts half.

    Raises MusicotError for what is no adapter folder, and for one in PEFT's layout.
    """
    if spec is None:
        return []
    specs = [spec] if isinstance(spec, (str, Path)) else spec
    if not isinstance(specs, (list, tuple)):
        raise MusicotError(f"adapter_path is {spec!r}; expected folders")
    return [_read(str(item)) for item in specs]


def _read(spec: str) -> Adapter:
    name, strength = spec, 1.0
    if not Path(spec).expanduser().is_dir() and ":" in spec:
        name, _, number = spec.rpartition(":")
        try:
            strength = float(number)
        except ValueError:
            raise MusicotError(
                f"adapter {spec!r}: {number!r} is no number; write FOLDER or FOLDER:STRENGTH"
            ) from None
        if not abs(strength) <= 100:  # NaN fails too
            raise MusicotError(f"adapter {spec!r}: the strength must lie in -100 to 100")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if "/" not in name or name.startswith((".", "/", "~")):
            raise MusicotError(f"no adapter folder at {name}; `musicot lora` makes one")
        folder = resolve(name)
    config_file, file = folder / ADAPTER_CONFIG, folder / ADAPTER_FILE
    config = _read_config(config_file)
    if "peft_type" in config:
        raise MusicotError(
            f"{name} is a PEFT checkpoint; run musicot convert --hf-path {name} --mlx-path "
            f"{name}-mlx and pass that"
        )
    if not file.is_file():
        raise MusicotError(f"{name} holds no {ADAPTER_FILE}; did the training run get that far?")
    arrays = load_file(file)
    adapter = Adapter(name, strength, config, arrays)
    _check(adapter)
    return adapter


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MusicotError(f"{path.parent} holds no {ADAPTER_CONFIG}, so it is no adapter folder")
    try:
        config = read_json(path)
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    return config


def _check(adapter: Adapter) -> None:
    """Every layer has all that its kind needs, and every number is finite."""
    if adapter.kind not in KINDS:
        raise MusicotError(
            f"adapter {adapter.name}: fine_tune_type is {adapter.kind!r}, expected "
            f"{', '.join(KINDS)}"
        )
    wanted = _LEAVES.get(adapter.kind)
    for path, leaves in adapter.layers().items():
        whole = adapter.whole and not set(leaves) & {"lora_a", "lora_b", "m"}
        if wanted is not None and set(leaves) != wanted and not whole:
            raise MusicotError(
                f"adapter {adapter.name}: {path} holds {', '.join(sorted(leaves))}; a "
                f"{adapter.kind} adapter has {', '.join(sorted(wanted))}"
            )
    odd = [k for k, v in adapter.arrays.items() if not mx.issubdtype(v.dtype, mx.floating)]
    if odd:
        kind = str(adapter.arrays[odd[0]].dtype).removeprefix("mlx.core.")
        raise MusicotError(f"adapter {adapter.name}: {odd[0]} is {kind}; {SAVE_AGAIN}")
    finite = {key: mx.isfinite(value).all() for key, value in adapter.arrays.items()}
    mx.eval(list(finite.values()))
    bad = [key for key, value in finite.items() if not value.item()]
    if bad:
        raise MusicotError(f"adapter {adapter.name}: {bad[0]} holds NaN or infinity; train again")


def save_arrays(
    path: Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all."""
    metadata = {"format": "mlx", **(metadata or {})}
    with atomic_path(path) as temporary:
        try:
            mx.save_safetensors(str(temporary), dict(arrays), metadata=metadata)
        except RuntimeError as error:
            raise RunError(f"can't write {path} ({error}); is the disk full?") from error


def save_adapter(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> None:
    """Write an adapter folder: its arrays, then its config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(folder / ADAPTER_FILE, arrays)
    text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
    write_text(folder / ADAPTER_CONFIG, text)


Changes = Sequence[tuple[Adapter, Mapping[str, mx.array]]]  # of one layer, adapter by adapter


def names_of(changes: Changes) -> set[str]:
    """The parameters of a layer that adapters change."""
    whole = {name for _, tensors in changes if "lora_a" not in tensors for name in tensors}
    return whole | {"weight"} if any("lora_a" in tensors for _, tensors in changes) else whole


def kept_as(stored: mx.Dtype) -> mx.Dtype:
    """How a changed weight is kept whose layer is stored so: bfloat16 would round the change away,
    and packed weights are no numbers.
    """
    return mx.float16 if stored == mx.float16 else mx.float32


def worn(
    value: mx.array, changes: Changes, name: str, *, embedding: bool, stored: mx.Dtype
) -> mx.array:
    """A layer's parameter with adapters in it, float32: the numbers that `musicot fuse` writes.

    value: float32; stored: the dtype that the parameter has in the model's folder.
    """
    steps = [
        change(value, adapter, tensors, embedding=embedding, name=name)
        for adapter, tensors in changes
        if name in tensors or (name == "weight" and "lora_a" in tensors)
    ]
    return sum(steps, value).astype(kept_as(stored)).astype(mx.float32)


def change(
    weight: mx.array,
    adapter: Adapter,
    tensors: Mapping[str, mx.array],
    *,
    embedding: bool,
    name: str = "weight",
) -> mx.array:
    """What an adapter adds to one layer's dense weight, float32 of its shape.

    weight: float32 (out, in), or (rows, dim) of an embedding. name: of another parameter, which
    is changed as a whole.
    """
    if "lora_a" not in tensors:
        return adapter.strength * (tensors[name].astype(mx.float32) - weight)
    a, b = tensors["lora_a"].astype(mx.float32), tensors["lora_b"].astype(mx.float32)
    delta = adapter.scale * (a @ b if embedding else b.T @ a.T)
    if adapter.kind == "dora":
        adapted = weight + delta
        norm = mx.linalg.norm(adapted, axis=1, keepdims=True)
        delta = tensors["m"].astype(mx.float32)[:, None] / norm * adapted - weight
    return adapter.strength * delta
