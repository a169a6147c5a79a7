"""Is an edit of a plan heard, and how soon? Four kinds of edit, and what costs them time.

    python benchmarks/edits.py --seeds 1 2 3 4 5 6 7 8 9 10 --json benchmarks/results/edits.json

A song is planned, its seconds 10 to 20 are set to other words, and it is rendered from there on as
`musicot generate --keep-from` does. Two judges that know nothing of the model's thoughts say when
the change is heard:

by onset and spectrum, half seconds of the mel spectrogram and of its rises are told apart on the
    line from what sounded before (the 3 s before the boundary) to what the segment settles to (from
    1.5 s after it); the edit is heard from where three of four are nearer the latter;
by the tagger, the instrument in question plays, or does not, in the 1.5 s that begin one second
    after the boundary.

An edit is in time where both hear it within a second. `--plan-runs` times `musicot plan` of 180 s,
whole process. The table is printed from the JSON.
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
from musicot_mlx.audio.signals import mel_decibels, power_spectrogram
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.pipelines.tagger import load_tagger

JAZZ = "jazz trio with piano, bass and drums"
KINDS = {  # prompt, words of the edit, what the tagger listens for, whether it should play
    "drums in": ("relaxing piano melody", "full drum kit and bass", "drums", True),
    "drums out": ("mellow lo-fi hip hop with electric piano", "solo cello", "drums", False),
    "solo piano": (JAZZ, "solo piano", "drums", False),
    "strings in": (JAZZ, "string section", "strings", True),
}
DURATION, SEGMENT = 20.0, 1
BOUNDARY, IN_TIME = 10.0, 1.0  # seconds
AFTER = 6.0  # seconds rendered after the boundary


def segment_of(model: Any, plan: Any, before: Any, seed: int) -> np.ndarray:
    """The song (frames,) up to AFTER seconds past the boundary; no later audio is made."""
    last = round((BOUNDARY + AFTER) * model.sample_rate)
    pieces: list[np.ndarray] = []
    for chunk in model.stream(plan=plan, keep=before, seed=seed, **AS_MADE):
        pieces.append(chunk.mean(axis=1))
        if sum(map(len, pieces)) >= last:
            break
    return np.concatenate(pieces)[:last]


def heard_after(waveform: np.ndarray, rate: int, boundary: float = BOUNDARY) -> float:
    """Seconds after the boundary from which the sound is what it settles to; NaN for never."""
    spectrogram = power_spectrogram(waveform, rate)
    mel = mel_decibels(spectrogram, 32, 60.0)
    rises = np.maximum(np.diff(mel, axis=0, prepend=mel[:1]), 0)
    frames, step, size = np.concatenate([mel, rises], axis=1), 0.25, 0.5
    times = np.arange(boundary - 3.5, boundary + 4.75, step)
    cells = np.stack(
        [
            frames[round(t * spectrogram.frame_rate) : round((t + size) * spectrogram.frame_rate)]
            .mean(axis=0)
            for t in times
        ]
    )  # fmt: skip
    before, after = cells[times + size <= boundary], cells[times >= boundary + 1.5]
    way = (after.mean(0) - before.mean(0)) / ((before.var(0) + after.var(0)) / 2 + 1)
    nearer = (cells - (after.mean(0) + before.mean(0)) / 2) @ way > 0
    for i, t in enumerate(times):
        if t > boundary - size and nearer[i : i + 4].mean() >= 0.75:
            return max(0.0, float(t - boundary))
    return float("nan")


def one_edit(model: Any, tagger: Any, kind: str, seed: int, befores: dict) -> dict[str, Any]:
    prompt, words, label, plays = KINDS[kind]
    plan = model.plan(prompt, duration=DURATION, seed=seed)
    if (prompt, seed) not in befores:
        befores[prompt, seed] = model.generate(plan=plan[:SEGMENT], seed=seed, **AS_MADE)
    edited = plan.replace(SEGMENT, words, seed=seed)
    waveform = segment_of(model, edited, befores[prompt, seed], seed)
    rate, others = model.sample_rate, np.delete(np.arange(plan.segments), SEGMENT)
    first = round((BOUNDARY + IN_TIME) * rate)
    chances = tagger.tag(waveform[first : first + round(1.5 * rate)], rate)[0]
    chance = float(chances[tagger.config.labels.index(label)])
    after = heard_after(waveform, rate)
    found = {
        "kind": kind,
        "seed": seed,
        "heard_after_seconds": None if np.isnan(after) else after,
        f"tagger_{label}": round(chance, 3),
        "in_time": after <= IN_TIME and (chance > 0.5) == plays,
        "others_unchanged": bool((edited.codes[:, others] == plan.codes[:, others]).all()),
    }
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def plan_seconds(model: str, runs: int) -> list[float]:
    """Seconds of `musicot plan --duration 180`, whole process, each run."""
    command = [sys.executable, "-m", "musicot_mlx", "plan", "--model", model, "-p", JAZZ]
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([*command, "--duration", "180"], check=True, stdout=subprocess.DEVNULL)
        spent.append(round(time.perf_counter() - began, 2))
    return spent


def table(results: dict[str, Any]) -> str:
    lines = [
        "| edit | before, then | heard after (median, longest) | in time | other thoughts |",
        "|---|---|---|---|---|",
    ]
    for kind, (prompt, words, *_) in KINDS.items():
        edits = [edit for edit in results["edits"] if edit["kind"] == kind]
        spent = [e["heard_after_seconds"] for e in edits]
        spent = [float("inf") if seconds is None else seconds for seconds in spent]
        kept = all(edit["others_unchanged"] for edit in edits)
        lines.append(
            f"| {kind} | {prompt}, then {words} | {statistics.median(spent):.2f} s, "
            f"{max(spent):.2f} s | {sum(e['in_time'] for e in edits)} of {len(edits)} | "
            f"{'unchanged' if kept else 'CHANGED'} |"
        )
    if seconds := results["plan_180_s_seconds"]:
        median = statistics.median(seconds)
        lines.append(f"\na plan of 180 s, whole process: {median:.1f} s ({len(seconds)} runs)")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1, 11)))
    parser.add_argument("--plan-runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    seconds = plan_seconds(args.model, args.plan_runs)
    model, tagger, befores = mc.load(args.model), load_tagger(), {}
    results = {
        "model": args.model,
        "recipe": f"{DURATION:g} s songs, {BOUNDARY:g} s to the end set to other words; in time: "
        f"within {IN_TIME:g} s by spectrum and by the tagger",
        "seeds": args.seeds,
        "plan_180_s_seconds": seconds,
        "edits": [
            one_edit(model, tagger, kind, seed, befores) for seed in args.seeds for kind in KINDS
        ],
    }
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
