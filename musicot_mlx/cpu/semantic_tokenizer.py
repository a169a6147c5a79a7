"""Blocks of models/semantic_tokenizer.py as MLX's CPU backend runs them fastest."""

import mlx.core as mx

from musicot_mlx.cpu.activations import in_blocks
from musicot_mlx.cpu.attention import many_queries
from musicot_mlx.models import semantic_tokenizer


class FeedForward(semantic_tokenizer.FeedForward):
    def __call__(self, x: mx.array) -> mx.array:
        return in_blocks(super().__call__, x, self.expand.weight.shape[0])


class Attention(semantic_tokenizer.Attention):
    def __call__(self, x: mx.array) -> mx.array:
        batch, time, dim = x.shape
        head_dim = dim // self._heads
        qkv = self.qkv(self.norm(x)).reshape(batch, time, 3 * self._heads, head_dim)
        q, k, v = mx.split(qkv.swapaxes(1, 2), 3, axis=1)  # (batch, heads, time, head_dim)
        rope = {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": 0}
        q, k = mx.fast.rope(q, head_dim, **rope), mx.fast.rope(k, head_dim, **rope)
        y = many_queries(q, k, v, scale=head_dim**-0.5)
        return self.project(y.swapaxes(1, 2).reshape(batch, time, dim))
