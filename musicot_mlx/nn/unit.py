"""Vectors at unit length, as CLAP's embeddings and cosine codebooks have them."""

import mlx.core as mx


def unit(x: mx.array) -> mx.array:
    """x (..., channels) at length 1 along the last axis, float32; zeros stay zeros."""
    x = x.astype(mx.float32)
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
