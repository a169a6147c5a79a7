"""nn/encoder.py as MLX's CPU backend runs it fastest, and in blocks: its own attention holds all
scores at once there, 1.3 GB a layer for a minute of sound.
"""

import mlx.core as mx

from musicot_mlx.cpu.activations import in_blocks
from musicot_mlx.cpu.attention import many_queries
from musicot_mlx.nn import encoder


class EncoderLayer(encoder.EncoderLayer):
    def _attend(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float) -> mx.array:
        return many_queries(q, k, v, scale=scale)

    def _feed_forward(self, x: mx.array) -> mx.array:
        return in_blocks(super()._feed_forward, x, self.up.weight.shape[0])
