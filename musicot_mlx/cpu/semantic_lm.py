"""models/semantic_lm.py as MLX's CPU backend runs it fastest."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.cpu import llama_step
from musicot_mlx.cpu.matmul import product
from musicot_mlx.models import semantic_lm
from musicot_mlx.models.semantic_lm import Step


class SemanticLM(semantic_lm.SemanticLM):
    def fast_step(self, rows: int) -> Step:
        return llama_step.prepare(self.model, rows) or self.hidden

    def head(self, start: int, stop: int) -> Callable[[mx.array], mx.array]:
        plain = super().head(start, stop)
        if type(self.lm_head) is not nn.Linear:
            return plain
        rows = self.lm_head.weight[start:stop]  # (ids, hidden)
        return lambda x: product(rows, x) if x.ndim == 2 else plain(x)
