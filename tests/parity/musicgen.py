"""Seeded PyTorch MusicGens of a few channels, and the same weights in MLX."""

from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

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
    *, melody: bool = False, decoder: dict[str, Any] | None = None, text: dict[str, Any] | None = None
) -> torch.nn.Module:
    """A whole PyTorch MusicGen, in eval mode, ready to generate greedily with guidance 3."""
    torch.set_num_threads(1)
    frame_rate, bits = 50, 6
    codec = EncodecConfig(**CODEC, normalize=False, target_bandwidths=[4 * frame_rate * bits / 1000])
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


def codec_arrays(state: dict[str, torch.Tensor], config: encodec.EncodecConfig) -> dict:
    """transformers.EncodecModel's state under our names, weight norm folded."""
    out, blocks, residuals = {}, len(config.upsampling_ratios), config.num_residual_layers

    def conv(ours: str, theirs: str, *order: int) -> None:
        base = f"{theirs}.conv"
        g, v = (state[f"{base}.parametrizations.weight.original{i}"] for i in (0, 1))
        weight = g * v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        out[f"{ours}.weight"] = weight.permute(*(order or (0, 2, 1)))
        out[f"{ours}.bias"] = state[f"{base}.bias"]

    def residual(ours: str, theirs: str) -> None:
        conv(f"{ours}.narrow", f"{theirs}.block.1")
        conv(f"{ours}.widen", f"{theirs}.block.3")
        if config.use_conv_shortcut:
            conv(f"{ours}.shortcut", f"{theirs}.shortcut")

    for side, first in (("encoder", 1), ("decoder", 2)):
        conv(f"{side}.first", f"{side}.layers.0")
        conv(f"{side}.last", f"{side}.layers.{3 + blocks * (residuals + 2)}")
        lstm = 1 + blocks * (residuals + 2) if side == "encoder" else 1
        for i in range(config.num_lstm_layers):
            base = f"{side}.layers.{lstm}.lstm."
            out[f"{side}.lstm.{i}.wx"] = state[f"{base}weight_ih_l{i}"]
            out[f"{side}.lstm.{i}.wh"] = state[f"{base}weight_hh_l{i}"]
            bias = state[f"{base}bias_ih_l{i}"] + state[f"{base}bias_hh_l{i}"]
            out[f"{side}.lstm.{i}.bias"] = bias
        for i in range(blocks):
            start = first + i * (residuals + 2)
            for j in range(residuals):
                layer = start + j if side == "encoder" else start + 2 + j
                residual(f"{side}.blocks.{i}.residual.{j}", f"{side}.layers.{layer}")
            if side == "encoder":
                conv(f"encoder.blocks.{i}.downsample", f"encoder.layers.{start + residuals + 1}")
            else:
                conv(f"decoder.blocks.{i}.upsample", f"decoder.layers.{start + 1}", 1, 2, 0)
    for i in range(config.num_quantizers):
        out[f"quantizer.codebooks.{i}.weight"] = state[f"quantizer.layers.{i}.codebook.embed"]
    return _arrays(out)


def text_arrays(state: dict[str, torch.Tensor], config: t5.T5Config) -> dict:
    """transformers.T5EncoderModel's state under our names."""
    bias = "relative_attention_bias.weight"
    out = {
        "embed_tokens.weight": state["shared.weight"],
        bias: state[f"encoder.block.0.layer.0.SelfAttention.{bias}"],
        "norm.weight": state["encoder.final_layer_norm.weight"],
    }
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"encoder.block.{i}.layer"
        attention, dense = f"{theirs}.0.SelfAttention", f"{theirs}.1.DenseReluDense"
        out[f"{ours}.qkv.weight"] = torch.cat([state[f"{attention}.{n}.weight"] for n in "qkv"])
        out[f"{ours}.out_proj.weight"] = state[f"{attention}.o.weight"]
        out[f"{ours}.attention_norm.weight"] = state[f"{theirs}.0.layer_norm.weight"]
        out[f"{ours}.mlp_norm.weight"] = state[f"{theirs}.1.layer_norm.weight"]
        out[f"{ours}.down.weight"] = state[f"{dense}.wo.weight"]
        if config.gated:
            out[f"{ours}.gate.weight"] = state[f"{dense}.wi_0.weight"]
            out[f"{ours}.up.weight"] = state[f"{dense}.wi_1.weight"]
        else:
            out[f"{ours}.up.weight"] = state[f"{dense}.wi.weight"]
    return _arrays(out)


def decoder_arrays(state: dict[str, torch.Tensor], config: musicgen.MusicgenConfig) -> dict:
    """The decoder's and the projections' part of a whole MusicGen's state, under our names."""
    books = range(config.num_codebooks)
    base = "decoder.model.decoder"
    out = {
        "embed_tokens.weight": torch.cat([state[f"{base}.embed_tokens.{k}.weight"] for k in books]),
        "lm_head.weight": torch.cat([state[f"decoder.lm_heads.{k}.weight"] for k in books]),
    }
    keep = ["layer_norm", "enc_to_dec_proj", "audio_enc_to_dec_proj"]
    for i in range(config.num_hidden_layers):
        layer = f"layers.{i}"
        own = [state[f"{base}.{layer}.self_attn.{n}_proj.weight"] for n in "qkv"]
        out[f"{layer}.self_attn.qkv.weight"] = torch.cat(own)
        keep += [f"{layer}.{name}" for name in ("self_attn.out_proj", "self_attn_layer_norm")]
        keep += [f"{layer}.{name}" for name in ("fc1", "fc2", "final_layer_norm")]
        if not config.melody:
            text = [state[f"{base}.{layer}.encoder_attn.{n}_proj.weight"] for n in "kv"]
            out[f"{layer}.encoder_attn.kv.weight"] = torch.cat(text)
            keep += [f"{layer}.encoder_attn.{name}" for name in ("q_proj", "out_proj")]
            keep += [f"{layer}.encoder_attn_layer_norm"]
    for name in keep:
        for kind in ("weight", "bias"):
            for key in (f"{base}.{name}.{kind}", f"{name}.{kind}"):
                if key in state:
                    out[f"{name}.{kind}"] = state[key]
    return _arrays(out)


def _arrays(tensors: dict[str, torch.Tensor]) -> dict[str, mx.array]:
    return {key: mx.array(value.detach().contiguous().numpy()) for key, value in tensors.items()}


def _part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


def twin(
    model: torch.nn.Module,
) -> tuple[t5.T5Encoder, musicgen.Musicgen, encodec.Encodec]:
    """The three parts in MLX, with the reference's weights."""
    state, config = model.state_dict(), model.config
    text = {name: getattr(config.text_encoder, name) for name in T5}
    text["feed_forward_proj"] = config.text_encoder.feed_forward_proj
    encoder = t5.T5Encoder(t5.T5Config.from_dict(text))
    load_strict(encoder, text_arrays(_part(state, "text_encoder"), encoder.config), where="text")

    sizes = {name: getattr(config.decoder, name) for name in DECODER}
    sizes["text_hidden_size"] = text["d_model"]
    if hasattr(config, "num_chroma"):
        sizes |= {"num_chroma": config.num_chroma, "chroma_length": config.chroma_length}
    lm = musicgen.Musicgen(musicgen.MusicgenConfig.from_dict(sizes))
    load_strict(lm, decoder_arrays(state, lm.config), where="decoder")

    codec = encodec.Encodec(encodec.EncodecConfig.from_dict({**CODEC, "num_quantizers": 4}))
    load_strict(codec, codec_arrays(_part(state, "audio_encoder"), codec.config), where="codec")
    return encoder, lm, codec


def generate(model: torch.nn.Module, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the reference draws: codes (songs, codebooks, frames) and waveform (songs, n, channels)."""
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
