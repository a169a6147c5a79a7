"""Is what a prompt denies kept out? The tagger's ear on songs with and without "no X".

    python benchmarks/denials.py --json benchmarks/results/denials.json

Each pair is a prompt in whose songs X usually plays, and its denial; the same seeds make both. The
tagger (weights/band-tagger) has no part in making them. `found`: songs in which it hears X with
more than even chances. The table is printed from the JSON.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import musicot_mlx as mc
from musicot_mlx.errors import MusicotWarning
from musicot_mlx.pipelines.tagger import load_tagger

PAIRS = (  # family, prompt, prompt without it
    ("drums", "funk groove with bass and electric guitar", "{}, no drums"),
    ("piano", "lo-fi hip hop beat", "{} without piano"),
    ("bass", "rock song with drums and guitar", "{}, no bass"),
    ("guitar", "heavy metal", "{} without guitar"),
    ("strings", "cinematic orchestral music", "{}, no strings"),
    ("synth", "retro 80s electronic, neon night drive", "{}, without synths"),
    ("brass", "cinematic orchestral music, majestic", "{}, no brass"),
    ("woodwind", "jazz swing with piano and walking bass", "{}, no saxophone"),
)


def found(model: Any, tagger: Any, prompt: str, family: str, seeds: list[int]) -> dict[str, Any]:
    """In how many songs the tagger hears the family, and how sure it is of it in each."""
    column = list(tagger.config.labels).index(family)
    sure = []
    for seed in seeds:
        song = model.generate(prompt, duration=10, seed=seed)
        sure.append(float(tagger.tag(song.waveform, song.sample_rate)[:, column].max()))
    found = {"prompt": prompt, "found": sum(each > 0.5 for each in sure), "songs": len(seeds)}
    print(found, file=sys.stderr, flush=True)
    return {**found, "sure": [round(each, 3) for each in sure]}


def table(rows: list[dict[str, Any]]) -> str:
    """How often X is heard, as Markdown."""
    lines = ["| X | prompt | X is heard | with | X is heard |", "|---|---|---|---|---|"]
    for row in rows:
        usual, denied = row["usual"], row["denied"]
        lines.append(
            f"| {row['family']} | {usual['prompt']} | {usual['found']} of {usual['songs']} "
            f"| {denied['prompt'].removeprefix(usual['prompt']).strip(' ,')} "
            f"| {denied['found']} of {denied['songs']} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--only", nargs="+", help="families to measure, all if left out")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    warnings.simplefilter("ignore", MusicotWarning)
    model, tagger = mc.load(args.model), load_tagger()
    rows = []
    for family, prompt, denial in PAIRS:
        if args.only and family not in args.only:
            continue
        usual = found(model, tagger, prompt, family, args.seeds)
        denied = found(model, tagger, denial.format(prompt), family, args.seeds)
        rows.append({"family": family, "usual": usual, "denied": denied})
    if args.json:
        results = {"model": args.model, "duration": 10.0, "rows": rows}
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
