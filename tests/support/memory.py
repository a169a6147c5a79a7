"""MLX's peak memory of one piece of work, whatever the tests before it left alive."""

import gc
from collections.abc import Callable

import mlx.core as mx


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that `work` held at most beyond what was held before it; its result is let go."""
    gc.collect()
    mx.clear_cache()
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    work()
    mx.synchronize()
    return mx.get_peak_memory() - before
