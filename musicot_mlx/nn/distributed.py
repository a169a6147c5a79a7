"""Several machines as one: `mlx.launch -n 2 ... musicot lora`, through mlx.distributed.

Every process has the model and the data and draws the same batches; each runs its own rows of them
and the gradients are averaged once an update. What goes over the wire goes on the CPU stream, the
only one that Metal has for it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from musicot_mlx.errors import RunError


@dataclass(frozen=True)
class World:
    """All processes of a run; alone there is one, of rank 0, and nothing is sent."""

    @cached_property
    def _group(self) -> Any:
        return mx.distributed.init()

    @property
    def rank(self) -> int:
        return self._group.rank()

    @property
    def size(self) -> int:
        return self._group.size()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, value: mx.array) -> mx.array:
        """The sum over all processes."""
        return value if self.size == 1 else mx.distributed.all_sum(value, stream=mx.cpu)

    def average_gradients(self, gradients: Any) -> Any:
        if self.size == 1:
            return gradients
        return nn.utils.average_gradients(gradients, communication_stream=mx.cpu)

    def from_first(self, tree: Any) -> Any:
        """Arrays as the first process has them."""
        if self.size == 1:
            return tree
        sent = [
            (name, self.sum(value if self.first else mx.zeros_like(value)))
            for name, value in tree_flatten(tree)
        ]
        mx.eval([value for _, value in sent])
        return tree_unflatten(sent)

    def text_from_first(self, text: str) -> str:
        """A text as the first process has it."""
        if self.size == 1:
            return text
        mine = np.frombuffer(text.encode() if self.first else b"", dtype=np.uint8)
        length = int(self.sum(mx.array(len(mine))).item())
        sent = mx.array(np.pad(mine.astype(np.int32), (0, length - len(mine))))
        return bytes(np.array(self.sum(sent)).astype(np.uint8)).decode()

    def gather(self, data: bytes) -> list[bytes]:
        """The bytes of every process, in order of rank; the first alone is given the others'.

        Raises RuntimeError when a process is lost.
        """
        if self.size == 1:
            return [data]
        mine = np.frombuffer(data, dtype=np.uint8)
        lengths = np.array(mx.distributed.all_gather(mx.array([len(mine)]), stream=mx.cpu))
        longest = int(lengths.max())
        sent = mx.array(np.pad(mine, (0, longest - len(mine))))
        rows = np.array(mx.distributed.all_gather(sent[None], stream=mx.cpu))
        return [bytes(row[:length]) for row, length in zip(rows, lengths, strict=True)]

    def require_same(self, what: str, number: int) -> None:
        """Raise RunError where the processes have other numbers (of 31 bits)."""
        if self.size == 1:
            return
        mine = mx.array([number], dtype=mx.int32)
        numbers = np.array(mx.distributed.all_gather(mine, stream=mx.cpu))
        if (numbers != numbers[0]).any():
            raise RunError(
                f"the {self.size} processes disagree about {what}; give every host the same files"
            )
