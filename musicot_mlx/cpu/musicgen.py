"""Parts of models/musicgen.py as MLX's CPU backend runs them fastest."""

from collections.abc import Sequence
from typing import Any, Literal

import mlx.core as mx

from musicot_mlx.cpu import musicgen_step
from musicot_mlx.cpu.attention import one_query
from musicot_mlx.cpu.matmul import linear
from musicot_mlx.models import musicgen
from musicot_mlx.models.musicgen import Step, TextKeysValues


class SelfAttention(musicgen.SelfAttention):
    def __call__(
        self, x: mx.array, cache: Any, mask: mx.array | Literal["causal"] | None
    ) -> mx.array:
        batch, time, _ = x.shape
        qkv = linear(self.qkv, x).reshape(batch, time, 3, self._heads, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        y = one_query(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
        return linear(self.out_proj, y.swapaxes(1, 2).reshape(batch, time, -1))


class CrossAttention(musicgen.CrossAttention):
    def __call__(self, x: mx.array, cross: TextKeysValues) -> mx.array:
        batch, time, _ = x.shape
        q = linear(self.q_proj, x).reshape(batch, time, self._heads, -1).swapaxes(1, 2)
        y = one_query(q, cross.keys, cross.values, scale=q.shape[-1] ** -0.5, mask=cross.mask)
        return linear(self.out_proj, y.swapaxes(1, 2).reshape(batch, time, -1))


class DecoderLayer(musicgen.DecoderLayer):
    def __call__(
        self,
        x: mx.array,
        cache: Any,
        mask: mx.array | Literal["causal"] | None,
        cross: TextKeysValues | None,
    ) -> mx.array:
        x = x + self.self_attn(self.self_attn_layer_norm(x), cache, mask)
        if cross is not None:
            x = self._cross_attend(x, cross)
        y = self.activation(linear(self.fc1, self.final_layer_norm(x)))
        return x + linear(self.fc2, y)


class Musicgen(musicgen.Musicgen):
    def fast_step(self, rows: int) -> Step:
        step = musicgen_step.prepare(self, rows)
        if step is None:
            return self.hidden

        def hidden(
            x: mx.array,
            cache: Sequence[Any],
            *,
            mask: mx.array | None = None,
            cross: Sequence[TextKeysValues] | None = None,
        ) -> mx.array:
            return step(x, cache, mask, cross)

        return hidden

    def logits(self, hidden: mx.array) -> mx.array:
        logits = linear(self.lm_head, hidden)
        return logits.reshape(*hidden.shape[:-1], self.config.num_codebooks, -1)
