"""musicot plan: only the thoughts of a song, as numbers, as a picture, and as a file to render."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from musicot_mlx.cli import common
from musicot_mlx.errors import MusicotError

if TYPE_CHECKING:
    import numpy as np

ANCHORS = ["drums", "bass", "guitar", "piano", "strings", "synth"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    common.add_planning_arguments(parser)
    add(
        "--seed", type=common.seed, default=0, metavar="N", help="same seed, same plan (default: 0)"
    )
    add("--output", "-o", metavar="FILE", help="write the plan, for musicot generate --plan")
    add("--png", metavar="FILE", help="draw the arrangement")
    add(
        "--anchors",
        type=common.names,
        default=ANCHORS,
        metavar="A,B",
        help=f"texts to hold the thoughts against (default: {','.join(ANCHORS)})",
    )
    add("--json", action="store_true", help="one line of JSON on standard output")


def run(args: argparse.Namespace) -> int:
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if prompt is not None and not prompt.strip():
        raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
    if prompt is None and args.reference is None:
        raise MusicotError("nothing to plan; pass --prompt or --reference")
    if args.reference is not None and not Path(args.reference).is_file():
        raise MusicotError(f"reference file {args.reference} doesn't exist")
    for path in (args.output, args.png):
        if path is not None and not Path(path).parent.is_dir():
            raise MusicotError(f"can't write {path}: the folder {Path(path).parent} doesn't exist")

    import musicot_mlx as mc

    model = mc.load(args.model or "musicot-mini", adapter_path=args.adapter_path)
    options = {
        key: getattr(args, key) for key in ("duration", "reference", "tags", "top_k", "top_p")
    }
    options |= {
        "lyrics": common.read_text(args.lyrics_file, "lyrics file") if args.lyrics_file else None,
        "thought_temperature": args.thought_temp,
        "thought_guidance": args.thought_guidance,
    }
    started = time.perf_counter()
    with common.Progress() as progress:
        plan = model.plan(
            " ".join(prompt.split()) if prompt else None,
            seed=args.seed,
            progress=progress,
            **{key: value for key, value in options.items() if value is not None},
        )
    elapsed = time.perf_counter() - started
    activity = plan.activity(args.anchors)  # (segments, anchors)
    files = []
    if args.output:
        plan.save(args.output)
        files.append(args.output)
    if args.png:
        from musicot_mlx.evaluation.plots import plot_plan

        title = plan.prompt or Path(args.reference).name
        plot_plan(activity, args.anchors, plan.thought_seconds, title, args.png)
        files.append(args.png)

    table = _table(activity, args.anchors, plan.thought_seconds)
    where = f" -> {', '.join(files)}" if files else ""
    line = (
        f"plan of {plan.duration:g} s: {len(activity)} thoughts in {elapsed:.2f} s, "
        f"peak memory {common.peak_memory()['peak_resident_gb']:.2f} GB{where}"
    )
    if args.json:
        print(f"{table}\n{line}", file=sys.stderr)
        report = {
            "prompt": plan.prompt,
            "duration": plan.duration,
            "seed": plan.seed,
            "anchors": args.anchors,
            "activity": [[round(float(value), 4) for value in row] for row in activity],
            "files": files,
            "elapsed_seconds": round(elapsed, 3),
            **common.peak_memory(),
        }
        print(json.dumps(report, sort_keys=True), flush=True)
    else:
        print(f"{table}\n{line}")
    return 0


def _table(activity: "np.ndarray", anchors: list[str], step: float) -> str:
    """What each thought has of each anchor: a row an anchor, a column a segment."""
    width = max(8, *(len(anchor) for anchor in anchors))
    starts = "".join(f"{index * step:>6g}" for index in range(len(activity)))
    rows = [f"{'seconds':<{width}}{starts}"]
    for anchor, row in zip(anchors, activity.T, strict=True):
        rows.append(f"{anchor:<{width}}" + "".join(f"{value:>6.1f}" for value in row))
    return "\n".join(rows)
