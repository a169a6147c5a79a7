"""nn/depthwise.py as MLX's CPU backend runs it fastest."""

import mlx.core as mx

from musicot_mlx.nn import depthwise


class DepthwiseConv1d(depthwise.DepthwiseConv1d):
    """As shifted multiplications, many times faster than MLX's grouped convolution on a CPU."""

    def __call__(self, x: mx.array) -> mx.array:
        time, taps = x.shape[1], self.weight.shape[1]
        before = taps // 2
        padded = mx.pad(x, ((0, 0), (before, taps - 1 - before), (0, 0)))
        weight = mx.contiguous(self.weight[..., 0].T)  # (taps, channels): read channel by channel
        y = self.bias
        for tap in range(taps):
            y = y + padded[:, tap : tap + time] * weight[tap]
        return y
