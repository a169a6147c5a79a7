"""What generation does differently on one device than on another: the one seam to cpu/.

On a GPU, and on a CPU without that folder, everything here does nothing, or what suits a GPU.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import mlx.core as mx

_PREFILL, _PREFILL_ON_CPU = 512, 64


class Decoding(Protocol):
    """Entered around the steps of a decoder."""

    def __enter__(self) -> "Decoding": ...

    def __exit__(self, *error: object) -> None: ...

    def paused(self) -> AbstractContextManager[None]:
        """Around the yield of a generator: whoever reads it has the machine."""
        ...


class _Plain:
    """Steps as they come."""

    def __enter__(self) -> "_Plain":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def paused(self) -> AbstractContextManager[None]:
        return nullcontext()


def on_cpu() -> bool:
    """Whether MLX computes on the CPU, with cpu/ there to help it."""
    return mx.default_device() == mx.Device(mx.cpu) and find_spec("musicot_mlx.cpu") is not None


def decoding(*, products: int) -> Decoding:
    """How the steps of a decoder run, of which the largest product has so many multiplications."""
    if not on_cpu():
        return _Plain()
    return import_module("musicot_mlx.cpu.threads").SingleCore(products=products)


def lanes() -> AbstractContextManager[Sequence[mx.Stream] | None]:
    """Two streams to put one row each on, or None where one batch is better.

    What was queued on them must be evaluated before the context ends.
    """
    if not on_cpu():
        return nullcontext()
    return import_module("musicot_mlx.cpu.threads").guidance_streams()


def prefill() -> int:
    """Positions a forward pass of MusicGen's decoder; few on a CPU: scores stay in cache."""
    return _PREFILL_ON_CPU if on_cpu() else _PREFILL


def blas() -> str:
    """Which BLAS MLX multiplies with on this CPU; what MLX brings where cpu/ gave it none."""
    found = import_module("musicot_mlx.cpu.openblas").describe() if on_cpu() else ""
    return found or "MLX's own"
