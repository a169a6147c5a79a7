"""The LM at the paper's 1 B shape, MLX beside PyTorch: seconds a token, random weights, float32.

    python benchmarks/lm_1b.py --json benchmarks/results/lm-1b.json

Two rows of guidance after a prefix of 40 positions, a key-value cache on both sides; each side in a
process of its own, in turn. Weights are drawn anew on each side: their sizes matter, not they.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import musicot_mlx  # noqa: F401  (OpenBLAS before MLX)

TOKENS, PREFIX = 12, 40


def mlx_side() -> list[float]:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from musicot_mlx.generation.semantic import _Run
    from musicot_mlx.models.semantic_lm import MUSICOT_1B, SemanticLM

    lm = SemanticLM(MUSICOT_1B)
    for _, value in tree_flatten(lm.parameters()):
        mx.eval(value)
        mx.clear_cache()
    run = _Run(lm, [lm.prefix(None, [5] * PREFIX), lm.prefix(None, [5] * 4)], 1)
    head = lm.head(*MUSICOT_1B.vocabulary.audio_range)
    seconds = []
    for i in range(TOKENS):
        began = time.perf_counter()
        logp = run.log_probabilities(head, 1.3)
        code = mx.random.categorical(logp, key=mx.random.key(i)).astype(mx.int32)
        mx.eval(code)
        run.feed(code + MUSICOT_1B.audio_offset)
        seconds.append(time.perf_counter() - began)
    return seconds[2:]  # prefill, and the first step that grows the caches


def torch_side() -> list[float]:
    from dataclasses import asdict

    import torch

    from musicot_mlx.models.semantic_lm import MUSICOT_1B
    from musicot_mlx.reference.semantic_lm import SemanticLM
    from musicot_mlx.reference.speed import decode_cached

    with torch.no_grad():
        lm = SemanticLM(asdict(MUSICOT_1B)).eval()
        rows = [lm.embed(torch.full((1, n), 5), None)[0] for n in (PREFIX, 4)]
        settings = {"legal": MUSICOT_1B.vocabulary.audio_range, "guidance": 1.3}
        spent = []
        for tokens in (2, TOKENS):  # the difference is decoding alone
            began = time.perf_counter()
            decode_cached(lm, rows, tokens=tokens, **settings)
            spent.append(time.perf_counter() - began)
    return [(spent[1] - spent[0]) / (TOKENS - 2)]


SIDES = {"MLX": mlx_side, "PyTorch": torch_side}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--one", choices=SIDES)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(SIDES[args.one]()))
        return 0
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(args.runs):
        for side in SIDES:
            command = [sys.executable, __file__, "--one", side]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            found[side] += json.loads(result.stdout.splitlines()[-1])
    from musicot_mlx.evaluation import machine

    median = {side: statistics.median(seconds) for side, seconds in found.items()}
    results: dict[str, Any] = {"recipe": __doc__, "seconds_a_token": median, "runs": args.runs}
    results |= {"ratio": median["PyTorch"] / median["MLX"], "machine": machine.facts()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print("| 1 B LM, seconds a token | MLX | PyTorch | MLX's speed, PyTorch's being 1 |")
    print("|---|---|---|---|")
    print(f"| float32 | {median['MLX']:.3f} | {median['PyTorch']:.3f} | {results['ratio']:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
