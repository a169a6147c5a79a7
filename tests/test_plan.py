"""Plans: what they hold, how they are edited, and how they are kept."""

from pathlib import Path

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.generation.activity import typical_thoughts
from musicot_mlx.pipelines.musicot import MusicotPipeline


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


# --- view ---


def test_activity_is_counted_from_the_typical_thought(model: MusicotPipeline) -> None:
    plan = model.plan("piano", duration=40, seed=1)
    anchors = ["drums", "a slow and quiet piece for piano"]
    cosine = plan.activity(anchors, calibrated=False)
    np.testing.assert_allclose(cosine, plan.embeddings @ model.clap.embed_text(anchors).T)
    found = plan.activity(anchors)
    typical = typical_thoughts(model.rvq) @ model.clap.embed_text(anchors).T
    np.testing.assert_allclose(found * typical.std(0) + typical.mean(0), cosine, atol=1e-5)
    for column in range(2):  # the anchor's own rise and fall is left alone
        assert np.corrcoef(found[:, column], cosine[:, column])[0, 1] > 0.9999
