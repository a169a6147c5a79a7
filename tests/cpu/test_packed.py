"""Packed weights on a CPU: however many rows, what MLX's own product gives."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from musicot_mlx.cpu import optimise, packed


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (1, 7), (2, 40)])
def test_agrees_with_mlx(shape: tuple[int, int], mode: str, bias: bool) -> None:
    linear = nn.Linear(64, 96, bias=bias)
    linear.weight = mx.random.normal((96, 64), key=mx.random.key(0))
    options = {"group_size": 64, "bits": 4} if mode == "affine" else {"group_size": 32, "bits": 4}
    layer = nn.QuantizedLinear.from_linear(linear, mode=mode, **options)
    x = mx.random.normal((*shape, 64), key=mx.random.key(1))
    expected = np.array(layer(x))
    (twin,) = [optimise(nn.Sequential(layer)).layers[0]]
    assert type(twin) is packed.QuantizedLinear
    np.testing.assert_allclose(np.array(twin(x)), expected, rtol=1e-4, atol=1e-4)
