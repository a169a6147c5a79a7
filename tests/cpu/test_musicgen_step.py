"""A step of MusicGen's decoder on two cores is the plain step."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from musicot_mlx.cpu import matmul, musicgen_step, optimise, threads
from musicot_mlx.generation import musicgen as loop
from musicot_mlx.generation.musicgen import MusicgenCondition
from tests.models.test_musicgen import MELODY, STEREO, draw, text, tiny_lm

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="these forms are for MLX's CPU backend"
)


@pytest.mark.parametrize("kind", [{}, MELODY, STEREO], ids=["text", "melody", "stereo"])
def test_a_step_on_two_lanes_is_the_plain_step(monkeypatch, kind):
    """Songs with and without text, of different lengths: the same logits and the same codes."""
    monkeypatch.setattr(matmul, "_FEWEST_WEIGHTS", 1)
    lane, taken, step = mx.new_stream(mx.cpu), [], musicgen_step.Step.__call__
    monkeypatch.setattr(musicgen_step.Step, "__call__", lambda *a: taken.append(1) or step(*a))
    lm = optimise(tiny_lm(**kind))
    songs = [
        MusicgenCondition(text=text(5)),
        MusicgenCondition(text=text(3, 1), negative=text(2)),
        MusicgenCondition(),
    ]
    codes, logits = [], []
    for lanes_there in (lane, None):
        monkeypatch.setattr(threads, "second_lane", lambda lane=lanes_there: lane)
        for conditions in (songs, songs[:1], songs[2:]):
            codes.append(draw(lm, conditions, temperature=0.0))
            run = loop.DecodingRun(lm, conditions, 3.0)
            run.begin(0)
            tokens = mx.zeros((len(conditions), lm.config.num_codebooks, 1), dtype=mx.int32)
            run.logits(tokens)
            logits.append(run.logits(tokens))
        assert len(taken) > 90, "every step but those of several positions goes that way"
    for i in range(3):
        assert mx.abs(logits[i] - logits[i + 3]).max().item() < 1e-4
        assert np.array_equal(codes[i], codes[i + 3])


def test_a_step_leaves_other_layers_alone(monkeypatch):
    monkeypatch.setattr(matmul, "_FEWEST_WEIGHTS", 1)
    lane = mx.new_stream(mx.cpu)
    monkeypatch.setattr(threads, "second_lane", lambda: lane)
    assert musicgen_step.prepare(tiny_lm(), 2) is not None
    assert musicgen_step.prepare(tiny_lm(activation_function="relu"), 2) is None
    assert musicgen_step.prepare(tiny_lm(), 17) is None
    lm = tiny_lm()
    lm.layers[1].fc1 = nn.Linear(16, 32)
    assert musicgen_step.prepare(lm, 2) is None
