"""Convolutions of models/spectrostream.py as MLX's CPU backend bears them.

It unfolds all that it convolves: of a second of sound the last convolution's would be 2 GB. So
frames are convolved some at a time, which sums the same numbers and finds them in the cache: a
decode takes a fifteenth of the memory and two thirds of the time.
"""

import mlx.core as mx

from musicot_mlx.models import spectrostream

UNFOLDED = 1 << 22  # values unfolded at a time: 16 MB


class Conv(spectrostream.Conv):
    def _convolve(self, x: mx.array) -> mx.array:
        return _in_pieces(x, self.weight, self._stride)


class UpConv(spectrostream.UpConv):
    def _convolve(self, x: mx.array) -> mx.array:
        return _in_pieces(x, self.weight, (1, 1))


def _in_pieces(x: mx.array, weight: mx.array, stride: tuple[int, int]) -> mx.array:
    """mx.conv2d(x, weight, stride=stride), so many frames at a time that few are unfolded."""
    _, taps, across, inputs = weight.shape
    frames = (x.shape[1] - taps) // stride[0] + 1
    bins = (x.shape[2] - across) // stride[1] + 1
    at_once = max(1, UNFOLDED // (len(x) * bins * taps * across * inputs))
    if frames <= at_once:
        return mx.conv2d(x, weight, stride=stride)
    pieces = []
    for first in range(0, frames, at_once):
        last = min(first + at_once, frames) - 1
        heard = x[:, first * stride[0] : last * stride[0] + taps]
        pieces.append(mx.conv2d(heard, weight, stride=stride))
        mx.eval(pieces[-1])  # or what is unfolded of the next stands beside it
    return mx.concatenate(pieces, axis=1)
