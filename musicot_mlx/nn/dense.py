"""A linear layer one level down, as transformers names it."""

import mlx.core as mx
import mlx.nn as nn


class Dense(nn.Module):
    """A linear layer under the name `dense`, where the checkpoint has one level more."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        return self.dense(x)
