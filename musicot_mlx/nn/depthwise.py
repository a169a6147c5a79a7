"""Depthwise convolution over time."""

import mlx.core as mx
import mlx.nn as nn


class DepthwiseConv1d(nn.Module):
    """Each channel of (batch, time, channels) filtered by its own taps; zeros beyond both ends.

    The weight (channels, taps, 1) is laid out as nn.Conv1d(groups=channels) has it. Zeros are put
    on beforehand: MLX's Metal kernel for depthwise convolutions takes no padding.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        bound = kernel_size**-0.5
        self.weight = mx.random.uniform(-bound, bound, (channels, kernel_size, 1))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        channels, taps, _ = self.weight.shape
        before = taps // 2
        padded = mx.pad(x, ((0, 0), (before, taps - 1 - before), (0, 0)))
        return mx.conv1d(padded, self.weight, groups=channels) + self.bias
