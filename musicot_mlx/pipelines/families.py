"""The registry of families, and `musicot_mlx.load`: a model name to an object ready to use."""

from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.family import Family, named
from musicot_mlx.pipelines.given import path_of

# model_type of config.json -> the family's record, a line each.
FAMILIES = {
    "musicot": "musicot_mlx.pipelines.musicot:FAMILY",
    "musicgen": "musicot_mlx.pipelines.musicgen:FAMILY",
    "magenta_rt2": "musicot_mlx.pipelines.magenta_rt2:FAMILY",
    "clap": "musicot_mlx.pipelines.alone:CLAP",
    "rvq": "musicot_mlx.pipelines.alone:RVQ",
}


def load(name_or_path: str | Path = "musicot-mini", **options: Any) -> Any:
    """A model ready to use: an embedded name, a local folder, or a Hub id (owner/name@revision).

    A PyTorch checkpoint is converted once, into the user's cache; a line on standard error says so.
    model_type "musicot" gives a MusicotPipeline (generate, stream, plan), "musicgen" a
    MusicgenPipeline (generate, stream, generate_batch), "clap" a ClapEmbedder (embed_text,
    embed_audio), "rvq" a ResidualVQ (encode, decode). options are those of the family. Raises
    MusicotError that says what is wrong with the folder and what to do, TypeError for an option
    that the family lacks.
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
    """Whether a loaded model has a capability: "songs", "plan", "clap", ..."""
    family = getattr(model, "family", None)
    return isinstance(family, Family) and family.can(what)


def require(model: Any, what: str, message: str) -> Family:
    """The family of a loaded model that has a capability; MusicotError with `message` otherwise."""
    if not can(model, what):
        raise MusicotError(message)
    return model.family


def titles(what: str) -> str:
    """The families that have a capability, as words: "MusiCoT or MusicGen"."""
    return " or ".join(family.title for family in known() if family.can(what))


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
