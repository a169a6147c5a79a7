"""Does the music do what the words say? Signal measures of four prompts over several seeds.

    python benchmarks/prompts.py --seeds 1 2 3 4 --json benchmarks/results/prompts.json

The measures (musicot_mlx/audio/signals.py) know nothing of CLAP or the model. `--keep FOLDER`
leaves the songs and a spectrogram of each there. The table is printed from the JSON.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import musicot_mlx as mc
from musicot_mlx.audio.signals import measure
from musicot_mlx.evaluation.harness.plots import plot_song
from musicot_mlx.pipelines.options import AS_MADE

PROMPTS = (
    "fast techno beat with a synth lead",
    "relaxing piano melody",
    "heavy metal guitar riff",
    "solo cello, slow",
)
DURATION = 20.0


def evaluate(model: Any, seeds: list[int], keep: Path | None) -> list[dict[str, Any]]:
    rows = []
    for prompt in PROMPTS:
        songs = []
        for seed in seeds:
            song = model.generate(prompt, duration=DURATION, seed=seed, **AS_MADE)
            songs.append({"seed": seed, **asdict(measure(song.waveform, song.sample_rate))})
            if keep:
                stem = keep / f"{prompt.replace(',', '').replace(' ', '-')}-{seed}"
                song.save(f"{stem}.wav")
                plot_song(song.waveform, song.sample_rate, f"{stem}.png", f"{prompt} ({seed})")
            print(prompt, songs[-1], file=sys.stderr)
        medians = {k: statistics.median(s[k] for s in songs) for k in songs[0] if k != "seed"}
        rows.append({"prompt": prompt, "median": medians, "songs": songs})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The medians as Markdown, with the lowest and highest seed."""
    names = list(rows[0]["median"])
    lines = [f"| prompt | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = []
        for name in names:
            values = [song[name] for song in row["songs"]]
            cells.append(f"{row['median'][name]:.3g} ({min(values):.3g}-{max(values):.3g})")
        lines.append(f"| {row['prompt']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--keep", type=Path, help="folder for the songs and their pictures")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    rows = evaluate(mc.load(args.model), args.seeds, args.keep)
    if args.json:
        results = {"model": args.model, "duration": DURATION, "seeds": args.seeds, "rows": rows}
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
