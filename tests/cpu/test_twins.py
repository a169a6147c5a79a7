"""Networks with the classes of cpu/ give what the plain ones give: outputs, gradients, songs."""

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import musicot_mlx as mc
from musicot_mlx.cpu import activations, llama_step, matmul, optimise, rope, threads
from musicot_mlx.cpu.openblas import openblas
from musicot_mlx.evaluation.speed import cost
from musicot_mlx.generation import diffusion
from musicot_mlx.models.musiccoca import MusicCoCa
from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion
from musicot_mlx.models.semantic_lm import merge_caches
from musicot_mlx.models.vae import VAE, VAEConfig
from tests.models.test_dit import conditions, latents, tiny_diffusion
from tests.models.test_semantic_lm import tiny_lm
from tests.support import tiny, tiny_musiccoca
from tests.support.networks import randomize

on_cpu = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="the fast paths are for MLX's CPU backend"
)


def far(a: mx.array, b: mx.array) -> float:
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize(("dims", "width"), [(4, 8), (8, 8)])
def test_rotation_is_mlx_own(dims: int, width: int) -> None:
    x = mx.random.normal((2, 3, 50, width), key=mx.random.key(0))
    mlx = mx.fast.rope(x, dims, traditional=False, base=500.0, scale=1.0, offset=0)
    assert far(rope.rotate(x, dims, base=500.0), mlx) < 1e-6


@on_cpu
@pytest.mark.parametrize("halved", [False, True], ids=["whole", "halved"])
@pytest.mark.parametrize("lengths", [[7], [9, 2]], ids=["one row", "padded rows"])
def test_one_step_is_the_plain_step(
    lengths: list[int], halved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = optimise(tiny_lm())
    if halved:  # as matrices are that are large enough for both cores
        lane = mx.new_stream(mx.cpu)
        monkeypatch.setattr(threads, "second_lane", lambda: lane)
        monkeypatch.setattr(matmul, "_FEWEST_WEIGHTS", 1)
        assert matmul.split_weight(lm.layers[0].self_attn.o_proj, len(lengths), lane)

    def hidden(step: Callable[..., mx.array]) -> mx.array:
        caches = [lm.make_cache() for _ in lengths]
        for n, cache in zip(lengths, caches, strict=True):
            lm.hidden(lm.embed(mx.arange(n)[None]), cache)
        cache = merge_caches(caches)
        ids = mx.arange(40).reshape(1, 40) + mx.zeros((len(lengths), 1), dtype=mx.int32)
        steps = [step(lm.embed(ids[:, i : i + 1]), cache) for i in range(38)]
        two = lm.hidden(lm.embed(ids[:, 38:]), cache)  # which no step takes
        return mx.concatenate([*steps, two], axis=1)

    step = lm.fast_step(len(lengths))
    assert isinstance(step, llama_step.Step)
    plain = hidden(lm.hidden)
    assert far(hidden(step), plain) < 1e-5 * mx.abs(plain).max().item()


def test_a_layer_with_an_adapter_goes_the_plain_way() -> None:
    from mlx_lm.tuner.lora import LoRALinear

    lm = optimise(tiny_lm())
    assert isinstance(lm.fast_step(2), llama_step.Step)
    attention = lm.layers[1].self_attn
    attention.v_proj = LoRALinear.from_base(attention.v_proj)
    assert lm.fast_step(2) == lm.hidden


@on_cpu
@pytest.mark.parametrize("masked", [False, True])
def test_folded_cross_attention_is_the_plain_one(masked: bool) -> None:
    config = DiffusionConfig.from_dict({**tiny.CONFIG["diffusion"], "attention_head_dim": 16})
    plain = SemanticDiffusion(config).dit.transformer_blocks[0].attn2
    layer = optimise(copy.deepcopy(plain))
    layer.eval()
    keys = mx.random.split(mx.random.key(0), 2)
    x = mx.random.normal((2, 7, config.inner_dim), key=keys[0])
    context = mx.random.normal((2, 5, config.cross_attention_dim), key=keys[1])
    mask = mx.array([[True] * 5, [True] * 2 + [False] * 3])[:, None, None] if masked else None
    folded, kept = layer.keys_values(context), plain.keys_values(context)
    assert folded[0].shape == (2, config.num_attention_heads * 5, config.inner_dim)
    expected = plain(x, kept, mask)
    assert far(layer(x, folded, mask), expected) < 1e-5
    assert far(layer(x, kept, mask), expected) < 1e-5, "as they are while it is tuned"


@on_cpu
@pytest.mark.parametrize("cap", [4.0, 50.0], ids=["reached", "published"])
def test_a_tower_of_musiccoca_is_the_plain_one(cap: float) -> None:
    """Texts of several lengths and clips, to vectors and to gradients."""
    config = replace(tiny_musiccoca.CONFIG, cap=cap)
    plain = randomize(MusicCoCa(config))
    plain.mel.filters = abs(plain.mel.filters)
    for layer in (*plain.text.layers, *plain.audio.layers):
        layer.attn.query.weight = 20 * layer.attn.query.weight  # logits beyond their cap
    fast = optimise(copy.deepcopy(plain))
    assert type(fast.audio.layers[0].ffn) is not type(plain.audio.layers[0].ffn)
    ids, lengths = mx.arange(22).reshape(2, 11), mx.array([11, 3])
    clips = mx.random.normal((3, config.clip_samples), key=mx.random.key(0))
    for embed in (lambda m: m.embed_text(ids, lengths), lambda m: m.embed_audio(clips)):
        expected = embed(plain)
        assert far(embed(fast), expected) < 1e-4 * mx.abs(expected).max().item()

    def slope(coca: MusicCoCa) -> mx.array:
        spectra = mx.random.normal((1, config.mel.frames, config.mel.bins), key=mx.random.key(1))
        return mx.grad(lambda x: coca.audio(x)[:, 0].sum())(spectra)

    expected = slope(plain)
    assert 0 < far(expected, mx.zeros_like(expected)) < mx.inf
    assert far(slope(fast), expected) < 1e-3 * mx.abs(expected).max().item()


@on_cpu
def test_norm_and_gate_are_mlx_own() -> None:
    norm = nn.LayerNorm(24)
    norm.weight, norm.bias = mx.arange(24) / 24, mx.ones((24,))
    x = 3 + mx.random.normal((2, 9, 24), key=mx.random.key(0))
    assert far(activations.layer_norm(norm, x), norm(x)) < 1e-5

    def slopes(gated: Callable[[mx.array, mx.array], mx.array]) -> tuple[mx.array, mx.array]:
        return mx.grad(lambda up, gate: gated(up, gate).square().sum(), argnums=(0, 1))(x, -x)

    plain = slopes(lambda up, gate: up * nn.silu(gate))
    assert all(far(a, b) < 1e-3 for a, b in zip(slopes(activations.swiglu), plain, strict=True))


@on_cpu
def test_small_steps_keep_to_one_core_and_give_the_others_back() -> None:
    if openblas() is None:
        pytest.skip("there is no OpenBLAS to set")

    def held() -> tuple[int, set[frozenset[int]]]:
        found = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has just ended
                found.add(frozenset(os.sched_getaffinity(int(thread))))
        return openblas().openblas_get_num_threads(), found

    before, worth_it = held(), threads.worth_it()
    with threads.SingleCore(products=1) as core:
        blas, cores = held()
        if worth_it:
            assert blas == 1 and [len(few) for few in cores] == [1]
        with core.paused():
            assert held() == before
    with threads.SingleCore(products=1 << 30):
        assert held() == before
    assert held() == before


@on_cpu
def test_decoding_in_lanes_is_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    if openblas() is None:
        pytest.skip("without OpenBLAS there are no lanes")
    plain = VAE(VAEConfig.from_dict(tiny.CONFIG["vae"]))
    vae = optimise(copy.deepcopy(plain))
    latents = mx.random.normal((1, 8 * vae.config.decoder_reach + 1, vae.config.latent_dim))
    monkeypatch.setattr(threads, "worth_it", lambda: True)
    assert far(vae.decode(latents), plain.decode(latents)) < 1e-4


@on_cpu
def test_lanes_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    library = openblas()
    if library is None:
        pytest.skip("without OpenBLAS there are no lanes")
    config = DiffusionConfig.from_dict(tiny.CONFIG["diffusion"])
    model = SemanticDiffusion(config)
    mx.eval(model.parameters())

    def sample() -> mx.array:
        return diffusion.sample(
            model,
            mx.arange(20)[None],
            mx.random.normal((1, 3, config.clap_dim), key=mx.random.key(2)),
            mx.zeros(1),
            mx.ones(1),
            noise=mx.random.normal((1, 25, config.latent_dim), key=mx.random.key(3)),
            steps=3,
            guidance_scale=2.0,
        )

    before = library.openblas_get_num_threads()
    monkeypatch.setattr(threads, "worth_it", lambda: False)
    batch = sample()
    monkeypatch.setattr(threads, "worth_it", lambda: True)
    assert far(sample(), batch) < 1e-5
    assert mx.array_equal(sample(), sample()), "the same seed must give the same bytes"
    assert library.openblas_get_num_threads() == before, "BLAS has its threads back"
    with ThreadPoolExecutor(1) as pool:  # a stream of MLX belongs to the thread that made it
        assert mx.array_equal(pool.submit(sample).result(), sample())


@on_cpu
def test_gradients_reach_every_weight() -> None:
    """Adapters train through these classes too, with the gradients of MLX's own."""
    plain, x, t, given = tiny_diffusion(), latents(), mx.array([0.3, 0.8]), conditions()
    given["start_seconds"] = mx.array([5.0, 10.0])

    def loss(parameters: dict, model: SemanticDiffusion) -> mx.array:
        model.update(parameters)
        return mx.square(model(x, t, **given)).mean()

    parameters = plain.parameters()
    fast = optimise(copy.deepcopy(plain))
    gradients = [dict(tree_flatten(mx.grad(loss)(parameters, m))) for m in (fast, plain)]
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        assert mx.abs(other).max().item() > 0, name
        assert mx.abs(gradient - other).max().item() < 1e-4 * mx.abs(other).max().item(), name


@on_cpu
def test_operations_of_a_step(tiny_model: Path) -> None:
    """Counts guard the speed: one that grew is a regression to explain."""
    model = mc.load(tiny_model)
    layers = tiny.CONFIG["semantic_lm"]["num_hidden_layers"]
    token = sum(cost.token_operations(model.semantic_lm).values())
    assert token <= 92 + 48 * layers, "an audio token takes more operations than it did"
    evals = cost.token_evals(model.semantic_lm, tokens=100)["async_eval"]
    assert evals == 100 + 99 * (layers - 1), "queued between layers too, but in the prefill"
    layers = tiny.CONFIG["diffusion"]["num_layers"]
    once = sum(cost.pass_operations(model.diffusion).values())
    skip = 8  # gains by the time and by the hidden state, and the product with the latents
    assert once <= 50 + skip + 165 * layers, "a diffusion pass takes more operations than it did"
