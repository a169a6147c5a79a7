"""ViT and ViViT: transformers.ViTModel and VivitModel -> models/vit.py.

One table serves both. Layers are `encoder.layer.N` in files of transformers 4, `layers.N` with
other names for their parts in files of transformers 5; the pooler is dropped.
"""

import math
from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule, numbered
from musicot_mlx.errors import MusicotError

_OLD, _NEW = r"encoder\.layer\.(?P<n>\d+)\.", r"layers\.(?P<n>\d+)\."
_EITHER = r"(?:encoder\.layer|layers)\.(?P<n>\d+)\."
_LEAF = r"\.(?P<leaf>weight|bias)"

RULES: list[Rule] = [
    Rule(r"pooler\.dense" + _LEAF, None),
    Rule(r"embeddings\.mask_token", None),
    Rule(r"embeddings\.cls_token", "class_token", "squeeze"),
    Rule(r"embeddings\.position_embeddings", "positions", "squeeze0"),
    Rule(r"embeddings\.patch_embeddings\.projection\.weight", "patches.weight", "patches"),
    Rule(r"embeddings\.patch_embeddings\.projection\.bias", "patches.bias"),
    Rule(
        _OLD + r"attention\.attention\.(?P<part>query|key|value)" + _LEAF,
        r"layers.\g<n>.qkv.\g<leaf>",
        "join",
        ("query", "key", "value"),
    ),
    Rule(
        _NEW + r"attention\.(?P<part>[qkv])_proj" + _LEAF,
        r"layers.\g<n>.qkv.\g<leaf>",
        "join",
        ("q", "k", "v"),
    ),
    Rule(_OLD + r"attention\.output\.dense" + _LEAF, r"layers.\g<n>.out_proj.\g<leaf>"),
    Rule(_NEW + r"attention\.o_proj" + _LEAF, r"layers.\g<n>.out_proj.\g<leaf>"),
    Rule(_OLD + r"intermediate\.dense" + _LEAF, r"layers.\g<n>.up.\g<leaf>"),
    Rule(_NEW + r"mlp\.fc1" + _LEAF, r"layers.\g<n>.up.\g<leaf>"),
    Rule(_OLD + r"output\.dense" + _LEAF, r"layers.\g<n>.down.\g<leaf>"),
    Rule(_NEW + r"mlp\.fc2" + _LEAF, r"layers.\g<n>.down.\g<leaf>"),
    Rule(_EITHER + r"layernorm_before" + _LEAF, r"layers.\g<n>.attention_norm.\g<leaf>"),
    Rule(_EITHER + r"layernorm_after" + _LEAF, r"layers.\g<n>.mlp_norm.\g<leaf>"),
    Rule(r"layernorm" + _LEAF, r"norm.\g<leaf>"),
]

_HEAD_DIM = 64
_LAYER = "encoder.layer.0.intermediate.dense.weight", "layers.0.mlp.fc1.weight"


def sizes(
    shapes: Mapping[str, tuple[int, ...]], *, heads: int | None = None, frames: int = 32
) -> dict[str, Any]:
    """The section of config.json that belongs to a checkpoint of no config, from its shapes.

    heads: of attention, which no shape tells; one in 64 channels if None. frames: of a film, where
    it is one. Raises MusicotError where the positions belong to no square picture.
    """
    weight = shapes["embeddings.patch_embeddings.projection.weight"]
    film = len(weight) == 5  # (out, channels, [frames,] height, width)
    dim, tubelet = weight[0], weight[2] if film else 1
    tokens = shapes["embeddings.position_embeddings"][1] - 1
    a_frame = tokens * tubelet // frames if film else tokens
    side = math.isqrt(a_frame)
    if side * side != a_frame or side * side * (frames // tubelet if film else 1) != tokens:
        raise MusicotError(
            f"a vision transformer of {tokens} patches in {frames if film else 1} frames has no "
            "square pictures, which musicot does not support"
        )
    sizes = {
        "hidden_size": dim,
        "num_hidden_layers": numbered(shapes, r"(?:encoder\.layer|layers)\.(\d+)\."),
        "num_attention_heads": heads or max(1, dim // _HEAD_DIM),
        "intermediate_size": next(shapes[key][0] for key in _LAYER if key in shapes),
        "num_channels": weight[1],
        "patch_size": weight[-1],
        "image_size": side * weight[-1],
    }
    if film:
        sizes |= {"num_frames": frames, "tubelet_frames": tubelet}
        sizes |= {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-6}
    return sizes
