"""CLAP: one space for text and audio, so a prompt, a song and a thought can be compared by cosine.

Paper: Wu et al., "Large-scale Contrastive Language-Audio Pretraining" (arXiv 2211.06687). MusiCoT
(arXiv 2503.19611) takes its prompt vector (eq 4) and its thoughts, one embedding per 10 s, from
here. References: transformers.ClapModel without fusion, whose parameter names are kept, and
transformers.ClapFeatureExtractor with truncation="rand_trunc"; laion_clap's CLAP, whose published
files differ in layer_norm_eps, in the length of a text and in rounding audio to 16 bits.

The audio tower is HTSAT (arXiv 2202.00874): a Swin transformer over the log-mel spectrogram, cut in
time into spec_size / num_mel_bins pieces that are stacked in frequency to a square image. The text
tower is RoBERTa. Where we differ, with equal results: long audio is cut into windows in order
instead of one random crop; the bicubic stretch in time is one matmul with a fixed matrix; batch
norm always uses its stored statistics; the windows of one image and their heads share an axis, so
that a shifted window's mask needs no copy per image. Norms, softmax and the final pooling run in
float32; the rest in the dtype of the weights. Embeddings are float32.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import soxr
from tokenizers import Tokenizer

from musicot_mlx.audio.mel import LogMel
from musicot_mlx.errors import MusicotError
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    part,
    prepare,
    quantization_of,
    read_config,
    require_parts,
)
from musicot_mlx.weights.config import config_from_dict

ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class ClapTextConfig:
    """RoBERTa text tower; field names are transformers' ClapTextConfig.

    laion_clap checkpoints were trained with layer_norm_eps=1e-5, transformers' default is 1e-12.
    """

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = (
        514  # two more than the longest text: ids count from pad_token_id + 1
    )
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    # tokens that the model was trained to read, where that is fewer than there are positions
    context_length: int | None = None

    def __post_init__(self) -> None:
        _check_activation(self.hidden_act)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"text hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads"
            )
        if self.max_tokens < 2:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} and context_length "
                f"{self.context_length} leave no room for a text"
            )

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, <s> and </s> included."""
        positions = self.max_position_embeddings - self.pad_token_id - 1
        return min(positions, self.context_length or positions)


@dataclass(frozen=True)
class ClapAudioConfig:
    """HTSAT audio tower; fields and defaults are transformers' ClapAudioConfig (HTSAT-tiny)."""

    spec_size: int = 256  # the square image, in mel bins and frames
    num_mel_bins: int = 64
    patch_size: int = 4
    patch_stride: tuple[int, int] = (4, 4)
    patch_embeds_hidden_size: int = (
        96  # channels of the first stage; each later one has twice as many
    )
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8  # patches
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    hidden_size: int = 768  # channels of the last stage

    def __post_init__(self) -> None:
        _check_activation(self.hidden_act)
        stages = len(self.depths)
        if not stages or len(self.num_attention_heads) != stages:
            raise ValueError(
                f"depths {self.depths} and num_attention_heads {self.num_attention_heads} "
                "must name the same stages, one number each"
            )
        if self.hidden_size != self.stage_channels(stages - 1):
            raise ValueError(
                f"audio hidden_size is {self.hidden_size}, expected patch_embeds_hidden_size * "
                f"2 ** (stages - 1) = {self.stage_channels(stages - 1)}"
            )
        if self.spec_size % self.num_mel_bins:
            raise ValueError(
                f"spec_size {self.spec_size} is not a multiple of num_mel_bins {self.num_mel_bins}"
            )
        for axis, stride in enumerate(self.patch_stride):
            padding = (self.patch_size - stride) // 2
            patches = (self.spec_size + 2 * padding - self.patch_size) // stride + 1
            if self.spec_size % stride or patches != self.spec_size // stride:
                raise ValueError(
                    f"patch_size {self.patch_size} with stride {stride} does not tile "
                    f"spec_size {self.spec_size}"
                )
            for stage, heads in enumerate(self.num_attention_heads):
                side, channels = self.stage_grid(stage)[axis], self.stage_channels(stage)
                if side % self.window_size or (stage < stages - 1 and side % 2):
                    raise ValueError(
                        f"stage {stage} is {side} patches wide, expected a multiple of "
                        f"window_size {self.window_size}; raise spec_size or drop a stage"
                    )
                if channels % heads:
                    raise ValueError(f"stage {stage}: {channels} channels, {heads} heads")

    @property
    def freq_ratio(self) -> int:
        """Pieces of time stacked in frequency."""
        return self.spec_size // self.num_mel_bins

    @property
    def max_frames(self) -> int:
        """Mel frames the image holds; fewer are stretched to this."""
        return self.spec_size * self.freq_ratio

    def stage_channels(self, stage: int) -> int:
        return self.patch_embeds_hidden_size * 2**stage

    def stage_grid(self, stage: int) -> tuple[int, int]:
        """Patches in frequency and time."""
        rows, columns = self.patch_stride
        return self.spec_size // rows // 2**stage, self.spec_size // columns // 2**stage


@dataclass(frozen=True)
class ClapFeatureConfig:
    """Audio front end; fields are named as in transformers' ClapFeatureExtractor."""

    sampling_rate: int = 48000  # Hz
    fft_window_size: int = 1024  # samples
    hop_length: int = 480  # samples
    max_length_s: float = 10.0  # seconds in one window
    frequency_min: float = 50.0  # Hz
    frequency_max: float = 14000.0  # Hz
    int16: bool = False  # laion_clap rounds the waveform to 16 bits, transformers does not

    @property
    def window_samples(self) -> int:
        return round(self.max_length_s * self.sampling_rate)

    @property
    def frames(self) -> int:
        return self.window_samples // self.hop_length + 1


@dataclass(frozen=True)
class ClapConfig:
    """Both towers and the front end; `projection_dim` is the length of an embedding."""

    text_config: ClapTextConfig = field(default_factory=ClapTextConfig)
    audio_config: ClapAudioConfig = field(default_factory=ClapAudioConfig)
    projection_dim: int = 512
    projection_hidden_act: str = "relu"
    feature_config: ClapFeatureConfig = field(default_factory=ClapFeatureConfig)

    def __post_init__(self) -> None:
        _check_activation(self.projection_hidden_act)
        if self.feature_config.frames > self.audio_config.max_frames:
            raise ValueError(
                f"a window has {self.feature_config.frames} mel frames but spec_size "
                f"{self.audio_config.spec_size} holds {self.audio_config.max_frames}; "
                "shorten max_length_s, or raise hop_length or spec_size"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClapConfig":
        """From the `clap` section of config.json; MusicotError names an unknown or bad field."""
        return config_from_dict(cls, values, where="clap")

    def log_mel(self) -> LogMel:
        """The front end that makes what `Clap.embed_mel` takes, in dB."""
        features = self.feature_config
        return LogMel(
            sample_rate=features.sampling_rate,
            n_fft=features.fft_window_size,
            hop_length=features.hop_length,
            num_mel_bins=self.audio_config.num_mel_bins,
            min_frequency=features.frequency_min,
            max_frequency=features.frequency_max,
        )


# Released sizes. TINY: laion/clap-htsat-unfused. BASE: laion/larger_clap_general,
# laion/larger_clap_music and the HTSAT-base files of laion_clap.
CLAP_HTSAT_TINY = ClapConfig()
CLAP_HTSAT_BASE = ClapConfig(
    audio_config=ClapAudioConfig(
        patch_embeds_hidden_size=128, depths=(2, 2, 12, 2), hidden_size=1024
    )
)


# --- audio tower ---


class MelNorm(nn.Module):
    """Batch norm over mel bins with stored statistics, in float32 because decibels need it."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.weight = mx.ones((bins,))
        self.bias = mx.zeros((bins,))
        self.running_mean = mx.zeros((bins,))
        self.running_var = mx.ones((bins,))

    def __call__(self, x: mx.array) -> mx.array:
        x = x.astype(mx.float32) - self.running_mean.astype(mx.float32)
        scale = mx.rsqrt(self.running_var.astype(mx.float32) + 1e-5) * self.weight
        return x * scale + self.bias  # (batch, frames, mels)


class Dense(nn.Module):
    """A linear layer under the name `dense`, where the checkpoint has one level more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense(x)


class WindowSelfAttention(nn.Module):
    """Attention inside square windows, with a learned bias for each relative position."""

    def __init__(self, config: ClapAudioConfig, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.query = nn.Linear(channels, channels, bias=config.qkv_bias)
        self.key = nn.Linear(channels, channels, bias=config.qkv_bias)
        self.value = nn.Linear(channels, channels, bias=config.qkv_bias)
        self.relative_position_bias_table = mx.zeros(((2 * config.window_size - 1) ** 2, heads))
        self._position_index = mx.array(relative_position_index(config.window_size))

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        batch, windows, patches, channels = x.shape
        bias = self.relative_position_bias_table[self._position_index]
        bias = bias.transpose(2, 0, 1)  # (heads, patches, patches)
        groups = 1
        if mask is not None:  # each window of an image has its own mask: windows join the heads
            groups = windows
            bias = (mask[:, None] + bias).reshape(windows * self.heads, patches, patches)

        def split(y: mx.array) -> mx.array:
            y = y.reshape(batch * windows, patches, self.heads, -1).transpose(0, 2, 1, 3)
            return y.reshape(batch * windows // groups, groups * self.heads, patches, -1)

        y = mx.fast.scaled_dot_product_attention(
            split(self.query(x)),
            split(self.key(x)),
            split(self.value(x)),
            scale=self.scale,
            mask=bias.astype(x.dtype),
        )  # (batch * windows / groups, groups * heads, patches, head_dim)
        y = y.reshape(batch, windows, self.heads, patches, -1).transpose(0, 1, 3, 2, 4)
        return y.reshape(batch, windows, patches, channels)


class WindowAttention(nn.Module):
    """Window attention and its output projection."""

    def __init__(self, config: ClapAudioConfig, channels: int, heads: int) -> None:
        super().__init__()
        self.self = WindowSelfAttention(config, channels, heads)
        self.output = Dense(channels, channels)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return self.output(self.self(x, mask))


class SwinBlock(nn.Module):
    """Attention in plain or shifted windows, then an MLP, on (batch, rows, columns, channels)."""

    def __init__(
        self,
        config: ClapAudioConfig,
        channels: int,
        heads: int,
        *,
        grid: tuple[int, int],
        shifted: bool,
    ) -> None:
        super().__init__()
        self.window_size = config.window_size
        # A grid of a single window has nothing to shift between.
        self.shift = config.window_size // 2 if shifted and min(grid) > config.window_size else 0
        self._mask = None
        if self.shift:
            self._mask = mx.array(shifted_window_mask(grid, self.window_size, self.shift))
        inner = int(config.mlp_ratio * channels)
        self.layernorm_before = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.attention = WindowAttention(config, channels, heads)
        self.layernorm_after = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.intermediate = Dense(channels, inner)
        self.output = Dense(inner, channels)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: mx.array) -> mx.array:
        batch, rows, columns, channels = x.shape
        side, shift = self.window_size, self.shift
        y = self.layernorm_before(x)
        if shift:
            y = mx.roll(y, (-shift, -shift), axis=(1, 2))
        y = y.reshape(batch, rows // side, side, columns // side, side, channels)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side, channels)
        y = self.attention(y, self._mask)  # (batch, windows, patches, channels)
        y = y.reshape(batch, rows // side, columns // side, side, side, channels)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
        if shift:
            y = mx.roll(y, (shift, shift), axis=(1, 2))
        x = x + y
        return x + self.output(self.activation(self.intermediate(self.layernorm_after(x))))


class PatchMerging(nn.Module):
    """2 x 2 neighbours become one: half the rows and columns, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
        # Neighbours in the order of the checkpoint: down first, then right.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, rows // 2, columns // 2, 4 * channels)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one shifted; patch merging follows but in the last."""

    def __init__(self, config: ClapAudioConfig, stage: int) -> None:
        super().__init__()
        channels, heads = config.stage_channels(stage), config.num_attention_heads[stage]
        self.blocks = [
            SwinBlock(
                config, channels, heads, grid=config.stage_grid(stage), shifted=index % 2 == 1
            )
            for index in range(config.depths[stage])
        ]
        self.downsample = PatchMerging(channels) if stage < len(config.depths) - 1 else None

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    """Image (batch, rows, columns, 1) to normalised patches (batch, rows, columns, channels)."""

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        rows, columns = config.patch_stride
        self.proj = nn.Conv2d(
            1,
            config.patch_embeds_hidden_size,
            kernel_size=config.patch_size,
            stride=(rows, columns),
            padding=((config.patch_size - rows) // 2, (config.patch_size - columns) // 2),
        )
        self.norm = nn.LayerNorm(config.patch_embeds_hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        return self.norm(self.proj(x))


class AudioEncoder(nn.Module):
    """HTSAT: log-mel (batch, frames, mels) in dB to one vector per window, (batch, hidden_size)."""

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        self.config = config
        self.batch_norm = MelNorm(config.num_mel_bins)
        self.patch_embed = PatchEmbedding(config)
        self.layers = [SwinStage(config, stage) for stage in range(len(config.depths))]
        self.norm = nn.LayerNorm(config.hidden_size)

    def image(self, log_mel: mx.array) -> mx.array:
        """Normalised mel, stretched and cut in time, stacked in pitch: (batch, size, size, 1)."""
        batch, frames, mels = log_mel.shape
        size, ratio, longest = self.config.spec_size, self.config.freq_ratio, self.config.max_frames
        if mels != self.config.num_mel_bins or frames > longest:
            raise ValueError(
                f"log_mel has {frames} frames x {mels} mel bins, this CLAP takes up to {longest} x "
                f"{self.config.num_mel_bins}; cut the audio into windows with ClapEmbedder.windows"
            )
        x = self.batch_norm(log_mel)
        if frames < longest:
            x = _bicubic(frames, longest) @ x  # (batch, max_frames, mels)
        x = x.reshape(batch, ratio, size, mels).transpose(0, 1, 3, 2)  # (batch, piece, mels, time)
        return x.reshape(batch, size, size, 1)

    def __call__(self, log_mel: mx.array) -> mx.array:
        x = self.image(log_mel).astype(self.patch_embed.proj.weight.dtype)
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        x = self.norm(x)
        return mx.mean(x.astype(mx.float32), axis=(1, 2)).astype(x.dtype)  # (batch, channels)


class AudioModel(nn.Module):
    """The audio tower under its checkpoint name."""

    def __init__(self, config: ClapAudioConfig) -> None:
        super().__init__()
        self.audio_encoder = AudioEncoder(config)

    def __call__(self, log_mel: mx.array) -> mx.array:
        return self.audio_encoder(log_mel)


def relative_position_index(side: int) -> np.ndarray:
    """Row of the bias table for each pair of patches in a window, int32 (side ** 2, side ** 2)."""
    rows, columns = (axis.reshape(-1) for axis in np.mgrid[:side, :side])
    row_steps = rows[:, None] - rows[None] + side - 1
    column_steps = columns[:, None] - columns[None] + side - 1
    return (row_steps * (2 * side - 1) + column_steps).astype(np.int32)


def shifted_window_mask(grid: tuple[int, int], side: int, shift: int) -> np.ndarray:
    """Additive mask of shifted windows, float32 (windows, side ** 2, side ** 2).

    Rolling the image brings opposite borders into one window; they may not see each other. -100 as
    upstream.
    """
    rows, columns = (
        (np.arange(n) >= n - side).astype(int) + (np.arange(n) >= n - shift) for n in grid
    )
    region = 3 * rows[:, None] + columns[None]  # nine regions that were not neighbours
    region = region.reshape(grid[0] // side, side, grid[1] // side, side)
    region = region.transpose(0, 2, 1, 3).reshape(-1, side * side)
    return np.where(region[:, :, None] == region[:, None], 0.0, -100.0).astype(np.float32)


def bicubic_matrix(length: int, target: int) -> np.ndarray:
    """Matrix (target, length) of torch's bicubic interpolate with align_corners=True, float64.

    Keys' kernel with a = -0.75; samples beyond the ends repeat the last one.
    """
    a = -0.75
    place = np.arange(target) * ((length - 1) / max(target - 1, 1))
    left = np.floor(place).astype(int)
    matrix = np.zeros((target, length))
    for step in (-1, 0, 1, 2):
        distance = np.abs(place - (left + step))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        np.add.at(matrix, (np.arange(target), np.clip(left + step, 0, length - 1)), weight)
    return matrix


@lru_cache(maxsize=8)
def _bicubic(length: int, target: int) -> mx.array:
    matrix = mx.array(bicubic_matrix(length, target).astype(np.float32))
    mx.eval(matrix)
    return matrix


# --- text tower ---


class TextEmbeddings(nn.Module):
    """Words, positions (real tokens counted from pad_token_id + 1) and token types."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        real = (ids != self.pad_token_id).astype(mx.int32)
        positions = mx.cumsum(real, axis=1) * real + self.pad_token_id
        x = self.word_embeddings(ids) + self.token_type_embeddings(mx.zeros_like(positions))
        return self.LayerNorm(x + self.position_embeddings(positions))


class TextSelfAttention(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads, self.scale = (
            config.num_attention_heads,
            (dim // config.num_attention_heads) ** -0.5,
        )
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        batch, time, channels = x.shape
        q, k, v = (
            layer(x).reshape(batch, time, self.heads, -1).transpose(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )  # (batch, heads, time, head_dim)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=mask)
        return y.transpose(0, 2, 1, 3).reshape(batch, time, channels)


class DenseAddNorm(nn.Module):
    """Linear layer, residual, layer norm: the post-norm half of a RoBERTa sub-block."""

    def __init__(self, inputs: int, config: ClapTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(x) + residual)


class TextAttention(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.self = TextSelfAttention(config)
        self.output = DenseAddNorm(config.hidden_size, config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return self.output(self.self(x, mask), x)


class TextLayer(nn.Module):
    """Post-norm transformer layer on (batch, time, channels)."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.attention = TextAttention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = DenseAddNorm(config.intermediate_size, config)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        x = self.attention(x, mask)
        return self.output(self.activation(self.intermediate(x)), x)


class TextEncoder(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.layer = [TextLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class TextModel(nn.Module):
    """RoBERTa: ids (batch, time) to the pooled first token (batch, hidden_size)."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextEncoder(config)
        self.pooler = Dense(config.hidden_size, config.hidden_size)

    def __call__(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        if mask is not None:
            mask = mask.astype(mx.bool_)[:, None, None]  # (batch, 1, 1, time)
        x = self.encoder(self.embeddings(ids), mask)
        return mx.tanh(self.pooler(x[:, 0]))


# --- the two together ---


class Projection(nn.Module):
    """Two linear layers from a tower into the shared space."""

    def __init__(self, hidden_size: int, config: ClapConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden_size, config.projection_dim)
        self.linear2 = nn.Linear(config.projection_dim, config.projection_dim)
        self.activation = ACTIVATIONS[config.projection_hidden_act]

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear2(self.activation(self.linear1(x)))


class Clap(nn.Module):
    """Both towers and their projections; `ClapEmbedder` adds tokenizer and audio front end."""

    def __init__(self, config: ClapConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config.text_config)
        self.text_projection = Projection(config.text_config.hidden_size, config)
        self.audio_model = AudioModel(config.audio_config)
        self.audio_projection = Projection(config.audio_config.hidden_size, config)

    def embed_text_ids(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        """Unit vectors, float32 (batch, projection_dim), of token ids (batch, time).

        mask is 1 where a token is real, 0 where it is padding; None means all are real.
        """
        return _unit(self.text_projection(self.text_model(ids, mask)))

    def embed_mel(self, log_mel: mx.array) -> mx.array:
        """Unit vectors, float32 (batch, projection_dim), of log-mel windows (batch, frames, mels).

        The mel is in dB, as `config.log_mel()` makes it.
        Raises ValueError when there are more frames than one window holds, or other mel bins.
        """
        return _unit(self.audio_projection(self.audio_model(log_mel)))


class ClapEmbedder:
    """Texts and waveforms to unit vectors in CLAP's space; their dot product is a cosine.

    tokenizer is a tokenizers.Tokenizer or the path of its tokenizer.json; without one only audio
    can be embedded. batch_size windows go through the network at once, so that memory does not grow
    with the song. Raises MusicotError when the tokenizer does not fit the config: another
    vocabulary size or other ids of <s>, <pad>, </s>.
    """

    def __init__(
        self,
        clap: Clap,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 4,
    ) -> None:
        self.clap, self.config, self.batch_size = clap, clap.config, batch_size
        self.tokenizer = None
        if tokenizer is not None:
            self.tokenizer = checked_tokenizer(tokenizer, self.config.text_config)

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 (texts, projection_dim); texts beyond max_tokens lose their end."""
        if isinstance(texts, str):
            raise ValueError("embed_text takes a list of texts, got one text; write [text]")
        ids, mask = self.text_ids(texts)
        return self._batched(
            lambda rows: self.clap.embed_text_ids(mx.array(ids[rows]), mx.array(mask[rows])),
            len(ids),
            batch_size=32,
        )

    def text_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids with <s>, </s> and padding, and their mask, both int32 (texts, time)."""
        if self.tokenizer is None:
            raise MusicotError(
                "this CLAP has no tokenizer, so it cannot embed text; "
                "put tokenizer.json into the model folder"
            )
        config = self.config.text_config
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        rows = [
            [config.bos_token_id, *item.ids[: config.max_tokens - 2], config.eos_token_id]
            for item in encoded
        ]
        ids = np.full((len(rows), max(map(len, rows), default=2)), config.pad_token_id, np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        mask = np.arange(ids.shape[1])[None] < lengths[:, None]
        return ids, mask.astype(np.int32)

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Embeddings of consecutive 10 s windows, float32 (windows, projection_dim).

        waveform: (samples,) or (samples, channels) at sample_rate Hz; channels are averaged. See
        `windows`.
        """
        windows, log_mel = self.windows(waveform, sample_rate), self.config.log_mel()
        return self._batched(
            lambda rows: self.clap.embed_mel(log_mel(mx.array(windows[rows]))),
            len(windows),
            batch_size=self.batch_size,
        )

    def windows(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """The waveform at CLAP's rate in mono, cut into windows, float32 (windows, window_samples).

        A last window of less than 1 s is dropped unless it is the only one; a shorter one is
        repeated as often as it fits whole, then zero-padded ("repeatpad"). Raises MusicotError for
        empty, non-finite or wrongly shaped audio.
        """
        features = self.config.feature_config
        mono = _mono(waveform)
        if sample_rate != features.sampling_rate:
            mono = soxr.resample(mono, sample_rate, features.sampling_rate)
        if features.int16:
            mono = to_int16(mono)
        size = features.window_samples
        rest = len(mono) % size
        if rest < min(features.sampling_rate, size) and len(mono) > size:
            mono = mono[: len(mono) - rest]
        pieces = [mono[start : start + size] for start in range(0, max(len(mono), 1), size)]
        return np.stack([repeat_pad(piece, size) for piece in pieces])

    def _batched(self, embed, count: int, *, batch_size: int) -> np.ndarray:
        out = np.zeros((count, self.config.projection_dim), dtype=np.float32)
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            out[rows] = np.array(embed(rows))
        return out


def load(folder: str | Path, *, name: str | None = None, batch_size: int = 4) -> ClapEmbedder:
    """The ClapEmbedder of a folder with model_type "clap"; name is for messages.

    Raises MusicotError for a folder of another kind, weights that don't fit the config, or a
    missing or foreign tokenizer.json.
    """
    folder = Path(folder)
    config = read_config(folder, model_types=("clap",))
    if "clap" not in config:
        raise MusicotError(f"{folder}/config.json lacks the section 'clap'")
    arrays = load_arrays(folder)
    require_parts(arrays, ["clap"], where=name or str(folder))
    clap = Clap(ClapConfig.from_dict(config["clap"]))
    prepare(clap, quantization_of(config, "clap"), part(arrays, "clap"), where="clap")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise MusicotError(f"{folder} lacks tokenizer.json; get the model again")
    return ClapEmbedder(clap, tokenizer, batch_size=batch_size)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """The waveform as laion_clap reads it: clipped to -1..1, cut (not rounded) to 1 / 32767."""
    clipped = np.clip(waveform, -1.0, 1.0).astype(np.float32)
    return ((clipped * np.float32(32767.0)).astype(np.int16) / 32767.0).astype(np.float32)


def repeat_pad(waveform: np.ndarray, samples: int) -> np.ndarray:
    """A short waveform (n,) repeated floor(samples / n) times, then zeros: float32 (samples,)."""
    out = np.zeros(samples, dtype=np.float32)
    if len(waveform):
        repeated = np.tile(waveform[:samples], max(samples // len(waveform), 1))
        out[: len(repeated)] = repeated
    return out


def _mono(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim == 2 and waveform.shape[1] > waveform.shape[0]:
        raise MusicotError(
            f"the waveform has shape {waveform.shape}, that is {waveform.shape[1]} channels; "
            "pass (samples, channels), so waveform.T"
        )
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise MusicotError(
            f"the waveform has shape {waveform.shape}; expected (samples,) or (samples, channels) "
            "with at least one sample"
        )
    if not np.isfinite(waveform).all():
        raise MusicotError("the waveform holds NaN or infinite samples; decode or render it again")
    return waveform if waveform.ndim == 1 else waveform.mean(axis=1)


def _unit(x: mx.array) -> mx.array:
    x = x.astype(mx.float32)
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def checked_tokenizer(
    tokenizer: Tokenizer | str | os.PathLike[str],
    config: ClapTextConfig,
    *,
    where: str = "the tokenizer",
) -> Tokenizer:
    """The tokenizer, if its vocabulary is the one that the text tower was trained on.

    Raises MusicotError for an unreadable file, another vocabulary size, or other ids of <s>, <pad>
    and </s>; `where` names the tokenizer in the message.
    """
    if not isinstance(tokenizer, Tokenizer):
        where = os.fspath(tokenizer)
        try:
            tokenizer = Tokenizer.from_file(where)
        except Exception as error:  # the Rust side raises plain Exception
            raise MusicotError(f"cannot read the tokenizer {where}: {error}") from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size != config.vocab_size:
        raise MusicotError(
            f"{where} has {size} tokens but clap.text_config.vocab_size is {config.vocab_size}; "
            "use the tokenizer.json that came with the checkpoint"
        )
    wanted = {
        "<s>": config.bos_token_id,
        "<pad>": config.pad_token_id,
        "</s>": config.eos_token_id,
    }
    for token, expected in wanted.items():
        if tokenizer.token_to_id(token) != expected:
            raise MusicotError(
                f"{where} gives {token} the id {tokenizer.token_to_id(token)}, "
                f"CLAP expects {expected}; "
                "use the tokenizer.json that came with the checkpoint"
            )
    tokenizer.no_padding()  # settings saved in the file would pad or cut a second time
    tokenizer.no_truncation()
    return tokenizer
