"""What a run says while it lasts and when it ends: progress bars, memory, the summary line."""

import sys
from typing import Any


class Progress:
    """Progress bars on stderr, one a stage, for stages that take over a second; a context manager.

    Called as progress(stage, done, total); stages may take turns, as they do in a stream. Nothing
    is drawn where stderr is no terminal.
    """

    def __init__(self, *, prefix: str = "") -> None:
        self._prefix = prefix
        self._bars: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage not in self._bars:
            self._bars[stage] = tqdm(
                desc=self._prefix + stage,
                position=len(self._bars),
                delay=1.0,
                leave=False,
                disable=None,
                file=sys.stderr,
                bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
            )
        bar = self._bars[stage]
        bar.total = total
        bar.update(done - bar.n)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for bar in reversed(self._bars.values()):
            bar.close()
        self._bars = {}


def peak_memory() -> dict[str, float]:
    """Peak memory in GB: of the process (resident) and of MLX's arrays."""
    import mlx.core as mx

    from musicot_mlx.evaluation.machine import peak_resident

    return {
        "peak_resident_gb": round(peak_resident() / 1e9, 3),
        "peak_mlx_gb": round(mx.get_peak_memory() / 1e9, 3),
    }


def summary(path: object, duration: float, sample_rate: int, elapsed: float) -> str:
    """The line that ends a render: what, how long, real-time factor (lower is better), memory."""
    memory = peak_memory()
    return (
        f"{path}: {duration:.1f} s at {sample_rate / 1000:g} kHz in {elapsed:.1f} s "
        f"(RTF {elapsed / duration:.2f}), peak memory {memory['peak_resident_gb']:.2f} GB "
        f"(MLX {memory['peak_mlx_gb']:.2f} GB)"
    )
