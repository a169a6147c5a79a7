"""Does the music do what the words say? Signal measures of four prompts over several seeds.

    python benchmarks/prompts.py --seeds 1 2 3 4 --json benchmarks/results/prompts.json
    python benchmarks/prompts.py --guide --seeds 1 2 --duration 10 --json prompt-guide.json

The measures (musicot_mlx/audio/signals.py) know nothing of CLAP or the model. `--keep FOLDER`
leaves the songs and a spectrogram of each there. `--guide` takes the thirty prompts of
docs/prompts.md, and adds what the tagger (weights/band-tagger) hears and the key that the plan has.
The table is printed from the JSON.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.signals import measure
from musicot_mlx.evaluation.harness.plots import plot_song
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.pipelines.tagger import load_tagger

PROMPTS = (
    "fast techno beat with a synth lead",
    "relaxing piano melody",
    "heavy metal guitar riff",
    "solo cello, slow",
)
GUIDE = (  # in pairs and runs, so that one kind of word changes at a time
    "techno", "bossa nova", "twelve-bar blues", "reggae", "orchestral",
    "punk rock", "heavy metal", "lo-fi hip hop", "80s synth pop", "ambient",
    "solo piano", "solo cello", "solo flute", "solo violin", "solo guitar",
    "piano and strings", "electric guitar, bass and drums", "organ over drums and bass",
    "saxophone melody over piano and bass", "synth pad and vibraphone",
    "solo piano, slow and sad", "solo piano, fast and happy",
    "funk at 96 BPM", "funk at 116 BPM",
    "soft piano, dreamy", "rock song, aggressive",
    "jazz swing, no drums", "rock song without guitar",
    "folk in D minor", "mellow lo-fi hip hop, Am F C G",
)  # fmt: skip


def evaluate(
    model: Any, seeds: list[int], keep: Path | None, *, guide: bool, duration: float
) -> list[dict[str, Any]]:
    tagger, rows = load_tagger() if guide else None, []
    for prompt in GUIDE if guide else PROMPTS:
        songs, heard, keys = [], [], []
        for seed in seeds:
            song = model.generate(prompt, duration=duration, seed=seed, **AS_MADE)
            songs.append({"seed": seed, **asdict(measure(song.waveform, song.sample_rate))})
            keys.append(song.plan.key)
            if tagger is not None:
                heard.append(tagger.tag(song.waveform, song.sample_rate).max(axis=0) > 0.5)
            if keep:
                stem = keep / f"{prompt.replace(',', '').replace(' ', '-')}-{seed}"
                song.save(f"{stem}.wav")
                plot_song(song.waveform, song.sample_rate, f"{stem}.png", f"{prompt} ({seed})")
            print(prompt, songs[-1], file=sys.stderr)
        medians = {k: statistics.median(s[k] for s in songs) for k in songs[0] if k != "seed"}
        rows.append({"prompt": prompt, "median": medians, "songs": songs, "keys": keys})
        if tagger is not None:
            counts = zip(tagger.config.labels, sum(map(np.int32, heard)).tolist(), strict=True)
            rows[-1]["heard"] = {label: count for label, count in counts if count}
    return rows


def guide_table(rows: list[dict[str, Any]]) -> str:
    """What to expect of each prompt as Markdown: instruments heard, those in some songs in
    brackets, and medians.
    """
    lines = [
        "| prompt | heard (in some) | onsets a second | centroid, Hz | keys |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        songs = len(row["songs"])
        names = [name if n == songs else f"({name})" for name, n in row["heard"].items()]
        median = row["median"]
        lines.append(
            f"| {row['prompt']} | {', '.join(names) or 'nothing by name'} | "
            f"{median['onset_rate']:.1f} | {median['spectral_centroid']:.0f} | "
            f"{', '.join(dict.fromkeys(row['keys']))} |"
        )
    return "\n".join(lines)


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
    parser.add_argument("--guide", action="store_true", help="the prompts of docs/prompts.md")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of a song")
    parser.add_argument("--keep", type=Path, help="folder for the songs and their pictures")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    rows = evaluate(
        mc.load(args.model), args.seeds, args.keep, guide=args.guide, duration=args.duration
    )
    if args.json:
        results = {
            "model": args.model,
            "duration": args.duration,
            "seeds": args.seeds,
            "rows": rows,
        }
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print((guide_table if args.guide else table)(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
