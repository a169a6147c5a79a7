"""How loud are the songs of ordinary prompts, as the model makes them and as they are handed on?

    python benchmarks/loudness.py --json benchmarks/results/loudness.json

Forty prompts, twenty of them an instrument alone, three seeds each, 6 s: integrated loudness by
pyloudnorm, true peak at eight times the rate by scipy, and what is silent. Then streams of 30 s:
how far a gain that the first seconds asked for is from the target at the end. None of it is
measured with the package's own meter. The tables are printed from the JSON.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
from scipy.signal import resample_poly

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.options import AS_MADE

ALONE = (
    "piano, electric piano, church organ, nylon guitar, clean guitar, distorted guitar, "
    "acoustic bass, slap bass, violin, cello, string section, trumpet, french horn, saxophone, "
    "clarinet, flute, vibraphone, synth lead, synth pad, drums"
).split(", ")
PROMPTS = (
    *(f"solo {name}" for name in ALONE),
    "relaxing piano melody",
    "fast techno beat with a synth lead",
    "heavy metal guitar riff",
    "ambient pad",
    "mellow lo-fi hip hop with electric piano",
    "jazz trio with piano, bass and drums",
    "string quartet, slow",
    "bossa nova with nylon guitar",
    "cinematic orchestra, epic",
    "roots reggae with organ",
    "drum and bass at 174 BPM",
    "folk song with acoustic guitar",
    "funk with slap bass and brass",
    "deep house, 122 BPM",
    "chicago blues with harmonica",
    "quiet glockenspiel lullaby",
    "punk rock, fast and loud",
    "80s synth pop",
    "latin jazz with trumpet",
    "soft flute and harp",
)
SEEDS, SECONDS, STREAMED = (1, 2, 3), 6.0, 30.0
TARGET = -16.0  # LUFS
SILENT = -50.0  # dBFS


def heard(waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
    """Loudness (LUFS), true peak (dBTP), level (dBFS) and samples at full scale."""
    samples = waveform.astype(np.float64)
    loudness = pyloudnorm.Meter(sample_rate).integrated_loudness(samples)
    peak = np.abs(resample_poly(samples, 8, 1, axis=0)).max()
    return {
        "loudness": round(float(max(loudness, -99.0)), 2),
        "true_peak": round(20 * float(np.log10(peak + 1e-9)), 2),
        "level": round(20 * float(np.log10(samples.std() + 1e-9)), 2),
        "full_scale": int((np.abs(samples) > 0.999).sum()),
    }


def song(model: Any, prompt: str, seed: int) -> dict[str, Any]:
    wish = {"duration": SECONDS, "seed": seed}
    made = model.generate(prompt, **wish, **AS_MADE)
    row = {"prompt": prompt, "seed": seed, "before": heard(made.waveform, made.sample_rate)}
    try:
        made = model.generate(prompt, **wish)
    except MusicotError as error:
        return {**row, "refused": str(error)}
    row["drawn_again"] = made.settings["seed"] != seed
    return {**row, "after": heard(made.waveform, made.sample_rate)}


def streamed(model: Any, prompt: str, seed: int) -> dict[str, Any]:
    stream = model.stream(prompt, duration=STREAMED, seed=seed)
    waveform = np.concatenate(list(stream))
    return {"prompt": prompt, "seed": seed, "after": heard(waveform, model.sample_rate)}


def table(report: dict[str, Any]) -> str:
    """What the songs were before and after, as Markdown."""
    rows = [("as the model makes them", [row["before"] for row in report["songs"]])]
    rows.append(("as they are handed on", [r["after"] for r in report["songs"] if "after" in r]))
    if report["streams"]:
        rows.append(("streams of 30 s", [row["after"] for row in report["streams"]]))
    lines = [
        "| songs | loudness, LUFS: median (lowest to highest) | within 2 LU of -16 | "
        "highest true peak, dBTP | above -1 dBTP | silent |",
        "|---|---|---|---|---|---|",
    ]
    for name, songs in rows:
        loud, peaks = ([song[key] for song in songs] for key in ("loudness", "true_peak"))
        near = sum(abs(value - TARGET) <= 2 for value in loud)
        above = sum(peak > -1 for peak in peaks)
        silent = sum(song["level"] < SILENT for song in songs)
        lines.append(
            f"| {name} ({len(songs)}) | {np.median(loud):.1f} ({min(loud):.1f} to {max(loud):.1f}) "
            f"| {near} | {max(peaks):.2f} | {above} | {silent} |"
        )
    again = sum(row.get("drawn_again", False) for row in report["songs"])
    refused = sum("refused" in row for row in report["songs"])
    return "\n".join([*lines, "", f"{again} drawn again, {refused} refused."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--limit", type=int, default=len(PROMPTS), help="only the first N prompts")
    parser.add_argument("--streams", type=int, default=20, help="prompts that are streamed as well")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    warnings.simplefilter("always")
    model = mc.load(args.model)
    report: dict[str, Any] = {"target": TARGET, "seconds": SECONDS, "songs": [], "streams": []}
    for prompt in PROMPTS[: args.limit]:
        for seed in SEEDS:
            report["songs"].append(song(model, prompt, seed))
            print(json.dumps(report["songs"][-1]), file=sys.stderr)
    chosen = PROMPTS[:: max(1, len(PROMPTS) // max(1, args.streams))][: args.streams]
    for prompt in chosen:
        report["streams"].append(streamed(model, prompt, 1))
        print(json.dumps(report["streams"][-1]), file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
