"""musicot bench: how fast this machine makes songs, stage by stage, and what holds it back."""

import itertools
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from musicot_mlx.atomic import write_text
from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot bench."""

    model: str = flags.flag(
        "NAME", "embedded name, folder or Hub id (default: musicot-mini)", default="musicot-mini"
    )
    duration: list[float] = flags.flag(
        "S...",
        "lengths of the songs in seconds (default: 20)",
        "--duration",
        "--seconds",
        check=flags.seconds,
        default=[20.0],
    )
    bits: list[Literal[4, 8, 16]] | None = flags.flag(
        "B...", "weights stored anew in 4, 8 or 16 bits (default: as the model is)"
    )
    batch: list[int] = flags.flag(
        "N...",
        "songs drawn together, as --candidates draws them (default: 1)",
        check=flags.number(1, 16, whole=True),
        default=[1],
    )
    n: int = flags.flag(
        "N",
        "fresh processes a row; figures are medians (default: 3)",
        "-n",
        check=flags.number(1, 50, whole=True),
        default=3,
    )
    against: Literal["torch"] | None = flags.flag(
        "", "the PyTorch reference beside MLX: same weights, same run, float32"
    )
    shapes: list[Literal["model", "lm-1b", "musicgen-small"]] = flags.flag(
        "NAME...",
        "what stands side by side: the model, and two large shapes with random weights",
        default=["model", "lm-1b", "musicgen-small"],
    )
    max_memory_gb: float | None = flags.flag(
        "GB", "refuse what is larger", check=flags.number(0.05, unit="GB")
    )
    json: str | None = flags.flag(
        "FILE",
        "write the results here; - is standard output, not a table",
        check=flags.place_or_output,
    )


def run(args: Arguments) -> int:
    results = _against_torch(args) if args.against else _songs(args)
    text = json.dumps(results, indent=1) + "\n"
    if args.json == "-":
        print(text, end="")
        return 0
    if args.json:
        write_text(Path(args.json), text)
    print(results["table"])
    return 0


def _songs(args: Arguments) -> dict[str, Any]:
    from musicot_mlx.evaluation.speed import bench as speed
    from musicot_mlx.evaluation.speed import hardware
    from musicot_mlx.pipelines import memory
    from musicot_mlx.pipelines.conversion_cache import mlx_folder
    from musicot_mlx.pipelines.families import family_of

    family = family_of(mlx_folder(args.model))
    for seconds in args.duration:
        family.require_duration(seconds)
    rows = []
    with ExitStack() as stack, Progress() as progress:
        for bits in args.bits or [None]:
            model = args.model
            if bits is not None:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                model = str(_with_bits(args.model, bits, Path(folder) / "model"))
            for duration, batch in itertools.product(args.duration, args.batch):
                if args.max_memory_gb is not None:
                    plan = memory.plan(
                        model, duration=duration, max_memory_gb=args.max_memory_gb, songs=batch
                    )
                    print(plan.line(), file=sys.stderr)
                row = speed.measure(
                    model,
                    duration=duration,
                    runs=args.n,
                    batch=batch,
                    bits=bits,
                    progress=lambda done, total: progress("runs", done, total),
                )
                foreseen = memory.predict(model, duration=duration, songs=batch)
                row["memory"]["predicted_peak_active_gb"] = foreseen.peak() / 1e9
                row["bounds"] = speed.bounds(row)
                rows.append(row)
    results = {"recipe": speed.RECIPE, "prompt": speed.PROMPT, "model": args.model, "rows": rows}
    results["table"] = speed.table(results)
    machine = rows[0]["machine"]
    results["table"] += (
        f"\n\n{machine['chip']}, {machine['cores']} cores, {machine['memory_gb']:g} GB, "
        f"{machine['system']}, mlx {machine['packages']['mlx']} on {machine['device']}, "
        f"{machine['blas']}, power: {machine['power']}"
    )
    if machine["chip"] in rows[0]["bounds"]:
        bandwidth, bound = hardware.PUBLISHED_BANDWIDTH[machine["chip"]], rows[0]["bounds"]
        results["table"] += (
            f"\nbound, not measured: at the published {bandwidth:g} GB/s of {machine['chip']} the "
            f"audio tokens alone take an RTF of {bound[machine['chip']]:.4f} or more"
        )
    return results


def _with_bits(name: str, bits: int, folder: Path) -> Path:
    """The model stored anew with other bits, from the weights it has."""
    from musicot_mlx.pipelines.conversion_cache import mlx_folder
    from musicot_mlx.pipelines.requantize import store_with_bits

    return store_with_bits(mlx_folder(name), folder, bits=bits)


def _against_torch(args: Arguments) -> dict[str, Any]:
    from musicot_mlx.evaluation.speed import torch_comparison

    with Progress() as progress:
        return torch_comparison.torch(
            args.model,
            runs=args.n,
            shapes=tuple(args.shapes),
            progress=lambda done, total: progress("runs", done, total),
        )
