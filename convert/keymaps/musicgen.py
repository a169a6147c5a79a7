"""MusicGen: transformers.MusicgenForConditionalGeneration, Musicgen(Melody), -> models/musicgen.py.

The parts of such a checkpoint are `text_encoder.` (keymaps/t5.py), `audio_encoder.`
(keymaps/encodec.py), and the rest, which is our `decoder`: `decoder.model.decoder...`,
`decoder.lm_heads...` and the projections `enc_to_dec_proj`, `audio_enc_to_dec_proj` (melody).
"""

from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

MODEL_TYPES = ("musicgen", "musicgen_melody")

_LAYER = r"decoder\.model\.decoder\.layers\.(?P<n>\d+)\."
_OURS = r"layers.\g<n>."


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """The key map of a decoder; config: the `decoder` section of an MLX config.json.

    The embeddings of all codebooks become one matrix, and so do the heads, first codebook first.
    """
    codebooks = tuple(str(k) for k in range(config["num_codebooks"]))
    return [
        # Sine positions, which the network computes; transformers 4 wrote them.
        Rule(r"decoder\.model\.decoder\.embed_positions\.weights", None),
        Rule(
            r"decoder\.model\.decoder\.embed_tokens\.(?P<part>\d+)\.weight",
            "embed_tokens.weight",
            "join",
            codebooks,
        ),
        Rule(r"decoder\.lm_heads\.(?P<part>\d+)\.weight", "lm_head.weight", "join", codebooks),
        Rule(
            _LAYER + r"self_attn\.(?P<part>[qkv])_proj\.weight",
            _OURS + "self_attn.qkv.weight",
            "join",
            ("q", "k", "v"),
        ),
        Rule(
            _LAYER + r"encoder_attn\.(?P<part>[kv])_proj\.weight",
            _OURS + "encoder_attn.kv.weight",
            "join",
            ("k", "v"),
        ),
        Rule(_LAYER + r"(?P<x>(?:self_attn|encoder_attn)\.out_proj\.weight)", _OURS + r"\g<x>"),
        Rule(_LAYER + r"(?P<x>encoder_attn\.q_proj\.weight)", _OURS + r"\g<x>"),
        Rule(_LAYER + r"(?P<x>fc[12]\.weight)", _OURS + r"\g<x>"),
        Rule(
            _LAYER + r"(?P<x>(?:self_attn_|encoder_attn_|final_)layer_norm\.(?:weight|bias))",
            _OURS + r"\g<x>",
        ),
        Rule(r"decoder\.model\.decoder\.layer_norm\.(weight|bias)", r"layer_norm.\1"),
        Rule(r"((?:audio_)?enc_to_dec_proj\.(?:weight|bias))", r"\1"),
    ]


_FIELDS = (
    "vocab_size max_position_embeddings num_hidden_layers ffn_dim num_attention_heads hidden_size "
    "activation_function num_codebooks audio_channels"
).split()


def config(source: Mapping[str, Any], *, frame_rate: float) -> dict[str, Any]:
    """The `decoder` section of an MLX config.json, from transformers' whole MusicGen config.

    frame_rate: of the codec, in Hz. Raises MusicotError for an option that the network does not
    have.
    """
    decoder, melody = source["decoder"], source["model_type"] == "musicgen_melody"
    hidden = decoder.get("hidden_size", 1024)
    fixed = {
        "scale_embedding": (False,),
        "tie_word_embeddings": (False,),
        "cross_attention_hidden_size": (None, hidden),
    }
    for name, expected in fixed.items():
        if decoder.get(name, expected[0]) not in expected:
            raise MusicotError(
                f"this MusicGen has {name}={decoder[name]!r}, which musicot does not support; "
                "the models of facebook/musicgen-* don't have it"
            )
    out = {name: decoder[name] for name in _FIELDS if decoder.get(name) is not None}
    out.setdefault("num_codebooks", 4)
    out["text_hidden_size"] = source["text_encoder"].get("d_model", 512)
    out["frame_rate"] = frame_rate
    if melody:
        out["num_chroma"] = source.get("num_chroma", 12)
        out["chroma_length"] = source.get("chroma_length", 235)
    return out
