"""As on Metal: 16-bit and quantised weights stay as stored, and a song still comes out of them."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation import deep_networks
from musicot_mlx.generation import device
from musicot_mlx.nn.adapters import add_layers
from musicot_mlx.pipelines.musicot import FAMILY
from musicot_mlx.pipelines.musicot.pipeline import PARTS
from musicot_mlx.training.losses import NoisyWindow, diffusion_loss
from musicot_mlx.training.trainer import loss_and_gradients
from musicot_mlx.weights import checkpoint
from musicot_mlx.weights.config import config_from_dict
from tests.support import tiny


def _config() -> dict:
    """The tiny model at 32 channels, the smallest group that quantisation knows."""
    config = copy.deepcopy(tiny.CONFIG)
    config["clap"]["projection_dim"] = config["rvq"]["dim"] = 32
    config["clap"]["text_config"]["hidden_size"] = 32
    config["clap"]["audio_config"] |= {"patch_embeds_hidden_size": 32, "hidden_size": 32}
    config["semantic_lm"] |= {"hidden_size": 32, "clap_dim": 32}
    config["semantic_tokenizer"]["dim"] = 32
    config["diffusion"] |= {"clap_dim": 32, "attention_head_dim": 16, "cross_attention_dim": 32}
    config["diffusion"] |= {"cross_attention_input_dim": 32, "global_states_input_dim": 64}
    config["diffusion"] |= {"time_proj_dim": 32, "semantic_dim": 32}
    config["vae"] |= {"encoder_dim": 32, "decoder_dim": 32}
    return config


def _stored(folder: Path, mode: str | None) -> Path:
    """Write the 32-channel model as musicot convert stores models: float16, or 8 bits of a mode."""
    config = _config()
    whole = tiny.write_model(folder.with_name(folder.name + "-float32"), config)
    arrays = checkpoint.load_arrays(whole)
    out = {}
    for name, (network, config_class) in PARTS.items():
        built = network(config_from_dict(config_class, config[name], where=name))
        piece = checkpoint.part(arrays, name)
        exact = {k: v for k, v in piece.items() if FAMILY.is_exact(name, k)}
        rest = {k: v.astype(mx.float16) for k, v in piece.items() if k not in exact}
        if mode:
            bits = 6 if name == "vae" and mode == "affine" else 8
            rest = checkpoint.quantize_arrays(built, rest, group_size=32, bits=bits, mode=mode)
        out |= {f"{name}.{key}": value for key, value in (exact | rest).items()}
    if mode:
        whole_model = {"group_size": 32, "bits": 8, "mode": mode}
        vae = {**whole_model, "bits": 6 if mode == "affine" else 8}
        config["quantization"] = {**whole_model, "vae": vae}
    tokenizer = {"tokenizer.json": whole / "tokenizer.json"}
    return checkpoint.save_checkpoint(folder, config, out, tokenizer)


@pytest.fixture(scope="module", params=[None, "affine", "mxfp8"], ids=["float16", "8-bit", "mxfp8"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _stored(tmp_path_factory.mktemp("stored") / "model", request.param)


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    return mc.load(folder)


def test_a_cpu_expands_each_part_by_its_own_bits(folder: Path) -> None:
    arrays = checkpoint.load_arrays(folder)
    network = mc.load(folder).vae
    for name in ("encoder.downsample", "decoder.upsample"):
        stored = arrays[f"vae.{name}.weight"]
        if f"vae.{name}.scales" in arrays:
            packing = checkpoint.quantization_of(checkpoint.read_config(folder), "vae")
            packed = (arrays.get(f"vae.{name}.{leaf}") for leaf in ("weight", "scales", "biases"))
            stored = mx.dequantize(*packed, **packing, dtype=mx.float32)
        part = network.encoder if name.startswith("encoder") else network.decoder
        found = getattr(part, name.partition(".")[2]).weight
        np.testing.assert_allclose(found, stored.astype(mx.float32), atol=1e-6)


def test_weights_stay_as_stored(model, folder: Path) -> None:
    quantized = "quantization" in checkpoint.read_config(folder)
    layer = model.semantic_lm.layers[0].self_attn.q_proj
    assert isinstance(layer, nn.QuantizedLinear if quantized else nn.Linear)
    networks = {"clap": model.clap.clap, "semantic_tokenizer": model.semantic_tokenizer}
    networks |= {name: getattr(model, name) for name in ("semantic_lm", "diffusion", "vae")}
    for part, network in networks.items():
        for name, value in tree_flatten(network.parameters()):
            exact = value.dtype == mx.float32 and FAMILY.is_exact(part, name)
            assert exact or value.dtype in (mx.float16, mx.uint32, mx.uint8), f"{part}.{name}"


def test_hidden_states_are_float16(model) -> None:
    """In float32 a GPU would take twice the memory and time, and no number would tell."""
    lm, cache = model.semantic_lm, model.semantic_lm.make_cache()
    clap = np.ones(lm.config.clap_dim, dtype=np.float32)
    states = lm.hidden(lm.prefix(clap, [lm.config.cot_bos]), cache)
    assert states.dtype == lm.dtype == mx.float16
    assert {layer.keys.dtype for layer in cache} == {mx.float16}
    assert lm.hidden(lm.prefix(None, [lm.config.cot_bos]), cache).dtype == mx.float16
    embeddings = model.clap.clap.text_model.embeddings(mx.array([[0, 5, 6, 2]]))
    assert embeddings.dtype == mx.float16


def test_a_song_comes_out(model) -> None:
    song = model.generate("piano", duration=6, seed=1)
    assert song.waveform.shape == (6 * 8000, 2) and song.waveform.dtype == np.float32
    assert np.isfinite(song.waveform).all() and song.waveform.std() > 1e-3
    assert (model.generate("piano", duration=6, seed=1).waveform == song.waveform).all()


def test_it_is_near_the_float32_song(model, folder: Path, monkeypatch) -> None:
    plan = model.plan("piano", duration=12, thought_temperature=0)
    monkeypatch.undo()
    exact = mc.load(folder)
    np.testing.assert_allclose(
        model.clap.embed_text(["solo piano"]), exact.clap.embed_text(["solo piano"]), atol=0.02
    )
    assert plan.codes.shape == exact.plan("piano", duration=12).codes.shape


# Products that are float32 on purpose: a code is drawn from them, or they sum over a song.
FLOAT32 = re.compile(r"conditioner\.project|depth\.heads\.\d+|audio_time\..*")
EVERY = list(deep_networks.networks())


@pytest.mark.parametrize("mode", [None, "mxfp8"], ids=["float16", "mxfp8"])
@pytest.mark.parametrize("place", EVERY, ids=lambda place: "-".join(place[:2]))
def test_no_network_runs_wider_than_it_is_stored(
    place: tuple, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One float32 weight or embedding that is let through makes all after it float32: a GPU then
    widens every matrix anew at every step, and no number tells.
    """
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    wide = _wide(monkeypatch)
    for compared in deep_networks.compared(*place, small=True):
        network = compared.network
        if mode:
            packing = {"group_size": 32, "bits": 8, "mode": mode}
            arrays = dict(tree_flatten(network.parameters()))
            packed = checkpoint.quantize_arrays(network, arrays, **packing)
            network = checkpoint.prepare(type(network)(network.config), packing, packed)
        outputs = compared.example.run(network)
        mx.eval(outputs)
        assert all(mx.isfinite(value).all().item() for value in outputs.values())
        names = {id(layer): name for name, layer in network.named_modules()}
        assert {names[layer] for layer in wide if not FLOAT32.fullmatch(names[layer])} == set()


def test_nor_do_those_of_musicot(model, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, rng = _wide(monkeypatch), np.random.default_rng(0)
    clap, vae, tokenizer = model.clap, model.vae, model.semantic_tokenizer
    clap.embed_audio(rng.standard_normal(model.sample_rate).astype(np.float32), model.sample_rate)
    sound = mx.array(rng.standard_normal((1, 4000, 2)).astype(np.float32))
    mx.eval(vae.encode(sound[..., : vae.config.audio_channels]).mean)
    mx.eval(tokenizer.encode(sound[..., 0]))
    model.generate("piano", duration=1, seed=1)
    networks = [clap.clap, vae, tokenizer, model.semantic_lm, model.diffusion]
    names = {id(layer): name for each in networks for name, layer in each.named_modules()}
    assert {names.get(layer, "another") for layer in wide} == set()


def _wide(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ids of the linear layers that are given float32, as they are called."""
    wide: set[int] = set()

    def called(real: Callable, self: nn.Module, x: mx.array) -> mx.array:
        if x.dtype == mx.float32:
            wide.add(id(self))
        return real(self, x)

    for kind in (nn.Linear, nn.QuantizedLinear):
        real = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda self, x, real=real: called(real, self, x))
    return wide


# --- tuning -----------------------------------------------------------------------------------


def _task(network: nn.Module) -> tuple[SimpleNamespace, list[NoisyWindow]]:
    """The diffusion's task, and a batch of one window whose numbers are drawn."""
    config, rng = network.config, np.random.default_rng(1)
    shape = (config.window_frames, config.latent_dim)
    window = NoisyWindow(
        latents=rng.standard_normal(shape).astype(np.float32),
        noise=rng.standard_normal(shape).astype(np.float32),
        t=0.5,
        codes=rng.integers(0, config.audio_codebook_size, (40,)).astype(np.int32),
        frame_offset=0.0,
        clap=rng.standard_normal((3, config.clap_dim)).astype(np.float32) / 6,
        start_seconds=0.0,
        total_seconds=30.0,
        counted=shape[0],
    )
    return SimpleNamespace(module=network, loss=lambda w: diffusion_loss(network, w)), [window]


def _gradients(network: nn.Module, weight: float) -> dict[str, np.ndarray]:
    mx.random.seed(0)
    add_layers(network, kind="lora", num_layers=-1, rank=4, scale=10.0, dropout=0.0)
    rng = np.random.default_rng(2)
    drawn = [
        (name, mx.array(0.02 * rng.standard_normal(value.shape).astype(np.float32)))
        for name, value in sorted(tree_flatten(network.trainable_parameters()))
    ]
    network.load_weights(drawn, strict=False)
    loss, gradients = loss_and_gradients(*_task(network), weight)
    assert loss.item() * weight == pytest.approx(_task(network)[0].loss(_task(network)[1]).item())
    return {name: np.array(value) * weight for name, value in tree_flatten(gradients)}


def test_gradients_of_a_large_batch_are_not_lost(model, folder: Path, monkeypatch) -> None:
    """In 16 bits, as on a GPU, the mean over ten million numbers underflows on its way back."""
    found = _gradients(model.diffusion, 1e7)
    monkeypatch.undo()
    exact = _gradients(mc.load(folder).diffusion, 1e7)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        cosine = (value * found[name]).sum()
        cosine /= np.linalg.norm(value) * np.linalg.norm(found[name])
        assert cosine > 0.99, name


def test_full_tuning_of_float16_weights(model, folder: Path) -> None:
    """In float16 Adam's epsilon is 0 and the first step is 0/0: what is tuned becomes float32."""
    network = model.diffusion
    if "quantization" in checkpoint.read_config(folder):
        with pytest.raises(MusicotError, match="not quantised"):
            add_layers(network, kind="full", num_layers=-1, rank=1, scale=1.0, dropout=0.0)
        return
    add_layers(network, kind="full", num_layers=-1, rank=1, scale=1.0, dropout=0.0)
    task, items = _task(network)
    adam, losses = optim.AdamW(learning_rate=1e-3), []
    for _ in range(6):
        loss, gradients = loss_and_gradients(task, items, items[0].weight)
        adam.update(network, gradients)
        mx.eval(network.parameters(), adam.state)
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert {v.dtype for _, v in tree_flatten(network.trainable_parameters())} == {mx.float32}
    song = model.generate("piano", duration=2, seed=1)  # as a run renders between its steps
    assert np.isfinite(song.waveform).all()
