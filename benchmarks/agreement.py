"""Does the audio follow the plan, and do thoughts know how loud each instrument is?

    python benchmarks/agreement.py --json benchmarks/results/agreement.json

Prompts are captions of pieces that the procedural band never played to the model: held-out seeds.
Each is planned and rendered as a user would, the render is embedded again, and the planned activity
of every 10 s segment is held against the achieved one: Pearson's r over all segments, per anchor,
with a 95 % interval from drawing songs again (bootstrap). `within` is r after each song's mean is
taken off both sides, so it asks for the arrangement alone; `control` is r against the render of
another prompt, and must be near 0.

`--stems N` repeats section 5.3 on N held-out songs of the band (needs FluidSynth): cosine of each
quantised thought with an instrument's name against the loudness of that instrument's stem.
`--references N` borrows the thoughts of N held-out songs of the band and asks whether anything was
copied: the tokens that the model wrote against the reference's, beside a true copy of ten seconds.
The tables are printed from the JSON.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.files import write_audio
from musicot_mlx.evaluation.measures.agreement import (
    QUIETEST_STEM,
    agreement,
    analyze,
    loudness_of,
    pearson,
    quantised,
    segment_seconds,
)
from musicot_mlx.evaluation.measures.copying import copy_check
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.pipelines.plans.activity import activity
from musicot_mlx.reference.band import caption, compose, render, render_stems

RATE = 44100  # Hz of the band's songs
HELD_OUT = 1_000_000  # seeds that training never reaches
ANCHORS = ("drums", "bass", "piano", "guitar", "strings", "synth", "organ", "brass", "woodwind")
CLAIMED = ("drums", "bass", "piano", "guitar", "strings")  # the paper's claim: r above 0.5


def held_out_prompts(count: int, duration: float) -> list[str]:
    """Captions of whole pieces with several sections, one a held-out seed."""
    prompts: list[str] = []
    seed = HELD_OUT
    while len(prompts) < count:
        piece = compose(seed, duration=duration)
        if len(piece.sections) > 1:
            prompts.append(caption(piece, np.random.default_rng([seed, 2])))
        seed += 1
    return prompts


def listen(model: Any, prompts: list[str], duration: float) -> list[dict[str, Any]]:
    """Plan and render each prompt, and hear it: activity planned and achieved, cosines."""
    rows = []
    for seed, prompt in enumerate(prompts):
        began = time.perf_counter()
        song = model.generate(prompt, duration=duration, seed=seed, **AS_MADE)
        found = analyze(
            song.waveform, song.sample_rate, model=model, plan=song.plan, anchors=ANCHORS
        )
        rows.append({"prompt": prompt, "seed": seed, "analysis": found, "plan": song.plan})
        took = time.perf_counter() - began
        print(f"{seed + 1}/{len(prompts)} cosine {found.mean_cosine:.2f}, {took:.0f} s: {prompt}",
              file=sys.stderr, flush=True)  # fmt: skip
    return rows


def correlations(songs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """r, its interval, and r within songs, of pairs of tables (segments, columns)."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        picks = rng.integers(len(songs), size=len(songs))
        drawn.append(pearson(*(np.concatenate([songs[i][k] for i in picks]) for k in (0, 1))))
    centred = [tuple(side - side.mean(axis=0) for side in pair) for pair in songs]
    others = [(songs[i][0], songs[i - 1][1]) for i in range(len(songs))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an instrument that never plays has no r
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    return {
        "r": pearson(*map(np.concatenate, zip(*songs, strict=True))),
        "low": low,
        "high": high,
        "within": pearson(*map(np.concatenate, zip(*centred, strict=True))),
        "control": pearson(*map(np.concatenate, zip(*others, strict=True))),
    }


def followed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How far renders followed their plans, per anchor and as cosine."""
    found = correlations([(row["analysis"].planned, row["analysis"].achieved) for row in rows])
    heard = [row["analysis"].embeddings for row in rows]
    away = [agreement(row["plan"].embeddings, heard[i - 1]) for i, row in enumerate(rows)]
    return {
        "anchors": {name: {k: _round(v[i]) for k, v in found.items()}
                    for i, name in enumerate(ANCHORS)},
        "cosine": _round(np.concatenate([row["analysis"].cosine for row in rows]).mean()),
        "cosine_to_another": _round(np.concatenate(away).mean()),
        "prompts": [{"prompt": row["prompt"], "seed": row["seed"],
                     "cosine": _round(row["analysis"].mean_cosine)} for row in rows],
    }  # fmt: skip


def known(model: Any, count: int, duration: float) -> dict[str, Any]:
    """Section 5.3 on held-out pieces of the band: r of loudness and activity per family."""
    songs, step = [], segment_seconds(model)
    for seed in range(HELD_OUT, HELD_OUT + count):
        stems = render_stems(compose(seed, duration=duration), sample_rate=RATE)
        mix = sum(stems.values())
        heard = model.clap.embed_audio(mix, RATE)
        loudness = [loudness_of(stems.get(name, 0 * mix), RATE, step, len(heard))
                    for name in ANCHORS]  # fmt: skip
        thoughts = activity(quantised(model, heard), model.anchors(ANCHORS), rvq=model.rvq)
        songs.append((thoughts, np.stack(loudness, axis=1)))
    found = correlations(songs)
    loud = np.concatenate([pair[1] for pair in songs]).mean(axis=0)
    return {name: {"loudness": _round(loud[i]), **{k: _round(v[i]) for k, v in found.items()}}
            for i, name in enumerate(ANCHORS) if loud[i] >= QUIETEST_STEM}  # fmt: skip


def copied(model: Any, count: int) -> list[dict[str, Any]]:
    """Songs that borrow thoughts, held against what they borrowed from, and true copies."""
    found = []
    songs = [render(compose(HELD_OUT + i, duration=40.0)) for i in range(count + 1)]
    for seed in range(count):
        reference, other = songs[seed], songs[seed + 1]
        with tempfile.TemporaryDirectory() as folder:
            file = write_audio(Path(folder) / "reference.wav", reference, RATE)
            song = model.generate(reference=file, duration=40.0, seed=seed, steps=1, **AS_MADE)
        options = {"model": model, "sample_rate": RATE, "unrelated": [other]}
        borrowed = copy_check(reference, reference, codes=song.codes[0], **options)
        copy = copy_check(reference[10 * RATE + 700 : 20 * RATE], reference, **options)
        found.append({"borrowed": borrowed.to_dict(), "copy": copy.to_dict()})
        print(f"{seed + 1}/{count} borrowed: {borrowed.verdict}\n copy: {copy.verdict}",
              file=sys.stderr, flush=True)  # fmt: skip
    return found


def table(results: dict[str, Any]) -> str:
    """r per anchor as Markdown."""
    lines = ["| anchor | r of planned and achieved | within songs | control |", "|---|---|---|---|"]
    for name, row in results["followed"]["anchors"].items():
        lines.append(f"| {name} | {_interval(row)} "
                     f"| {_shown(row['within'])} | {_shown(row['control'])} |")  # fmt: skip
    if "stems" in results:
        lines += ["", "| stem | r of loudness and thoughts | mean loudness |", "|---|---|---|"]
        for name, row in results["stems"].items():
            lines.append(f"| {name} | {_interval(row)} | {row['loudness']:.3f} |")
    if checks := results.get("references"):
        lines += ["", "| 10 s and more | flagged as copies | share of tokens at most |"]
        lines += ["|---|---|---|"]
        for name, words in (("borrowed", "thoughts borrowed"), ("copy", "a true copy")):
            flagged = sum(check[name]["copied"] > 0 for check in checks)
            most = max(check[name]["most_shared"] for check in checks)
            lines.append(f"| {words} | {flagged} of {len(checks)} | {most:.2f} |")
    return "\n".join(lines)


def _round(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(row: dict[str, float | None]) -> str:
    return f"{_shown(row['r'])} ({_shown(row['low'])} to {_shown(row['high'])})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--duration", type=float, default=40.0, help="seconds a song")
    parser.add_argument("--stems", type=int, default=24, help="songs of the band; 0 leaves it out")
    parser.add_argument("--references", type=int, default=6, help="songs to borrow from; 0: none")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--keep", type=Path, help="write vectors of plans and renders here (.npz)")
    args = parser.parse_args()
    if args.prompts < 2:
        parser.error("r over songs needs at least 2 prompts")
    model = mc.load(args.model)
    results = {"model": args.model, "duration": args.duration, "version": mc.__version__}
    if args.stems:
        results["stems"] = known(model, args.stems, args.duration)
    if args.references:
        results["references"] = copied(model, args.references)
    rows = listen(model, held_out_prompts(args.prompts, args.duration), args.duration)
    results["followed"] = followed(rows)
    if args.keep:
        np.savez(args.keep, planned=[row["plan"].embeddings for row in rows],
                 heard=[row["analysis"].embeddings for row in rows])  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    found = results["followed"]["anchors"]
    wrong = [name for name in CLAIMED if (found[name]["r"] or 0.0) <= 0.5]
    print(f"\nr above 0.5 for {', '.join(CLAIMED)}:", f"not {', '.join(wrong)}" if wrong else "yes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
