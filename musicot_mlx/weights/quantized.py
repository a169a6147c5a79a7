"""A quantised layer's arrays as the matrix that they stand for."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx


def dequantised(
    arrays: Mapping[str, mx.array],
    path: str,
    quantization: Mapping[str, Any],
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    """The weight of the quantised layer at `path`, (out, in), expanded.

    quantization: its group_size, bits and mode, as config.json has them.
    """
    return mx.dequantize(
        arrays[f"{path}.weight"],
        arrays[f"{path}.scales"],
        arrays.get(f"{path}.biases"),
        group_size=quantization["group_size"],
        bits=quantization["bits"],
        mode=quantization.get("mode", "affine"),
        dtype=dtype,
    )


def scale_dtype(scales: mx.array) -> mx.Dtype:
    """What a weight was before it was quantised: its scales say, where they aren't exponents."""
    return scales.dtype if mx.issubdtype(scales.dtype, mx.floating) else mx.float16
