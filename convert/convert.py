"""A PyTorch checkpoint folder (model_type musicot-pytorch) to an MLX folder.

Each part's keys go through its table in keymaps/, floats become 16-bit, linear layers and
embeddings are quantised if asked, and the written folder is loaded once. No torch is needed.
"""

import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot import PARTS, load
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    load_strict,
    parameter_count,
    part,
    quantize_arrays,
    read_config,
    require_parts,
    save_checkpoint,
    size_text,
)
from musicot_mlx.weights.config import config_from_dict
from musicot_mlx.weights.hub import resolve

# Group size and bits of each mode; only affine lets them be chosen.
QUANTIZATION = {"affine": (64, 8), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}

# Names whose rounding to 16 bits would change codes, phases or decibels: these stay float32.
EXACT = {
    "rvq": r".*",
    "semantic_tokenizer": r".*codebook.*",
    "diffusion": r"dit\.time_proj\.weight|.*\.frequencies",
    "clap": r".*batch_norm.*",
}


def convert(
    source: str | Path,
    target: str | Path,
    *,
    quantize: bool = False,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    dtype: str = "float16",
) -> str:
    """Write the MLX folder `target` and return a line that says what is in it.

    source: folder or Hub id of a checkpoint written by reference/musicot.py. Raises MusicotError
    for a checkpoint of another kind, keys that no table knows, or weights that don't fit.
    """
    if mode not in QUANTIZATION:
        raise MusicotError(f"--q-mode {mode!r} is unknown; use one of {', '.join(QUANTIZATION)}")
    group_size, bits = group_size or QUANTIZATION[mode][0], bits or QUANTIZATION[mode][1]
    if mode != "affine" and (group_size, bits) != QUANTIZATION[mode]:
        raise MusicotError(
            f"--q-mode {mode} has {QUANTIZATION[mode][1]} bits in groups of {QUANTIZATION[mode][0]}"
        )
    folder, target = resolve(source), Path(target)
    if target.exists() and target.resolve() == folder.resolve():
        raise MusicotError(f"--mlx-path {target} is the checkpoint itself; name another folder")
    config = _source_config(folder)
    source_arrays = load_arrays(folder)
    require_parts(source_arrays, PARTS, where=str(folder))

    out_config: dict[str, Any] = {**config, "model_type": "musicot"}
    out_arrays: dict[str, mx.array] = {}
    if quantize:
        out_config["quantization"] = {"group_size": group_size, "bits": bits, "mode": mode}
    for name in PARTS:
        values, arrays, network = _translate(name, config[name], part(source_arrays, name))
        exact, rest = _cast(name, arrays, getattr(mx, dtype))
        if quantize:
            rest = quantize_arrays(network, rest, group_size=group_size, bits=bits, mode=mode)
        out_config[name] = values
        out_arrays.update({f"{name}.{key}": value for key, value in (exact | rest).items()})

    mx.eval(out_arrays)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise MusicotError(f"{folder} holds no tokenizer.json, which prompts and lyrics need")
    count = parameter_count(out_config, out_arrays)
    size = sum(value.nbytes for value in out_arrays.values())
    stored = f"{bits}-bit {mode} in groups of {group_size}, {dtype} rest" if quantize else dtype
    summary = f"{size_text(count).strip()} parameters, {size_text(size)}B, {stored}"
    card = _card(target.name, summary, out_config, out_arrays)
    save_checkpoint(
        target, out_config, out_arrays, {"tokenizer.json": tokenizer, "README.md": card}
    )
    load(target)
    return f"{target}: {summary}"


def _source_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder, model_types=None)
    kind = config.get("model_type")
    if kind == "musicot":
        raise MusicotError(f"{folder} is an MLX folder already; load it as it is")
    if kind != "musicot-pytorch":
        raise MusicotError(
            f"{folder}: can't convert model_type {kind!r}; musicot convert reads the checkpoints "
            "that musicot_mlx.reference writes (model_type musicot-pytorch)"
        )
    missing = [name for name in PARTS if not isinstance(config.get(name), dict)]
    if missing:
        raise MusicotError(f"{folder}/config.json lacks the sections {', '.join(missing)}")
    return config


def _keymap(name: str) -> ModuleType:
    return import_module(f"musicot_mlx.convert.keymaps.{name}")


def _translate(
    name: str, values: dict[str, Any], arrays: dict[str, mx.array]
) -> tuple[dict[str, Any], dict[str, mx.array], nn.Module]:
    """Sub-config, arrays under MLX names, and the network that they fit (checked)."""
    keymap = _keymap(name)
    values = keymap.config(values) if hasattr(keymap, "config") else values
    arrays = apply_rules(keymap.RULES, arrays, where=name)
    network_class, config_class = PARTS[name]
    network = network_class(config_from_dict(config_class, values, where=name))
    load_strict(network, arrays, where=name)
    return values, arrays, network


def _cast(
    name: str, arrays: dict[str, mx.array], dtype: mx.Dtype
) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
    """The arrays that stay exact (codebooks in float32, integers), and the rest as `dtype`."""
    exact, rest = {}, {}
    pattern = re.compile(EXACT.get(name, r"(?!)"))
    for key, value in arrays.items():
        if not mx.issubdtype(value.dtype, mx.floating):
            exact[key] = value
        elif pattern.fullmatch(key):
            exact[key] = value.astype(mx.float32)
        else:
            rest[key] = value.astype(dtype)
            if not mx.isfinite(rest[key]).all().item():
                raise MusicotError(
                    f"{name}.{key} exceeds the range of {str(dtype).removeprefix('mlx.core.')}; "
                    "pass --dtype bfloat16 or float32"
                )
    return exact, rest


def _card(name: str, summary: str, config: dict[str, Any], arrays: dict[str, mx.array]) -> str:
    """The README.md of an MLX folder."""
    rows = []
    for key in PARTS:
        piece = part(arrays, key)
        size = sum(value.nbytes for value in piece.values())
        rows.append(
            f"| {key} | {size_text(parameter_count(config, piece)).strip()} | {size_text(size)}B |"
        )
    table = "\n".join(rows)
    return f"""---
library_name: musicot-mlx
pipeline_tag: text-to-audio
---

# {name}

A MusiCoT checkpoint (arXiv 2503.19611) for musicot-mlx:
{summary}.

| part | parameters | size |
|---|---|---|
{table}

```
musicot generate --model {name} -p "solo piano, slow and calm" --duration 20
```
"""
