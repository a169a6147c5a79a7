"""Memory foreseen and memory taken: the mini, MusicGen small's shape, the paper's 1 B LM.

    python benchmarks/memory.py --json benchmarks/results/memory.json

Each row is a process of its own. The large shapes have random weights, which memory does not ask
about; the prediction is made from shapes before any of them is allocated. The 1 B LM draws 20
tokens under guidance, in float32 and kept in 4 bits; MusicGen makes 2 s.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import musicot_mlx  # noqa: F401  (OpenBLAS before MLX)

CASES = ("mini", "mini-30", "mini-300", "musicgen-small", "lm-1b", "lm-1b-4bit")
TOKENS = 20


def mini(duration: float) -> dict[str, Any]:
    import mlx.core as mx

    import musicot_mlx as mc
    from musicot_mlx.pipelines import memory

    foreseen = memory.predict("musicot-mini", duration=duration)
    model = mc.load("musicot-mini")
    model.generate("solo piano, slow and calm", duration=duration, seed=1)
    resident = foreseen.resident(mx.get_cache_memory())
    return {"predicted": foreseen.peak(), "predicted_resident": resident}


def lm_1b(bits: int | None) -> dict[str, Any]:
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np

    from musicot_mlx.generation.semantic import SemanticCondition, audio_tokens
    from musicot_mlx.models.semantic_lm import MUSICOT_1B, SemanticLM
    from musicot_mlx.pipelines import memory

    lm = SemanticLM(MUSICOT_1B)
    if bits:
        nn.quantize(lm, bits=bits)
    foreseen = memory.of_network(lm) + memory.lm_cache_bytes(vars(MUSICOT_1B), 256, 2, 4)
    _build(lm)
    thoughts = np.zeros((MUSICOT_1B.thought_codebooks, 1), dtype=np.int32)
    key = mx.random.key(0)
    codes = list(audio_tokens(lm, SemanticCondition(), thoughts, frames=TOKENS, key=key))
    assert sum(map(len, codes)) == TOKENS, codes
    return {"predicted": foreseen, "predicted_resident": foreseen + memory.PROCESS}


def musicgen_small(duration: float) -> dict[str, Any]:
    import mlx.core as mx
    import numpy as np

    from musicot_mlx.generation.musicgen import MusicgenCondition, generate_codes
    from musicot_mlx.models.encodec import Encodec, EncodecConfig
    from musicot_mlx.models.musicgen import MUSICGEN_SMALL, Musicgen
    from musicot_mlx.models.t5 import T5Config, T5Encoder
    from musicot_mlx.pipelines import memory
    from musicot_mlx.pipelines.musicgen import memory as musicgen_memory

    text, codec, lm = T5Encoder(T5Config()), Encodec(EncodecConfig()), Musicgen(MUSICGEN_SMALL)
    stages = musicgen_memory.stages(vars(MUSICGEN_SMALL), vars(EncodecConfig()), duration)
    weights = sum(memory.of_network(network) for network in (text, codec, lm))
    foreseen = weights + max(stages.values())
    for network in (text, codec, lm):
        _build(network)
    states = text(mx.arange(12)[None])[0]
    frames = round(duration * MUSICGEN_SMALL.frame_rate)
    blocks = generate_codes(lm, [MusicgenCondition(states)], frames=frames, keys=[mx.random.key(0)])
    codes = np.concatenate(list(blocks), axis=-1)
    for piece in codec.decode_stream([mx.array(codes)]):
        mx.eval(piece)
    return {"predicted": foreseen, "predicted_resident": foreseen + memory.PROCESS}


def _build(network: Any) -> None:
    """Evaluate the weights one by one, as the device runs them; the peak counts from here."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from musicot_mlx.pipelines.parts import for_device

    for _, value in tree_flatten(network.parameters()):
        mx.eval(value)
        mx.clear_cache()
    for_device(network)
    mx.reset_peak_memory()  # drawing weights and rounding them is no part of loading any


def case(name: str) -> dict[str, Any]:
    import mlx.core as mx

    from musicot_mlx.evaluation.speed import hardware

    run = {
        "mini": lambda: mini(20.0),
        "mini-30": lambda: mini(30.0),
        "mini-300": lambda: mini(300.0),
        "musicgen-small": lambda: musicgen_small(2.0),
        "lm-1b": lambda: lm_1b(None),
        "lm-1b-4bit": lambda: lm_1b(4),
    }[name]
    row = {key: value / 1e9 for key, value in run().items()}
    row |= {"measured": mx.get_peak_memory() / 1e9, "cache": mx.get_cache_memory() / 1e9}
    row |= {"measured_resident": hardware.peak_resident() / 1e9}
    return {"case": name, **row, "error": row["predicted"] / row["measured"] - 1}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | predicted | measured | error |", "|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['predicted']:.2f} GB | {row['measured']:.2f} GB "
            f"| {100 * row['error']:+.0f} % |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--one", choices=CASES, help="measure this case in this process")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(case(args.one)))
        return 0
    rows = []
    for name in args.cases:
        command = [sys.executable, __file__, "--one", name]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(result.stdout.splitlines()[-1]))
    recipe = "each case in a fresh process; MLX's peak, foreseen from headers or shapes, and taken"
    results: dict[str, Any] = {"recipe": recipe, "rows": rows}
    resident = {row["case"]: row["measured_resident"] for row in rows}
    if {"mini-30", "mini-300"} <= resident.keys():
        results["growth_30_to_300_s"] = resident["mini-300"] / resident["mini-30"]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(rows))
    if "growth_30_to_300_s" in results:
        print(f"\nwhole process, 300 s against 30 s: {results['growth_30_to_300_s']:.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
