"""Fixtures of the plans' tests."""

from pathlib import Path

import pytest

import musicot_mlx as mc
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


@pytest.fixture(scope="session")
def plan(model: MusicotPipeline) -> mc.Plan:
    return model.plan("piano and drums", duration=35, seed=4, lyrics="la la", tags=["piano"])
