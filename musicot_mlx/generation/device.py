"""What is done differently on one device than on another: the one seam to cpu/.

On a GPU, and on a CPU without that folder, nothing is; the plain networks run as they are written.
A test that wants the GPU's way on a CPU puts another `on_cpu` here, and nothing else.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

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
    """Whether MLX computes on the CPU: everything that depends on the device asks this."""
    return mx.default_device() == mx.Device(mx.cpu)


def memory_bytes() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def give_back() -> None:
    """Give the system the memory that nothing is in and that is kept for what comes next: for when
    nothing comes.
    """
    mx.clear_cache()
    if openblas := cpu("openblas"):
        openblas.give_freed_memory_back()


def expands(values: int) -> bool:
    """Whether packed weights of so many values become float32 on a CPU as they are loaded, because
    they run several times quicker so: unless that would take more than half of the memory.
    """
    return on_cpu() and 4 * values <= memory_bytes() // 2


def compute_dtype(stored: mx.Dtype = mx.float16) -> mx.Dtype:
    """The dtype that hidden states run in: as stored on a GPU, float32 on a CPU, because MLX's CPU
    backend multiplies 16-bit and quantised matrices 7 to 10 times slower.
    """
    return mx.float32 if on_cpu() else stored


def cpu(module: str = "") -> ModuleType | None:
    """A module of cpu/, or the package; None on a GPU, and where the folder is missing."""
    if not on_cpu() or find_spec("musicot_mlx.cpu") is None:
        return None
    return import_module(f"musicot_mlx.cpu{module and '.'}{module}")


def decoding(*, products: int) -> Decoding:
    """How the steps of a decoder run, of which the largest product has so many multiplications."""
    threads = cpu("threads")
    return threads.SingleCore(products=products) if threads else _Plain()


def lanes() -> AbstractContextManager[Sequence[mx.Stream] | None]:
    """Two streams to put one row each on, or None where one batch is better.

    What was queued on them must be evaluated before the context ends.
    """
    threads = cpu("threads")
    return threads.guidance_streams() if threads else nullcontext()


def turn(*, lent: bool = False) -> AbstractContextManager[None]:
    """Songs of several threads one after another, where they would round otherwise; lent: by a
    thread that has_turn and waits for this one.
    """
    threads = cpu("threads")
    return threads.turn(lent=lent) if threads and threads.openblas() else nullcontext()


def has_turn() -> bool:
    """Whether this thread is within a `turn`."""
    threads = cpu("threads")
    return threads is not None and threads.has_turn()


def prefill() -> int:
    """Positions a forward pass of MusicGen's decoder; few on a CPU: scores stay in cache."""
    return _PREFILL_ON_CPU if on_cpu() else _PREFILL


def fuses_draws() -> bool:
    """Whether guidance and draw are one compiled run: on a GPU it is 7 kernels in place of 30."""
    return not on_cpu()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One graph for a GPU, made at the first call; a CPU would start a C++ compiler for it."""
    return function if on_cpu() else mx.compile(function)


def blas() -> str:
    """Which BLAS MLX multiplies with on this CPU; what MLX brings where cpu/ gave it none."""
    openblas = cpu("openblas")
    return (openblas.describe() if openblas else "") or "MLX's own"
