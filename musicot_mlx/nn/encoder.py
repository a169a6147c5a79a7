"""The pre-norm transformer layer that HuBERT and the vision transformers are stacks of."""

from typing import Protocol

import mlx.core as mx
import mlx.nn as nn


class EncoderSizes(Protocol):
    """What a network's config tells of its layers."""

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    layer_norm_eps: float


class EncoderLayer(nn.Module):
    """Self-attention over all of x (batch, time, channels), then a feed-forward block.

    hidden_act: "gelu", or "gelu_fast", transformers' name of its tanh approximation. Attention is
    fused, so that the scores of a minute of sound (4499 x 4499 a head) never stand in memory.
    """

    def __init__(self, config: EncoderSizes) -> None:
        super().__init__()
        dim, hidden, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self._heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(dim, eps=eps)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=eps)
        self.up = nn.Linear(dim, hidden)
        self.activation = nn.GELU() if config.hidden_act == "gelu" else TanhGELU()
        self.down = nn.Linear(hidden, dim)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self._attention(self.attention_norm(x))
        return x + self._feed_forward(self.mlp_norm(x))

    def _attention(self, x: mx.array) -> mx.array:
        batch, time, dim = x.shape
        qkv = self.qkv(x).reshape(batch, time, 3, self._heads, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        y = self._attend(q, k, v, scale=q.shape[-1] ** -0.5)
        return self.out_proj(y.swapaxes(1, 2).reshape(batch, time, dim))

    def _attend(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)

    def _feed_forward(self, x: mx.array) -> mx.array:
        return self.down(self.activation(self.up(x)))


class TanhGELU(nn.Module):
    """GELU by its tanh approximation."""

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu_approx(x)


def check_encoder(config: EncoderSizes) -> None:
    """Raise ValueError for sizes that don't divide and activations that EncoderLayer lacks."""
    heads = config.num_attention_heads
    if heads < 1 or config.hidden_size % heads:
        raise ValueError(f"hidden_size {config.hidden_size} does not divide into {heads} heads")
    if config.hidden_act not in ("gelu", "gelu_fast"):
        raise ValueError(f"activation {config.hidden_act!r} is unknown; use gelu or gelu_fast")
