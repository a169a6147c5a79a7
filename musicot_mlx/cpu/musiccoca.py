"""Blocks of models/musiccoca.py as MLX's CPU backend runs them fastest: four fifths of the audio
tower's time went into tanh, softmax and GELU, number by number.
"""

import mlx.core as mx

from musicot_mlx.cpu.activations import gelu, in_blocks
from musicot_mlx.cpu.attention import many_queries
from musicot_mlx.models import musiccoca


class Attention(musiccoca.Attention):
    def _attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        y = many_queries(q, k, v, scale=1.0, mask=mask, cap=self._cap, fewest=q.shape[2])
        return y.swapaxes(1, 2).flatten(2)


class FeedForward(musiccoca.FeedForward):
    def _rows(self, x: mx.array) -> mx.array:
        return self.down(gelu(self.up(self.norm(x))))

    def __call__(self, x: mx.array) -> mx.array:
        return x + in_blocks(self._rows, x, self.up.weight.shape[0])
