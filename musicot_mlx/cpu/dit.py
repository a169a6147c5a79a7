"""Blocks of models/dit.py as MLX's CPU backend runs them fastest."""

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.cpu.activations import in_blocks, layer_norm, swiglu
from musicot_mlx.cpu.attention import many_queries
from musicot_mlx.cpu.rope import rotate
from musicot_mlx.models import dit


class SelfAttention(dit.SelfAttention):
    def __call__(self, x: mx.array) -> mx.array:
        batch, time, dim = x.shape
        qkv = self.to_qkv(x).reshape(batch, time, 3 * self._heads, self._head_dim)
        qk, v = mx.split(qkv.swapaxes(1, 2), [2 * self._heads], axis=1)
        # (batch, heads, time, head_dim)
        q, k = mx.split(rotate(qk, self._head_dim // 2), 2, axis=1)
        y = many_queries(q, k, v, scale=self._head_dim**-0.5)
        return self.to_out(y.swapaxes(1, 2).reshape(batch, time, dim))


class CrossAttention(dit.CrossAttention):
    """With few vectors to attend to, to_q goes into the keys and to_out into the values: two small
    products then do for two large.
    """

    def keys_values(self, context: mx.array) -> tuple[mx.array, mx.array]:
        """Folded: (batch, heads * vectors, channels) each."""
        keys, values = super().keys_values(context)
        batch, _, vectors, _ = keys.shape
        plain = type(self.to_q) is nn.Linear and type(self.to_out) is nn.Linear
        if not plain or self.training or 2 * vectors > self._head_dim:
            return keys, values
        group, dim = self._heads // self._kv_heads, self.to_q.weight.shape[-1]
        shape = (self._kv_heads, group, self._head_dim, dim)
        read = (keys * self._head_dim**-0.5)[:, :, None] @ self.to_q.weight.reshape(shape)
        write = values[:, :, None] @ self.to_out.weight.T.reshape(shape)
        # (batch, kv_heads, group, vectors, channels)
        return tuple(folded.reshape(batch, self._heads * vectors, dim) for folded in (read, write))

    def __call__(
        self, x: mx.array, keys_values: tuple[mx.array, mx.array], mask: mx.array | None
    ) -> mx.array:
        batch, time, dim = x.shape
        if keys_values[0].ndim == 3:
            read, write = keys_values
            scores = (x @ read.swapaxes(1, 2)).reshape(batch, time, self._heads, -1)
            if mask is not None:
                scores = mx.where(mask, scores, -1e30)
            return mx.softmax(scores, axis=-1).reshape(batch, time, -1) @ write
        q = self.to_q(x).reshape(batch, time, self._heads, self._head_dim).swapaxes(1, 2)
        y = many_queries(q, *keys_values, scale=self._head_dim**-0.5, mask=mask)
        return self.to_out(y.swapaxes(1, 2).reshape(batch, time, dim))


class FeedForward(dit.FeedForward):
    def __call__(self, x: mx.array) -> mx.array:
        return in_blocks(self._rows, x, 8 * x.shape[-1])

    def _rows(self, x: mx.array) -> mx.array:
        layer = self.gate_up
        if type(layer) is nn.Linear:
            # two products: halves of one would lie apart, and the gate would not be vectorised
            weights, biases = mx.split(layer.weight, 2), mx.split(layer.bias, 2)
            up, gate = (mx.addmm(b, x, w.T) for w, b in zip(weights, biases, strict=True))
        else:
            up, gate = mx.split(layer(x), 2, axis=-1)
        return self.down(swiglu(up, gate))


class DiTBlock(dit.DiTBlock):
    def __call__(
        self, x: mx.array, keys_values: tuple[mx.array, mx.array], mask: mx.array | None
    ) -> mx.array:
        x = x + self.attn1(layer_norm(self.norm1, x))
        x = x + self.attn2(layer_norm(self.norm2, x), keys_values, mask)
        return x + self.ff(layer_norm(self.norm3, x))
