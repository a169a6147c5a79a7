"""As on Metal: 16-bit and quantised weights stay as stored, and a song still comes out of them."""

import copy
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import musicot_mlx as mc
from musicot_mlx.convert.families.musicot import EXACT
from musicot_mlx.pipelines.musicot.pipeline import PARTS
from musicot_mlx.weights import checkpoint
from musicot_mlx.weights.config import config_from_dict
from tests import tiny


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


def _stored(folder: Path, *, quantized: bool) -> Path:
    """Write the 32-channel model as musicot convert stores models."""
    config = _config()
    whole = tiny.write_model(folder.with_name(folder.name + "-float32"), config)
    arrays = checkpoint.load_arrays(whole)
    out = {}
    for name, (network, config_class) in PARTS.items():
        built = network(config_from_dict(config_class, config[name], where=name))
        piece = checkpoint.part(arrays, name)
        exact = {} if name not in EXACT else {k: v for k, v in piece.items() if "codebook" in k}
        rest = {k: v.astype(mx.float16) for k, v in piece.items() if k not in exact}
        if quantized:
            bits = 6 if name == "vae" else 8
            rest = checkpoint.quantize_arrays(built, rest, group_size=32, bits=bits)
        out |= {f"{name}.{key}": value for key, value in (exact | rest).items()}
    if quantized:
        whole_model = {"group_size": 32, "bits": 8, "mode": "affine"}
        config["quantization"] = {**whole_model, "vae": {**whole_model, "bits": 6}}
    tokenizer = {"tokenizer.json": whole / "tokenizer.json"}
    return checkpoint.save_checkpoint(folder, config, out, tokenizer)


@pytest.fixture(scope="module", params=[False, True], ids=["float16", "8-bit"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "model"
    return _stored(path, quantized=request.param)


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "compute_dtype", lambda stored=mx.float16: stored)
    return mc.load(folder)


def test_a_cpu_expands_each_part_by_its_own_bits(folder: Path) -> None:
    arrays = checkpoint.load_arrays(folder)
    network = mc.load(folder).vae
    for name in ("encoder.downsample", "decoder.upsample"):
        stored = arrays[f"vae.{name}.weight"]
        if f"vae.{name}.scales" in arrays:
            packed = (arrays[f"vae.{name}.{leaf}"] for leaf in ("weight", "scales", "biases"))
            stored = mx.dequantize(*packed, group_size=32, bits=6, dtype=mx.float32)
        part = network.encoder if name.startswith("encoder") else network.decoder
        found = getattr(part, name.partition(".")[2]).weight
        np.testing.assert_allclose(found, stored.astype(mx.float32), atol=1e-6)


def test_weights_stay_as_stored(model, folder: Path) -> None:
    quantized = "quantization" in checkpoint.read_config(folder)
    layer = model.semantic_lm.layers[0].self_attn.q_proj
    assert isinstance(layer, nn.QuantizedLinear if quantized else nn.Linear)
    for network in (model.clap.clap, model.semantic_lm, model.diffusion, model.vae):
        dtypes = {value.dtype for _, value in tree_flatten(network.parameters())}
        assert dtypes <= {mx.float16, mx.uint32}, type(network)


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
