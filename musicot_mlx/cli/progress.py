"""What a run says while it lasts and when it ends: progress bars, memory, the summary line."""

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rich.progress

DELAY = 1.0  # seconds that a run takes before a bar is drawn
_PAUSE = 0.1  # seconds between two drawings


class Progress:
    """Progress bars on stderr, one a stage, for runs of over a second; a context manager.

    Called as progress(stage, done, total); stages may take turns, as they do in a stream. Nothing
    is drawn where stderr is no terminal. What is printed meanwhile stands above the bars.
    """

    def __init__(self, *, prefix: str = "") -> None:
        self._prefix = prefix
        self._bars: rich.progress.Progress | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._wanted = sys.stderr.isatty()
        self._next = time.monotonic() + DELAY

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not self._wanted:
            return
        if self._bars is None:
            self._bars = _bars()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(self._prefix + stage)
        self._bars.update(self._tasks[stage], completed=done, total=total)
        # no thread draws: it would take its turns from the core that makes the song
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PAUSE
            self._bars.start()
            self._bars.refresh()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}


def _bars() -> "rich.progress.Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("<"),
        Remaining(),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    )


def peak_memory() -> dict[str, float]:
    """Peak memory in GB: of the process (resident) and of MLX's arrays."""
    import mlx.core as mx

    from musicot_mlx.evaluation.speed.hardware import peak_resident

    return {
        "peak_resident_gb": round(peak_resident() / 1e9, 3),
        "peak_mlx_gb": round(mx.get_peak_memory() / 1e9, 3),
    }


def summary(
    path: object, seed: int, duration: float, sample_rate: int, elapsed: float, channels: int
) -> str:
    """The line that ends a render: what, how long, real-time factor (lower is better), memory."""
    memory = peak_memory()
    sides = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    return (
        f"{path}: {duration:.1f} s, {sides}, {sample_rate / 1000:g} kHz, seed {seed}, "
        f"in {elapsed:.1f} s (RTF {elapsed / duration:.2f}), peak memory "
        f"{memory['peak_resident_gb']:.2f} GB (MLX {memory['peak_mlx_gb']:.2f} GB)"
    )


def candidates(choice: dict[str, Any]) -> str:
    """How the candidates came out, a line each, the kept one marked."""
    rows = []
    for number, each in enumerate(choice["scores"], start=1):
        cosines = [
            f"{key} {each[key]:.3f}" for key in ("prompt", "plan", "reference") if key in each
        ]
        result = (
            "a broken render" if each["broken"] else f"{each['score']:.3f} ({', '.join(cosines)})"
        )
        mark = ", kept" if each["seed"] == choice["kept"] else ""
        rows.append(f"candidate {number}: {result}, seed {each['seed']}{mark}")
    return "\n".join(rows)
