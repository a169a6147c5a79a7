"""Semantic tokenizer: waveform to 25 codes a second, by a conformer and a codebook.

The paper (arXiv 2503.19611, section 4.1) takes BEST-RQ (arXiv 2202.01855) fine-tuned with CTC.
Reference: `musicot_mlx/reference/semantic_tokenizer.py`, which holds the pretraining and says where
it differs from published conformers. Here are the log-mel front end, the conformer and the codebook
only; log-mel and the choice of code are float32 whatever the dtype.
"""

from dataclasses import dataclass
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.audio.mel import mel_filter_bank, stft
from musicot_mlx.nn.depthwise import DepthwiseConv1d
from musicot_mlx.nn.unit import unit
from musicot_mlx.weights.config import config_from_dict

_LOWEST_HZ = 30.0  # of the mel filters, which reach up to half the sample rate


@dataclass(frozen=True)
class SemanticTokenizerConfig:
    """Front end, conformer, codebook, and the windows that long audio is encoded in."""

    sample_rate: int = 44100  # Hz
    n_fft: int = 2048  # samples
    hop_length: int = 441  # samples
    mels: int = 80
    stack: int = 4  # mel frames per code
    dim: int = 192
    layers: int = 4
    heads: int = 4
    expansion: int = 4
    kernel_size: int = 15
    codebook_size: int = 1024
    codebook_dim: int = 32
    window_codes: int = 250
    margin_codes: int = 25

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim {self.dim} must divide by heads {self.heads} into even parts")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}, expected an odd number")
        if self.window_codes <= 2 * self.margin_codes:
            raise ValueError(
                f"window_codes {self.window_codes} leaves nothing between two margins of "
                f"{self.margin_codes}"
            )

    @classmethod
    def from_dict(cls, d: dict) -> "SemanticTokenizerConfig":
        return config_from_dict(cls, d)

    @property
    def samples_per_code(self) -> int:
        return self.stack * self.hop_length

    @property
    def frame_rate(self) -> float:
        """Codes per second."""
        return self.sample_rate / self.samples_per_code


# BEST-RQ at the size of its paper's non-streaming conformer, on SongCreator's codebook.
BEST_RQ_600M = SemanticTokenizerConfig(
    dim=1024, layers=24, heads=8, expansion=4, kernel_size=5, codebook_size=16384
)


@lru_cache(maxsize=8)
def _filters(sample_rate: int, n_fft: int, mels: int) -> mx.array:
    filters = mel_filter_bank(
        n_fft,
        mels,
        sample_rate=sample_rate,
        min_frequency=_LOWEST_HZ,
        max_frequency=sample_rate / 2,
        scale="htk",
        norm="slaney",
    )
    return mx.array(filters.astype(np.float32))  # (bins, mels)


class LogMel(nn.Module):
    """Waveform (batch, samples) to standardised natural-log mel frames, stacked to the code rate.

    Frame i is centred on sample (i + 0.5) * hop_length; zeros at both ends, whole codes only.
    """

    def __init__(self, config: SemanticTokenizerConfig) -> None:
        super().__init__()
        self._config = config
        self.mean = mx.zeros((config.mels,))
        self.std = mx.ones((config.mels,))

    def __call__(self, waveform: mx.array) -> mx.array:
        c = self._config
        missing = -waveform.shape[1] % c.samples_per_code
        overlap = c.n_fft - c.hop_length
        edge = overlap // 2
        x = mx.pad(waveform.astype(mx.float32), ((0, 0), (edge, overlap - edge + missing)))
        x = stft(x, n_fft=c.n_fft, hop_length=c.hop_length, centered=False)
        power = mx.square(mx.real(x)) + mx.square(mx.imag(x))  # (batch, frames, bins)
        mel = mx.log(mx.maximum(power @ _filters(c.sample_rate, c.n_fft, c.mels), 1e-8))
        x = (mel - self.mean.astype(mx.float32)) / self.std.astype(mx.float32)
        return x.reshape(x.shape[0], -1, c.stack * c.mels)  # (batch, time, features)


class FeedForward(nn.Module):
    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.activation = nn.SiLU()
        self.project = nn.Linear(expansion * dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.project(self.activation(self.expand(self.norm(x))))


class Attention(nn.Module):
    """Self-attention over (batch, time, channels) with rotary positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        batch, time, dim = x.shape
        head_dim = dim // self._heads
        qkv = self.qkv(self.norm(x)).reshape(batch, time, 3 * self._heads, head_dim)
        q, k, v = mx.split(qkv.swapaxes(1, 2), 3, axis=1)  # (batch, heads, time, head_dim)
        rope = {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": 0}
        q, k = mx.fast.rope(q, head_dim, **rope), mx.fast.rope(k, head_dim, **rope)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=head_dim**-0.5)
        return self.project(y.swapaxes(1, 2).reshape(batch, time, dim))


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise over time, pointwise (conformer, arXiv 2005.08100)."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.sigmoid = nn.Sigmoid()
        self.depthwise = DepthwiseConv1d(dim, kernel_size)
        self.depthwise_norm = nn.LayerNorm(dim)
        self.activation = nn.SiLU()
        self.project = nn.Linear(dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        y, gate = mx.split(self.gate(self.norm(x)), 2, axis=-1)
        y = self.depthwise(y * self.sigmoid(gate))
        return self.project(self.activation(self.depthwise_norm(y)))


class ConformerBlock(nn.Module):
    def __init__(self, config: SemanticTokenizerConfig) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(config.dim, config.expansion)
        self.attention = Attention(config.dim, config.heads)
        self.convolution = ConvolutionModule(config.dim, config.kernel_size)
        self.feed_forward_out = FeedForward(config.dim, config.expansion)
        self.norm = nn.LayerNorm(config.dim)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        x = x + 0.5 * self.feed_forward_out(x)
        return self.norm(x)


class Quantizer(nn.Module):
    """The nearest code by cosine, in a space of few channels; codebook rows have length 1."""

    def __init__(self, config: SemanticTokenizerConfig) -> None:
        super().__init__()
        if config.codebook_dim != config.dim:
            self.project_in = nn.Linear(config.dim, config.codebook_dim)
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def __call__(self, x: mx.array) -> mx.array:
        x = unit(self.project_in(x) if "project_in" in self else x)
        similarity = x @ self.codebook.weight.astype(mx.float32).T  # (batch, time, codes)
        return mx.argmax(similarity, axis=-1).astype(mx.int32)


class SemanticTokenizer(nn.Module):
    """Waveform (batch, samples) at config.sample_rate to int32 codes (batch, time)."""

    def __init__(self, config: SemanticTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        self.embed = nn.Linear(config.stack * config.mels, config.dim)
        self.layers = [ConformerBlock(config) for _ in range(config.layers)]
        self.quantizer = Quantizer(config)

    @property
    def dtype(self) -> mx.Dtype:
        return self.layers[0].norm.weight.dtype

    def features(self, log_mel: mx.array) -> mx.array:
        """Conformer output for standardised stacked frames, (batch, time, dim)."""
        x = self.embed(log_mel.astype(self.dtype))
        for layer in self.layers:
            x = layer(x)
        return x

    def encode(self, waveform: mx.array) -> mx.array:
        """Codes of audio of any length, one for each samples_per_code samples begun.

        Windows of config.window_codes, each keeping what lies inside its margins, one evaluated
        before the next, so memory does not grow. Raises ValueError for other than one channel.
        """
        if waveform.ndim != 2 or not waveform.shape[1]:
            raise ValueError(
                f"waveform is {waveform.shape}, expected (batch, samples): mix channels down first"
            )
        c = self.config
        log_mel = self.log_mel(waveform)
        time, hop = log_mel.shape[1], c.window_codes - 2 * c.margin_codes
        pieces = []
        for start in range(0, time, hop):
            low = max(0, start - c.margin_codes)
            window = log_mel[:, low : start + hop + c.margin_codes]
            codes = self.quantizer(self.features(window))
            pieces.append(codes[:, start - low : start - low + hop])
            mx.eval(pieces[-1])
        return mx.concatenate(pieces, axis=1)
