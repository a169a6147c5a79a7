"""Files of weights as folders hold them: which of them count, what is in them, under what names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
from safetensors import SafetensorError, safe_open

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json

# How safetensors calls MLX's dtypes. It knows more of them: mx.load refuses float64 as if the file
# were broken and takes float8 for integers, so headers are asked first.
DTYPES = {
    mx.float32: "F32",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.int64: "I64",
    mx.int32: "I32",
    mx.int16: "I16",
    mx.int8: "I8",
    mx.uint64: "U64",
    mx.uint32: "U32",
    mx.uint16: "U16",
    mx.uint8: "U8",
    mx.bool_: "BOOL",
}
SAVE_AGAIN = "save the model again in float32, float16 or bfloat16 (PyTorch: model.float())"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
# what torch.compile, and DataParallel and its kin, put around a model and before its names
_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_WRAPPED = re.compile(r"^(?:module\.)+")
Value = TypeVar("Value")


def load_file(path: Path) -> dict[str, mx.array]:
    """The arrays of a safetensors file, unread.

    Raises MusicotError for a file that is broken, and names a tensor of a kind that MLX has not.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                if (kind := file.get_slice(name).get_dtype()) not in DTYPES.values():
                    raise MusicotError(f"{path}: {name} is {kind}; {SAVE_AGAIN}")
        return mx.load(str(path), format="safetensors")
    except (OSError, RuntimeError, SafetensorError) as error:
        raise MusicotError(
            f"{path} is truncated or not safetensors ({path.stat().st_size:,} bytes); "
            "get the model again"
        ) from error


def plain_names(values: Mapping[str, Value], where: str | Path) -> dict[str, Value]:
    """Tensors by their names in the model, whatever stood around it as it was saved.

    Raises MusicotError where two names become one.
    """
    out: dict[str, Value] = {}
    for key, value in values.items():
        name = _WRAPPED.sub("", _COMPILED.sub("", key))
        if name in out:
            raise MusicotError(f"{where}: {name} stands there twice, once as {key}")
        out[name] = value
    return out


def weight_files(
    folder: Path, stem: str = "model", ending: str = ".safetensors"
) -> list[tuple[Path, set[str] | None]]:
    """The files that make up a folder's weights, each with the keys that an index says it has; []
    where there are none.

    As transformers chooses: `model.safetensors`, then the shards of the index, then shards without
    one; an index whose files are gone is passed over where others are whole. A variant
    (`model.fp16.safetensors`) counts where nothing else does. Raises MusicotError for shards that
    are missing, a broken index, and where several sets of files might be meant.
    """
    if (single := folder / f"{stem}{ending}").is_file():
        return [(single, None)]
    names = sorted(path.name for path in folder.glob(f"{stem}*{ending}"))
    index = _index(folder / f"{stem}{ending}.index.json")
    if index and index.keys() <= set(names):
        return [(folder / name, keys) for name, keys in sorted(index.items())]
    sets: dict[tuple[str, int], list[str]] = {}  # of one variant and as many shards
    for name in names:
        rest = name.removeprefix(stem).removesuffix(ending)
        shards = int(match[2]) if (match := _SHARD.search(rest)) else 1
        sets.setdefault((_SHARD.sub("", rest), shards), []).append(name)
    whole = {key: found for key, found in sets.items() if len(found) == key[1]}
    for chosen in (
        [found for (variant, _), found in whole.items() if not variant],
        [found for (variant, _), found in whole.items() if variant.startswith(".")],
    ):
        if len(chosen) > 1:
            firsts = " and ".join(found[0] for found in chosen)
            raise MusicotError(
                f"{folder} holds the weights as {firsts}; keep one of them, or name it "
                f"{stem}{ending}"
            )
        if chosen:
            return [(folder / name, None) for name in chosen[0]]
    missing = sorted(set(index or ()) - set(names))
    if missing:
        raise MusicotError(f"{folder / missing[0]} is missing; get the model again")
    cut = [found for key, found in sets.items() if key not in whole]
    if cut:
        raise MusicotError(f"{folder} lacks shards beside {cut[0][0]}; get the model again")
    return [(folder / name, None) for name in names]


def _index(path: Path) -> dict[str, set[str]] | None:
    """The keys of each file that an index names; None where there is no index."""
    if not path.is_file():
        return None
    try:
        files: dict[str, set[str]] = {}
        for key, name in read_json(path)["weight_map"].items():
            files.setdefault(name, set()).add(key)
        return files
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MusicotError(f"{path} is not a valid index; get the model again") from error
