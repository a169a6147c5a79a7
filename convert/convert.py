"""A PyTorch checkpoint to an MLX folder: read by its family, cast, quantised, written.

families/ read the checkpoints, by the tables of keymaps/. Arrays stay unread until they are written
one by one, so a conversion needs the memory of its largest array. No torch is needed, unless the
checkpoint is a pickle.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.convert import families
from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.peft import convert_peft, is_peft
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.families import FAMILIES
from musicot_mlx.pipelines.family import named as record_of
from musicot_mlx.pipelines.given import flag, number, path_of, shown
from musicot_mlx.weights.checkpoint import (
    has_embeddings,
    load_strict,
    parameter_count,
    quantization_of,
    quantize_arrays,
    save_checkpoint,
    size_text,
)
from musicot_mlx.weights.config import network_from_dict
from musicot_mlx.weights.hub import resolve, split_size

# Group size and bits of each mode; only affine lets them be chosen.
QUANTIZATION = {"affine": (64, 8), "mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}
EMBEDDINGS = "embeddings"  # stands among the parts of --q-parts

DTYPES = ("float16", "bfloat16", "float32")


def convert(
    source: str | Path,
    target: str | Path,
    *,
    size: str | None = None,
    quantize: bool = False,
    bits: int | None = None,
    group_size: int | None = None,
    mode: str = "affine",
    q_parts: Mapping[str, int | None] | None = None,
    dtype: str = "float16",
    text_encoder: str | None = None,
    tokenizer: str | Path | None = None,
    keep_lora: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Write the MLX folder `target` and return a line that says what is in it.

    source: folder, file or Hub id of a checkpoint that a family of families/ knows; size: which one
    of those that it holds, also said as source:size. q_parts: parts to quantise, each with its bits
    or None for `bits`; the name "embeddings" adds the embeddings of these parts (None: what the
    family says). text_encoder: folder or Hub id of the T5 for a checkpoint without; tokenizer:
    tokenizer.json, or a folder with one, for a checkpoint without; keep_lora: LoRA in a checkpoint
    stays beside its weights. say gets lines on what is found and what converting it takes, before
    it begins. progress is called as progress(bytes written, bytes in all). Raises MusicotError for
    a checkpoint of another kind, keys that no table knows, or weights that don't fit.
    """
    path_of("source", source), path_of("target", target)
    bits = number("bits", bits, low=2, high=8, whole=True)
    group_size = number("group_size", group_size, low=16, high=128, whole=True)
    if dtype not in DTYPES:
        raise MusicotError(f"dtype is {shown(dtype)}; ask for one of {', '.join(DTYPES)}")
    if flag(quantize) is None:
        raise MusicotError(f"quantize is {shown(quantize)}; pass True or False")
    if not isinstance(q_parts or {}, Mapping):
        raise MusicotError(f"q_parts is {shown(q_parts)}; pass bits by part, {{'decoder': 4}}")
    for name, file in (("text_encoder", text_encoder), ("tokenizer", tokenizer)):
        if file is not None:
            path_of(name, file)
    if not isinstance(mode, str) or mode not in QUANTIZATION:
        raise MusicotError(f"--q-mode {mode!r} is unknown; use one of {', '.join(QUANTIZATION)}")
    group_size, bits = group_size or QUANTIZATION[mode][0], bits or QUANTIZATION[mode][1]
    if mode != "affine" and (group_size, bits) != QUANTIZATION[mode]:
        raise MusicotError(
            f"--q-mode {mode} has {QUANTIZATION[mode][1]} bits in groups of {QUANTIZATION[mode][0]}"
        )
    size = size or split_size(source)[1]
    folder, target = checkpoint_path(source), Path(target)
    if target.exists() and target.resolve() == folder.resolve():
        raise MusicotError(f"--mlx-path {target} is the checkpoint itself; name another folder")
    if is_peft(folder):
        if quantize or q_parts:
            raise MusicotError("adapters are not quantised; leave out -q")
        return convert_peft(folder, target)
    # beside the target: where a model has room, and not in a /tmp that is memory
    beside = next(parent for parent in target.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".musicot-convert-", dir=beside) as scratch:
        options = {"text_encoder": text_encoder, "tokenizer": tokenizer, "size": size}
        options |= {"keep_lora": keep_lora, "say": say or (lambda line: None)}
        checkpoint = families.read(folder, Path(scratch), **options)
        if quantize or q_parts:
            checkpoint = _choose_quantization(
                checkpoint, q_parts, {"group_size": group_size, "bits": bits, "mode": mode}
            )
        named = frozenset(q_parts or ())
        return _write(checkpoint, target, dtype, named, progress)


def checkpoint_path(source: str | Path) -> Path:
    """The folder or file that is to be converted; a Hub id is downloaded."""
    file = Path(source).expanduser()
    return file if file.is_file() else resolve(source)


def _choose_quantization(
    checkpoint: Checkpoint, q_parts: Mapping[str, int | None] | None, whole: dict[str, Any]
) -> Checkpoint:
    """The checkpoint with the `quantization` entry of its config: of the whole, then by part."""
    names = tuple(checkpoint.parts)
    if q_parts is None:
        chosen = dict.fromkeys(checkpoint.quantised or names)
    else:
        unknown = [name for name in q_parts if name not in (*names, EMBEDDINGS)]
        if unknown:
            raise MusicotError(
                f"--q-parts: no part {unknown[0]!r}; it has {', '.join(names)}, {EMBEDDINGS}"
            )
        chosen = {name: q_parts[name] for name in names if name in q_parts}
        checkpoint = replace(checkpoint, embeddings=EMBEDDINGS in q_parts)
    quantization = dict(whole)
    for name in names:
        if name not in chosen:
            quantization[name] = False
        elif chosen[name] not in (None, whole["bits"]):
            if whole["mode"] != "affine":
                raise MusicotError(f"--q-parts: --q-mode {whole['mode']} leaves no choice of bits")
            quantization[name] = {**whole, "bits": chosen[name]}
        elif chosen[name] is None and whole["bits"] < checkpoint.least_bits.get(name, 0):
            least = {"group_size": 64, "bits": checkpoint.least_bits[name], "mode": "affine"}
            if whole["mode"] == "affine":
                least["group_size"] = whole["group_size"]
            quantization[name] = least
    return replace(checkpoint, config={**checkpoint.config, "quantization": quantization})


def _write(
    checkpoint: Checkpoint,
    target: Path,
    dtype: str,
    named: frozenset[str],
    progress: Callable[[int, int], None] | None,
) -> str:
    """Cast and quantise each part and write the folder; returns the line that describes it.

    named: the parts asked for by name, where quantising nothing would be an error.
    """
    config, arrays, rows = checkpoint.config, {}, []
    for name in checkpoint.parts:
        network = _network(checkpoint, name)
        exact, rest, stored = _cast(checkpoint, name, dtype)
        if quantization := quantization_of(config, name):
            embedded = has_embeddings(checkpoint.embeddings, name)
            rest = quantize_arrays(network, rest, **quantization, embeddings=embedded)
            if name in named and not any(key.endswith(".scales") for key in rest):
                raise MusicotError(
                    f"--q-parts: {name} has nothing to quantise in groups of "
                    f"{quantization['group_size']}; leave it out"
                )
        piece = exact | rest
        count = parameter_count({"quantization": quantization}, piece)
        size = sum(value.nbytes for value in piece.values())
        rows.append((name, count, size, _stored(quantization, stored) if rest else ""))
        arrays.update({f"{name}.{key}": value for key, value in piece.items()})
        checkpoint.arrays[name].clear()  # what is written is to be let go
    summary = _summary(rows)
    card = _card(target.name, summary, rows, checkpoint)
    del network, exact, rest, piece
    files = {**checkpoint.files, "README.md": card}
    save_checkpoint(target, config, arrays, files, consume=True, progress=progress)
    return f"{target}: {summary}"


def _network(checkpoint: Checkpoint, name: str) -> nn.Module:
    """The network of a part, on condition that the arrays fit it."""
    network_class, config_class = checkpoint.parts[name]
    network = network_from_dict(network_class, config_class, checkpoint.config[name], where=name)
    load_strict(network, checkpoint.arrays[name], where=name)
    return network


def _cast(
    checkpoint: Checkpoint, name: str, dtype: str
) -> tuple[dict[str, mx.array], dict[str, mx.array], str]:
    """The arrays that stay exact (codebooks in float32, integers), the rest as its family has it
    for `dtype`, and what that is.
    """
    family = record_of(FAMILIES[checkpoint.config["model_type"]])
    exact, rest, kind = {}, {}, family.stored(name, "", dtype)
    for key, value in checkpoint.arrays[name].items():
        if not mx.issubdtype(value.dtype, mx.floating):
            exact[key] = value
        elif family.is_exact(name, key):
            exact[key] = value.astype(mx.float32)
        else:
            rest[key] = value.astype(getattr(mx, kind))
    return exact, rest, kind


Row = tuple[str, int, int, str]  # part, parameters, bytes, how it is stored; "" for exact alone


def _stored(quantization: Mapping[str, Any] | None, name: str) -> str:
    if not quantization:
        return name
    bits, mode, group_size = (quantization[key] for key in ("bits", "mode", "group_size"))
    return f"{bits}-bit {mode} in groups of {group_size}, {name} rest"


def _summary(rows: list[Row]) -> str:
    count, size = sum(row[1] for row in rows), sum(row[2] for row in rows)
    kinds = [(row[0], row[3]) for row in rows if row[3]]
    stored = "; ".join(" ".join(kind) for kind in kinds)
    if len({how for _, how in kinds}) == 1:
        stored = kinds[0][1]
    stored = stored or "float32"  # codebooks alone
    return f"{size_text(count).strip()} parameters, {size_text(size)}B, {stored}"


def _card(name: str, summary: str, rows: list[Row], checkpoint: Checkpoint) -> str:
    """The README.md of an MLX folder."""
    table = "\n".join(
        f"| {part} | {size_text(count).strip()} | {size_text(size)}B |"
        for part, count, size, _ in rows
    )
    notice = f"\n{checkpoint.notice}\n" if checkpoint.notice else ""
    return f"""---
library_name: musicot-mlx
pipeline_tag: text-to-audio
---

# {name}

Converted for musicot-mlx: {summary}.
{notice}
| part | parameters | size |
|---|---|---|
{table}

```
{checkpoint.example.format(name=name)}
```
"""
