"""PyTorch's pickled files, read without running what is in them, and without filling memory.

A pickle may hold code that runs when it is read. torch.load(weights_only=True) builds tensors and
plain containers and refuses everything else, and so do we.
"""

import argparse
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.weights.files import SAVE_AGAIN, load_file, plain_names, weight_files

PICKLES = (".pt", ".pth", ".ckpt")  # endings of files that torch.save wrote
PIECE = 256 << 20  # bytes of tensors a scratch file, more than which unpacking does not hold
# What reading a zip or a pickle that is no such thing any more may raise.
_BROKEN = (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


def unpickle(path: Path) -> Any:
    """What a file of torch.save holds; tensors stay on disk until they are used. The arguments of a
    training script may stand beside them: an argparse.Namespace is made of names and values alone.

    Raises MusicotError where torch is missing, for a file that is broken or has changed since it
    was written, and for one that holds code.
    """
    try:
        import torch
    except ImportError as error:
        raise MusicotError(
            f"{path} is a pickle, which only PyTorch reads: pip install 'musicot-mlx[torch]', or "
            "get the model as safetensors"
        ) from error
    try:
        zipped = zipfile.is_zipfile(path)  # files of torch before 1.6 are not, nor can be mapped
        if zipped:
            _require_unchanged(path)
        with torch.serialization.safe_globals([*_numbers(), argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise MusicotError(
            f"{path} holds more than weights, or is no PyTorch file, and reading that could run "
            "code, so it is not read; get the model as safetensors"
        ) from error
    except MusicotError:
        raise
    except _BROKEN as error:
        raise MusicotError(
            f"{path} is truncated or not a PyTorch file ({path.stat().st_size:,} bytes); "
            "get the model again"
        ) from error


def _require_unchanged(path: Path) -> None:
    """Raise MusicotError where what a zip holds differs from the sums it was written with. Files
    without sums (torch.serialization.set_crc32_options(False)) say 0 for each.
    """
    name = "its directory"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = member.filename
                if not member.CRC:
                    continue
                with archive.open(member) as stream:
                    while stream.read(PIECE >> 4):
                        pass
    except (zipfile.BadZipFile, OSError) as error:
        raise MusicotError(
            f"{path} has changed since it was written: {name} is not what its checksum says, as "
            "after a faulty download; get the model again"
        ) from error


def _numbers() -> list[Any]:
    """numpy's plain numbers, which training checkpoints hold as epoch or best score.

    Building one runs nothing. numpy 2 moved its core, files keep the name of their time.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("f8", "f4", "f2", "i8", "i4", "?")]
    places = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, *kinds, *((scalar, place) for place in places)]


def pickled_state(source: Path) -> dict[str, Any] | None:
    """Name -> tensor of a .pt file, or of a folder's only one; None where there is none.

    A training checkpoint holds the weights as `state_dict`; the optimiser beside it stays unread.
    Raises MusicotError for a folder with several, and for a file that holds no tensors by name.
    """
    if source.is_dir():
        files = sorted(p for p in source.iterdir() if p.suffix in PICKLES and p.is_file())
        if len(files) > 1:
            raise MusicotError(
                f"{source} holds {len(files)} checkpoints "
                f"({first_few(path.name for path in files)}); name one of them"
            )
        if not files:
            return None
        source = files[0]
    elif source.suffix not in PICKLES:
        return None
    state = unpickle(source)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not any(hasattr(v, "shape") for v in state.values()):
        raise MusicotError(f"{source} holds no state dict, that is tensors by name")
    tensors = {key: value for key, value in state.items() if hasattr(value, "shape")}
    return plain_names(tensors, source)


def lazy_arrays(tensors: Mapping[str, Any], scratch: Path) -> dict[str, mx.array]:
    """Tensors as arrays that are read when they are used, by way of files in `scratch`."""
    arrays: dict[str, mx.array] = {}
    for number, piece in enumerate(_pieces(tensors)):
        path = scratch / f"{len(list(scratch.iterdir()))}-{number}.safetensors"
        mx.save_safetensors(str(path), {key: _array(key, v) for key, v in piece.items()})
        arrays |= load_file(path)
    return arrays


def _array(key: str, tensor: Any) -> mx.array:
    """A tensor as an array; float64 becomes float32, which is how MLX computes."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind.startswith(("float8", "complex", "q")):
        raise MusicotError(f"{key} is {kind}; {SAVE_AGAIN}")
    return mx.array(tensor.float() if kind == "float64" else tensor)


def _pieces(tensors: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    piece, size = {}, 0
    for key, value in tensors.items():
        if not hasattr(value, "element_size"):
            raise MusicotError(f"{key} is {type(value).__name__}, expected a tensor")
        if value.is_meta or value.is_sparse or str(value.layout) != "torch.strided":
            kind = "without values" if value.is_meta else "sparse"
            raise MusicotError(f"{key} is a tensor {kind}; save the model again as plain tensors")
        piece[key] = value.detach().resolve_neg().contiguous()
        size += value.numel() * value.element_size()
        if size > PIECE:
            yield piece
            piece, size = {}, 0
    if piece:
        yield piece


def load_bin(folder: Path, scratch: Path) -> dict[str, mx.array]:
    """The arrays of `pytorch_model.bin`, one file or shards with an index."""
    arrays: dict[str, mx.array] = {}
    for path, expected in weight_files(folder, "pytorch_model", ".bin"):
        state = unpickle(path)
        if not isinstance(state, Mapping):
            raise MusicotError(f"{path} holds no state dict, that is tensors by name")
        found = lazy_arrays(state, scratch)
        missing = sorted((expected or set()) - set(found))
        if missing:
            raise MusicotError(f"{path} lacks {missing[0]}, which the index lists")
        arrays |= found
    return plain_names(arrays, folder)
