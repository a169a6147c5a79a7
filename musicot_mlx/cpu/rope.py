"""Rotary positions (arXiv 2104.09864) by halves, from a table.

On the CPU backend mx.fast.rope takes cosines and sines of every position at every call, one element
at a time; here they are looked up.
"""

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np


@lru_cache(maxsize=16)
def table(dims: int, base: float, positions: int) -> mx.array:
    """Cosines, then sines, of positions 0..positions-1: float32 (positions, dims)."""
    # in float32 as mx.fast.rope does it: at position 1000 an exacter angle differs by 1e-4
    half = dims // 2
    frequency = mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(base) / half))
    angle = mx.arange(positions, dtype=mx.float32)[:, None] * frequency
    both = mx.concatenate([mx.cos(angle), mx.sin(angle)], axis=1)
    mx.eval(both)  # it outlives this run, and may be read from any stream
    return both


@lru_cache(maxsize=16)
def _factors(dims: int, width: int, base: float, time: int) -> tuple[mx.array, mx.array]:
    """What multiplies a head and its swapped halves, (time, width): 1 and 0 beyond `dims`."""
    cos, sin = np.split(np.array(table(dims, base, time)), 2, axis=1)
    ones, none = np.ones((time, width - dims)), np.zeros((time, width - dims))
    factors = [[cos, cos, ones], [-sin, sin, none]]
    factor_arrays = tuple(mx.array(np.concatenate(f, axis=1).astype(np.float32)) for f in factors)
    mx.eval(factor_arrays)
    return factor_arrays


def rotate(x: mx.array, dims: int, *, base: float = 10000.0) -> mx.array:
    """x (batch, heads, time, head_dim) with the first `dims` of each head rotated by its time."""
    half, (cos, sin) = dims // 2, _factors(dims, x.shape[-1], base, x.shape[-2])
    swapped = [x[..., half:dims], x[..., :half], x[..., dims:]]
    return x * cos + mx.concatenate(swapped, axis=-1) * sin
