"""What a GPU would run, counted here: kernels of a token, of a diffusion pass, of a decode, of a
step of MusicGen.

Counts guard the speed that this machine can't measure. One that grew is a regression to explain,
one that fell is a number to lower here and in docs/architecture.md.
"""

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.evaluation.speed import cost
from musicot_mlx.generation import device
from musicot_mlx.generation.magenta_rt2 import FrameRun
from musicot_mlx.generation.musicgen import DecodingRun, MusicgenCondition
from musicot_mlx.generation.sampling import draw_codebooks
from musicot_mlx.models.depthformer import Depthformer, DepthformerConfig
from musicot_mlx.models.encodec import LSTM, Decoder, EncodecConfig
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.pipelines.magenta_rt2 import FAMILY
from musicot_mlx.tokens.magenta_rt2 import frame_ids
from tests.support.networks import as_stored


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


def step_of_musicgen(layers: int) -> int:
    """Kernels of a step of two rows, with guidance and draw; what is said of width is nothing."""
    config = MusicgenConfig(
        hidden_size=32, ffn_dim=64, num_attention_heads=2, num_hidden_layers=layers,
        text_hidden_size=16,
    )  # fmt: skip
    lm = Musicgen(config)
    mx.eval(lm.parameters())
    run = DecodingRun(lm, [MusicgenCondition(text=mx.zeros((5, 16)))], 3.0)
    tokens = mx.zeros((1, config.num_codebooks, 1), dtype=mx.int32)
    run.begin(0)
    for _ in range(2):  # the next finds its caches and position embeddings there
        mx.eval(run.logits(tokens))

    def step() -> mx.array:
        return draw_codebooks(
            run.logits(tokens), mx.random.key(0)[None], temperature=1.0, top_k=250
        )

    return cost.gpu_counts(step)["kernels"]


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "on_cpu", lambda: False)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_step_of_musicgen() -> None:
    two, three = step_of_musicgen(2), step_of_musicgen(3)
    assert three - two <= 18
    assert two + 22 * (three - two) <= 463  # musicgen-small has 24 layers


def frame_of_magenta(layers: int) -> int:
    """Kernels of a frame as it is stored, in bfloat16; what is said of width is nothing."""
    config = DepthformerConfig(
        temporal_layers=layers, temporal_dim=64, temporal_ffn_dim=64, temporal_heads=1,
        depth_dim=64, depth_ffn_dim=64, depth_heads=1, head_dim=64, condition_dim=64, style_dim=32,
        codebook_size=64,
    )  # fmt: skip
    lm = Depthformer(config)
    as_stored(lm, FAMILY, "lm")
    run = FrameRun(lm, np.tile(frame_ids(np.arange(4)), (1, 4, 1)), temperature=1.0)
    noise = mx.zeros((1, 12, 64))
    mx.eval(lm.parameters(), run.next(noise), run.rings, run.ids)
    return cost.gpu_counts(lambda: run.next(noise))["kernels"]


def test_a_frame_of_magenta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph before it is compiled, which joins what lies between products."""
    monkeypatch.setattr(device, "compiled", lambda function: function)
    two, three = frame_of_magenta(2), frame_of_magenta(3)
    assert three - two <= 29
    assert two + 10 * (three - two) <= 998  # small has 12 layers


@pytest.mark.usefixtures("on_a_gpu")
def test_upsampling_of_encodec() -> None:
    decoder = Decoder(EncodecConfig(num_filters=16))
    features = mx.zeros((1, 50, decoder.lstm[0].wh.shape[1]))
    mx.eval(decoder.parameters(), features)
    assert cost.gpu_counts(lambda: decoder.upsample(features))["kernels"] <= 58


def test_a_layer_of_encodecs_lstm() -> None:
    """A product and the compiled cell a step: 3 kernels, and 4 around the loop."""
    layer, x = LSTM(8), mx.zeros((1, 50, 8))
    mx.eval(layer.parameters(), x)
    assert cost.gpu_counts(lambda: layer(x)[0])["kernels"] <= 154
