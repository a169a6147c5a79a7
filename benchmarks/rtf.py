"""Real-time factor and memory of `musicot generate`, whole process, in fresh subprocesses.

    python benchmarks/rtf.py --durations 20 180 --runs 3 --json benchmarks/results/rtf.json

RTF is seconds of work over seconds of audio, lower is better; the time to load the model is told
apart. The table is printed from the JSON. Nothing is compared with another machine.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROMPT = "solo piano, slow and calm"
RECIPE = (
    "one process a run: musicot generate -p PROMPT --duration D --seed 1 --json; median of the runs"
)


def run(model: str, duration: float, folder: Path) -> dict[str, Any]:
    """One song in a process of its own: what `--json` says of it."""
    command = [sys.executable, "-m", "musicot_mlx", "generate", "--model", model, "-p", PROMPT]
    command += ["--duration", str(duration), "--seed", "1", "-o", str(folder / "a.wav"), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("mlx", "mlx-lm", "numpy", "musicot-mlx")},
    }


def measure(model: str, durations: list[float], runs: int) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for duration in durations:
            reports = [run(model, duration, Path(folder)) for _ in range(runs)]
            rtf = [report["rtf"] for report in reports]
            stages = reports[0]["timings"]
            rows.append(
                {
                    "duration": duration,
                    "rtf": statistics.median(rtf),
                    "rtf_spread": [min(rtf), max(rtf)],
                    "load_seconds": statistics.median(r["load_seconds"] for r in reports),
                    "peak_resident_gb": max(r["peak_resident_gb"] for r in reports),
                    "peak_mlx_gb": max(r["peak_mlx_gb"] for r in reports),
                    "stage_seconds": {
                        name: statistics.median(r["timings"][name] for r in reports)
                        for name in stages
                    },
                }
            )
    return {"recipe": RECIPE, "prompt": PROMPT, "model": model, "runs": runs, "rows": rows}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| song | RTF (min-max) | load | peak resident | of it MLX |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        low, high = row["rtf_spread"]
        lines.append(
            f"| {row['duration']:g} s | {row['rtf']:.2f} ({low:.2f}-{high:.2f}) "
            f"| {row['load_seconds']:.1f} s | {row['peak_resident_gb']:.2f} GB "
            f"| {row['peak_mlx_gb']:.2f} GB |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--durations", type=float, nargs="+", default=[20.0, 180.0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    results = {**measure(args.model, args.durations, args.runs), "machine": machine()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
