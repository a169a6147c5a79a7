"""Tuning's losses and gradients in MLX against the PyTorch reference that pretraining runs.

The same batch, the same dropped conditions, the same noise. Tolerances are relative to the largest
gradient of a parameter.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from musicot_mlx.convert.keymaps.diffusion import RULES as DIFFUSION_RULES  # noqa: E402
from musicot_mlx.convert.keymaps.semantic_lm import RULES as LM_RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.training.losses import (  # noqa: E402
    NoisyWindow,
    TokenSequence,
    diffusion_loss,
    sequence_loss,
    sequence_weight,
)
from tests.models.test_dit import TINY  # noqa: E402
from tests.parity.test_diffusion import build_twins  # noqa: E402
from tests.parity.test_semantic_lm import twins as lm_twins  # noqa: E402, F401


def gradients_agree(found: dict, expected: dict[str, np.ndarray]) -> None:
    flat = {name: np.array(value) for name, value in tree_flatten(found)}
    assert set(flat) == set(expected)
    largest = max(np.abs(value).max() for value in expected.values())
    assert largest > 1e-3, "the gradients should be lively"
    for name, value in expected.items():
        size = max(np.abs(value).max(), 1e-3 * largest)
        assert np.abs(flat[name] - value).max() < 1e-4 * size, name


def torch_gradients(reference: torch.nn.Module, rules: tuple) -> dict[str, np.ndarray]:
    """Gradients under the names and in the layout of the MLX network."""
    arrays = {
        name: mx.array((torch.zeros_like(p) if p.grad is None else p.grad).numpy())
        for name, p in reference.named_parameters()
    }
    arrays |= {
        name: mx.zeros(value.shape)
        for name, value in reference.state_dict().items()
        if name not in arrays
    }
    return {name: np.array(value) for name, value in apply_rules(rules, arrays).items()}


@pytest.mark.parametrize("thought_weight", [1.0, 15.0])
def test_semantic_lm(lm_twins, thought_weight) -> None:  # noqa: F811
    lm, reference = lm_twins
    rng = np.random.default_rng(0)
    vocabulary = lm.config.vocabulary
    sequences = [
        TokenSequence(
            clap=rng.standard_normal(12).astype(np.float32),
            tags=[vocabulary.tag_id(0)] if i % 2 else [],
            lyrics=[6, 12, 14] if i == 2 else [],
            thoughts=rng.integers(0, 16, (4, 1 + i % 3)),
            audio=rng.integers(0, 64, 20 + 7 * i),
            drop_conditions=i in (1, 3),
            drop_thoughts=i == 3,
        )
        for i in range(4)
    ]
    batch = {name: [getattr(c, name) for c in sequences] for name in ("tags", "lyrics", "audio")}
    batch["thoughts"] = [c.thoughts for c in sequences]
    batch["clap"] = torch.from_numpy(np.stack([c.clap for c in sequences]))
    inputs = reference.inputs(
        batch,
        drop_conditions=[c.drop_conditions for c in sequences],
        drop_thoughts=[c.drop_thoughts for c in sequences],
    )
    values, targets = reference.token_losses(inputs)
    thought = (targets >= vocabulary.thought_offset) & (targets < vocabulary.audio_offset)
    weight = torch.where(thought, thought_weight, 1.0)
    expected = (values * weight).sum() / weight.sum()
    reference.zero_grad()
    expected.backward()

    total = sum(sequence_weight(sequence, vocabulary, thought_weight) for sequence in sequences)
    assert total == pytest.approx(weight.sum().item())
    step = nn.value_and_grad(lm, lambda rows: sequence_loss(lm, rows, thought_weight) / total)
    loss, found = step(sequences)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients_agree(found, torch_gradients(reference, LM_RULES))
    halves = [step(sequences[:1]), step(sequences[1:])]  # cut unevenly, they add up to the whole
    assert sum(value.item() for value, _ in halves) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["rectified_flow", "v"])
def test_diffusion(objective) -> None:
    model, reference = build_twins(objective=objective, latent_scale=0.5)
    model.dit.time_proj.freeze()  # fixed in diffusers
    rng = np.random.default_rng(0)
    batch, time, codes = 3, 21, 16
    arrays = {
        "latents": rng.standard_normal((batch, TINY["latent_dim"], time)),
        "clap": rng.standard_normal((batch, 3, TINY["clap_dim"])),
        "start_seconds": np.array([0.0, 1.5, 4.0]),
        "total_seconds": np.array([9.0, 8.0, 30.0]),
        "frame_offset": np.array([0.25, 1.0, 0.0]),
    }
    given = {name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()}
    given["codes"] = torch.from_numpy(rng.integers(0, TINY["audio_codebook_size"], (batch, codes)))
    counted = [time, time, 13]
    mask = torch.arange(time)[None] < torch.tensor(counted)[:, None]
    options = {"dropout": 0.5, "frame_mask": mask}
    expected = reference.loss(**given, **options, generator=torch.Generator().manual_seed(3))
    reference.zero_grad()
    expected.backward()

    generator = torch.Generator().manual_seed(3)  # what the reference draws, in its order
    noise = torch.randn(given["latents"].shape, generator=generator)
    t = torch.randn(batch, generator=generator).sigmoid()
    dropped = torch.rand(batch, generator=generator) < 0.5
    assert 0 < dropped.sum() < batch
    windows = [
        NoisyWindow(
            latents=given["latents"][i].T.numpy(),
            noise=noise[i].T.numpy(),
            t=t[i].item(),
            codes=given["codes"][i].numpy(),
            frame_offset=float(arrays["frame_offset"][i]),
            clap=given["clap"][i].numpy(),
            start_seconds=float(arrays["start_seconds"][i]),
            total_seconds=float(arrays["total_seconds"][i]),
            counted=counted[i],
            dropped=bool(dropped[i]),
        )
        for i in range(batch)
    ]
    total = sum(window.weight for window in windows)
    step = nn.value_and_grad(model, lambda rows: diffusion_loss(model, rows) / total)
    loss, found = step(windows)
    assert math.isfinite(loss.item()) and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    learned = torch_gradients(reference, DIFFUSION_RULES)
    assert not learned.pop("dit.time_proj.weight").any()
    gradients_agree(found, learned)
