"""MusicGen as audiocraft publishes it (`state_dict.bin`) -> models/musicgen.py.

The file holds the language model and the projection of its text condition. T5 is not in it (the
conditioner keeps T5 out of its state), so the text encoder comes from a T5 checkpoint; the codec is
in `compression_state_dict.bin` (keymaps/encodec.py) or only named there. Beside the weights the
file holds its settings as YAML text (`xp.cfg`): audiocraft/utils/export.py.
"""

import re
from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

_LAYER = r"transformer\.layers\.(?P<n>\d+)\."
_OURS = r"layers.\g<n>."
_CONDITIONERS = r"condition_provider\.conditioners\."


def rules(config: Mapping[str, Any]) -> list[Rule]:
    """The key map of a language model; config: the `decoder` section of an MLX config.json."""
    codebooks = tuple(str(k) for k in range(config["num_codebooks"]))
    norms = {"norm1": "self_attn", "norm_cross": "encoder_attn", "norm2": "final"}
    return [
        # The window of the chroma's Fourier transform.
        Rule(_CONDITIONERS + r"self_wav\.chroma\.spec\.window", None),
        Rule(r"emb\.(?P<part>\d+)\.weight", "embed_tokens.weight", "join", codebooks),
        Rule(r"linears\.(?P<part>\d+)\.weight", "lm_head.weight", "join", codebooks),
        # Query, key and value in one matrix, in this order, as in our network.
        Rule(_LAYER + r"self_attn\.in_proj_weight", _OURS + "self_attn.qkv.weight"),
        Rule(
            _LAYER + r"cross_attention\.in_proj_weight",
            (_OURS + "encoder_attn.q_proj.weight", _OURS + "encoder_attn.kv.weight"),
            "split_query",
        ),
        Rule(_LAYER + r"self_attn\.out_proj\.weight", _OURS + "self_attn.out_proj.weight"),
        Rule(_LAYER + r"cross_attention\.out_proj\.weight", _OURS + "encoder_attn.out_proj.weight"),
        Rule(_LAYER + r"linear(?P<x>[12])\.weight", _OURS + r"fc\g<x>.weight"),
        *(
            Rule(_LAYER + name + r"\.(?P<x>weight|bias)", _OURS + rf"{ours}_layer_norm.\g<x>")
            for name, ours in norms.items()
        ),
        Rule(r"out_norm\.(weight|bias)", r"layer_norm.\1"),
        Rule(_CONDITIONERS + r"description\.output_proj\.(weight|bias)", r"enc_to_dec_proj.\1"),
        Rule(_CONDITIONERS + r"self_wav\.output_proj\.(weight|bias)", r"audio_enc_to_dec_proj.\1"),
    ]


# Options of the transformer that our network does not have, and what they must be.
_FIXED = {
    "activation": "gelu",
    "norm_first": True,
    "bias_ff": False,
    "bias_attn": False,
    "bias_proj": False,
    "layer_scale": None,
    "positional_embedding": "sin",
    "norm": "layer_norm",
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "kv_repeat": 1,
    "past_context": None,
}


def config(source: Mapping[str, Any], *, text_hidden_size: int) -> dict[str, Any]:
    """The `decoder` section of an MLX config.json, from the settings (`xp.cfg`) of the file.

    text_hidden_size: of the T5 beside it. Raises MusicotError for a model of another kind, such as
    MusicGen-Style, whose style conditioner is MERT and is not in the file.
    """
    try:
        lm, conditioners = source["transformer_lm"], source.get("conditioners") or {}
        pattern = source["codebooks_pattern"]
        out = {
            "vocab_size": lm["card"],
            "num_hidden_layers": lm["num_layers"],
            "ffn_dim": int(lm["hidden_scale"] * lm["dim"]),
            "num_attention_heads": lm["num_heads"],
            "hidden_size": lm["dim"],
            "num_codebooks": lm["n_q"],
            "text_hidden_size": text_hidden_size,
        }
        stereo = (source.get("interleave_stereo_codebooks") or {}).get("use", False)
        out["audio_channels"] = 2 if stereo else 1
        melody = conditioners.get("self_wav")
        if melody and melody["model"] == "chroma_stem":
            chroma = melody["chroma_stem"]
            window = 2 ** chroma["radix2_exp"]
            duration = source["dataset"]["segment_duration"]
            out["num_chroma"] = chroma["n_chroma"]
            samples = round(source["sample_rate"] * duration)
            out["chroma_length"] = samples // (window // 4) + 1  # centred windows
    except (KeyError, TypeError) as error:
        raise MusicotError(f"the settings of this audiocraft model lack {error}") from error
    kinds = {name: value.get("model") for name, value in conditioners.items() if name != "args"}
    if kinds.get("self_wav") == "style":
        raise MusicotError(
            "this is MusicGen-Style, whose style conditioner needs MERT; musicot has the text and "
            "melody models"
        )
    if kinds not in ({"description": "t5"}, {"description": "t5", "self_wav": "chroma_stem"}):
        raise MusicotError(f"this audiocraft model has the conditioners {kinds}; MusicGen has T5")
    delays = [k // out["audio_channels"] for k in range(out["num_codebooks"])]
    if pattern.get("modeling") != "delay" or pattern["delay"]["delays"] != delays:
        raise MusicotError(f"this model's codebooks are not delayed by {delays}: {pattern}")
    for name, expected in _FIXED.items():
        if lm.get(name, expected) != expected:
            raise MusicotError(f"this model has {name}={lm[name]!r}; musicot knows {expected!r}")
    return out


def resolved(settings: Any, root: Any = None) -> Any:
    """Settings with `${a.b}` replaced by what stands there, as OmegaConf does."""
    root = settings if root is None else root
    if isinstance(settings, dict):
        return {name: resolved(value, root) for name, value in settings.items()}
    if isinstance(settings, list):
        return [resolved(value, root) for value in settings]
    if isinstance(settings, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", settings)):
        value = root
        for name in match[1].split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return resolved(value, root) if value != settings else None
    return settings
