"""Seeded PyTorch MusicGens of a few channels, and the same weights in MLX."""

from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from musicot_mlx.convert.keymaps import encodec as codec_map
from musicot_mlx.convert.keymaps import musicgen as decoder_map
from musicot_mlx.convert.keymaps import t5 as text_map
from musicot_mlx.convert.rules import Rule, apply_rules
from musicot_mlx.models import encodec, musicgen, t5
from musicot_mlx.weights.checkpoint import load_strict

VOCAB = 64
T5 = {"vocab_size": 50, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
CODEC = {
    "sampling_rate": 32000,
    "hidden_size": 16,
    "num_filters": 4,
    "upsampling_ratios": [8, 5, 4, 4],
    "codebook_size": VOCAB,
    "codebook_dim": 16,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}
DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_codebooks": 4,
    "audio_channels": 1,
}


def randomize(model: torch.nn.Module, *, seed: int = 0) -> None:
    """Weights large enough that every layer shows in the output."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "original0" in name:  # weight norm's magnitude
                weight.mul_(1.5)
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
            elif "embed_tokens" in name or "shared" in name or "relative" in name:
                weight.copy_(torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(1.5 * torch.randn_like(weight) * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.1 * torch.randn_like(weight))
        for name, buffer in model.named_buffers():
            if name.endswith("codebook.embed"):
                buffer.copy_(torch.randn_like(buffer) * 0.5)


def reference(
    *,
    melody: bool = False,
    decoder: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """A whole PyTorch MusicGen, in eval mode, ready to generate greedily with guidance 3."""
    torch.set_num_threads(1)
    frame_rate, bits = 50, 6
    codec = EncodecConfig(
        **CODEC, normalize=False, target_bandwidths=[4 * frame_rate * bits / 1000]
    )
    special = {"pad_token_id": VOCAB, "bos_token_id": VOCAB}
    sizes = {**DECODER, **(decoder or {}), **special}
    parts = {"text_encoder": T5Config(**{**T5, **(text or {})}), "audio_encoder": codec}
    if melody:
        config = MusicgenMelodyConfig(
            **parts, decoder=MusicgenMelodyDecoderConfig(**sizes), num_chroma=12, chroma_length=9
        )
        model = MusicgenMelodyForConditionalGeneration(config)
    else:
        config = MusicgenConfig(**parts, decoder=MusicgenDecoderConfig(**sizes))
        model = MusicgenForConditionalGeneration(config)
    randomize(model)
    made = model.generation_config
    made.guidance_scale, made.do_sample = 3.0, False
    made.pad_token_id = made.bos_token_id = made.decoder_start_token_id = VOCAB
    return model.eval()


def convert(
    table: list[Rule], state: dict[str, torch.Tensor], *, prefix: str = ""
) -> dict[str, mx.array]:
    """The part of a state that begins with `prefix`, under our names."""
    part = {
        key.removeprefix(prefix): mx.array(value.detach().numpy())
        for key, value in state.items()
        if key.startswith(prefix)
    }
    return apply_rules(table, part)


def codec_twin(model: torch.nn.Module, *, prefix: str = "") -> encodec.Encodec:
    """An EnCodec in MLX, with the reference's weights."""
    whole = model.audio_encoder if prefix else model
    sizes = codec_map.config(whole.config.to_dict())
    codec = encodec.Encodec(encodec.EncodecConfig.from_dict(sizes))
    arrays = convert(codec_map.rules(sizes), model.state_dict(), prefix=prefix)
    load_strict(codec, arrays, where="codec")
    return codec


def twin(model: torch.nn.Module) -> tuple[t5.T5Encoder, musicgen.Musicgen, encodec.Encodec]:
    """The three parts in MLX, with the reference's weights."""
    state, config = model.state_dict(), model.config.to_dict()
    encoder = t5.T5Encoder(t5.T5Config.from_dict(text_map.config(config["text_encoder"])))
    load_strict(encoder, convert(text_map.RULES, state, prefix="text_encoder."), where="text")
    sizes = decoder_map.config(config, frame_rate=50.0)
    lm = musicgen.Musicgen(musicgen.MusicgenConfig.from_dict(sizes))
    rest = {k: v for k, v in state.items() if not k.startswith(("text_encoder.", "audio_encoder."))}
    load_strict(lm, convert(decoder_map.rules(sizes), rest), where="decoder")
    return encoder, lm, codec_twin(model, prefix="audio_encoder.")


def generate(model: torch.nn.Module, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the reference draws: codes (songs, codebooks, frames), waveform (songs, n, channels)."""
    seen, decode = [], model.audio_encoder.decode

    def record(codes: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(codes[0].numpy())
        return decode(codes, *args, **kwargs)

    model.audio_encoder.decode = record
    try:
        waveform = model.generate(**inputs)
    finally:
        model.audio_encoder.decode = decode
    codes = seen[0]
    if len(seen) == 2:  # stereo: left and right
        codes = np.stack(seen, axis=2).reshape(len(codes), -1, codes.shape[-1])
    return codes, waveform.numpy().swapaxes(1, 2)
