"""A matrix times a few rows, and one query over many keys: the shapes of every step of a decoder.

On MLX's CPU backend both have a faster form than the usual one; everywhere else, and for layers
that are not plain (quantised, adapted, with a bias), these are the usual ones.
"""

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.nn.elementwise import exp_steps, plain_is_slow

_MOST_ROWS = 8
_FEWEST_KEYS = 128


def linear(layer: nn.Module, x: mx.array) -> mx.array:
    """layer(x) for x (..., channels) of any number of rows.

    For two to eight rows the BLAS reads the weights at three quarters of the memory's speed when
    they stand on the right of the product, and at all of it when they stand on the left.
    """
    rows = x.size // x.shape[-1]
    plain = type(layer) is nn.Linear and "bias" not in layer
    if not plain or rows > _MOST_ROWS or not plain_is_slow(x):
        return layer(x)
    y = layer.weight @ x.reshape(rows, -1).T  # (channels, rows)
    return y.T.reshape(*x.shape[:-1], -1)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None = None
) -> mx.array:
    """Scaled dot-product attention, (batch, heads, time, head_dim).

    mask: boolean, true where a key counts, or "causal". For a single query the softmax is written
    out, because MLX's own takes exponentials one by one on a CPU.
    """
    if q.shape[2] > 1 or k.shape[2] < _FEWEST_KEYS or not plain_is_slow(q):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (batch, heads, 1, keys)
    if isinstance(mask, mx.array):
        scores = mx.where(mask, scores, -1e30)
    weights = _exp_below(scores, mx.max(scores, axis=-1, keepdims=True))
    return (weights @ v) / mx.sum(weights, axis=-1, keepdims=True)


@mx.compile
def _exp_below(scores: mx.array, largest: mx.array) -> mx.array:
    return exp_steps(scores - largest)
