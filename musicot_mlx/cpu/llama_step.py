"""One position through mlx-lm's llama, in a sixth of the operations: for MLX's CPU backend.

There an operation costs some microseconds however little it does, and rotary positions, norms and
attention are each a dozen of them: a step of a small model spends most of its time between the
operations. Here what all layers share (rotation, mask) is made once a step, elementwise runs are
compiled into one operation each, a norm's scale is applied to what the matrix makes of its input,
and the state is kept in columns (hidden, rows), because BLAS multiplies a weight matrix by two
columns 1.5 times faster than two rows by it. Query, key and value are one matrix where the model is
small enough to hold them twice, beside their rows as the rotation turns them: two products and one
operation then do what a dozen did. The numbers are those of the plain path up to rounding; tests
hold the two together.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.cpu import rope, threads
from musicot_mlx.cpu.activations import exp_difference, silu_steps
from musicot_mlx.cpu.matmul import Halves, is_large, split_weight, times_halves

Weight = mx.array | Halves  # halves where a matrix is so large that both cores read it
_Layer = tuple[tuple[Any, ...], tuple[Any, ...]]  # arguments of what stands around the attention

_POSITIONS = 1024  # rows of the rotation table are made in steps of this
_FEW_SCORES = 4096  # up to here one softmax is quicker than the fast exponential's eight operations


class Step:
    """Hidden states of one more position of a run whose caches are filled.

    It holds references to the weights as they were, and some of them rearranged.
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        first, attn = model.layers[0], model.layers[0].self_attn
        lane = threads.second_lane() if is_large(first.mlp.gate_proj) else None
        self._norm, self._rope = model.norm, attn.rope
        self._heads, self._kv_heads = attn.n_heads, attn.n_kv_heads
        self._layers = [_arguments(layer, rows, lane) for layer in model.layers]
        eps = first.input_layernorm.eps
        self._before, self._after = _compiled(attn.n_heads, attn.n_kv_heads, eps, lane)

    def __call__(self, x: mx.array, cache: Sequence[Any]) -> mx.array:
        """x (rows, 1, hidden) to hidden states of that shape, normalised; `cache` grows by it."""
        first = cache[0]
        padding = getattr(first, "left_padding", None)
        held = first.offset if padding is None else first._idx  # positions, padding included
        cos, sin = self._turn(first.offset, held, rows=x.shape[0])
        mask = None
        if padding is not None:
            seen = mx.arange(held + 1) >= padding[:, None]
            mask = mx.where(seen, 0.0, -1e30)[:, None, None]  # (rows, 1, 1, keys)
        h = x[:, 0].T  # (hidden, rows)
        for index, ((qkv, mlp), kept) in enumerate(zip(self._layers, cache, strict=True)):
            if index:
                mx.async_eval(h)  # or the device would wait while Python builds this layer
            q, k, v = self._before(h, cos, sin, *qkv)
            keys, values = kept.update_and_fetch(k, v)
            if kept is not first and padding is not None:
                kept.offset = first.offset  # equal; its own would pile up, as nothing reads it
            h = self._after(h, _attend(q, keys, values, mask), *mlp)
        return self._norm(h.T)[:, None]

    def _turn(self, offset: int | mx.array, held: int, *, rows: int) -> tuple[mx.array, mx.array]:
        """What multiplies queries, keys and values, and their turned halves: (heads, dim, rows)."""
        turn, shared = self._rope, self._kv_heads
        table = rope.table(turn.dims, turn.base, -(-(held + 1) // _POSITIONS) * _POSITIONS)
        places = offset if isinstance(offset, mx.array) else mx.full((rows,), offset)
        cos, sin = table[places].T.reshape(2, 1, turn.dims // 2, rows)
        scale = mx.array([turn.dims**-0.5] * self._heads + [1.0] * shared)[:, None, None]
        cos = scale * mx.concatenate([cos, cos], axis=1)
        sin = scale * mx.concatenate([-sin, sin], axis=1)
        still = mx.ones((shared, turn.dims, rows))
        return mx.concatenate([cos, still]), mx.concatenate([sin, mx.zeros_like(still)])


def prepare(model: nn.Module, rows: int) -> Step | None:
    """A Step for so many rows, or None where the plain path is the better or the only one."""
    return Step(model, rows) if all(_plain(layer) for layer in model.layers) else None


def _plain(layer: nn.Module) -> bool:
    """No adapter, no bias, no scaled or truncated rotation."""
    attn, mlp = layer.self_attn, layer.mlp
    linear = (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)
    linear += (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    turn = attn.rope
    return (
        all(type(m) is nn.Linear and "bias" not in m for m in linear)
        and type(turn) is nn.RoPE
        and not turn.traditional
        and turn.scale == 1.0
        and not layer.use_sliding
    )


def _arguments(layer: nn.Module, rows: int, lane: mx.Stream | None) -> _Layer:
    """Of a layer, what `before` and `after` take: norms as columns, and matrices."""
    attn, mlp = layer.self_attn, layer.mlp

    def weight(linear: nn.Linear) -> Weight:
        halves = None if lane is None else split_weight(linear, rows, lane)
        return linear.weight if halves is None else halves

    qkv = [weight(linear) for linear in (attn.q_proj, attn.k_proj, attn.v_proj)]
    if all(isinstance(w, mx.array) for w in qkv):
        qkv = [mx.concatenate(qkv)]
        mx.eval(qkv)
    matrices = (attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    o, gate, up, down = (weight(linear) for linear in matrices)
    before = (layer.input_layernorm.weight[:, None], *qkv)
    return before, (o, layer.post_attention_layernorm.weight[:, None], gate, up, down)


def _attend(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array | None) -> mx.array:
    """q (rows, kv_heads, group, head_dim), scaled, over the cache -> (hidden, rows)."""
    scores = q @ keys.swapaxes(-1, -2)
    if mask is not None:
        scores = scores + mask
    if scores.size <= _FEW_SCORES:
        y = mx.softmax(scores, axis=-1) @ values
    else:
        weights = exp_difference(scores, mx.max(scores, axis=-1, keepdims=True))
        y = (weights @ values) / mx.sum(weights, axis=-1, keepdims=True)
    return y.reshape(y.shape[0], -1).T


@lru_cache(maxsize=8)
def _compiled(
    heads: int, kv_heads: int, eps: float, lane: mx.Stream | None
) -> tuple[Callable[..., Any], ...]:
    """What stands before and after the attention of a layer; weights are arguments, never kept."""

    def times(weight: Weight, x: mx.array) -> mx.array:
        if isinstance(weight, mx.array):
            return weight @ x
        return times_halves(weight, x, lane)

    def length(h: mx.array) -> mx.array:
        """What a norm divides columns by, as a factor (1, rows)."""
        return mx.rsqrt(mx.sum(h * h, axis=0, keepdims=True) * (1 / len(h)) + eps)

    @mx.compile
    def before(
        h: mx.array, cos: mx.array, sin: mx.array, norm: mx.array, *qkv: Weight
    ) -> tuple[mx.array, mx.array, mx.array]:
        x, rows, dim = h * norm, h.shape[1], cos.shape[1]
        qkv_rows = times(qkv[0], x) if len(qkv) == 1 else mx.concatenate([times(w, x) for w in qkv])
        qkv_rows = qkv_rows.reshape(cos.shape)
        upper, lower = mx.split(qkv_rows, 2, axis=1)
        swapped = mx.concatenate([lower, upper], axis=1)
        y = (qkv_rows * cos + swapped * sin) * length(h)
        y = y.transpose(2, 0, 1)  # (rows, heads of all three, head_dim)
        queries, keys, values = mx.split(y, [heads, heads + kv_heads], axis=1)
        queries = queries.reshape(rows, kv_heads, heads // kv_heads, dim)
        return queries, keys[:, :, None], values[:, :, None]

    @mx.compile
    def after(
        h: mx.array,
        y: mx.array,
        o: Weight,
        norm: mx.array,
        gate: Weight,
        up: Weight,
        down: Weight,
    ) -> mx.array:
        h = h + times(o, y)
        x, factor = h * norm, length(h)
        return h + times(down, silu_steps(times(gate, x) * factor) * (times(up, x) * factor))

    return before, after
