"""How each stage of a pretraining went: schedule, loss curve and validation, in one small JSON.

    python benchmarks/training.py runs/mini --json benchmarks/results/mini-training.json

Reads the log.json that each stage keeps. A loss curve is thinned to at most 40 points,
each the mean of the steps logged since the one before. The table is printed from the JSON.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

POINTS = 40  # of a loss curve
ORDER = ("vae", "clap", "clap_noise", "best_rq", "semantic_tokenizer", "semantic_lm", "diffusion")
DEFAULTS = {"accumulate": 1, "weight_decay": 0.01, "clip_norm": 1.0, "keep_best": 3, "seed": 0}
UNSAID = ("checkpoint_minutes", "validate_minutes")  # say nothing of what was learned


def stage(log: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one stage's log."""
    config = {
        key: value
        for key, value in log["config"].items()
        if key not in UNSAID and DEFAULTS.get(key) != value and value not in ("inf", math.inf)
    }
    return {
        "config": config,
        "train": curve(log["train"]),
        "valid": [{key: rounded(value) for key, value in row.items()} for row in log["valid"]],
    }


def curve(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Step, minutes and mean loss of at most POINTS stretches of the training."""
    points = []
    for index in range(min(POINTS, len(rows))):
        low, high = (len(rows) * i // min(POINTS, len(rows)) for i in (index, index + 1))
        part = rows[low:high]
        mean = sum(row["loss"] for row in part) / len(part)
        last = part[-1]
        points.append(
            {"step": last["step"], "minutes": rounded(last["minutes"]), "loss": rounded(mean)}
        )
    return points


def rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def summary(folder: Path) -> dict[str, Any]:
    """Stages of a training folder, in the order of training; ValueError where there is none."""
    logs = {path.parent.name: path for path in folder.glob("*/log.json")}
    if not logs:
        raise ValueError(f"{folder} holds no stage with a log.json; pass the --out of a training")
    names = [*(n for n in ORDER if n in logs), *sorted(set(logs) - set(ORDER))]
    return {name: stage(json.loads(logs[name].read_text())) for name in names}


def table(found: dict[str, Any]) -> str:
    """A row a stage, as Markdown: how long, and the last validation."""
    lines = ["| stage | steps | minutes | last validation |", "|---|---|---|---|"]
    for name, row in found.items():
        if not row["valid"]:
            lines.append(f"| {name} | - | - | none yet |")
            continue
        last = row["valid"][-1]
        shown = ", ".join(f"{k} {v:g}" for k, v in last.items() if k not in ("step", "minutes"))
        lines.append(f"| {name} | {last['step']} | {last['minutes']:.1f} | {shown} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the --out folder of a training")
    parser.add_argument("--json", type=Path, help="write the summary here")
    args = parser.parse_args(argv)
    try:
        found = summary(args.folder)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
