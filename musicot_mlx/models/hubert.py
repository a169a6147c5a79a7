"""HuBERT as MERT has it: a waveform to the states of each layer, 75 a second.

MERT (arXiv 2306.00107) is HuBERT (arXiv 2106.07447) trained on music; reference implementation
transformers.HubertModel with feat_extract_norm="group" and do_stable_layer_norm=True, which is what
m-a-p/MERT-v1-330M computes with its extras off. Differences: the weight norm of the positional
convolution is folded when a checkpoint is converted; the convolutions go over the waveform in
pieces, of which the group norm's statistics are joined, so that a minute of sound needs no gigabyte
for their outputs; and the states come one at a time, as what is wanted of them is their mean.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.nn.encoder import EncoderLayer, check_encoder


@dataclass(frozen=True)
class HubertConfig:
    """Sizes; the defaults are MERT-v1-330M. Names are the checkpoint's."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128  # taps of the positional convolution
    num_conv_pos_embedding_groups: int = 16
    sampling_rate: int = 24000  # Hz

    def __post_init__(self) -> None:
        check_encoder(self)
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError(
                "conv_dim, conv_kernel and conv_stride must name as many layers, and one at least"
            )
        groups = self.num_conv_pos_embedding_groups
        if groups < 1 or self.hidden_size % groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{groups} groups of the positional convolution"
            )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_stride)

    @property
    def reach(self) -> int:
        """Samples that a frame is made of; fewer make none."""
        reach = 1
        for kernel, stride in zip(self.conv_kernel[::-1], self.conv_stride[::-1], strict=True):
            reach = (reach - 1) * stride + kernel
        return reach

    def frames(self, samples: int) -> int:
        """Frames of a waveform."""
        return max(0, (samples - self.reach) // self.hop + 1)


MERT_330M = HubertConfig()


class FeatureEncoder(nn.Module):
    """Convolutions: waveform (batch, samples) to (batch, frames, channels).

    The first is normalised, each channel over all of the time (GroupNorm of as many groups as
    channels).
    """

    frames_at_once = 250  # 3.3 s at MERT's rate: 33 MB of the first layer's outputs
    eps = 1e-5  # PyTorch's default, which is no field of the config

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self._config = config
        inputs = (1, *config.conv_dim)
        self.convs = [
            nn.Conv1d(inputs[n], inputs[n + 1], kernel, stride=stride, bias=False)
            for n, (kernel, stride) in enumerate(
                zip(config.conv_kernel, config.conv_stride, strict=True)
            )
        ]
        self.norm = nn.GroupNorm(config.conv_dim[0], config.conv_dim[0])  # holds weight and bias
        self.activation = nn.GELU()

    def __call__(self, waveform: mx.array) -> mx.array:
        config = self._config
        frames = config.frames(waveform.shape[1])
        x = waveform[..., None].astype(self.convs[0].weight.dtype)
        starts = range(0, frames, self.frames_at_once)
        pieces = [
            x[:, start * config.hop : (min(start + self.frames_at_once, frames) - 1) * config.hop
              + config.reach]
            for start in starts
        ]  # fmt: skip
        scale, shift = self._normalisation(x)
        out = []
        for piece in pieces:
            y = self.convs[0](piece)
            y = self.activation((y * scale + shift).astype(y.dtype))
            for conv in self.convs[1:]:
                y = self.activation(conv(y))
            if len(pieces) > 1:
                mx.eval(y)  # or all pieces would be computed side by side
            out.append(y)
        return mx.concatenate(out, axis=1)

    def _normalisation(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """What the outputs of the first layer are multiplied by, and what is added, float32
        (batch, 1, channels); means and variances of pieces join to those of the whole.
        """
        stride, kernel = self._config.conv_stride[0], self._config.conv_kernel[0]
        total = (x.shape[1] - kernel) // stride + 1
        size = self.frames_at_once * self._config.hop // stride
        means, variances, shares = [], [], []
        for start in range(0, total, size):
            stop = min(start + size, total)
            y = self.convs[0](x[:, start * stride : (stop - 1) * stride + kernel])
            y = y.astype(mx.float32)  # (batch, time, channels)
            means.append(mx.mean(y, axis=1))
            variances.append(mx.var(y, axis=1))
            shares.append((stop - start) / total)
            if total > size:
                mx.eval(means[-1], variances[-1])
        share = mx.array(shares)[:, None, None]
        means, variances = mx.stack(means), mx.stack(variances)  # (pieces, batch, channels)
        mean = mx.sum(share * means, axis=0)
        variance = mx.sum(share * (variances + (means - mean) ** 2), axis=0)
        scale = self.norm.weight * mx.rsqrt(variance + self.eps)
        return scale[:, None], (self.norm.bias - mean * scale)[:, None]


class Hubert(nn.Module):
    """Waveform (batch, samples) at config.sampling_rate to n + 1 states for n layers, each (batch,
    frames, hidden_size): what the first layer takes, what each next one takes, and what the last
    one gives after the final norm.

    Raises MusicotError for a waveform too short for a frame.
    """

    frames_at_once = 512  # of the positional convolution

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureEncoder(config)
        self.feature_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.conv_dim[-1], config.hidden_size)
        self.position = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            config.num_conv_pos_embeddings,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.activation = nn.GELU()
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, waveform: mx.array) -> list[mx.array]:
        return list(self.states(waveform))

    def states(self, waveform: mx.array) -> Iterator[mx.array]:
        """The n + 1 states one by one, the first layer's first."""
        frames = self.config.frames(waveform.shape[1])
        if not frames:
            raise MusicotError(
                f"{waveform.shape[1]} samples are too few to be heard; "
                f"{self.config.reach} at {self.config.sampling_rate} Hz are the least"
            )
        x = self.projection(self.feature_norm(self.features(waveform)))
        x = x + self.activation(self._positions(x))
        for layer in self.layers:
            yield x
            x = layer(x)
        yield self.norm(x)

    def _positions(self, x: mx.array) -> mx.array:
        """The positional convolution, in pieces: MLX unfolds what it convolves in groups, which of
        a minute is 2.4 GB. Of an even number of taps one more lies before a frame than after it.
        """
        frames, taps = x.shape[1], self.config.num_conv_pos_embeddings
        padded = mx.pad(x, ((0, 0), (taps // 2, taps - 1 - taps // 2), (0, 0)))
        out = []
        for start in range(0, frames, self.frames_at_once):
            stop = min(start + self.frames_at_once, frames)
            out.append(self.position(padded[:, start : stop + taps - 1]))
            if frames > self.frames_at_once:
                mx.eval(out[-1])
        return mx.concatenate(out, axis=1)

    def means(self, waveform: mx.array) -> mx.array:
        """The mean over time of each state, float32 (batch, n + 1, hidden_size), with one state in
        memory at a time.
        """
        means = []
        for state in self.states(waveform):
            means.append(mx.mean(state.astype(mx.float32), axis=1))
            mx.eval(state, means[-1])
        return mx.stack(means, axis=1)


def song_means(hubert: Hubert, windows: Iterable[np.ndarray], *, name: str = "a song") -> mx.array:
    """The mean over a whole song of each state, float32 (n + 1, hidden_size).

    windows: the song's samples in order, float32 (samples,) each; a window counts by its frames,
    and a last one too short for a frame not at all. name: what errors call the song. Raises
    MusicotError where no window makes a frame.
    """
    total, frames = None, 0
    for window in windows:
        count = hubert.config.frames(len(window))
        if not count:
            continue
        heard = hubert.means(mx.array(window)[None])[0] * count
        total, frames = heard if total is None else total + heard, frames + count
        mx.eval(total)
    if total is None:
        raise MusicotError(
            f"{name} of under {1000 * hubert.config.reach / hubert.config.sampling_rate:.0f} "
            "milliseconds is too short to be heard"
        )
    return total / frames
