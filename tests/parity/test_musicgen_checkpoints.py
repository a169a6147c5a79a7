"""What facebook/musicgen-* hold, written down from upstream sources, and read wholly by our tables.

The lists of keys and shapes below are built from each model's sizes; transformers' own classes at
full size (on the meta device, which allocates nothing) confirm them.
"""

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.convert.keymaps import encodec, musicgen, musicgen_audiocraft, t5
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.models.encodec import Encodec, EncodecConfig
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.models.t5 import T5Config, T5Encoder
from musicot_mlx.weights.config import config_from_dict
from tests.support.tiny_musicgen import (
    ENCODEC_32KHZ,
    PUBLISHED,
    T5_BASE,
    Sizes,
    audiocraft_codec_settings,
    audiocraft_settings,
    upstream_config,
    upstream_model,
)

torch = pytest.importorskip("torch")

Shapes = dict[str, tuple[int, ...]]
MODELS = pytest.mark.parametrize("name", PUBLISHED)


def _t5_shapes() -> Shapes:
    width, inner, feed = T5_BASE["d_model"], T5_BASE["num_heads"] * T5_BASE["d_kv"], T5_BASE["d_ff"]
    shapes: Shapes = {
        "shared.weight": (32128, width),
        "encoder.embed_tokens.weight": (32128, width),
    }
    attention = "encoder.block.0.layer.0.SelfAttention."
    shapes[attention + "relative_attention_bias.weight"] = (32, T5_BASE["num_heads"])
    for n in range(T5_BASE["num_layers"]):
        block = f"encoder.block.{n}.layer"
        shapes |= {f"{block}.0.SelfAttention.{x}.weight": (inner, width) for x in "qkv"}
        shapes[f"{block}.0.SelfAttention.o.weight"] = (width, inner)
        shapes[f"{block}.1.DenseReluDense.wi.weight"] = (feed, width)
        shapes[f"{block}.1.DenseReluDense.wo.weight"] = (width, feed)
        shapes |= {f"{block}.{x}.layer_norm.weight": (width,) for x in (0, 1)}
    shapes["encoder.final_layer_norm.weight"] = (width,)
    return shapes


def _codec_shapes(*, audiocraft: bool, norm: tuple[str, str]) -> Shapes:
    """EnCodec 32 kHz; norm: what weight normalisation calls its length and its direction."""
    shapes: Shapes = {}
    layers, conv, convtr = (
        ("model", ".conv.conv", ".convtr.convtr") if audiocraft else ("layers", ".conv", ".conv")
    )

    def add(path: str, out: int, into: int, taps: int, *, transposed: bool = False) -> None:
        path += convtr if transposed else conv
        first, second = (into, out) if transposed else (out, into)
        shapes[f"{path}.bias"] = (out,)
        shapes[f"{path}.{norm[0]}"] = (first, 1, 1)
        shapes[f"{path}.{norm[1]}"] = (first, second, taps)

    def residual(path: str, width: int) -> None:
        add(f"{path}.block.1", width // 2, width, 3)
        add(f"{path}.block.3", width, width // 2, 1)

    def lstm(path: str, width: int) -> None:
        for n in (0, 1):
            for kind in ("ih", "hh"):
                shapes[f"{path}.lstm.weight_{kind}_l{n}"] = (4 * width, width)
                shapes[f"{path}.lstm.bias_{kind}_l{n}"] = (4 * width,)

    add(f"encoder.{layers}.0", 64, 1, 7)
    for index, ratio in enumerate((4, 4, 5, 8)):
        width = 64 * 2**index
        residual(f"encoder.{layers}.{1 + 3 * index}", width)
        add(f"encoder.{layers}.{3 + 3 * index}", 2 * width, width, 2 * ratio)
    lstm(f"encoder.{layers}.13", 1024)
    add(f"encoder.{layers}.15", 128, 1024, 7)
    add(f"decoder.{layers}.0", 1024, 128, 7)
    lstm(f"decoder.{layers}.1", 1024)
    for index, ratio in enumerate((8, 5, 4, 4)):
        width = 1024 // 2**index
        add(f"decoder.{layers}.{3 + 3 * index}", width // 2, width, 2 * ratio, transposed=True)
        residual(f"decoder.{layers}.{4 + 3 * index}", width // 2)
    add(f"decoder.{layers}.15", 1, 64, 7)
    book = "quantizer.vq.layers.{}._codebook." if audiocraft else "quantizer.layers.{}.codebook."
    for n in range(4):
        shapes |= {book.format(n) + x: (2048, 128) for x in ("embed", "embed_avg")}
        shapes |= {book.format(n) + "cluster_size": (2048,), book.format(n) + "inited": (1,)}
    return shapes


def _decoder_shapes(sizes: Sizes) -> Shapes:
    width, shapes = sizes.hidden_size, {}
    for k in range(sizes.codebooks):
        shapes[f"decoder.model.decoder.embed_tokens.{k}.weight"] = (2049, width)
        shapes[f"decoder.lm_heads.{k}.weight"] = (2048, width)
    norms = ["self_attn_layer_norm", "final_layer_norm"]
    attentions = ["self_attn"]
    if not sizes.melody:
        norms, attentions = [*norms, "encoder_attn_layer_norm"], [*attentions, "encoder_attn"]
    for n in range(sizes.layers):
        layer = f"decoder.model.decoder.layers.{n}."
        for attention in attentions:
            for part in ("q", "k", "v", "out"):
                shapes[f"{layer}{attention}.{part}_proj.weight"] = (width, width)
        shapes |= {f"{layer}{norm}.{x}": (width,) for norm in norms for x in ("weight", "bias")}
        shapes[f"{layer}fc1.weight"] = (4 * width, width)
        shapes[f"{layer}fc2.weight"] = (width, 4 * width)
    shapes |= {f"decoder.model.decoder.layer_norm.{x}": (width,) for x in ("weight", "bias")}
    shapes |= {"enc_to_dec_proj.weight": (width, 768), "enc_to_dec_proj.bias": (width,)}
    if sizes.melody:
        shapes["audio_enc_to_dec_proj.weight"] = (width, 12)
        shapes["audio_enc_to_dec_proj.bias"] = (width,)
    return shapes


def _audiocraft_shapes(sizes: Sizes) -> Shapes:
    """`best_state` of state_dict.bin: audiocraft/models/lm.py and modules/."""
    width, shapes = sizes.hidden_size, {}
    for k in range(sizes.codebooks):
        shapes[f"emb.{k}.weight"], shapes[f"linears.{k}.weight"] = (2049, width), (2048, width)
    for n in range(sizes.layers):
        layer = f"transformer.layers.{n}."
        for attention in ("self_attn",) if sizes.melody else ("self_attn", "cross_attention"):
            shapes[f"{layer}{attention}.in_proj_weight"] = (3 * width, width)
            shapes[f"{layer}{attention}.out_proj.weight"] = (width, width)
        for norm in ("norm1", "norm2") if sizes.melody else ("norm1", "norm2", "norm_cross"):
            shapes |= {f"{layer}{norm}.{x}": (width,) for x in ("weight", "bias")}
        shapes[f"{layer}linear1.weight"] = (4 * width, width)
        shapes[f"{layer}linear2.weight"] = (width, 4 * width)
    shapes |= {f"out_norm.{x}": (width,) for x in ("weight", "bias")}
    conditioners = "condition_provider.conditioners."
    shapes[conditioners + "description.output_proj.weight"] = (width, 768)
    shapes[conditioners + "description.output_proj.bias"] = (width,)
    if sizes.melody:
        shapes[conditioners + "self_wav.output_proj.weight"] = (width, 12)
        shapes[conditioners + "self_wav.output_proj.bias"] = (width,)
        shapes[conditioners + "self_wav.chroma.spec.window"] = (16384,)
    return shapes


OLD = ("weight_g", "weight_v")
NEW = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def _zeros(shapes: Shapes) -> dict[str, mx.array]:
    return {key: mx.zeros(shape) for key, shape in shapes.items()}  # lazy: nothing is allocated


def _parameter_shapes(network: Any) -> Shapes:
    return {key: value.shape for key, value in tree_flatten(network.parameters())}


def _shapes(arrays: dict[str, mx.array]) -> Shapes:
    return {key: value.shape for key, value in arrays.items()}


@MODELS
def test_written_down_is_what_transformers_has(name: str) -> None:
    sizes = PUBLISHED[name]
    with torch.device("meta"):
        model = upstream_model(upstream_config(sizes))
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == (
        _prefixed("text_encoder.", _t5_shapes())
        | _prefixed("audio_encoder.", _codec_shapes(audiocraft=False, norm=NEW))
        | _decoder_shapes(sizes)
    )


@MODELS
def test_decoders_are_read_wholly(name: str) -> None:
    sizes = PUBLISHED[name]
    source = upstream_config(sizes).to_dict()
    config = musicgen.config(source, frame_rate=50.0)
    network = _parameter_shapes(Musicgen(config_from_dict(MusicgenConfig, config)))
    shapes = _decoder_shapes(sizes)
    assert _shapes(apply_rules(musicgen.rules(config), _zeros(shapes))) == network
    shapes["decoder.model.decoder.embed_positions.weights"] = (2048, sizes.hidden_size)
    assert _shapes(apply_rules(musicgen.rules(config), _zeros(shapes))) == network

    settings = audiocraft_settings(sizes)
    theirs = musicgen_audiocraft.config(settings, text_hidden_size=768)
    as_ours = config_from_dict(MusicgenConfig, theirs)
    assert as_ours == config_from_dict(MusicgenConfig, config)
    arrays = _zeros(_audiocraft_shapes(sizes))
    assert _shapes(apply_rules(musicgen_audiocraft.rules(theirs), arrays)) == network


def test_text_encoder_is_read_wholly() -> None:
    config = t5.config(upstream_config(PUBLISHED["small"]).to_dict()["text_encoder"])
    network = _parameter_shapes(T5Encoder(config_from_dict(T5Config, config)))
    shapes = _t5_shapes()
    assert _shapes(apply_rules(t5.RULES, _zeros(shapes))) == network
    shapes |= {"lm_head.weight": (32128, 768), "decoder.final_layer_norm.weight": (768,)}
    assert _shapes(apply_rules(t5.RULES, _zeros(shapes))) == network


@pytest.mark.parametrize("norm", [OLD, NEW])
def test_codec_is_read_wholly(norm: tuple[str, str]) -> None:
    config = encodec.config(upstream_config(PUBLISHED["small"]).to_dict()["audio_encoder"])
    network = _parameter_shapes(Encodec(config_from_dict(EncodecConfig, config)))
    for names, audiocraft in ((encodec.TRANSFORMERS, False), (encodec.AUDIOCRAFT, True)):
        arrays = _zeros(_codec_shapes(audiocraft=audiocraft, norm=norm))
        assert _shapes(apply_rules(encodec.rules(config, names), arrays)) == network
    theirs = encodec.audiocraft_config(audiocraft_codec_settings(ENCODEC_32KHZ))
    assert config_from_dict(EncodecConfig, theirs) == config_from_dict(EncodecConfig, config)
    assert config["num_quantizers"] == 4
