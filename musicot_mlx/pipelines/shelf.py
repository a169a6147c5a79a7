"""Parts of a model that are not all in memory at once: loaded when they are asked for, and let go.

A model that listens, then writes, then plays needs a third of its networks at a time. Where all of
them take a small share of the machine's memory they stay, else only those of the phase at hand do.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.generation.device import memory_bytes
from musicot_mlx.nn.adapters import apply_adapters
from musicot_mlx.pipelines.parts import AdapterPath, Parts, load_parts
from musicot_mlx.weights.adapters import Adapter, read_adapters

_SHARE = 0.4  # of the machine's memory that networks may stay in beside everything else


def phase_budget() -> int:
    """Bytes that a model's networks may take to stay in memory."""
    return int(_SHARE * memory_bytes())


class Shelf:
    """The networks of an MLX folder by part; `shelf("llama", "words")` is those two, ready to run.

    sizes: bytes of each part as it runs. adapter_path: adapters, put on their parts as these are
    loaded. Raises MusicotError for adapters of parts that there are not.
    """

    def __init__(
        self,
        folder: Path,
        parts: Parts,
        *,
        model_type: str,
        name: str,
        sizes: Mapping[str, int],
        adapter_path: AdapterPath = None,
    ) -> None:
        self.folder, self.parts, self.name = folder, parts, name
        self._model_type, self._sizes = model_type, dict(sizes)
        self._adapters = read_adapters(adapter_path)
        self._networks: dict[str, Any] = {}
        self.keeps = sum(self._sizes.values()) <= phase_budget()
        self.adapters = tuple(adapter.spec for adapter in self._adapters)
        self.adapter_keys = sum(len(adapter.arrays) for adapter in self._adapters)
        paths = {path for adapter in self._adapters for path in adapter.layers()}
        strange = sorted(path for path in paths if path.split(".")[0] not in parts)
        if strange:
            raise MusicotError(
                f"adapter {self._adapters[0].name} changes {first_few(strange)}, which {name} has "
                f"not; its parts are {', '.join(parts)}"
            )

    def __call__(self, *names: str) -> list[Any]:
        """The networks of these parts; others are let go unless all of them stay."""
        if not self.keeps:
            for other in [name for name in self._networks if name not in names]:
                del self._networks[other]
            mx.clear_cache()
        for name in names:
            if name not in self._networks:
                self._networks[name] = self._load(name)
        return [self._networks[name] for name in names]

    def keep_within(self, size: int) -> None:
        """Let all networks stay only where they take no more than `size` bytes."""
        self.keeps = sum(self._sizes.values()) <= size

    @property
    def here(self) -> tuple[str, ...]:
        """The parts that are in memory now."""
        return tuple(self._networks)

    def _load(self, name: str) -> Any:
        loaded = load_parts(
            self.folder, self.parts, model_type=self._model_type, only=(name,), name=self.name
        )
        own = [each for adapter in self._adapters if (each := _of_part(adapter, name)).arrays]
        apply_adapters(loaded.networks, own, model=self.name, stored=loaded.kinds)
        return loaded.networks[name]


def _of_part(adapter: Adapter, name: str) -> Adapter:
    """What an adapter changes of one part."""
    config = dict(adapter.config)
    if isinstance(base := config.get("base"), dict):
        prints = base.get("fingerprints") or {}
        own = {part: value for part, value in prints.items() if part == name}
        config["base"] = {**base, "fingerprints": own}
    arrays = {key: value for key, value in adapter.arrays.items() if key.startswith(f"{name}.")}
    return replace(adapter, config=config, arrays=arrays)
