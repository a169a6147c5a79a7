"""Does a plan that is heard in audio have its tempo? Songs of the band, and click tracks.

    python -m musicot_mlx.reference.band /tmp/band --songs 20 --seed 200000
    python benchmarks/tempo.py /tmp/band --json benchmarks/results/tempo.json

Right is within 4 %, octave included. A plan's tempo lies between 60 and 180 BPM, to which the model
was trained to fold others; the reader's own (`musicot analyze`) is told beside it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.files import read_audio
from musicot_mlx.audio.signals import tempo

CLICKS = (73.0, 90.0, 120.0, 147.0, 173.0)  # BPM
NEAR, RATE, SECONDS = 0.04, 44100, 20.0


def click_track(bpm: float) -> np.ndarray:
    """Bursts of a sine, (samples, 1), one a beat."""
    waveform, burst = np.zeros((round(SECONDS * RATE), 1), np.float32), np.arange(2205)
    click = 0.5 * np.sin(2 * np.pi * 1000 * burst / RATE) * np.exp(-burst / 400)
    for start in np.arange(0.0, SECONDS - 0.1, 60 / bpm):
        first = round(start * RATE)
        waveform[first : first + len(click), 0] += click
    return waveform


def one(model: Any, name: str, bpm: float, waveform: np.ndarray, rate: int) -> dict[str, Any]:
    plan = model.plan_from_audio((waveform, rate))
    planned, heard = model.conditioning.of_plan(plan).bpm or plan.bpm, tempo(waveform, rate)
    found = {"name": name, "bpm": round(bpm, 2), "planned": planned, "heard": heard}
    right = {f"{k}_right": abs(found[k] / bpm - 1) < NEAR for k in ("planned", "heard")}
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()} | right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="songs of the band")
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    model = mc.load(args.model)
    found = []
    for song in json.loads((args.folder / "metadata.json").read_text()):
        audio = read_audio(args.folder / song["audio_file"])
        found.append(one(model, f"{song['title']}", song["bpm"], *audio))
    found += [one(model, "clicks", bpm, click_track(bpm), RATE) for bpm in CLICKS]
    if args.json:
        args.json.write_text(json.dumps({"model": args.model, "audio": found}, indent=1) + "\n")
    for row in found:
        mark = "" if row["planned_right"] else "  <-"
        print(f"{row['name']:36} {row['bpm']:6.1f} planned {row['planned']:6.1f} "
              f"heard {row['heard']:6.1f}{mark}")  # fmt: skip
    for side in ("planned", "heard"):
        print(f"{side}: {sum(row[f'{side}_right'] for row in found)} of {len(found)} within 4 %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
