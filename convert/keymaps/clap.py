"""CLAP: transformers.ClapModel and laion_clap checkpoints to musicot_mlx.models.clap.

`RULES` maps ClapModel (laion/clap-htsat-unfused, laion/larger_clap_general,
laion/larger_clap_music), whose names the MLX network keeps. `LAION_RULES` maps the files of
laion_clap (music_audioset_epoch_15_esc_90.14.pt and its like). Fusion checkpoints are not
supported: their audio tower has other inputs.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from musicot_mlx.audio.mel import mel_filter_bank
from musicot_mlx.convert.rules import Rule, numbered
from musicot_mlx.errors import MusicotError

RULES: list[Rule] = [
    # The temperature of the training loss, and buffers that the network computes.
    Rule(r"logit_scale_[at]", None),
    Rule(r"text_model\.embeddings\.(position_ids|token_type_ids)", None),
    Rule(r"audio_model\..*\.relative_position_index", None),
    Rule(r"audio_model\.audio_encoder\.batch_norm\.num_batches_tracked", None),
    # Audio tower.
    Rule(r"(audio_model\.audio_encoder\.patch_embed\.proj\.weight)", r"\1", "conv2d"),
    Rule(
        r"(audio_model\.audio_encoder\.batch_norm\.(?:weight|bias|running_mean|running_var))", r"\1"
    ),
    Rule(r"(audio_model\.audio_encoder\.patch_embed\.proj\.bias)", r"\1"),
    Rule(r"(audio_model\.audio_encoder\.patch_embed\.norm\.(?:weight|bias))", r"\1"),
    Rule(r"(audio_model\.audio_encoder\.norm\.(?:weight|bias))", r"\1"),
    Rule(r"(audio_model\.audio_encoder\.layers\.\d+\.blocks\.\d+\..+)", r"\1"),
    Rule(r"(audio_model\.audio_encoder\.layers\.\d+\.downsample\..+)", r"\1"),
    # Text tower and projections.
    Rule(r"(text_model\.embeddings\.(?:word|position|token_type)_embeddings\.weight)", r"\1"),
    Rule(r"(text_model\.embeddings\.LayerNorm\.(?:weight|bias))", r"\1"),
    Rule(r"(text_model\.encoder\.layer\.\d+\..+)", r"\1"),
    Rule(r"(text_model\.pooler\.dense\.(?:weight|bias))", r"\1"),
    Rule(r"((?:audio|text)_projection\.linear[12]\.(?:weight|bias))", r"\1"),
]

_BLOCK = r"audio_branch\.layers\.(\d+)\.blocks\.(\d+)\."
_OUR_BLOCK = r"audio_model.audio_encoder.layers.\1.blocks.\2."

LAION_RULES: list[Rule] = [
    # Recomputed front end, buffers, AudioSet classifier, and the extra head of the training loss.
    Rule(r"logit_scale_[at]", None),
    Rule(r"audio_branch\.(spectrogram_extractor|logmel_extractor)\..+", None),
    Rule(r"audio_branch\.bn0\.num_batches_tracked", None),
    Rule(_BLOCK + r"(attn_mask|attn\.relative_position_index)", None),
    Rule(r"audio_branch\.(tscam_conv|head)\.(weight|bias)", None),
    Rule(r"(audio|text)_transform\..+", None),
    Rule(r"text_branch\.embeddings\.(position_ids|token_type_ids)", None),
    # Audio tower.
    Rule(
        r"audio_branch\.bn0\.(weight|bias|running_mean|running_var)",
        r"audio_model.audio_encoder.batch_norm.\1",
    ),
    Rule(
        r"audio_branch\.patch_embed\.proj\.weight",
        "audio_model.audio_encoder.patch_embed.proj.weight",
        "conv2d",
    ),
    Rule(
        r"audio_branch\.(patch_embed\.proj\.bias|(?:patch_embed\.)?norm\.(?:weight|bias))",
        r"audio_model.audio_encoder.\1",
    ),
    Rule(_BLOCK + r"norm1\.(weight|bias)", _OUR_BLOCK + r"layernorm_before.\3"),
    Rule(_BLOCK + r"norm2\.(weight|bias)", _OUR_BLOCK + r"layernorm_after.\3"),
    Rule(
        _BLOCK + r"attn\.qkv\.(weight|bias)",
        tuple(_OUR_BLOCK + rf"attention.self.{name}.\3" for name in ("query", "key", "value")),
        "split3",
    ),
    Rule(
        _BLOCK + r"attn\.relative_position_bias_table",
        _OUR_BLOCK + r"attention.self.relative_position_bias_table",
    ),
    Rule(_BLOCK + r"attn\.proj\.(weight|bias)", _OUR_BLOCK + r"attention.output.dense.\3"),
    Rule(_BLOCK + r"mlp\.fc1\.(weight|bias)", _OUR_BLOCK + r"intermediate.dense.\3"),
    Rule(_BLOCK + r"mlp\.fc2\.(weight|bias)", _OUR_BLOCK + r"output.dense.\3"),
    Rule(r"audio_branch\.(layers\.\d+\.downsample\..+)", r"audio_model.audio_encoder.\1"),
    # Text tower and projections.
    Rule(r"text_branch\.((?:embeddings|encoder|pooler)\..+)", r"text_model.\1"),
    Rule(r"(audio|text)_projection\.0\.(weight|bias)", r"\1_projection.linear1.\2"),
    Rule(r"(audio|text)_projection\.2\.(weight|bias)", r"\1_projection.linear2.\2"),
]

_TEXT_FIELDS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
    "max_position_embeddings type_vocab_size layer_norm_eps pad_token_id bos_token_id eos_token_id "
    "context_length"
).split()
_AUDIO_FIELDS = (
    "spec_size num_mel_bins patch_size patch_stride patch_embeds_hidden_size depths "
    "num_attention_heads window_size mlp_ratio qkv_bias hidden_act layer_norm_eps hidden_size"
).split()
_FEATURE_FIELDS = (
    "sampling_rate fft_window_size hop_length max_length_s frequency_min frequency_max int16"
).split()
_FIXED = {
    "enable_fusion": False,
    "patch_embed_input_channels": 1,
    "flatten_patch_embeds": True,
    "enable_patch_layer_norm": True,
}
_FIXED_FEATURES = {"truncation": "rand_trunc", "padding": "repeatpad", "top_db": None}
_USE_OTHER = "use a checkpoint without fusion, such as music_audioset_epoch_15_esc_90.14.pt"


def config(source: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `clap` section of an MLX config.json.

    source is transformers' config.json or the `clap` section of a musicot-pytorch one, features
    transformers' preprocessor_config.json. Keeps the fields that the network reads; absent ones
    keep their defaults. Raises MusicotError for a fusion checkpoint or another option that the
    network does not have.
    """
    text, audio = source.get("text_config") or {}, source.get("audio_config") or {}
    for name, expected in _FIXED.items():
        if audio.get(name, expected) != expected:
            raise MusicotError(
                f"this CLAP has {name}={audio[name]!r}, which musicot does not support; "
                "use a checkpoint without fusion, such as laion/larger_clap_music"
            )
    out: dict[str, Any] = {
        "text_config": {name: text[name] for name in _TEXT_FIELDS if name in text},
        "audio_config": {name: audio[name] for name in _AUDIO_FIELDS if name in audio},
    }
    patch = out["audio_config"].get("patch_size")
    if isinstance(patch, (list, tuple)):
        if len(set(patch)) != 1:
            raise MusicotError(f"this CLAP has patches of {patch}; musicot needs square ones")
        out["audio_config"]["patch_size"] = patch[0]
    stride = out["audio_config"].get("patch_stride")
    if isinstance(stride, int):
        out["audio_config"]["patch_stride"] = [stride, stride]
    for name in ("projection_dim", "projection_hidden_act"):
        if name in source:
            out[name] = source[name]
    features = features or source.get("feature_config")
    if features:
        for name, expected in _FIXED_FEATURES.items():
            if features.get(name, expected) != expected:
                raise MusicotError(
                    f"this CLAP's front end has {name}={features[name]!r}, musicot has only "
                    f"{expected!r}; use a checkpoint such as laion/larger_clap_music"
                )
        out["feature_config"] = {
            name: features[name] for name in _FEATURE_FIELDS if name in features
        }
    return out


def laion_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `clap` section of a laion_clap state dict, inferred from the shapes of its weights.

    What no shape tells is what laion_clap builds: a 256 x 256 image, RoBERTa with heads of 64
    channels and eps 1e-5, texts cut at 77 tokens, 48 kHz, hop 480, 50 to 14000 Hz, audio rounded to
    16 bits. Raises MusicotError for fusion files and for other towers than HTSAT and RoBERTa.
    """
    if any("fusion_model" in key or "mel_conv2d" in key for key in shapes):
        raise MusicotError(f"this CLAP was trained with feature fusion; {_USE_OTHER}")

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise MusicotError(
                f"this CLAP lacks {name}: its towers are not HTSAT and RoBERTa; {_USE_OTHER}"
            )
        return shapes[name]

    patch = shape("audio_branch.patch_embed.proj.weight")  # (channels, 1, side, side)
    tables = {
        (int(match[1]), int(match[2])): value
        for key, value in shapes.items()
        if (match := re.fullmatch(_BLOCK + r"attn\.relative_position_bias_table", key))
    }
    stages = 1 + max((stage for stage, _ in tables), default=-1)
    depths = [sum(1 for at, _ in tables if at == stage) for stage in range(stages)]
    heads = [tables[stage, 0][1] for stage in range(stages)]
    first = "audio_branch.layers.0.blocks.0."
    window = (math.isqrt(shape(first + "attn.relative_position_bias_table")[0]) + 1) // 2
    words = shape("text_branch.embeddings.word_embeddings.weight")
    positions = shape("text_branch.embeddings.position_embeddings.weight")[0]
    types = shape("text_branch.embeddings.token_type_embeddings.weight")[0]
    if types != 1:
        raise MusicotError(f"this CLAP's text tower is BERT, musicot has RoBERTa's; {_USE_OTHER}")
    layers = numbered(shapes, r"text_branch\.encoder\.layer\.(\d+)\.output\.dense\.bias")
    return {
        "projection_dim": shape("text_projection.2.weight")[0],
        "text_config": {
            "vocab_size": words[0],
            "hidden_size": words[1],
            "num_hidden_layers": layers,
            "num_attention_heads": max(words[1] // 64, 1),
            "intermediate_size": shape("text_branch.encoder.layer.0.intermediate.dense.bias")[0],
            "max_position_embeddings": positions,
            "layer_norm_eps": 1e-5,
            "context_length": min(77, positions - 2),
        },
        "audio_config": {
            "num_mel_bins": shape("audio_branch.bn0.weight")[0],
            "patch_size": patch[2],
            "patch_stride": [patch[2], patch[2]],
            "patch_embeds_hidden_size": patch[0],
            "depths": depths,
            "num_attention_heads": heads,
            "window_size": window,
            "mlp_ratio": shape(first + "mlp.fc1.bias")[0] / patch[0],
            "qkv_bias": first + "attn.qkv.bias" in shapes,
            "hidden_size": shape("audio_branch.norm.weight")[0],
        },
        "feature_config": {
            "fft_window_size": 2 * (shape("audio_branch.logmel_extractor.melW")[0] - 1),
            "int16": True,
        },
    }


def check_laion_filters(section: Mapping[str, Any], filters: Any) -> None:
    """Raise MusicotError unless the file's own mel filters (bins, mels) are those we compute."""
    filters = np.asarray(filters, dtype=np.float64)
    ours = mel_filter_bank(
        section["feature_config"]["fft_window_size"],
        section["audio_config"]["num_mel_bins"],
        sample_rate=48000,
        min_frequency=50,
        max_frequency=14000,
    )
    # a checkpoint in 16 bits has rounded ones: by 2^-8 in bfloat16
    if filters.shape != ours.shape or np.abs(filters - ours).max() > 4e-3 * ours.max():
        raise MusicotError(
            "this CLAP has other mel filters than 50 to 14000 Hz at 48 kHz, so another front end; "
            "musicot reads the published files of laion_clap"
        )


def used(rules: Iterable[Rule], state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a state dict that the rules do not drop: nothing else need be read."""
    table = [(re.compile(rule.pattern), rule.target) for rule in rules]
    out = {}
    for key, value in state.items():
        target = next((target for regex, target in table if regex.fullmatch(key)), key)
        if target is not None:
            out[key] = value
    return out
