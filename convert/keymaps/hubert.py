"""MERT: transformers.HubertModel, and the MERTModel that is one -> models/hubert.py.

The positional convolution carries weight normalisation over its taps, which is folded: `weight_g`
and `weight_v` in files of transformers 4, `parametrizations.weight.original0` and `original1` since
PyTorch 2.1.
"""

from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule, numbered
from musicot_mlx.errors import MusicotError

_LAYER = r"encoder\.layers\.(?P<n>\d+)\."
_LEAF = r"\.(?P<leaf>weight|bias)"
_CONV = r"feature_extractor\.conv_layers\."

RULES: list[Rule] = [
    Rule(r"masked_spec_embed", None),  # what masked frames are in training
    Rule(_CONV + r"(?P<n>\d+)\.conv\.weight", r"features.convs.\g<n>.weight", "conv1d"),
    Rule(_CONV + r"0\.layer_norm" + _LEAF, r"features.norm.\g<leaf>"),
    Rule(r"feature_projection\.layer_norm" + _LEAF, r"feature_norm.\g<leaf>"),
    Rule(r"feature_projection\.projection" + _LEAF, r"projection.\g<leaf>"),
    Rule(r"encoder\.pos_conv_embed\.conv\.bias", "position.bias"),
    Rule(r"encoder\.pos_conv_embed\.conv\.weight", "position.weight", "conv1d"),
    Rule(
        r"encoder\.pos_conv_embed\.conv\.(?P<part>weight_g|weight_v)",
        "position.weight",
        "weight_norm_conv1d",
        ("weight_g", "weight_v"),
    ),
    Rule(
        r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.(?P<part>original[01])",
        "position.weight",
        "weight_norm_conv1d",
        ("original0", "original1"),
    ),
    Rule(
        _LAYER + r"attention\.(?P<part>[qkv])_proj" + _LEAF,
        r"layers.\g<n>.qkv.\g<leaf>",
        "join",
        ("q", "k", "v"),
    ),
    Rule(_LAYER + r"attention\.out_proj" + _LEAF, r"layers.\g<n>.out_proj.\g<leaf>"),
    Rule(_LAYER + r"layer_norm" + _LEAF, r"layers.\g<n>.attention_norm.\g<leaf>"),
    Rule(_LAYER + r"feed_forward\.intermediate_dense" + _LEAF, r"layers.\g<n>.up.\g<leaf>"),
    Rule(_LAYER + r"feed_forward\.output_dense" + _LEAF, r"layers.\g<n>.down.\g<leaf>"),
    Rule(_LAYER + r"final_layer_norm" + _LEAF, r"layers.\g<n>.mlp_norm.\g<leaf>"),
    Rule(r"encoder\.layer_norm" + _LEAF, r"norm.\g<leaf>"),
]

_HEAD_DIM = 64
_STRIDES = {10: 5, 3: 2, 2: 2}  # of a kernel: those of every HuBERT and wav2vec 2.0


def sizes(shapes: Mapping[str, tuple[int, ...]], *, heads: int | None = None) -> dict[str, Any]:
    """The section of config.json that belongs to a checkpoint of no config, from its shapes.

    heads: of attention, which no shape tells; one in 64 channels if None. Raises KeyError for a
    missing tensor, MusicotError for a HuBERT of another kind: convolutions with bias or a norm
    each, kernels of unknown stride.
    """
    convs = {
        key.split(".")[2]: tuple(shape)
        for key, shape in shapes.items()
        if key.startswith("feature_extractor.conv_layers.") and key.endswith(".conv.weight")
    }
    kernels = [convs[n][2] for n in sorted(convs, key=int)]
    if not kernels:
        raise KeyError("feature_extractor.conv_layers.0.conv.weight")
    odd = [kernel for kernel in kernels if kernel not in _STRIDES]
    known = "feature_extractor.conv_layers.0.layer_norm.weight" in shapes and not odd
    if not known or "feature_extractor.conv_layers.1.layer_norm.weight" in shapes:
        raise MusicotError(
            "the audio encoder is no HuBERT with one group norm and kernels of 10, 3 and 2 taps; "
            "musicot knows MERT-v1-330M"
        )
    dim = shapes["encoder.layer_norm.weight"][0]
    groups = dim // shapes[_position(shapes)][1]
    up = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    return {
        "hidden_size": dim,
        "num_hidden_layers": numbered(shapes, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": heads or max(1, dim // _HEAD_DIM),
        "intermediate_size": shapes[up][0],
        "conv_dim": [convs[n][0] for n in sorted(convs, key=int)],
        "conv_kernel": kernels,
        "conv_stride": [_STRIDES[kernel] for kernel in kernels],
        "num_conv_pos_embeddings": shapes[_position(shapes)][2],
        "num_conv_pos_embedding_groups": groups,
    }


def _position(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The key of the positional convolution's taps."""
    stem = "encoder.pos_conv_embed.conv."
    for name in ("weight_v", "parametrizations.weight.original1", "weight"):
        if stem + name in shapes:
            return stem + name
    raise MusicotError("the audio encoder lacks encoder.pos_conv_embed.conv; convert all of it")
