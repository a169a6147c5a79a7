"""HTSAT, CLAP's audio tower: a Swin transformer over the log-mel spectrogram.

arXiv 2202.00874; reference implementation transformers' ClapAudioModel without fusion, whose
parameter names are kept. The spectrogram is cut in time into spec_size / num_mel_bins pieces that
are stacked in frequency to a square image. Where we differ, with equal results: the bicubic stretch
in time is one matmul with a fixed matrix; batch norm always uses its stored statistics; the windows
of one image and their heads share an axis, so that a shifted window's mask needs no copy per image.
Norms, softmax and the final pooling run in float32; the rest in the dtype of the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.nn.activations import ACTIVATIONS, check_activation
from musicot_mlx.nn.dense import Dense


@dataclass(frozen=True)
class ClapAudioConfig:
    """HTSAT audio tower; fields and defaults are transformers' ClapAudioConfig (HTSAT-tiny)."""

    spec_size: int = 256  # the square image, in mel bins and frames
    num_mel_bins: int = 64
    patch_size: int = 4
    patch_stride: tuple[int, int] = (4, 4)
    # channels of the first stage; each later one has twice as many
    patch_embeds_hidden_size: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_attention_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 8  # patches
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    hidden_size: int = 768  # channels of the last stage

    def __post_init__(self) -> None:
        check_activation(self.hidden_act)
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
