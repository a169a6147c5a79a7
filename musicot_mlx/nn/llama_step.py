"""One position through mlx-lm's llama, in a fifth of the operations: for MLX's CPU backend.

There an operation costs some microseconds however little it does, and rotary positions, norms and
attention are each a dozen of them: a step of a small model spends most of its time between the
operations. Here the rotation's cosines and sines are looked up once a step for all layers, the
elementwise runs are compiled into one operation each, and the state is kept in columns (hidden,
rows), because BLAS multiplies a weight matrix by two columns 1.5 times faster than two rows by it.
The numbers are those of the plain path up to rounding; tests hold the two together.
"""

from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.nn import lanes, rotary
from musicot_mlx.nn.elementwise import exp_steps, plain_is_slow, silu_steps
from musicot_mlx.nn.few_rows import Halves, halves, is_large, times_halves

Weight = mx.array | Halves  # halves where a matrix is so large that both cores read it

_POSITIONS = 1024  # rows of the rotation table are made in steps of this
_FEW_SCORES = 4096  # up to here one softmax is quicker than the fast exponential's eight operations


def takes(model: nn.Module, x: mx.array, cache: list[Any] | None) -> bool:
    """Whether `step` computes model(x, cache): one position, plain float32 layers, a full cache."""
    if cache is None or x.shape[1] != 1 or not plain_is_slow(x):
        return False
    if any(layer.keys is None or not hasattr(layer, "make_mask") for layer in cache):
        return False
    return all(_plain(layer) for layer in model.layers)


def _plain(layer: nn.Module) -> bool:
    """No adapter, no bias, no scaled or truncated rotation."""
    attn, mlp = layer.self_attn, layer.mlp
    linear = (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)
    linear += (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    rope = attn.rope
    return (
        all(type(m) is nn.Linear and "bias" not in m for m in linear)
        and type(rope) is nn.RoPE
        and not rope.traditional
        and rope.scale == 1.0
        and not layer.use_sliding
    )


def step(model: nn.Module, x: mx.array, cache: list[Any]) -> mx.array:
    """Hidden states (rows, 1, hidden) of one more position, normalised; `cache` grows by it."""
    rows, first, layers = x.shape[0], cache[0], model.layers
    attn = layers[0].self_attn
    offset, held = first.offset, _positions(first)
    turns = rotary.table(attn.rope.dims, attn.rope.base, -(-(held + 1) // _POSITIONS) * _POSITIONS)
    places = offset if isinstance(offset, mx.array) else mx.full((rows,), offset)
    turn = turns[places].T  # (head_dim, rows): cosines, then sines
    padding = getattr(first, "left_padding", None)
    mask = mx.zeros((1, 1, 1, 1))
    if padding is not None:
        seen = mx.arange(held + 1) >= padding[:, None]
        mask = mx.where(seen, 0.0, -1e30)[:, None, None]  # (rows, 1, 1, keys)
    cos, sin = mx.split(turn[None, :, None], 2, axis=1)  # (1, half, 1, rows)
    cos, sin = cos.swapaxes(1, 2), sin.swapaxes(1, 2)  # (1, 1, half, rows)
    lane = lanes.second_lane() if is_large(layers[0].mlp.gate_proj) else None
    eps = layers[0].input_layernorm.eps
    before, after = _compiled(attn.n_heads, attn.n_kv_heads, eps, lane)

    def weight(layer: nn.Linear) -> Weight:
        found = None if lane is None else halves(layer, rows, lane)
        return layer.weight if found is None else found

    h = x[:, 0].T  # (hidden, rows)
    for index, (layer, kept) in enumerate(zip(layers, cache, strict=True)):
        if index:
            mx.async_eval(h)  # or the device would wait while Python builds this layer
        attn, mlp = layer.self_attn, layer.mlp
        q, k, v = before(
            h, cos, sin, layer.input_layernorm.weight, weight(attn.q_proj), weight(attn.k_proj),
            weight(attn.v_proj),
        )  # fmt: skip
        keys, values = kept.update_and_fetch(k, v)
        if kept is not first and padding is not None:
            kept.offset = first.offset  # equal; its own would pile up, as nothing reads it
        y = _attend(q, keys, values, mask)
        h = after(
            h, y, weight(attn.o_proj), layer.post_attention_layernorm.weight,
            weight(mlp.gate_proj), weight(mlp.up_proj), weight(mlp.down_proj),
        )  # fmt: skip
    return model.norm(h.T)[:, None]


def _positions(cache: Any) -> int:
    """Positions that the cache holds, padding included."""
    return cache._idx if hasattr(cache, "_idx") else cache.offset


def _attend(q: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> mx.array:
    """q (rows, kv_heads, group, head_dim) over the cache -> (hidden, rows); mask is added."""
    scores = _masked(q @ keys.swapaxes(-1, -2), mask, q.shape[-1] ** -0.5)
    if scores.size <= _FEW_SCORES:
        y = mx.softmax(scores, axis=-1) @ values
    else:
        weights = _exp_below(scores, mx.max(scores, axis=-1, keepdims=True))
        y = (weights @ values) / mx.sum(weights, axis=-1, keepdims=True)
    return y.reshape(y.shape[0], -1).T


@mx.compile
def _masked(scores: mx.array, mask: mx.array, scale: float) -> mx.array:
    return scores * scale + mask


@mx.compile
def _exp_below(scores: mx.array, largest: mx.array) -> mx.array:
    return exp_steps(scores - largest)


@lru_cache(maxsize=8)
def _compiled(heads: int, kv_heads: int, eps: float, lane: mx.Stream | None) -> tuple[Any, Any]:
    """What stands before and after the attention of a layer; weights are arguments, never kept."""

    def times(weight: Weight, x: mx.array) -> mx.array:
        if isinstance(weight, mx.array):
            return weight @ x
        return times_halves(weight, x, lane)

    def norm(h: mx.array, weight: mx.array) -> mx.array:
        power = mx.mean(h * h, axis=0, keepdims=True)
        return h * mx.rsqrt(power + eps) * weight[:, None]

    @mx.compile
    def before(
        h: mx.array,
        cos: mx.array,
        sin: mx.array,
        weight: mx.array,
        q: Weight,
        k: Weight,
        v: Weight,
    ) -> tuple[mx.array, mx.array, mx.array]:
        x, rows, half = norm(h, weight), h.shape[1], cos.shape[-2]
        qk = mx.concatenate([times(q, x), times(k, x)]).reshape(heads + kv_heads, 2, half, rows)
        a, b = mx.split(qk, 2, axis=1)
        qk = mx.concatenate([a * cos - b * sin, a * sin + b * cos], axis=1)
        qk = qk.reshape(heads + kv_heads, 1, 2 * half, rows).transpose(3, 0, 1, 2)
        queries, keys = mx.split(qk, [heads], axis=1)  # (rows, heads, 1, head_dim)
        queries = queries.reshape(rows, kv_heads, heads // kv_heads, 2 * half)
        values = times(v, x).reshape(kv_heads, 1, 2 * half, rows).transpose(3, 0, 1, 2)
        return queries, keys, values

    @mx.compile
    def after(
        h: mx.array,
        y: mx.array,
        o: Weight,
        weight: mx.array,
        gate: Weight,
        up: Weight,
        down: Weight,
    ) -> mx.array:
        h = h + times(o, y)
        x = norm(h, weight)
        return h + times(down, silu_steps(times(gate, x)) * times(up, x))

    return before, after
