"""A model name to an object that is ready to use, whatever the family: `musicot_mlx.load`."""

from importlib import import_module
from pathlib import Path
from typing import Any

from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.weights.checkpoint import read_config

# model_type of config.json -> module that reads it, by load(folder, *, name, **options).
FAMILIES = {
    "musicot": "musicot_mlx.pipelines.musicot.pipeline",
    "musicgen": "musicot_mlx.pipelines.musicgen.pipeline",
    "clap": "musicot_mlx.pipelines.clap",
    "rvq": "musicot_mlx.pipelines.rvq",
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
    folder = mlx_folder(name_or_path)
    kind = read_config(folder, model_types=tuple(FAMILIES))["model_type"]
    return import_module(FAMILIES[kind]).load(folder, name=str(name_or_path), **options)
