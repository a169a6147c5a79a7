"""The registry of families, and `musicot_mlx.load`: a model name to an object ready to use."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.family import Family, named
from musicot_mlx.pipelines.given import path_of

if TYPE_CHECKING:
    from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
    from musicot_mlx.pipelines.musicgen.pipeline import MusicgenPipeline
    from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
    from musicot_mlx.pipelines.song import Song, Stream

# model_type of config.json -> the family's record, a line each.
FAMILIES = {
    "musicot": "musicot_mlx.pipelines.musicot:FAMILY",
    "musicgen": "musicot_mlx.pipelines.musicgen:FAMILY",
    "magenta_rt2": "musicot_mlx.pipelines.magenta_rt2:FAMILY",
    "mumu_llama": "musicot_mlx.pipelines.mumu_llama:FAMILY",
    "clap": "musicot_mlx.pipelines.alone:CLAP",
    "rvq": "musicot_mlx.pipelines.alone:RVQ",
}


class SongModel(Protocol):
    """What a model of songs has, whatever its family: MusicotPipeline and MusicgenPipeline say the
    rest, such as plan and generate_batch.
    """

    name: str
    options: frozenset[str]

    @property
    def sample_rate(self) -> int: ...

    def generate(self, prompt: str | None = None, **options: Any) -> "Song": ...

    def stream(self, prompt: str | None = None, **options: Any) -> "Stream": ...

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]: ...


Adapters = str | Path | Sequence[str | Path] | None


@overload
def load(
    name_or_path: Literal["musicot-mini"] = ..., *, adapter_path: Adapters = ...
) -> "MusicotPipeline": ...


@overload
def load(
    name_or_path: Literal[
        "facebook/musicgen-small",
        "facebook/musicgen-medium",
        "facebook/musicgen-large",
        "facebook/musicgen-melody",
        "facebook/musicgen-melody-large",
        "facebook/musicgen-stereo-small",
        "facebook/musicgen-stereo-medium",
        "facebook/musicgen-stereo-large",
        "facebook/musicgen-stereo-melody",
        "facebook/musicgen-stereo-melody-large",
    ],
    *,
    adapter_path: Adapters = ...,
) -> "MusicgenPipeline": ...


@overload
def load(
    name_or_path: Literal["google/magenta-realtime-2", "google/magenta-realtime-2:base"],
    *,
    adapter_path: Adapters = ...,
) -> "MagentaPipeline": ...


@overload
def load(name_or_path: str | Path, *, adapter_path: Adapters = ...) -> SongModel: ...


def load(name_or_path: str | Path = "musicot-mini", **options: Any) -> Any:
    """A model ready to use: an embedded name, a local folder, or a Hub id (owner/name@revision,
    owner/name:size where there are several).

    A PyTorch checkpoint is converted once, into the user's cache; a line on standard error says so.
    model_type "musicot" gives a MusicotPipeline (generate, stream, plan), "musicgen" a
    MusicgenPipeline (generate, stream, generate_batch), "clap" a ClapEmbedder (embed_text,
    embed_audio), "rvq" a ResidualVQ (encode, decode). options are those of the family:
    adapter_path, folders from `musicot lora`, of models of songs. An editor is told the class of
    the names it can know and SongModel of others; typing.cast says more. Raises MusicotError that
    says what is wrong with the folder and what to do, TypeError for an option that the family
    lacks.
    """
    from musicot_mlx.pipelines.conversion_cache import mlx_folder

    if not isinstance(name_or_path, str):
        name_or_path = path_of("the model", name_or_path)
    folder = mlx_folder(name_or_path)
    return family_of(folder).get("load")(folder, name=str(name_or_path), **options)


def known() -> list[Family]:
    """The records of all families, in the order of the registry."""
    return [named(place) for place in FAMILIES.values()]


def family_of(folder: str | Path) -> Family:
    """The family of an MLX folder; MusicotError where it is of none."""
    from musicot_mlx.weights.checkpoint import read_config

    config = read_config(folder, model_types=tuple(FAMILIES))
    return named(FAMILIES[config["model_type"]])


def can(model: Any, what: str) -> bool:
    """Whether a loaded model has a capability: "songs", "plan", "ear", ..."""
    family = getattr(model, "family", None)
    return isinstance(family, Family) and family.can(what)


def require(model: Any, what: str, message: str) -> Family:
    """The family of a loaded model that has a capability; MusicotError with `message` otherwise."""
    if not can(model, what):
        raise MusicotError(message)
    return model.family


def controls() -> set[str]:
    """The options that plans of any family may say of each of their segments."""
    planners = (family.get("options") for family in known() if family.can("plan"))
    return {name for options in planners for name in options.controls()}


def titles(what: str) -> str:
    """The families that have a capability, as words: "MusiCoT, MusicGen or Toy"."""
    *others, last = [family.title for family in known() if family.can(what)]
    return f"{', '.join(others)} or {last}" if others else last


def table() -> str:
    """All families as a Markdown table, for the docs."""
    rows = ["| family | parts | makes songs | plans | tuned by `musicot lora` | converted from |"]
    rows.append("|---|---|---|---|---|---|")
    for family in known():
        cells = [
            f"{family.title} (`{family.model_type}`)",
            ", ".join(family.get("parts")),
            "yes" if family.can("songs") else "",
            "yes" if family.can("plan") else "",
            ", ".join(family.tasks),
            family.reads,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
