"""T5 encoder: transformers T5EncoderModel, T5ForConditionalGeneration -> models/t5.py.

t5-base as MusicGen uses it, and its gated successors (v1.1, flan). A whole T5 checkpoint may be
given: its decoder and head are dropped.
"""

from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

_BLOCK = r"encoder\.block\.(?P<n>\d+)\."

RULES: list[Rule] = [
    # The other half of a whole T5, and the second name of the tied embedding.
    Rule(r"decoder\..+", None),
    Rule(r"lm_head\.weight", None),
    Rule(r"shared\.weight", "embed_tokens.weight"),
    Rule(r"encoder\.embed_tokens\.weight", None),
    Rule(
        r"encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
        "relative_attention_bias.weight",
    ),
    Rule(
        _BLOCK + r"layer\.0\.SelfAttention\.(?P<part>[qkv])\.weight",
        r"layers.\g<n>.qkv.weight",
        "join",
        ("q", "k", "v"),
    ),
    Rule(_BLOCK + r"layer\.0\.SelfAttention\.o\.weight", r"layers.\g<n>.out_proj.weight"),
    Rule(_BLOCK + r"layer\.0\.layer_norm\.weight", r"layers.\g<n>.attention_norm.weight"),
    Rule(_BLOCK + r"layer\.1\.DenseReluDense\.(?:wi|wi_1)\.weight", r"layers.\g<n>.up.weight"),
    Rule(_BLOCK + r"layer\.1\.DenseReluDense\.wi_0\.weight", r"layers.\g<n>.gate.weight"),
    Rule(_BLOCK + r"layer\.1\.DenseReluDense\.wo\.weight", r"layers.\g<n>.down.weight"),
    Rule(_BLOCK + r"layer\.1\.layer_norm\.weight", r"layers.\g<n>.mlp_norm.weight"),
    Rule(r"encoder\.final_layer_norm\.weight", "norm.weight"),
]

_FIELDS = (
    "vocab_size d_model d_kv d_ff num_layers num_heads relative_attention_num_buckets "
    "relative_attention_max_distance layer_norm_epsilon feed_forward_proj"
).split()


def config(source: Mapping[str, Any]) -> dict[str, Any]:
    """The `text_encoder` section of an MLX config.json, from transformers' T5 config.

    Raises MusicotError for a text encoder of another kind.
    """
    kind = source.get("model_type", "t5")
    if kind != "t5":
        raise MusicotError(f"the text encoder is {kind!r}; musicot knows MusicGen with T5")
    return {name: source[name] for name in _FIELDS if source.get(name) is not None}
