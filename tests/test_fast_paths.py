"""The CPU's fast paths give what the plain ones give: rotation, lanes, the step of the LM."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import mlx.core as mx
import mlx.nn as nn
import pytest

from musicot_mlx.generation import diffusion
from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion
from musicot_mlx.models.semantic_lm import merge_caches
from musicot_mlx.models.vae import VAE, VAEConfig
from musicot_mlx.nn import elementwise, few_rows, lanes, llama_step, rotary
from tests import tiny
from tests.test_semantic_lm import tiny_lm

on_cpu = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="the fast paths are for MLX's CPU backend"
)


def far(a: mx.array, b: mx.array) -> float:
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize(("dims", "width"), [(4, 8), (8, 8)])
def test_rotation_is_mlx_own(dims: int, width: int) -> None:
    x = mx.random.normal((2, 3, 50, width), key=mx.random.key(0))
    mlx = mx.fast.rope(x, dims, traditional=False, base=500.0, scale=1.0, offset=0)
    assert far(rotary.rotate(x, dims, base=500.0), mlx) < 1e-6


@on_cpu
@pytest.mark.parametrize("halved", [False, True], ids=["whole", "halved"])
@pytest.mark.parametrize("lengths", [[7], [9, 2]], ids=["one row", "padded rows"])
def test_one_step_is_the_plain_step(
    lengths: list[int], halved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny_lm()
    if halved:  # as matrices are that are large enough for both cores
        lane = mx.new_stream(mx.cpu)
        monkeypatch.setattr(lanes, "second_lane", lambda: lane)
        monkeypatch.setattr(few_rows, "_FEWEST_WEIGHTS", 1)
        assert few_rows.halves(lm.layers[0].self_attn.o_proj, len(lengths), lane)

    def hidden(step: llama_step.Step | None) -> mx.array:
        caches = [lm.make_cache() for _ in lengths]
        for n, cache in zip(lengths, caches, strict=True):
            lm.hidden(lm.embed(mx.arange(n)[None]), cache)
        cache = merge_caches(caches)
        ids = mx.arange(40).reshape(1, 40) + mx.zeros((len(lengths), 1), dtype=mx.int32)
        steps = [lm.hidden(lm.embed(ids[:, i : i + 1]), cache, step=step) for i in range(38)]
        two = lm.hidden(lm.embed(ids[:, 38:]), cache, step=step)  # which no step takes
        return mx.concatenate([*steps, two], axis=1)

    step = lm.stepper(len(lengths))
    assert step is not None
    plain = hidden(None)
    assert far(hidden(step), plain) < 1e-5 * mx.abs(plain).max().item()


def test_a_layer_with_an_adapter_goes_the_plain_way() -> None:
    from mlx_lm.tuner.lora import LoRALinear

    lm = tiny_lm()
    assert (lm.stepper(2) is not None) == (mx.default_device() == mx.Device(mx.cpu))
    attention = lm.layers[1].self_attn
    attention.v_proj = LoRALinear.from_base(attention.v_proj)
    assert lm.stepper(2) is None


@on_cpu
@pytest.mark.parametrize("masked", [False, True])
def test_folded_cross_attention_is_the_plain_one(
    masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DiffusionConfig.from_dict({**tiny.CONFIG["diffusion"], "attention_head_dim": 16})
    layer = SemanticDiffusion(config).dit.transformer_blocks[0].attn2
    layer.eval()
    keys = mx.random.split(mx.random.key(0), 2)
    x = mx.random.normal((2, 7, config.inner_dim), key=keys[0])
    context = mx.random.normal((2, 5, config.cross_attention_dim), key=keys[1])
    mask = mx.array([[True] * 5, [True] * 2 + [False] * 3])[:, None, None] if masked else None
    folded = layer.keys_values(context)
    assert folded[0].shape == (2, config.num_attention_heads * 5, config.inner_dim)
    monkeypatch.setattr(type(layer), "folds", lambda *_: False)
    assert far(layer(x, folded, mask), layer(x, layer.keys_values(context), mask)) < 1e-5


@on_cpu
def test_norm_and_gate_are_mlx_own() -> None:
    norm = nn.LayerNorm(24)
    norm.weight, norm.bias = mx.arange(24) / 24, mx.ones((24,))
    x = 3 + mx.random.normal((2, 9, 24), key=mx.random.key(0))
    assert far(elementwise.layer_norm(norm, x), norm(x)) < 1e-5

    def slopes(gated: Callable[[mx.array, mx.array], mx.array]) -> tuple[mx.array, mx.array]:
        return mx.grad(lambda up, gate: gated(up, gate).square().sum(), argnums=(0, 1))(x, -x)

    plain = slopes(lambda up, gate: up * nn.silu(gate))
    assert all(far(a, b) < 1e-3 for a, b in zip(slopes(elementwise.swiglu), plain, strict=True))


@on_cpu
def test_small_steps_keep_to_one_core_and_give_the_others_back() -> None:
    if lanes.openblas() is None:
        pytest.skip("there is no OpenBLAS to set")

    def held() -> tuple[int, set[frozenset[int]]]:
        found = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):  # it has just ended
                found.add(frozenset(os.sched_getaffinity(int(thread))))
        return lanes.openblas().openblas_get_num_threads(), found

    before, worth_it = held(), lanes.worth_it()
    with lanes.OneCore(products=1) as core:
        threads, cores = held()
        if worth_it:
            assert threads == 1 and [len(few) for few in cores] == [1]
        with core.paused():
            assert held() == before
    with lanes.OneCore(products=1 << 30):
        assert held() == before
    assert held() == before


@on_cpu
def test_decoding_in_lanes_is_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    if lanes.openblas() is None:
        pytest.skip("without OpenBLAS there are no lanes")
    vae = VAE(VAEConfig.from_dict(tiny.CONFIG["vae"]))
    latents = mx.random.normal((1, 8 * vae.config.decoder_reach + 1, vae.config.latent_dim))
    monkeypatch.setattr(lanes, "worth_it", lambda: True)
    assert far(vae._decode_in_lanes(latents, 0), vae.decode(latents)) < 1e-4


@on_cpu
def test_lanes_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    library = lanes.openblas()
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

    threads = library.openblas_get_num_threads()
    monkeypatch.setattr(lanes, "worth_it", lambda: False)
    batch = sample()
    monkeypatch.setattr(lanes, "worth_it", lambda: True)
    assert far(sample(), batch) < 1e-5
    assert mx.array_equal(sample(), sample()), "the same seed must give the same bytes"
    assert library.openblas_get_num_threads() == threads, "BLAS has its threads back"
    with ThreadPoolExecutor(1) as pool:  # a stream of MLX belongs to the thread that made it
        assert mx.array_equal(pool.submit(sample).result(), sample())
