"""A residual quantiser alone: vectors to codes and back, without a model around it."""

from pathlib import Path

from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.pipelines.alone import RVQ
from musicot_mlx.pipelines.parts import load_parts

PARTS = {"rvq": (ResidualVQ, RVQConfig)}


def load(folder: str | Path, *, name: str | None = None) -> ResidualVQ:
    """The quantiser of a folder with model_type "rvq"; name is for messages.

    Raises MusicotError for a folder of another kind and weights that don't fit the config.
    """
    return load_parts(folder, PARTS, model_type=RVQ.model_type, name=name).networks["rvq"]
