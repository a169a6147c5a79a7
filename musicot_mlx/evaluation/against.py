"""MLX beside the PyTorch reference: the same weights, the same run, processes in turn.

The embedded model exists as an MLX folder alone, so a PyTorch checkpoint of its sizes is made with
random weights and converted as a user would convert it: both sides then hold the same numbers.
Both make a song of one diffusion window, which is as long as the reference makes them.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from musicot_mlx.evaluation import speed
from musicot_mlx.weights.checkpoint import read_config
from musicot_mlx.weights.hub import resolve

_STAGES = ("audio tokens", "diffusion", "decode", "total")
_REFERENCE = "musicot_mlx.reference"


def torch(model: str, *, runs: int, songs: int = 3) -> dict[str, Any]:
    """Seconds of each stage on both sides, medians over `runs` processes of `songs` warm songs."""
    folder = resolve(model)
    config = read_config(folder)
    duration = min(5.0, config["diffusion"].get("window_seconds", 20.0))
    order = {"duration": duration, "seed": 1, "songs": songs, "batch": 1}
    sides: dict[str, list[dict[str, float]]] = {"MLX": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as room:
        pytorch, mlx = Path(room) / "pytorch", Path(room) / "mlx"
        files = [str(folder / name) for name in ("config.json", "tokenizer.json")]
        speed.fresh_process(
            [sys.executable, "-m", f"{_REFERENCE}.random_weights", *files, str(pytorch)]
        )
        convert = [sys.executable, "-m", "musicot_mlx", "convert", "--dtype", "float32"]
        speed.fresh_process([*convert, "--hf-path", str(pytorch), "--mlx-path", str(mlx)])
        told = {}
        for i in range(runs):
            command = [sys.executable, "-m", f"{_REFERENCE}.speed", str(pytorch)]
            told = json.loads(
                speed.fresh_process([*command, "--duration", str(duration), "--songs", str(songs)])
            )
            sides["PyTorch"] += told["songs"]
            worker = [sys.executable, "-c", speed.WORKER]
            given = order | {"model": str(mlx), "counts": i == 0, "save": False}
            found = json.loads(speed.fresh_process(worker, given))
            sides["MLX"] += found["warm"]
            if i == 0:
                told_machine = found["machine"]
    rows = []
    for stage in _STAGES:
        median = {side: statistics.median(s[stage] for s in made) for side, made in sides.items()}
        rows.append({"stage": stage, **median, "ratio": median["PyTorch"] / median["MLX"]})
    results = {
        "recipe": "random weights of the model's sizes, converted; processes in turn, one song of "
        "one diffusion window each time, float32; the reference's LM with transformers' cache",
        "model": model,
        "duration": duration,
        "runs": runs,
        "songs": songs,
        "rows": rows,
        "machine": told_machine | {"torch_threads": told["threads"]},
    }
    return results | {"table": table(results)}


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown; above 1 MLX is the faster."""
    lines = [
        f"| {results['duration']:g} s song | MLX | PyTorch | MLX's speed, PyTorch's being 1 |",
        "|---|---|---|---|",
    ]
    for row in results["rows"]:
        seconds = f"{row['MLX']:.2f} s | {row['PyTorch']:.2f} s"
        lines.append(f"| {row['stage']} | {seconds} | {row['ratio']:.2f} |")
    return "\n".join(lines)
