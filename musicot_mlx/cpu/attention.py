"""Attention with the exponentials of cpu/activations.py: MLX takes its own one by one on a CPU."""

import mlx.core as mx

from musicot_mlx.cpu.activations import BLOCK, capped, exp_below, exp_difference

_FEWEST_QUERIES = 32  # of a block
_FEWEST_KEYS = 128


def many_queries(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: mx.array | None = None,
    cap: float | None = None,
    fewest: int = _FEWEST_QUERIES,
) -> mx.array:
    """Scaled dot-product attention, (batch, heads, time, head_dim); k and v may have fewer heads.

    mask is boolean, true where a key counts, and broadcasts to (batch, heads, 1, keys). cap: what
    scores are kept within, softly. fewest: queries of a block; more are quicker where their scores
    may stand in memory at once.
    """
    batch, heads, time, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    q = (q * scale).reshape(batch, kv_heads, heads // kv_heads, time, dim)
    k, v = k[:, :, None], v[:, :, None]
    v = mx.concatenate([v, mx.ones((*v.shape[:-1], 1))], axis=-1)  # the last column sums weights
    if mask is not None:
        mask = mx.broadcast_to(mask, (batch, heads, 1, keys))
        mask = mask.reshape(batch, kv_heads, heads // kv_heads, keys, 1)
    block = max(fewest, BLOCK // (batch * heads * keys))
    pieces = []
    for start in range(0, time, block):
        # (batch, kv_heads, group, keys, block): the maximum is four times faster over rows
        scores = k @ q[:, :, :, start : start + block].swapaxes(-1, -2)
        if cap is not None:
            scores = capped(scores, mx.array(cap))
        if mask is not None:
            scores = mx.where(mask, scores, -1e30)
        weights = exp_below(scores, mx.max(scores, axis=-2, keepdims=True))
        y = weights.swapaxes(-1, -2) @ v
        pieces.append(y[..., :-1] / y[..., -1:])
    return mx.concatenate(pieces, axis=-2).reshape(batch, heads, time, dim)


def one_query(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """Scaled dot-product attention, (batch, heads, time, head_dim).

    mask: boolean, true where a key counts, or "causal". For a single query over many keys the
    softmax is written out; anything else goes MLX's way.
    """
    if q.shape[2] > 1 or k.shape[2] < _FEWEST_KEYS:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (batch, heads, 1, keys)
    if isinstance(mask, mx.array):
        scores = mx.where(mask, scores, -1e30)
    weights = exp_difference(scores, mx.max(scores, axis=-1, keepdims=True))
    return (weights @ v) / mx.sum(weights, axis=-1, keepdims=True)
