"""A family of models: all that the rest of the package needs to know of one.

Nothing outside a family's own folder, reader and check compares its name: memory, bench, lora,
convert, doctor, the command line and the docs ask its record. What a record names as
"module:attribute" is imported when it is asked for, so that reading the record costs nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from musicot_mlx.pipelines.given import needed


@dataclass(frozen=True)
class Family:
    """model_type: what config.json says. title: what people call it.

    parts: section of config.json -> network and its config. load(folder, *, name, **options): the
    model, ready to use. options: the dataclass of what a song can be asked for; "" where it makes
    no songs. stages: the names of a song's timings -> what people call them, in order. memory: what
    a song takes, by stage (pipelines/memory.py). costs: what a song computes
    (evaluation/speed/cost.py). tasks: the parts that can be tuned, networks with `layers` -> how
    (training/). readers: of checkpoints (convert/), and what these are in words: reads. check:
    PyTorch beside MLX.
    quantised: the parts that fewer bits go to where none are named, all if empty; embeddings:
    whether theirs are too, or those of which parts; least_bits: of parts that suffer below.
    exact: by part, a pattern of the names whose weights stay float32 however the rest is stored;
    wide: the parts whose sums exceed float16, which become bfloat16 where float16 is asked for.
    capabilities: "songs", "plan", "ear" (embed_text
    and embed_audio, its own or those of its `clap`), "copies" (reads songs as the tokens that
    copies are looked for in), "live" (plays without end), "batch", "to_pytorch".
    """

    model_type: str
    title: str
    parts: str
    load: str
    options: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)
    memory: str = ""
    costs: str = ""
    tasks: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    reads: str = ""
    check: str = ""
    quantised: tuple[str, ...] = ()
    embeddings: bool | tuple[str, ...] = True
    least_bits: Mapping[str, int] = field(default_factory=dict)
    exact: Mapping[str, str] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()

    def get(self, what: str) -> Any:
        """What a field names; None where it names nothing."""
        return named(getattr(self, what))

    def can(self, what: str) -> bool:
        """Whether models of the family have a capability."""
        return what in self.capabilities

    def require_duration(self, seconds: float, name: str = "duration") -> None:
        """Raise MusicotError, which calls them `name`, for seconds that no song of it lasts."""
        if options := self.get("options"):
            about = options.about()["duration"].metadata
            needed(name, seconds, low=about["low"], high=about["high"], unit="s")

    def is_exact(self, part: str, name: str) -> bool:
        """Whether a weight of a part stays float32, however the rest is stored."""
        return re.fullmatch(self.exact.get(part, r"(?!)"), name) is not None

    def stored(self, part: str, name: str, dtype: str) -> str:
        """The dtype that a weight of a part is stored in where `dtype` is asked for."""
        if self.is_exact(part, name):
            return "float32"
        return "bfloat16" if dtype == "float16" and part in self.wide else dtype

    def task(self, part: str) -> Any:
        """How a part is tuned."""
        return named(self.tasks[part])


def named(place: str) -> Any:
    """The attribute of a module that "module:attribute" names; None for ""."""
    if not place:
        return None
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
