"""The networks of a model folder, loaded and ready to run: the one loader of all families.

Arrays are read part by part, so that no more than one part stands in memory both as it is stored
and as it runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation import device
from musicot_mlx.nn.adapters import apply_adapters
from musicot_mlx.weights.adapters import read_adapters
from musicot_mlx.weights.checkpoint import (
    dense_count,
    load_arrays,
    part,
    prepare,
    quantization_of,
    read_config,
    require_finite,
    require_parts,
)
from musicot_mlx.weights.config import config_from_dict, network_from_dict

Parts = Mapping[str, tuple[type[nn.Module], type]]  # section of config.json -> network, its config
CACHE_BYTES = 1 << 30  # of freed buffers that a GPU keeps to use again
AdapterPath = str | Path | Sequence[str | Path] | None  # folders; `folder:0.5` counts half


@dataclass(frozen=True)
class Loaded:
    """A model folder in memory: its networks by part, config.json, and the adapters put on them."""

    folder: Path
    config: dict[str, Any]
    networks: dict[str, Any]
    adapters: tuple[str, ...] = ()
    adapter_keys: int = 0  # keys of the adapters that were applied: all
    kinds: Mapping[str, mx.Dtype] = field(default_factory=dict)  # of the folder's arrays, by key

    def file(self, name: str) -> Path:
        """A file that stands beside the weights; MusicotError where it is missing."""
        path = self.folder / name
        if not path.is_file():
            raise MusicotError(f"{self.folder} lacks {name}; get the model again")
        return path

    def section(self, name: str, config_class: type) -> Any:
        """A section of config.json that belongs to no network; defaults where it is missing."""
        return config_from_dict(config_class, self.config.get(name, {}), where=name)


def load_parts(
    folder: str | Path,
    parts: Parts,
    *,
    model_type: str,
    only: Sequence[str] | None = None,
    name: str | None = None,
    adapter_path: AdapterPath = None,
) -> Loaded:
    """The networks of an MLX folder, in the dtype of the device, with adapters applied.

    only: the parts that are wanted, all if None. name: what messages and adapters call the model,
    the folder if None. Raises MusicotError for a folder of another kind, a section or part that is
    missing or does not fit, weights that are broken or not finite, and adapters that were made for
    another model.
    """
    folder, adapters = Path(folder), read_adapters(adapter_path)
    config = read_config(folder, model_types=(model_type,))
    for section in sorted(parts):
        if section not in config:
            raise MusicotError(f"{folder}/config.json lacks the section {section!r}")
    bound_cache()
    arrays = load_arrays(folder, lazy=True)
    require_parts(arrays, parts, where=str(folder))
    stored = {section: part(arrays, section) for section in (parts if only is None else only)}
    kinds = {key: value.dtype for key, value in arrays.items()}
    del arrays
    networks = {}
    for section in list(stored):
        network, config_class = parts[section]
        module = network_from_dict(network, config_class, config[section], where=section)
        quantization = quantization_of(config, section)
        networks[section] = load_network(
            module, quantization, stored.pop(section), folder=folder, where=section
        )
    mx.clear_cache()
    applied = apply_adapters(networks, adapters, model=name or str(folder), stored=kinds)
    specs = tuple(adapter.spec for adapter in adapters)
    return Loaded(folder, config, networks, specs, applied, kinds)


@cache
def bound_cache() -> None:
    """Once a process: let a GPU keep at most CACHE_BYTES of freed buffers.

    Left alone Metal keeps as much as the machine has, and shapes that change pile up: caches that
    grow, last windows. On a CPU nothing is kept, whatever the limit.
    """
    before = mx.set_cache_limit(CACHE_BYTES)
    if before < CACHE_BYTES:  # someone asked for less, --max-memory-gb perhaps
        mx.set_cache_limit(before)


def load_network(
    network: nn.Module,
    quantization: Mapping[str, Any] | None,
    arrays: Mapping[str, mx.array],
    *,
    folder: Path,
    where: str,
) -> nn.Module:
    """One network filled from its arrays, which are read now; each weight is finite. On a CPU it
    runs in float32, with the classes of cpu/; weights that would fill the memory stay packed.
    """
    fits = device.expands(dense_count(arrays, quantization))
    packed = not fits and any(key.endswith(".scales") for key in arrays)
    expand = fits or (packed and device.on_cpu())
    try:
        prepare(network, quantization, arrays, where=where, expand=expand, packed=packed)
    except RuntimeError as error:  # MLX reads now what the file said it has
        raise MusicotError(f"{folder}: the weights are broken ({error})") from error
    weights = tree_flatten(network.parameters())
    require_finite({f"{where}.{name}": value for name, value in weights}, folder)
    return for_device(network)


def for_device(network: nn.Module) -> nn.Module:
    """The network as the device at hand runs it: on a CPU with the classes of cpu/, in place.

    Every network that this loader makes has passed here; one that is built by hand, as benchmarks
    do, has to.
    """
    cpu = device.cpu()
    return cpu.optimise(network) if cpu else network
