"""A matrix times a few rows, as every step of a decoder has it, on MLX's CPU backend.

Layers that are not plain (quantised, adapted, with a bias) go the usual way.
"""

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.cpu import threads

_MOST_ROWS = 8
_MOST_ROWS_IN_LANES = 16
_FEWEST_WEIGHTS = 1 << 19  # 2 MB: below, a core has read them before the other one is awake
# up to where OpenBLAS takes its kernels for small matrices: multiplications, and outputs
_SMALL_PRODUCT, _SMALL_OUTPUT = 100**3, 1200


def linear(layer: nn.Module, x: mx.array) -> mx.array:
    """layer(x) for x (..., channels) of any number of rows.

    Such a product is the reading of its weights. OpenBLAS copies them while it reads, at a third of
    the memory's speed with two rows on the left of the product, at half with the rows on the right.
    In blocks so small that it leaves the copy out, one half of them on each core, it reaches full
    bandwidth.
    """
    rows = x.size // x.shape[-1]
    plain = type(layer) is nn.Linear and "bias" not in layer
    if not plain or rows > _MOST_ROWS_IN_LANES:
        return layer(x)
    y = _in_lanes(layer, x.reshape(rows, -1).T)
    if y is None:
        if rows > _MOST_ROWS:
            return layer(x)
        y = layer.weight @ x.reshape(rows, -1).T  # (channels, rows)
    return y.T.reshape(*x.shape[:-1], -1)


def product(weight: mx.array, x: mx.array) -> mx.array:
    """x (rows, channels) times a small weight (outputs, channels) -> (rows, outputs)."""
    if len(x) > _MOST_ROWS:
        return x @ weight.T
    return (weight @ x.T).T


def _in_lanes(layer: nn.Linear, x: mx.array) -> mx.array | None:
    """layer times x (inputs, rows) -> (channels, rows), or None where two lanes are no use."""
    lane = threads.second_lane()
    halves = None if lane is None else split_weight(layer, x.shape[1], lane)
    return None if halves is None else times_halves(halves, x, lane)


Halves = tuple[mx.array, mx.array]  # of a weight, (blocks, channels of a block, inputs) each


def is_large(layer: nn.Linear) -> bool:
    """Whether two cores read the layer's weight sooner than one."""
    return layer.weight.size >= _FEWEST_WEIGHTS


def split_weight(layer: nn.Module, rows: int, lane: mx.Stream | None = None) -> Halves | None:
    """The two halves of a plain layer's weight in small products for so many rows, or None."""
    if type(layer) is not nn.Linear or "bias" in layer or rows > _MOST_ROWS_IN_LANES:
        return None
    channels, inputs = layer.weight.shape
    block = block_size(channels // 2, inputs, rows)
    if not block or not is_large(layer):
        return None
    halves = []
    for half, stream in enumerate((None, lane)):
        blocks = mx.reshape(layer.weight, (-1, block, inputs), stream=stream)
        halves.append(mx.split(blocks, 2, stream=stream)[half])
    return halves[0], halves[1]


def times_halves(weight: Halves, x: mx.array, lane: mx.Stream) -> mx.array:
    """The weight times x (inputs, rows) -> (channels, rows), its second half on the lane."""
    first = mx.matmul(weight[0], x[None])
    second = mx.matmul(weight[1], x[None], stream=lane)
    return mx.concatenate([first, second]).reshape(-1, x.shape[1])


@lru_cache(maxsize=64)
def block_size(channels: int, inputs: int, rows: int) -> int:
    """How many channels of a weight (channels, inputs) times `rows` are a small product; 0: none.

    A power of two that divides the channels; less than 8 would be all beginning and end.
    """
    most = min(_SMALL_PRODUCT // (inputs * rows), _SMALL_OUTPUT // rows, channels & -channels)
    block = 1 << max(0, most.bit_length() - 1)
    return block if 8 <= block <= most else 0
