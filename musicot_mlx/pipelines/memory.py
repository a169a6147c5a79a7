"""How much memory a song will take, known before a weight is read; and what to do when it is short.

Sizes come from the headers of the safetensors files and from config.json. On a CPU device weights
become float32, whatever is stored. What cannot be read off is measured once and named below.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.device import compute_dtype, expands
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import family_of, titles
from musicot_mlx.pipelines.family import Family
from musicot_mlx.pipelines.shelf import phase_budget
from musicot_mlx.weights.checkpoint import quantization_of, read_config
from musicot_mlx.weights.files import weight_files

GB = 1e9
# Python, MLX, numpy, BLAS buffers, tokenizer and sound libraries: measured on Linux and alike on
# every machine, as none of it grows with the model.
PROCESS = 0.09 * GB
_CACHE_SHARE = 0.7  # of the largest stage, that MLX keeps to use again
_ITEM = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "U8": 1, "I64": 8, "F64": 8, "I8": 1}


@dataclass(frozen=True)
class Needs:
    """What a family says of its songs: the most that each stage adds to the weights, in bytes.

    pieces: how much may be decoded at once, the quickest first; none where there is no choice.
    phases: the parts that are in memory together (pipelines/shelf.py); all, if there are none.
    """

    stages: dict[str, int]
    channels: int
    sample_rate: int
    pieces: tuple[int, ...] = ()
    phases: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes: what is stored, weights as they run, and the most that each stage adds."""

    stored: int
    weights: int
    loading: int  # the peak while weights are read and expanded
    stages: dict[str, int]
    waveform: int  # held outside MLX
    pieces: tuple[int, ...] = ()  # how much may be decoded at once, the quickest first

    def peak(self, *, loading: bool = True) -> int:
        """What mx.get_peak_memory() will say of load and song, or of the song alone."""
        song = self.weights + max(self.stages.values())
        return max(self.loading, song) if loading else song

    def resident(self, cache: int) -> int:
        """Peak of the process with at most `cache` bytes kept for reuse."""
        return int(PROCESS) + self.peak() + cache + self.waveform


@dataclass(frozen=True)
class MemoryPlan:
    """How a song stays within a budget; `apply` sets what is set for the process."""

    budget: int
    footprint: Footprint
    cache_limit: int
    piece: int | None  # latents decoded at once; None where the family leaves no choice
    stream: bool  # written as it is made: the waveform is never held

    @property
    def resident(self) -> int:
        return self.footprint.resident(self.cache_limit)

    def apply(self, model: Any = None) -> None:
        """Bound MLX's buffer cache, which else grows to the largest stage, how much `model` decodes
        at once, and what of it stays in memory.
        """
        mx.set_cache_limit(self.cache_limit)
        if model is not None and self.piece is not None:
            model.decode_latents = self.piece
        if hasattr(model, "keep_within"):
            model.keep_within(self.footprint.weights)

    def line(self) -> str:
        """The plan for people, on one line."""
        weights, stages = self.footprint.weights / GB, self.footprint.stages
        worst = max(stages, key=stages.get)
        how = "written as it is made" if self.stream else "held whole"
        decoded = f"{self.piece} latents are decoded at once, " if self.piece else ""
        return (
            f"memory plan: {self.resident / GB:.2f} of {self.budget / GB:.2f} GB: weights "
            f"{weights:.2f}, {worst} {stages[worst] / GB:.2f}, cache {self.cache_limit / GB:.2f}; "
            f"parts load one after another, {decoded}the song is {how}"
        )


def tensors(folder: str | Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, safetensors dtype and shape of every stored array; only file headers are read."""
    files = [path for path, _ in weight_files(Path(folder))]
    if not files:
        raise MusicotError(f"{folder} holds no model.safetensors; get the model again")
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.offset_keys():
                    header = file.get_slice(name)
                    yield name, header.get_dtype(), tuple(header.get_shape())
        except (OSError, SafetensorError) as error:
            raise MusicotError(f"{path} is truncated or not safetensors ({error})") from error


def weight_bytes(folder: str | Path, config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Of each part, bytes stored and bytes as it runs on this device (pipelines/parts.py)."""
    by_part: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    for name, dtype, shape in tensors(folder):
        part, _, inside = name.partition(".")
        by_part.setdefault(part, {})[inside] = (dtype, shape)
    cpu = compute_dtype() == mx.float32
    return {
        part: _part_bytes(arrays, quantization_of(config, part) or {}, cpu=cpu)
        for part, arrays in by_part.items()
    }


def _part_bytes(
    arrays: dict[str, tuple[str, tuple[int, ...]]], packing: dict[str, Any], *, cpu: bool
) -> tuple[int, int]:
    """Bytes stored and bytes as they run, of arrays (dtype, shape) by name."""
    stored = expanded = packed = dense = 0
    quantised = any(name.endswith(".scales") for name in arrays)
    for name, (dtype, shape) in arrays.items():
        path, _, leaf = name.rpartition(".")
        values = product(shape)
        size = values * _ITEM.get(dtype, 4)
        wide = 4 * values if dtype in ("F16", "BF16") else size
        stored, packed = stored + size, packed + wide
        if f"{path}.scales" in arrays and leaf in ("weight", "scales", "biases"):
            # packed weights expand to the values that their scales cover; the rest goes
            covered = packing.get("group_size", 64) * product(arrays[f"{path}.scales"][1])
            values, wide = (covered, 4 * covered) if leaf == "weight" else (0, 0)
        dense, expanded = dense + values, expanded + wide
    if not cpu:
        return stored, stored
    if expands(dense):
        return stored, expanded
    return stored, packed if quantised else stored


def predict(
    name_or_path: str | Path,
    *,
    duration: float,
    songs: int = 1,
    piece: int | None = None,
    stream: bool = False,
    within: int | None = None,
) -> Footprint:
    """What a song of `duration` seconds will take, from headers and config.json alone.

    piece: how much is decoded at once, None for what is quickest. within: bytes that all networks
    of a model that works in phases may take to stay in memory, None for its own measure. A
    checkpoint for PyTorch is converted first, as loading would do. Raises MusicotError for a folder
    that makes no songs, and for seconds that no song of it lasts.
    """
    folder, family = _family(name_or_path)
    family.require_duration(duration)
    config = read_config(folder, model_types=(family.model_type,))
    sizes = weight_bytes(folder, config)
    needs = family.get("memory")(config, duration, songs=songs, piece=piece)
    runs = {name: size for name, (_, size) in sizes.items()}
    weights, loading = sum(runs.values()), _loading(sizes)
    if needs.phases and weights > (phase_budget() if within is None else within):
        phases = [{name: sizes[name] for name in p if name in sizes} for p in needs.phases]
        weights = max(sum(runs for _, runs in phase.values()) for phase in phases)
        loading = max(map(_loading, phases))
    waveform = 4 * needs.channels * needs.sample_rate * duration
    # a song fills one array; of candidates the best one so far is held beside the next
    held = 1 if songs == 1 else 2
    return Footprint(
        stored=sum(stored for stored, _ in sizes.values()),
        weights=weights,
        loading=loading,
        stages=needs.stages,
        waveform=0 if stream else int(held * waveform),
        pieces=needs.pieces,
    )


def plan(
    name_or_path: str | Path, *, duration: float, max_memory_gb: float, songs: int = 1
) -> MemoryPlan:
    """The quickest way to make the song within max_memory_gb, the whole process counted.

    songs: drawn together, as candidates are. Raises MusicotError when there is none, with what it
    would take.
    """
    budget = int(max_memory_gb * GB)
    needed = 0
    pieces = predict(name_or_path, duration=duration, songs=songs).pieces or (None,)
    for stream in (False, True) if songs == 1 else (False,):  # of several the best is kept
        for piece in pieces:
            prediction = predict(
                name_or_path,
                duration=duration,
                songs=songs,
                piece=piece,
                stream=stream,
                within=budget // 2,
            )
            wanted = int(_CACHE_SHARE * max(prediction.stages.values()))
            needed = prediction.resident(0)
            if needed + wanted // 8 <= budget:  # less cache than that costs time at every step
                cache = min(wanted, budget - needed)
                return MemoryPlan(budget, prediction, cache, piece, stream)
    raise MusicotError(
        f"{duration:g} s with {name_or_path} takes at least {needed / GB:.2f} GB and "
        f"--max-memory-gb is {max_memory_gb:g}; quantise the model (musicot convert -q), close "
        "other programs and raise it, or make a shorter song"
    )


def _family(name_or_path: str | Path) -> tuple[Path, Family]:
    """The MLX folder of a name, and its family, which makes songs."""
    folder = mlx_folder(name_or_path)
    family = family_of(folder)
    if not family.memory:
        raise MusicotError(f"{name_or_path} makes no songs; pass a {titles('songs')} model")
    return folder, family


def of_network(network: nn.Module) -> int:
    """Bytes of a network's parameters, by shape: nothing is evaluated, so nothing is allocated."""
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def _loading(sizes: dict[str, tuple[int, int]]) -> int:
    """Parts are made ready one after another, and what was stored of each is then dropped."""
    waiting, ready, peak = sum(s for s, _ in sizes.values()), 0, 0
    for stored, runs in sizes.values():
        peak = max(peak, ready + waiting + (runs if runs != stored else 0))
        ready, waiting = ready + runs, waiting - stored
    return peak


def lm_cache_bytes(section: dict[str, Any], positions: int, rows: int, item: int) -> int:
    """Keys and values of `rows` rows over `positions`, which caches take in blocks of 256."""
    blocks = -(-positions // 256) * 256
    head_dim = section["hidden_size"] // section["num_attention_heads"]
    width = section["num_key_value_heads"] * head_dim
    return 2 * rows * section["num_hidden_layers"] * width * blocks * item


def product(shape: tuple[int, ...]) -> int:
    """How many values an array of this shape has."""
    total = 1
    for size in shape:
        total *= size
    return total
