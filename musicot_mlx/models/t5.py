"""T5 encoder: the text tower of MusicGen, from token ids to hidden states.

arXiv 1910.10683; reference implementation transformers.T5EncoderModel. Relative position biases are
added to unscaled scores, and one table of them serves every layer. Queries, keys and values are one
matrix here. Both feed-forward forms are read: one matrix and an activation (`relu`, the T5 of
MusicGen) and a gated one (`gated-gelu`, T5 1.1 and Flan).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.weights.config import config_from_dict

FeedForward = Literal["relu", "gelu", "gated-gelu", "gated-silu"]
_ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": nn.gelu,
    "gated-gelu": nn.gelu_approx,  # T5 1.1 was trained with the tanh form
    "gated-silu": nn.silu,
}


@dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder; the defaults are t5-base. Names are the checkpoint's."""

    vocab_size: int = 32128
    d_model: int = 768
    d_kv: int = 64  # channels of a head; heads * d_kv need not be d_model
    d_ff: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128  # tokens; farther ones share a bucket
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: FeedForward = "relu"

    def __post_init__(self) -> None:
        if self.relative_attention_num_buckets % 4:
            raise ValueError(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}, "
                "expected a multiple of 4: half a direction, half of that exact"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "T5Config":
        return config_from_dict(cls, values, where="text_encoder")

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")


T5_BASE = T5Config()


def relative_buckets(tokens: int, *, buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every (query, key) distance, int32 (tokens, tokens), half of them for later keys.

    Near distances have a bucket each, farther ones share buckets that widen with the logarithm.
    """
    distance = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    half = buckets // 2
    exact = half // 2
    size = np.abs(distance)
    # float32, as the reference: a rounding at a bucket's edge moves a distance to the next bucket
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    wide = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    far = np.minimum(exact + wide.astype(np.int32), half - 1)
    return (np.where(size < exact, size, far) + half * (distance > 0)).astype(np.int32)


class T5Layer(nn.Module):
    """Self-attention, then the feed-forward block, each after a norm without bias or mean."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self._heads = config.num_heads
        self._activation = _ACTIVATIONS[config.feed_forward_proj]
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.qkv = nn.Linear(config.d_model, 3 * inner, bias=False)
        self.out_proj = nn.Linear(inner, config.d_model, bias=False)
        self.mlp_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        if config.gated:
            self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = _finite(x + self._attention(self.attention_norm(x), bias))
        return _finite(x + self._feed_forward(self.mlp_norm(x)))

    def _attention(self, x: mx.array, bias: mx.array) -> mx.array:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self._heads, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=bias)
        return self.out_proj(y.swapaxes(1, 2).reshape(batch, tokens, -1))

    def _feed_forward(self, x: mx.array) -> mx.array:
        if "gate" in self:
            return self.down(self._activation(self.gate(x)) * self.up(x))
        return self.down(self._activation(self.up(x)))


class T5Encoder(nn.Module):
    """Token ids int32 (batch, tokens) to hidden states (batch, tokens, d_model).

    mask: bool (batch, tokens), false where a row is padded; what stands there comes out undefined.
    Raises ValueError when the mask has another shape than the ids.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.relative_attention_bias = nn.Embedding(
            config.relative_attention_num_buckets, config.num_heads
        )
        self.layers = [T5Layer(config) for _ in range(config.num_layers)]
        self.norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)

    def __call__(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        if mask is not None and mask.shape != ids.shape:
            raise ValueError(f"mask is {mask.shape}, expected the shape of the ids, {ids.shape}")
        x = self.embed_tokens(ids)  # (batch, time, channels)
        bias = self._bias(ids.shape[1])
        if mask is not None:
            bias = mx.where(mask[:, None, None], bias, mx.finfo(bias.dtype).min)
        bias = bias.astype(x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)

    def _bias(self, tokens: int) -> mx.array:
        """What is added to the scores, (1, heads, tokens, tokens)."""
        buckets = relative_buckets(
            tokens,
            buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return self.relative_attention_bias(mx.array(buckets)).transpose(2, 0, 1)[None]


def _finite(x: mx.array) -> mx.array:
    """T5's residuals overflow float16 in its larger sizes; the reference clips them there too."""
    if x.dtype != mx.float16:
        return x
    largest = mx.finfo(mx.float16).max - 1000
    return mx.clip(x, -largest, largest)
