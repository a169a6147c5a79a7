"""The models: which are at hand, what each can be asked for, and the one thread they live in.

MLX's streams belong to a thread, so models are loaded, plans drawn and songs made in the thread of
all streams (pipelines/worker.py). Jobs take turns there: a plan is drawn between two chunks of a
song that is being made. What a job warns of goes to whoever asked for it.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import Field, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.pipelines.families import family_of
from musicot_mlx.pipelines.family import Family
from musicot_mlx.pipelines.options import OF_TOKENS
from musicot_mlx.studio.errors import Refused, status_of
from musicot_mlx.studio.settings import Settings

Made = TypeVar("Made")
MOST_MODELS = 4  # in memory; those used longest ago go first
SHARE = 3  # the part of the machine's memory that weights of several models may take
MOST_JOBS = 8  # plans that wait for the thread; more are told to come again

# Options that are fields of a request, or that only Python can pass.
_OF_REQUESTS = ("plan", "keep", "seed")
_KINDS = {str: "text", float: "number", int: "integer", bool: "boolean", Path: "file"}
_EDITS = ("replace", "morph", "redraw", "lock", "unlock", "arrange", "delete", "duplicate")
_OF_HARMONY = ("chords", "key", "transpose")


@dataclass(frozen=True)
class Model:
    """A model at hand. name: what requests call it; source: name, folder or Hub id that loads it;
    folder: of its weights; where: "embedded", "converted" or "given".
    """

    name: str
    source: str
    folder: Path
    where: str

    @property
    def family(self) -> Family:
        return _family(self.folder)

    @cached_property
    def options(self) -> dict[str, Field]:
        """What its songs can be asked for in a request's `options`, by name."""
        about = self.family.get("options").about()
        return {
            name: each
            for name, each in about.items()
            if each.metadata["kind"] in _KINDS
            and each.metadata["holds"] == "audio"  # what uploads take
            and name not in _OF_REQUESTS
        }

    @property
    def size(self) -> int:
        """Bytes of its files; 0 where they are gone, which loading it tells of."""
        with suppress(OSError):
            return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())
        return 0

    @property
    def plans(self) -> bool:
        """Whether its songs have plans."""
        return self.family.can("plan")

    @property
    def edits(self) -> list[str]:
        """How its plans can be edited."""
        if not self.plans:
            return []
        harmony = _OF_HARMONY if "chords" in self.options else ()
        controls = any(each.metadata["by_segment"] for each in self.options.values())
        return [*_EDITS, "insert", "extend", *harmony, *(["set"] if controls else [])]

    def split(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options that a plan is made by, and those of its song; some are of both."""
        about = self.family.get("options").about()
        planning = {n: v for n, v in options.items() if about[n].metadata["planning"]}
        song = {n: v for n, v in options.items() if n not in planning or n in OF_TOKENS}
        return planning, song

    def described(self) -> dict[str, Any]:
        """What the API tells of it."""
        from musicot_mlx.weights.published import published

        known = published(self.name.partition("@")[0])
        licence = "MIT" if self.where == "embedded" else known and known.licence
        return {
            "name": self.name,
            "family": self.family.model_type,
            "title": self.family.title,
            "where": self.where,
            "licence": licence,
            "capabilities": sorted(self.family.capabilities),
            "edits": self.edits,
            "options": [_described(each) for each in self.options.values()],
        }


class Engine:
    """All models of one server. Its methods may be called in any thread and wait their turn."""

    def __init__(self, settings: Settings) -> None:
        from musicot_mlx.pipelines.conversion_cache import mlx_folder

        self.settings = settings
        self._given = {  # fetched and converted now, if need be
            name: Model(name, source, mlx_folder(source), "given")
            for name, source in settings.models.items()
        }
        for model in self._given.values():
            if not model.family.can("songs"):
                raise MusicotError(f"{model.name} makes no songs; pass another --model")
        self._loaded: OrderedDict[tuple, Any] = OrderedDict()
        self._waiting = threading.BoundedSemaphore(MOST_JOBS)
        self._hears: dict[str, list[str] | None] = {"job": None, "song": None}

    # --- models -----------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """Those at hand that make songs: given at the start, embedded, and converted ones."""
        from musicot_mlx.weights import cache as conversions
        from musicot_mlx.weights import hub

        found = dict(self._given)
        for name in hub.EMBEDDED:
            found.setdefault(name, Model(name, name, hub.resolve(name), "embedded"))
        for name, folder, _ in conversions.entries():
            source = name if hub.hub_id(name) else str(folder)
            found.setdefault(name, Model(name, source, folder, "converted"))
        return [model for model in found.values() if _makes_songs(model)]

    def model(self, name: str | None) -> Model:
        """The model of a name, the usual one for None; Refused (422) where it is not at hand."""
        models = {model.name: model for model in self.models()}
        if name is None:
            return next(iter(models.values()))
        if name not in models:
            raise Refused(
                422,
                f"there is no model {name[:60]!r} here; there is {', '.join(models)}",
                param="model",
            )
        return models[name]

    def adapter_path(self, adapters: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """Adapters by name and weight as load takes them; Refused (422) for one not given."""
        paths = []
        for each in adapters:
            folder = self.settings.adapters.get(each["name"])
            if folder is None:
                known = ", ".join(self.settings.adapters) or "none; pass --adapter-path at start"
                name = each["name"][:60]
                raise Refused(422, f"there is no adapter {name!r}; there is {known}",
                              param="adapters")  # fmt: skip
            paths.append(f"{folder}:{each['weight']:g}")
        return paths or None

    def loaded(self, name: str, adapters: Sequence[Mapping[str, Any]] = ()) -> Any:
        """The model ready to use, loaded where it is not; to be called in the engine's thread."""
        import musicot_mlx as mc

        model, paths = self.model(name), self.adapter_path(adapters)
        key = (model.source, *(paths or ()))
        if key not in self._loaded:
            self._make_room(model)
            options = {} if paths is None else {"adapter_path": paths}
            try:
                self._loaded[key] = mc.load(model.source, **options)
            except MusicotError as error:  # no path of this machine is told
                told, called = str(error), {model.name: model.source, **self.settings.adapters}
                for known, path in called.items():
                    told = told.replace(str(path), known)
                raise Refused(status_of(error), told) from error
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def _make_room(self, model: Model) -> None:
        """Let go of the models used longest ago until there is room for another one."""
        from musicot_mlx.generation.device import memory_bytes

        sizes = {each.source: each.size for each in self.models()}
        while self._loaded:
            taken = sum(sizes.get(source, 0) for source, *_ in self._loaded)
            fits = taken + model.size <= memory_bytes() / SHARE
            if fits and len(self._loaded) < MOST_MODELS:
                return
            self._loaded.popitem(last=False)

    def is_loaded(self, model: Model) -> Any | None:
        """The model, if it is in memory without adapters."""
        return self._loaded.get((model.source,))

    def warm(self) -> None:
        """Load the usual model, so that the first plan is drawn at once."""
        from musicot_mlx.pipelines.worker import in_worker

        name = self.model(None).name
        in_worker(lambda: self.loaded(name))

    # --- jobs -------------------------------------------------------------------------------------

    def run(self, job: Callable[..., Made], *given: Any, told: list[str] | None = None) -> Made:
        """What job(*given) gives, done in the engine's thread; what it warns of is added to `told`.
        Raises Refused (429) where many wait already.
        """
        from musicot_mlx.pipelines.worker import in_worker

        if not self._waiting.acquire(blocking=False):
            raise Refused(429, f"{MOST_JOBS} plans wait already; try again in a moment", wait=1)
        try:
            return in_worker(self._heard, told, job, given)
        finally:
            self._waiting.release()

    def _heard(self, told: list[str] | None, job: Callable[..., Made], given: tuple) -> Made:
        self._hears["job"] = [] if told is None else told
        try:
            return job(*given)
        finally:
            self._hears["job"] = None

    @contextmanager
    def song(self, told: list[str]) -> Iterator[None]:
        """Within it what songs warn of is added to `told`."""
        self._hears["song"] = told
        try:
            yield
        finally:
            self._hears["song"] = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it warnings are heard, each time they are given. One server's: warnings are the
        process's.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("always", MusicotWarning)
            show, here = warnings.showwarning, f"{self.settings.data_dir.absolute()}/"

            def hear(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
                told = self._hears["song"] if self._hears["job"] is None else self._hears["job"]
                if not issubclass(category, MusicotWarning) or told is None:
                    show(message, category, *where, **more)
                elif (line := str(message).replace(here, "")) not in told:
                    told.append(line)

            warnings.showwarning = hear
            yield


@cache
def _family(folder: Path) -> Family:
    return family_of(folder)


def _makes_songs(model: Model) -> bool:
    """Whether it makes songs; what is broken in the cache makes none."""
    try:
        return model.family.can("songs")
    except MusicotError:
        if model.where == "converted":
            return False
        raise


def _described(each: Field) -> dict[str, Any]:
    """An option as the API tells of it."""
    about = each.metadata
    low, high = (None if abs(about[end]) == float("inf") else about[end] for end in ("low", "high"))
    return {
        "name": each.name,
        "label": each.name.replace("_", " "),
        "kind": _KINDS[about["kind"]],
        "default": each.default,
        "low": low,
        "high": high,
        "unit": about["unit"],
        "choices": list(about["offered"]),
        "several": about["several"],
        "planning": about["planning"],
        "by_segment": about["by_segment"],
        "can_be_off": about["off"],
        "help": about["help"],
    }
