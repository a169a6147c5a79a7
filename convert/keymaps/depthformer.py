"""Magenta RealTime 2's language model: `mrt2_*.safetensors` -> models/depthformer.py.

The names are flax's (magenta-rt 2.0.3, `params/depthformer/...`); kernels are (in, ..., out).
"""

from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

PREFIX = "params/depthformer/"
_CONDITION = r"encoder/body/layers_1/branched_"
_LAYER = r"x_layers_(?P<n>\d+)/"
_TEMPORAL = r"decoder/temporal_body/transformer/" + _LAYER
_DEPTH = r"decoder/depth_body/transformer/" + _LAYER
_ATTENTION = r"(?P<kind>self|cross)_attention/"


def _layer(source: str, target: str) -> list[Rule]:
    """The rules of one kind of layer; of a depth layer the sinks and the cross-attention lack."""
    target += r".\g<n>."
    kind = target + r"\g<kind>_attn."
    return [
        Rule(source + _ATTENTION + r"(?P<norm>pre|post)_norm/scale", kind + r"\g<norm>.weight"),
        Rule(
            source + _ATTENTION + r"attention/(?P<what>query|key|value)_projection/kernel",
            kind + r"\g<what>.weight",
            "heads_in",
        ),
        Rule(source + _ATTENTION + r"attention/per_dim_scale", kind + "scale", "query_scale"),
        Rule(
            source + _ATTENTION + r"attention/sink_(?P<what>key|value)_embeddings",
            kind + r"sink_\g<what>",
            "squeeze0",
        ),
        Rule(source + _ATTENTION + r"output_projection/kernel", kind + "out.weight", "heads_out"),
        Rule(source + r"ffn/(?P<norm>pre|post)_norm/scale", target + r"ffn.\g<norm>.weight"),
        Rule(source + r"ffn/ffn_layer1/kernel", target + "ffn.up.weight", "transpose"),
        Rule(source + r"ffn/ffn_layer1/bias", target + "ffn.up.bias"),
        Rule(source + r"ffn/ffn_layer2/kernel", target + "ffn.down.weight", "transpose"),
        Rule(source + r"ffn/ffn_layer2/bias", target + "ffn.down.bias"),
    ]


RULES: list[Rule] = [
    Rule(
        _CONDITION + r"mulan_embedder/mulan_embedder/mulan_dequantizer/embedding",
        "conditioner.style.weight",
    ),
    Rule(
        _CONDITION + r"mulan_embedder/mulan_embedder/depth_input_adapter/kernel",
        "conditioner.project.weight",
        "transpose",
    ),
    Rule(
        _CONDITION + r"regular_embedder/regular_embedder/embedding", "conditioner.controls.weight"
    ),
    Rule(r"encoder/body/encoder_ln/scale", "conditioner.norm.weight"),
    Rule(r"encoder/body/encoder_ln/bias", "conditioner.norm.bias"),
    Rule(r"decoder/decoder_embedding/embedding/embedding", "tokens.weight"),
    *_layer(_TEMPORAL, "layers"),
    Rule(r"decoder/depth_body/depth_input_adapter/kernel", "depth.project.weight", "transpose"),
    *_layer(_DEPTH, "depth.layers"),
    Rule(r"decoder/depth_body/final_ln/scale", "depth.norm.weight"),
    Rule(r"decoder/depth_body/final_ln/bias", "depth.norm.bias"),
    Rule(
        r"decoder/depth_body/to_logits/kernel",
        tuple(f"depth.heads.{level}.weight" for level in range(12)),
        "level_heads",
    ),
    Rule(
        r"decoder/depth_body/to_logits/bias",
        tuple(f"depth.heads.{level}.bias" for level in range(12)),
        "level_heads",
    ),
]


PAST = {1024: 41, 3072: 25}  # frames that a temporal layer of this width looks back on


def config(shapes: Mapping[str, tuple[int, ...]], *, past: int | None = None) -> dict[str, Any]:
    """The `lm` section of an MLX config.json, from the shapes of the checkpoint's arrays.

    The checkpoint brings no config. What shapes do not tell is how far back a temporal layer looks;
    unless `past` says it, that goes with the width. Raises MusicotError for a width that was never
    published.
    """
    temporal = PREFIX + "decoder/temporal_body/transformer/x_layers_0/"
    depth = PREFIX + "decoder/depth_body/transformer/x_layers_0/"
    query = "self_attention/attention/query_projection/kernel"
    try:
        width, heads, head_dim = shapes[temporal + query]
        depth_width, depth_heads, _ = shapes[depth + query]
        values = {
            "condition_dim": shapes[PREFIX + "encoder/body/encoder_ln/scale"][0],
            "temporal_dim": width,
            "temporal_heads": heads,
            "temporal_ffn_dim": shapes[temporal + "ffn/ffn_layer1/bias"][0],
            "temporal_layers": _layers(shapes, temporal),
            "depth_dim": depth_width,
            "depth_heads": depth_heads,
            "depth_ffn_dim": shapes[depth + "ffn/ffn_layer1/bias"][0],
            "depth_layers": _layers(shapes, depth),
            "head_dim": head_dim,
            "past": PAST[width] if past is None else past,
        }
    except KeyError as error:
        raise MusicotError(
            f"this is no checkpoint of Magenta RealTime 2 that we know: it lacks {error}"
        ) from error
    return values


def _layers(shapes: Mapping[str, Any], first: str) -> int:
    """How many layers there are beside that of which `first` is the beginning of the keys."""
    body = first.removesuffix("0/")
    return len({key[len(body) :].split("/", 1)[0] for key in shapes if key.startswith(body)})
