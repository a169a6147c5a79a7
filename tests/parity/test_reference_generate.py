"""The PyTorch reference renders with the conditions that the MLX pipeline renders with."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.diffusion import window_vectors
from musicot_mlx.pipelines.musicot.planning import MusicotSampling
from musicot_mlx.reference.musicot import MusicotReference


def test_a_window_hears_the_same_vectors(
    tiny_reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MusicotReference.from_pretrained(tiny_reference)
    model.config["sampling"] = {**asdict(MusicotSampling()), **model.config["sampling"]}
    seen = {}
    thoughts = np.array([[1], [2], [3]], dtype=np.int32)
    monkeypatch.setattr(model.semantic_lm, "plan_thoughts", lambda *a, **k: thoughts)
    sample = model.diffusion.sample

    def recording(codes: torch.Tensor, clap: torch.Tensor, *rest: object, **options: object):
        seen["clap"] = clap
        return sample(codes, clap, *rest, **options)

    monkeypatch.setattr(model.diffusion, "sample", recording)
    clap = torch.nn.functional.normalize(torch.randn(16), dim=0)
    waveform = model.generate(clap, duration=2.0)
    assert waveform.shape == (16000, 2) and torch.isfinite(waveform).all()
    vectors = model.thought_vectors(torch.from_numpy(thoughts).long()).numpy()
    expected = window_vectors(
        clap.numpy(), vectors, first=0.0, last=2.0, thought_seconds=10.0, window_seconds=4.0
    )
    np.testing.assert_array_equal(seen["clap"][0].numpy(), expected)
    with pytest.raises(MusicotError, match="up to 4 s"):
        model.generate(clap, duration=9.0)
