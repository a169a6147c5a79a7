"""Does an edit of a plan reach the sound? One segment set to two texts, and the speed of planning.

    python benchmarks/edits.py --seeds 1 2 3 4 5 6 7 8 9 10 --json benchmarks/results/edits.json

For every prompt and seed one song is planned, its segment 1 is set to "solo piano" and to "full
drum kit", and both are rendered with the song's own seed as far as that segment. Its percussive
share (musicot_mlx/audio/signals.py, which knows nothing of CLAP or the model) should be higher
with the drums. All other thoughts must be the very same. `--plan-runs` times `musicot plan` of
180 s, whole process. The table is printed from the JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.signals import percussive_share

PROMPTS = (
    "mellow lo-fi hip hop with electric piano",
    "heavy metal guitar riff",
)
QUIET, LOUD = "solo piano", "full drum kit"
DURATION, SEGMENT = 30.0, 1
ANCHORS = ["drums", "piano"]


def segment_of(model: Any, plan: Any, before: Any, seed: int) -> np.ndarray:
    """The rendered waveform of the edited segment (frames, channels), after what both songs share;
    no later audio is made.
    """
    first, last = (round((SEGMENT + i) * plan.thought_seconds * model.sample_rate) for i in (0, 1))
    pieces, made = [], 0
    for chunk in model.stream(plan=plan, keep=before, seed=seed):
        pieces.append(chunk)
        made += len(chunk)
        if made >= last:
            break
    return np.concatenate(pieces)[first:last]


def one_song(model: Any, prompt: str, seed: int) -> dict[str, Any]:
    plan = model.plan(prompt, duration=DURATION, seed=seed)
    found: dict[str, Any] = {"prompt": prompt, "seed": seed, "others_unchanged": True}
    before = model.generate(plan=plan[:SEGMENT], seed=seed)
    for text in (QUIET, LOUD):
        edited = plan.replace(SEGMENT, text, seed=seed)
        others = np.delete(np.arange(plan.segments), SEGMENT)
        found["others_unchanged"] &= bool((edited.codes[:, others] == plan.codes[:, others]).all())
        share = percussive_share(segment_of(model, edited, before, seed), model.sample_rate)
        activity = edited.activity(ANCHORS)[SEGMENT]
        found[text] = {
            "percussive_share": round(float(share), 4),
            **{name: round(float(value), 2) for name, value in zip(ANCHORS, activity, strict=True)},
        }
    found["right"] = found[LOUD]["percussive_share"] > found[QUIET]["percussive_share"]
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def plan_seconds(model: str, runs: int) -> list[float]:
    """Seconds of `musicot plan --duration 180`, whole process, each run."""
    command = [sys.executable, "-m", "musicot_mlx", "plan", "--model", model, "-p", PROMPTS[0]]
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([*command, "--duration", "180"], check=True, stdout=subprocess.DEVNULL)
        spent.append(round(time.perf_counter() - began, 2))
    return spent


def table(results: dict[str, Any]) -> str:
    lines = [
        f"| song | {QUIET} | {LOUD} | right direction | other thoughts |",
        "|---|---|---|---|---|",
    ]
    for prompt in results["prompts"]:
        songs = [song for song in results["songs"] if song["prompt"] == prompt]
        cells = [prompt]
        for text in (QUIET, LOUD):
            shares = [song[text]["percussive_share"] for song in songs]
            low, high = min(shares), max(shares)
            cells.append(f"{statistics.median(shares):.2f} ({low:.2f}-{high:.2f})")
        cells.append(f"{sum(song['right'] for song in songs)} of {len(songs)}")
        kept = all(song["others_unchanged"] for song in songs)
        cells.append("unchanged" if kept else "CHANGED")
        lines.append(f"| {' | '.join(cells)} |")
    if seconds := results["plan_180_s_seconds"]:
        median = statistics.median(seconds)
        lines.append(f"\na plan of 180 s, whole process: {median:.1f} s ({len(seconds)} runs)")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--plan-runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    seconds = plan_seconds(args.model, args.plan_runs)
    model = mc.load(args.model)
    songs = [one_song(model, prompt, seed) for prompt in args.prompts for seed in args.seeds]
    results = {
        "model": args.model,
        "recipe": f"{DURATION:g} s songs, segment {SEGMENT}: percussive share of its render",
        "prompts": args.prompts,
        "seeds": args.seeds,
        "plan_180_s_seconds": seconds,
        "songs": songs,
    }
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
