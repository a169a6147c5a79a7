"""Does a song follow its chords? Two progressions, the same seeds: whose chroma is in each bar?

    python benchmarks/harmony.py [--model musicot-mini] [--seeds 10] [--json FILE]

Each seed is rendered twice, with "Am F C G" and with "C G Am F"; in every bar the notes heard
(audio/harmony.py, signal processing alone) are held against the chord asked for there and against
the one that the other song has in its place. Nothing here is a test: tests assert no quality.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.harmony import bar_spans, chords_heard, pitch_classes
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.tokens.harmony import parse_chord

SONGS = (("Am", "F", "C", "G"), ("C", "G", "Am", "F"))
PROMPT, BPM, SECONDS = "piano ballad, 96 BPM", 96.0, 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = mc.load(args.model)
    spans = bar_spans(SECONDS, BPM)
    own_is_nearer = np.zeros((args.seeds, 2, len(spans)), bool)
    heard = []
    for seed in range(args.seeds):
        for k, (own, other) in enumerate((SONGS, SONGS[::-1])):
            wish = {"duration": SECONDS, "seed": seed, "chords": " ".join(own), **AS_MADE}
            song = model.generate(PROMPT, **wish)
            notes = pitch_classes(song.waveform, song.sample_rate)
            for bar, (start, end) in enumerate(spans):
                inside = (notes.seconds >= start) & (notes.seconds < end)
                total = notes.notes[inside].sum(0)
                near, far = (
                    total[list(parse_chord(chords[bar % 4]).pitch_classes)].sum()
                    for chords in (own, other)
                )
                own_is_nearer[seed, k, bar] = near > far
            heard.append(chords_heard(song.waveform, song.sample_rate, song.plan.chord_changes()))
        print(f"seed {seed}: {own_is_nearer[seed].mean():.2f} of the bars", flush=True)
    by_bar = own_is_nearer.mean(0)  # (songs, bars)
    found = {
        "model": args.model,
        "seeds": args.seeds,
        "bars_nearer_to_their_own_chord": round(float(own_is_nearer.mean()), 4),
        "of_each_bar_the_fewest_seeds": round(float(by_bar.min()), 4),
        "seeds_whose_every_bar_is": int(own_is_nearer.all((1, 2)).sum()),
        "chords_heard": round(float(np.mean([h for h in heard if h is not None])), 4),
    }
    print(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
