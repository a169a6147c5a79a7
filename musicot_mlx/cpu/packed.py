"""Quantised linear layers that stay packed: expanded they would fill the memory."""

import mlx.core as mx
import mlx.nn as nn

_ROWS = 7  # from which on expanding the weight once is quicker than multiplying it packed


class QuantizedLinear(nn.QuantizedLinear):
    """Of several rows the weight is expanded for the moment and multiplied by BLAS: MLX's own
    product takes as long for each row as for the first (45 rows: 5.5 times as long as this).
    """

    def __call__(self, x: mx.array) -> mx.array:
        if x.size // x.shape[-1] < _ROWS:
            return super().__call__(x)
        weight = mx.dequantize(
            self.weight,
            self.scales,
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            dtype=x.dtype,
        )
        return mx.addmm(self.bias, x, weight.T) if "bias" in self else x @ weight.T
