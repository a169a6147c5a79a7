"""A whole model at 16 channels: every part of musicot at a size that runs in a second."""

import os
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

TEXT_TOKENS = 261  # five special tokens and the byte alphabet
TAGS = ["piano", "guitar", "drums"]

CONFIG: dict[str, Any] = {
    "model_type": "musicot",
    "clap": {
        "projection_dim": 16,
        "text_config": {
            "vocab_size": TEXT_TOKENS,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 66,
            "layer_norm_eps": 1e-5,
        },
        "audio_config": {
            "patch_size": 8,
            "patch_stride": [8, 8],
            "patch_embeds_hidden_size": 16,
            "depths": [1],
            "num_attention_heads": [2],
            "hidden_size": 16,
        },
    },
    "rvq": {"dim": 16, "codebooks": 3, "codebook_size": 8},
    "semantic_lm": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "clap_dim": 16,
        "text_vocab_size": TEXT_TOKENS,
        "tags": TAGS,
        "thought_codebooks": 3,
        "thought_codebook_size": 8,
        "audio_codebook_size": 32,
        "audio_frame_rate": 25.0,
        "thought_seconds": 10.0,
        "context_seconds": 40.0,
        "thought_bias_rank": 4,
        "beat_harmonics": 4,
        "harmony": True,
        "tempo_head": True,
    },
    "semantic_tokenizer": {
        "sample_rate": 8000,
        "n_fft": 256,
        "hop_length": 80,
        "mels": 16,
        "stack": 4,
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "expansion": 2,
        "kernel_size": 5,
        "codebook_size": 32,
        "codebook_dim": 8,
        "window_codes": 100,
        "margin_codes": 10,
    },
    "diffusion": {
        "latent_dim": 8,
        "semantic_dim": 8,
        "audio_codebook_size": 32,
        "clap_dim": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 1,
        "cross_attention_dim": 16,
        "cross_attention_input_dim": 16,
        "time_proj_dim": 16,
        "global_states_input_dim": 32,
        "max_seconds": 300.0,
        "latent_rate": 8000 / 256,
        "audio_frame_rate": 25.0,
        "window_seconds": 4.0,
        "overlap_seconds": 1.0,
        "objective": "rectified_flow",
        "latent_scale": 1.0,
        "harmony": True,
        "skip": True,
    },
    "vae": {
        "sample_rate": 8000,
        "audio_channels": 2,
        "n_fft": 512,
        "hop_length": 128,
        "latent_dim": 8,
        "encoder_dim": 16,
        "encoder_layers": [1, 1],
        "decoder_dim": 16,
        "decoder_layers": [1, 1],
        "expansion": 2,
        "kernel_size": 5,
        "core_band": [1, 3],
    },
    "usual_harmony": {"progressions": [["piano", "minor", "Cm|Ab|Eb|Bb", 3]]},
    "sampling": {"steps": 2, "sampler": "euler", "diffusion_guidance": 2.0, "tag_threshold": 0.5},
}


def tokenizer() -> Tokenizer:
    """Byte-level tokens without merges, with RoBERTa's special tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.add_special_tokens(special)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def write_model(folder: Path, config: dict[str, Any] = CONFIG, *, seed: int = 0) -> Path:
    """Write an MLX folder with random weights that make audible, moving sound."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from musicot_mlx.pipelines.musicot.pipeline import PARTS
    from musicot_mlx.weights.checkpoint import save_checkpoint
    from musicot_mlx.weights.config import config_from_dict

    keys = iter(mx.random.split(mx.random.key(seed), 4096))
    mx.random.seed(seed)  # for the biases, which layers draw from the global generator
    arrays = {}
    for name, (network, config_class) in PARTS.items():
        part = network(config_from_dict(config_class, config[name], where=name))
        for key, value in tree_flatten(part.parameters()):
            if mx.issubdtype(value.dtype, mx.floating) and value.ndim > 1:
                fan_in = max(value.size // value.shape[0], 1)
                # of its own, so that the others are what they were before there were chords
                own = mx.random.key(seed + 1) if key.startswith("harmony_proj") else next(keys)
                value = mx.random.normal(value.shape, key=own) * fan_in**-0.5
            if key == "bin_scale":  # music falls with frequency, noise does not
                bins = config["vae"]["n_fft"] // 2 + 1
                tilt = -1.0 - mx.log(mx.maximum(mx.arange(bins), 4.0) / 4.0)
                value = mx.tile(tilt, value.size // bins)
            if key.startswith(("skip.", "gate.", "harmony_proj.")):
                value = 0.1 * value  # gains of many steps multiply
            if key == "core_scale":
                value = value - 3.0
            arrays[f"{name}.{key}"] = value
    made = tokenizer().to_str(pretty=False)
    return save_checkpoint(folder, config, arrays, {"tokenizer.json": made})


def write_reference(folder: Path, *, seed: int = 0) -> Path:
    """Write the PyTorch checkpoint of the same sizes."""
    import torch

    from musicot_mlx.reference.musicot import MusicotReference

    config = {key: value for key, value in CONFIG.items() if key != "model_type"}
    torch.manual_seed(seed)
    model = MusicotReference(config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("_codebook.embed"):
            buffer.copy_(torch.randn_like(buffer) * 0.3)
    made = model.diffusion
    lm = model.semantic_lm
    zeros = (lm.beat_proj, lm.harmony_proj, made.harmony_proj, made.skip, made.gate)
    for layer in zeros:  # until trained
        torch.nn.init.normal_(layer.weight, std=0.05)
    model.save_pretrained(folder, tokenizer())
    return Path(folder)


def environment(**extra: str) -> dict[str, str]:
    """The environment of a CLI subprocess: offline, one thread."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **extra}
