"""What a GPU would run, counted here: kernels of a token, of a diffusion pass, of a VAE decode.

Counts guard the speed that this machine can't measure. One that grew is a regression to explain,
one that fell is a number to lower here and in docs/architecture.md.
"""

import mlx.core as mx
import pytest

import musicot_mlx as mc
from musicot_mlx.evaluation.speed import cost
from musicot_mlx.generation import device


@pytest.fixture(scope="module")
def model():
    """The embedded model as a GPU loads it: weights as stored, plain networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "on_cpu", lambda: False)
        yield mc.load("musicot-mini")


def test_an_audio_token(model) -> None:
    lm = model.semantic_lm
    run, ids = cost._prefilled(lm)
    head = lm.head(*lm.config.vocabulary.audio_range)
    bias = mx.zeros((1, lm.config.audio_codebook_size))
    mx.eval(bias)

    def token() -> mx.array:
        run.feed(ids)
        keys = [mx.random.key(0)]
        return run.draw(head, keys, guidance_scale=2.0, bias=bias, temperature=0.75)

    assert cost.gpu_counts(token)["kernels"] <= 143


def test_a_diffusion_pass(model) -> None:
    network, config = model.diffusion, model.diffusion.config
    frames = config.window_frames
    conditions = network.conditions(
        mx.zeros((2, 8), dtype=mx.int32),
        mx.zeros((2, 3, config.clap_dim)),
        mx.zeros(2),
        mx.ones(2),
        frames=frames,
    )
    time = network.time_embeddings(mx.array([0.5]))[0]
    x = mx.zeros((2, frames, config.latent_dim))
    mx.eval(time, x, conditions.semantic, conditions.global_token, conditions.keys_values)
    assert cost.gpu_counts(lambda: network.step(x, time, conditions))["kernels"] <= 123


def test_a_decode(model) -> None:
    latents = mx.zeros((1, 100, model.vae.config.latent_dim))
    mx.eval(latents)
    assert cost.gpu_counts(lambda: model.vae.decode(latents))["kernels"] <= 146
