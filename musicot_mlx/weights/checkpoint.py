"""Checkpoint folders: config.json, safetensors with an index, strict loading, atomic saving.

The layout is mlx-lm's: `config.json` with sorted keys and a `quantization` entry where linear
layers are quantised, `model.safetensors` or shards, and `model.safetensors.index.json` always.
Where we differ: loading is strict (each key of the file used once, each parameter filled once),
weights that are not finite are refused by name, and weights may be expanded to float32 as they are
loaded (pipelines/parts.py does so on a CPU).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.atomic import explain
from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.texts import read_json
from musicot_mlx.weights.files import DTYPES, load_file, plain_names, weight_files
from musicot_mlx.weights.quantized import dequantised

SHARD_BYTES = 5 << 30  # as mlx-lm and the Hub split
_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read_config(
    folder: str | Path, *, model_types: tuple[str, ...] | None = ("musicot",)
) -> dict[str, Any]:
    """config.json of a checkpoint folder, checked to be one of `model_types` (None: any).

    Raises MusicotError for a missing folder or file, broken JSON, a PyTorch checkpoint where an MLX
    one is expected (with the command that converts it), and an unknown model_type.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MusicotError(f"no model folder at {folder}")
    path = folder / "config.json"
    if not path.is_file():
        if any(file.suffix in _PICKLES for file in folder.iterdir()):
            raise _pytorch(folder)
        raise MusicotError(f"{folder} holds no config.json, so it is not a model folder")
    try:
        config = read_json(path)
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error}); get the model again") from error
    if not isinstance(config, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    if model_types is None:
        return config
    kind = config.get("model_type")
    # transformers has model types of the same names, so what only it writes comes first
    upstream = any(key in config for key in ("architectures", "transformers_version"))
    if kind in model_types and not upstream:
        return config
    if "musicot-pytorch" not in model_types and (
        upstream
        or kind == "musicot-pytorch"
        or "_class_name" in config
        or any(file.suffix in _PICKLES for file in folder.iterdir())
    ):
        raise _pytorch(folder)
    raise MusicotError(
        f"{path}: model_type is {kind!r}, expected {' or '.join(map(repr, model_types))}"
    )


def _pytorch(folder: Path) -> MusicotError:
    return MusicotError(
        f"{folder} is a PyTorch checkpoint; run "
        f"musicot convert --hf-path {folder} --mlx-path {folder}-mlx and load that"
    )


def load_arrays(folder: str | Path, *, lazy: bool = False) -> dict[str, mx.array]:
    """Every array of the folder's safetensors files (one file or shards), each finite.

    lazy: nothing is read until it is used, so nothing is checked to be finite either. Raises
    MusicotError for missing, truncated or inconsistent files and for weights not finite.
    """
    folder = Path(folder)
    arrays: dict[str, mx.array] = {}
    for path, expected in _shards(folder):
        shard = load_file(path)
        if expected is not None and set(shard) != expected:
            odd = sorted(set(shard) ^ expected)
            raise MusicotError(
                f"{path} and {_INDEX} disagree about {first_few(odd)}; get the model again"
            )
        twice = sorted(set(shard) & set(arrays))
        if twice:
            raise MusicotError(f"{folder}: {first_few(twice)} stands in more than one file")
        arrays.update(shard)
    arrays = plain_names(arrays, folder)
    if not lazy:
        require_finite(arrays, folder)
    return arrays


def _shards(folder: Path) -> list[tuple[Path, set[str] | None]]:
    shards = weight_files(folder)
    if not shards:
        if any(file.suffix in _PICKLES for file in folder.iterdir()):
            raise _pytorch(folder)
        raise MusicotError(f"{folder} holds no model.safetensors; get the model again")
    return shards


def require_finite(arrays: Mapping[str, mx.array], folder: Path) -> None:
    """Raise MusicotError that names the first few weights that are not finite."""
    checks = {
        key: mx.isfinite(value).all()
        for key, value in arrays.items()
        if mx.issubdtype(value.dtype, mx.floating)
    }
    mx.eval(list(checks.values()))
    bad = sorted(key for key, finite in checks.items() if not finite.item())
    if bad:
        raise MusicotError(
            f"{folder}: NaN or infinite weights in {first_few(bad)}; the checkpoint is broken"
        )


def part(arrays: Mapping[str, mx.array], name: str) -> dict[str, mx.array]:
    """The arrays of one part, without its `name.` prefix."""
    prefix = name + "."
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def require_parts(arrays: Mapping[str, mx.array], names: Iterable[str], *, where: str) -> None:
    """Each key belongs to one of the parts; the error lists the first few that don't."""
    names = tuple(names)
    stray = sorted(key for key in arrays if key.split(".", 1)[0] not in names)
    if stray:
        raise MusicotError(
            f"{where}: {len(stray)} keys belong to no part: {first_few(stray)} "
            f"(parts are {', '.join(names)})"
        )


def load_strict(module: nn.Module, arrays: Mapping[str, mx.array], *, where: str) -> None:
    """Fill every parameter of `module` from `arrays`, using every array; `where` names the part.

    Floats may be of any width; an integer is none of them, and packed weights are of one type.
    Raises MusicotError that lists the first few missing, unexpected or misshapen names, and those
    of another kind.
    """
    parameters = dict(tree_flatten(module.parameters()))
    problems = []
    for words, ours, theirs in (
        ("missing", parameters, arrays),
        ("unexpected", arrays, parameters),
    ):
        if odd := [f"{key} {tuple(ours[key].shape)}" for key in sorted(set(ours) - set(theirs))]:
            problems.append(f"{len(odd)} {words} ({first_few(odd)})")
    misshapen = [
        f"{key} is {tuple(arrays[key].shape)}, the config says {tuple(parameters[key].shape)}"
        for key in sorted(set(parameters) & set(arrays))
        if arrays[key].shape != parameters[key].shape
    ]
    if misshapen:
        problems.append(f"{len(misshapen)} of another shape ({first_few(misshapen, '; ')})")
    mistaken = [
        f"{key} holds {_kind(arrays[key])}, the network has {_kind(parameters[key])}"
        for key in sorted(set(parameters) & set(arrays))
        if _kind(arrays[key]) != _kind(parameters[key])
    ]
    if mistaken:
        problems.append(f"{len(mistaken)} of another kind ({first_few(mistaken, '; ')})")
    if problems:
        raise MusicotError(f"{where}: the weights don't fit the config: {', '.join(problems)}")
    module.load_weights(list(arrays.items()))


def _kind(value: mx.array) -> str:
    floats = mx.issubdtype(value.dtype, mx.floating)
    return "floats" if floats else str(value.dtype).removeprefix("mlx.core.")


def prepare(
    module: nn.Module,
    quantization: Mapping[str, Any] | None,
    arrays: Mapping[str, mx.array],
    *,
    where: str = "",
    expand: bool = False,
    packed: bool = False,
) -> nn.Module:
    """Load a part and make it ready to run: strict, and in eval mode. Returns `module`.

    quantization: this part's, by `quantization_of`; arrays: this part's, prefix off. Layers whose
    weights have `.scales` become quantised layers; with `expand` their weights are expanded, unless
    they are to stay `packed`, and everything that floats becomes float32.
    """
    where = where or type(module).__name__
    quantization = quantization or {}
    quantised = sorted(key[: -len(".scales")] for key in arrays if key.endswith(".scales"))
    if quantised and not quantization:
        raise MusicotError(
            f"{where}: {quantised[0]} is quantised but config.json has no quantization entry"
        )
    if expand:
        expanded = [] if packed else quantised
        arrays = _to_float32(arrays, expanded, quantization, where)
    if quantised and not (expand and not packed):
        nn.quantize(
            module,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            mode=quantization.get("mode", "affine"),
            class_predicate=lambda path, layer: (
                path in quantised and hasattr(layer, "to_quantized")
            ),
        )
    load_strict(module, arrays, where=where)
    del arrays
    module.eval()
    # one by one: what a weight was made from is let go before the next is made
    for _, value in tree_flatten(module.parameters()):
        mx.eval(value)
    return module


def _to_float32(
    arrays: Mapping[str, mx.array],
    quantised: list[str],
    quantization: Mapping[str, Any],
    where: str,
) -> dict[str, mx.array]:
    out = {}
    packed = {f"{path}.{name}" for path in quantised for name in ("weight", "scales", "biases")}
    for key, value in arrays.items():
        if key not in packed:
            out[key] = (
                value.astype(mx.float32) if mx.issubdtype(value.dtype, mx.floating) else value
            )
    for path in quantised:
        kind = "floats" if quantization.get("mode", "affine") == "affine" else "uint8"
        if (own := _kind(arrays[f"{path}.scales"])) != kind:  # MLX would expand them all the same
            raise MusicotError(f"{where}: {path}.scales holds {own}, expected {kind}")
        try:
            out[f"{path}.weight"] = dequantised(arrays, path, quantization)
        except (KeyError, ValueError) as error:
            raise MusicotError(
                f"{where}: {path} doesn't fit the quantization entry of config.json ({error})"
            ) from error
    return out


def quantization_of(config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """How a part is quantised: its own entry of `quantization` where it has one, else the whole's.

    As in mlx-lm an entry of false says that the part is not quantised.
    """
    quantization = config.get("quantization") or {}
    own = quantization.get(name, quantization) or {}
    return {key: own[key] for key in ("group_size", "bits", "mode") if key in own} or None


def has_embeddings(embeddings: bool | Collection[str], part: str) -> bool:
    """Whether a part's embeddings are quantised too, where all, none or those of some parts are."""
    return embeddings if isinstance(embeddings, bool) else part in embeddings


def quantize_arrays(
    module: nn.Module,
    arrays: Mapping[str, mx.array],
    *,
    group_size: int,
    bits: int,
    mode: str = "affine",
    embeddings: bool = True,
) -> dict[str, mx.array]:
    """Arrays of a part with the weights of its linear layers and embeddings quantised.

    A layer whose last dimension is no multiple of `group_size` stays as it is, and so do embeddings
    where they are not to be quantised.
    """
    kinds = (nn.Linear, nn.Embedding) if embeddings else (nn.Linear,)
    layers = {
        path
        for path, layer in module.named_modules()
        if type(layer) in kinds and layer.weight.shape[-1] % group_size == 0
    }
    out = {}
    for key, value in arrays.items():
        path, _, name = key.rpartition(".")
        if name == "weight" and path in layers:
            packed = mx.quantize(value, group_size=group_size, bits=bits, mode=mode)
            names = ("weight", "scales", "biases")
            out.update(zip((f"{path}.{name}" for name in names), packed, strict=False))
        else:
            out[key] = value
    return out


def save_checkpoint(
    folder: str | Path,
    config: Mapping[str, Any],
    arrays: Mapping[str, mx.array],
    extra_files: Mapping[str, str | bytes | Path] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    consume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a checkpoint folder whole or not at all, and return it.

    extra_files: file name -> text, bytes, or a path to copy (tokenizer.json, README.md). A folder
    that exists keeps its other files; its old weights go only when all the new files are written.
    consume: `arrays` is a dict that is emptied as it is written, so that lazy arrays are in memory
    one at a time. progress is called as progress(bytes done, bytes in all). Raises RunError when
    the disk is full and MusicotError when `folder` can't be written or a weight is not finite.
    """
    folder = Path(folder)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        arrays = arrays if consume else dict(arrays)
        _write_files(temporary, config, arrays, extra_files or {}, shard_bytes, progress)
        _publish(temporary, folder)
    except OSError as error:
        raise explain(error, folder) from error
    except RuntimeError as error:  # MLX reports a failed read so, and reads when arrays are used
        raise MusicotError(f"can't read the weights for {folder} ({error})") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_files(
    folder: Path,
    config: Mapping[str, Any],
    arrays: dict[str, mx.array],
    extra_files: Mapping[str, str | bytes | Path],
    shard_bytes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for key in sorted(arrays):
        if shards[-1] and arrays[key].nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(key)
        room -= arrays[key].nbytes
    weight_map = {}
    total = sum(value.nbytes for value in arrays.values())
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, total)

    for number, shard in enumerate(shards, start=1):
        name = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        write_safetensors(folder / name, {key: arrays.pop(key) for key in shard}, wrote=count)
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    for name, content in extra_files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content, encoding="utf-8")


def write_safetensors(
    path: Path, arrays: dict[str, mx.array], *, wrote: Callable[[int], None] = lambda size: None
) -> None:
    """Write one safetensors file and empty `arrays`: each is computed, written and let go.

    mx.save_safetensors would hold all of them at once. wrote is called with the bytes of each.
    Raises MusicotError for a weight that is not finite.
    """
    # wide types first, so that each array begins at a multiple of its item size
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    begin = 0
    for name in names:
        value = arrays[name]
        end = begin + value.nbytes
        header[name] = {
            "dtype": DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            value = arrays.pop(name)
            floats = mx.issubdtype(value.dtype, mx.floating)
            if floats and not mx.isfinite(value).all().item():
                raise MusicotError(
                    f"{name} holds NaN, infinity, or values beyond "
                    f"{str(value.dtype).removeprefix('mlx.core.')}; the checkpoint is broken, or "
                    "needs --dtype bfloat16 or float32"
                )
            if value.dtype == mx.bfloat16:  # which numpy does not know
                value = value.view(mx.uint16)
            file.write(np.ascontiguousarray(value).data)
            wrote(value.nbytes)


def _publish(temporary: Path, folder: Path) -> None:
    os.chmod(temporary, 0o755)  # mkdtemp makes it private
    if not folder.exists():
        temporary.rename(folder)
        return
    stale = {path.name for path in folder.glob("model*.safetensors")}
    # config.json last: until it stands, a reader meets the old config and a strict error at worst.
    names = sorted((p.name for p in temporary.iterdir()), key=lambda name: name == "config.json")
    for name in names:
        (temporary / name).replace(folder / name)
    for name in stale - set(names):
        (folder / name).unlink()


def dense_count(arrays: Mapping[str, mx.array], quantization: Mapping[str, Any] | None) -> int:
    """How many values arrays of one part have, a packed matrix counting by those it stands for."""
    return parameter_count({"quantization": quantization}, arrays)


def parameter_count(config: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> int:
    """Number of weights, counting a quantised matrix by the values it stands for."""
    bits = (config.get("quantization") or {}).get("bits", 32)
    total = 0
    for key, value in arrays.items():
        path, _, name = key.rpartition(".")
        if name in ("scales", "biases") and f"{path}.scales" in arrays:
            continue
        packed = name == "weight" and f"{path}.scales" in arrays
        total += value.size * 32 // bits if packed else value.size
    return total


def size_text(count: float) -> str:
    """A count of parameters or bytes for people, its unit to follow: `12.3 M`."""
    for unit in ("", "k", "M"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} G"
