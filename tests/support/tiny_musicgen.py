"""Tiny MusicGen checkpoints, as transformers and audiocraft save them; and the published sizes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT_TOKENS = 259  # pad, end, unknown and the byte alphabet


@dataclass(frozen=True)
class Sizes:
    """What tells one MusicGen from another."""

    hidden_size: int
    layers: int
    heads: int
    stereo: bool = False
    melody: bool = False

    @property
    def codebooks(self) -> int:
        return 8 if self.stereo else 4


# facebook/musicgen-*: audiocraft/config/model/lm/model_scale/{small,medium,large}.yaml, the grids
# musicgen_melody_32khz and musicgen_stereo_finetune_32khz (eight codebooks, delays 00112233), and
# transformers' convert_musicgen(_melody)_transformers.py, which wrote the files on the Hub.
PUBLISHED = {
    "small": Sizes(1024, 24, 16),
    "medium": Sizes(1536, 48, 24),
    "large": Sizes(2048, 48, 32),
    "melody": Sizes(1536, 48, 24, melody=True),
    "melody-large": Sizes(2048, 48, 32, melody=True),
    "stereo-small": Sizes(1024, 24, 16, stereo=True),
    "stereo-medium": Sizes(1536, 48, 24, stereo=True),
    "stereo-large": Sizes(2048, 48, 32, stereo=True),
    "stereo-melody": Sizes(1536, 48, 24, stereo=True, melody=True),
    "stereo-melody-large": Sizes(2048, 48, 32, stereo=True, melody=True),
}
T5_BASE = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "relu",
}
ENCODEC_32KHZ = {
    "target_bandwidths": [2.2],
    "sampling_rate": 32000,
    "audio_channels": 1,
    "num_filters": 64,
    "upsampling_ratios": [8, 5, 4, 4],
    "hidden_size": 128,
    "codebook_size": 2048,
    "codebook_dim": 128,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}

# The same shapes at 16 channels, 50 frames a second too.
TINY = Sizes(16, 2, 2)
TINY_T5 = {
    "vocab_size": TEXT_TOKENS,
    "d_model": 12,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "relu",
}
TINY_ENCODEC = {
    **ENCODEC_32KHZ,
    "sampling_rate": 8000,
    "num_filters": 4,
    "upsampling_ratios": [8, 5, 4],
    "hidden_size": 8,
    "codebook_size": 64,
    "codebook_dim": 8,
    "target_bandwidths": [1.2],  # 50 frames a second, 4 codebooks of 6 bits
}


def upstream_config(
    sizes: Sizes, t5: dict[str, Any] = T5_BASE, encodec: dict[str, Any] = ENCODEC_32KHZ
) -> Any:
    """The transformers config of a checkpoint."""
    import transformers as hf

    melody = sizes.melody
    decoder_class = hf.MusicgenMelodyDecoderConfig if melody else hf.MusicgenDecoderConfig
    decoder = decoder_class(
        vocab_size=encodec["codebook_size"],
        hidden_size=sizes.hidden_size,
        ffn_dim=4 * sizes.hidden_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_codebooks=sizes.codebooks,
        audio_channels=2 if sizes.stereo else 1,
        pad_token_id=encodec["codebook_size"],
        bos_token_id=encodec["codebook_size"],
    )
    return (hf.MusicgenMelodyConfig if melody else hf.MusicgenConfig)(
        text_encoder=hf.T5Config(**t5, is_encoder_decoder=False, use_cache=False).to_dict(),
        audio_encoder=hf.EncodecConfig(**encodec).to_dict(),
        decoder=decoder.to_dict(),
    )


def upstream_model(config: Any) -> Any:
    """The transformers model of a config, with whatever weights its constructor draws."""
    import transformers as hf

    melody = config.model_type == "musicgen_melody"
    name = f"Musicgen{'Melody' if melody else ''}ForConditionalGeneration"
    return getattr(hf, name)(config).eval()


def tokenizer() -> Tokenizer:
    """Byte-level tokens that end in </s>, numbered as T5 numbers its special tokens."""
    special = ["<pad>", "</s>", "<unk>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.add_special_tokens(special)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return made


def write_upstream(
    folder: Path, *, stereo: bool = False, melody: bool = False, seed: int = 0
) -> Path:
    """Write a tiny checkpoint as transformers saves it; its music is audible and moves."""
    import torch

    torch.manual_seed(seed)
    sizes = Sizes(16, 2, 2, stereo=stereo, melody=melody)
    model = upstream_model(upstream_config(sizes, TINY_T5, TINY_ENCODEC))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "original0" not in name:
                value.normal_(std=(value[0].numel()) ** -0.5)
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()  # zeros as constructed
    model.generation_config.guidance_scale = 3.0
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=False))
    return Path(folder)


def write_pickle(folder: Path, source: Path, *, shards: int = 1) -> Path:
    """The checkpoint of `source` with pytorch_model.bin instead of safetensors."""
    import shutil

    import torch
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    state = load_file(source / "model.safetensors")
    # transformers 4 wrote the tied embedding twice, sine positions, and older weight-norm names
    for name in list(state):
        old = name.replace("parametrizations.weight.original0", "weight_g")
        state[old.replace("parametrizations.weight.original1", "weight_v")] = state.pop(name)
    tied = [
        name for name in state if name.endswith(("shared.weight", "encoder.embed_tokens.weight"))
    ]
    for name in ("text_encoder.shared.weight", "text_encoder.encoder.embed_tokens.weight"):
        state[name] = state[tied[0]]
    state["decoder.model.decoder.embed_positions.weights"] = torch.zeros(2048, 16)
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    weight_map = {}
    for number in range(shards):
        name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = dict(list(state.items())[number::shards])
        torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


# --- audiocraft ---


def audiocraft_settings(sizes: Sizes, *, card: int = 2048, rate: int = 32000) -> dict[str, Any]:
    """`xp.cfg` of state_dict.bin, as far as it is read: audiocraft/config/{model,conditioner}."""
    conditioners = {"description": {"model": "t5", "t5": {"name": "t5-base"}}}
    if sizes.melody:
        chroma = {"sample_rate": "${sample_rate}", "n_chroma": 12, "radix2_exp": 14}
        conditioners["self_wav"] = {"model": "chroma_stem", "chroma_stem": chroma}
    return {
        "sample_rate": rate,
        "dataset": {"segment_duration": 30},
        "interleave_stereo_codebooks": {"use": sizes.stereo, "per_timestep": False},
        "conditioners": conditioners,
        "codebooks_pattern": {
            "modeling": "delay",
            "delay": {"delays": [0, 0, 1, 1, 2, 2, 3, 3] if sizes.stereo else [0, 1, 2, 3]},
        },
        "transformer_lm": {
            "dim": sizes.hidden_size,
            "num_heads": sizes.heads,
            "num_layers": sizes.layers,
            "hidden_scale": 4,
            "n_q": sizes.codebooks,
            "card": card,
            "activation": "gelu",
            "norm_first": True,
            "bias_ff": False,
            "bias_attn": False,
            "bias_proj": False,
            "positional_embedding": "sin",
        },
    }


def audiocraft_codec_settings(encodec: dict[str, Any]) -> dict[str, Any]:
    """`xp.cfg` of compression_state_dict.bin: audiocraft/config/model/encodec."""
    return {
        "sample_rate": encodec["sampling_rate"],
        "channels": 1,
        "encodec": {"autoencoder": "seanet", "quantizer": "rvq", "renormalize": False},
        "seanet": {
            "dimension": encodec["hidden_size"],
            "causal": False,
            "n_filters": encodec["num_filters"],
            "n_residual_layers": 1,
            "ratios": encodec["upsampling_ratios"],
            "activation": "ELU",
            "norm": "weight_norm",
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 7,
            "dilation_base": 2,
            "pad_mode": "reflect",
            "true_skip": True,
            "compress": 2,
            "lstm": 2,
            "disable_norm_outer_blocks": 0,
            "decoder": {"trim_right_ratio": 1.0, "final_activation": None},
            "encoder": {},
        },
        "rvq": {"n_q": 4, "bins": encodec["codebook_size"]},
    }


# transformers' convert_musicgen_transformers.py and convert_encodec..., read backwards.
_LM_NAMES = {
    r"decoder\.model\.decoder\.embed_tokens\.": "emb.",
    r"decoder\.lm_heads\.": "linears.",
    r"decoder\.model\.decoder\.layer_norm\.": "out_norm.",
    r"decoder\.model\.decoder\.layers\.": "transformer.layers.",
    r"\.self_attn_layer_norm\.": ".norm1.",
    r"\.encoder_attn_layer_norm\.": ".norm_cross.",
    r"\.final_layer_norm\.": ".norm2.",
    r"\.encoder_attn\.": ".cross_attention.",
    r"\.fc([12])\.": r".linear\1.",
    r"^enc_to_dec_proj": "condition_provider.conditioners.description.output_proj",
    r"^audio_enc_to_dec_proj": "condition_provider.conditioners.self_wav.output_proj",
}
_CODEC_NAMES = {
    r"(decoder)\.layers\.(3|6|9)\.conv\.": r"\1.model.\2.convtr.convtr.",
    r"(encoder|decoder)\.layers\.": r"\1.model.",
    r"\.conv\.(?!conv)": ".conv.conv.",
    r"\.parametrizations\.weight\.original0": ".weight_g",
    r"\.parametrizations\.weight\.original1": ".weight_v",
    r"quantizer\.layers\.(\d+)\.codebook\.": r"quantizer.vq.layers.\1._codebook.",
}


def write_audiocraft(folder: Path, source: Path, *, sizes: Sizes = TINY) -> Path:
    """The checkpoint of `source` (as transformers saves it) as audiocraft's files; T5 in `t5/`."""
    import re
    import shutil

    import torch
    import yaml
    from safetensors.torch import load_file, save_file

    def renamed(key: str, names: dict[str, str]) -> str:
        for pattern, name in names.items():
            key = re.sub(pattern, name, key)
        return key

    lm, codec, text = {}, {}, {}
    for key, value in load_file(source / "model.safetensors").items():
        if key.startswith("text_encoder."):
            text[key.removeprefix("text_encoder.")] = value
        elif key.startswith("audio_encoder."):
            codec[renamed(key.removeprefix("audio_encoder."), _CODEC_NAMES)] = value
        else:
            lm[renamed(key, _LM_NAMES)] = value
    for key in [key for key in lm if key.endswith(".q_proj.weight")]:
        names = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        fused = key.replace("q_proj.weight", "in_proj_weight")
        lm[fused] = torch.cat([lm.pop(name) for name in names])
    if sizes.melody:
        lm["condition_provider.conditioners.self_wav.chroma.spec.window"] = torch.ones(16384)
    settings = audiocraft_settings(sizes, card=64, rate=8000)
    settings["transformer_lm"] |= {"num_heads": sizes.heads}
    (folder / "t5").mkdir(parents=True)
    for name, state, config in (
        ("state_dict.bin", lm, settings),
        ("compression_state_dict.bin", codec, audiocraft_codec_settings(TINY_ENCODEC)),
    ):
        package = {"best_state": state, "xp.cfg": yaml.safe_dump(config), "exported": True}
        torch.save(package, folder / name)
    save_file(text, folder / "t5" / "model.safetensors")
    about = {"architectures": ["T5EncoderModel"], "model_type": "t5", **TINY_T5}
    (folder / "t5" / "config.json").write_text(json.dumps(about))
    shutil.copy(source / "tokenizer.json", folder / "t5")
    return folder
