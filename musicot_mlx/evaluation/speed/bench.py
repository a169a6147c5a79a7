"""How fast songs are made: stages of one process, runs in fresh processes, the table from the rows.

A run is a process of its own. It loads the model, makes a song (cold), makes it again as often as
asked (warm), and streams it up to the first chunk. RTF is seconds of work over seconds of audio,
lower is better.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import musicot_mlx
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.evaluation.speed import cost, hardware
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import family_of, titles

PROMPT = "solo piano, slow and calm"
RECIPE = (
    "each run a fresh process: load, a cold song, warm songs of the same seed, a stream up to its "
    "first chunk; medians over the warm songs of all runs, spread from lowest to highest"
)
WORKER = "from musicot_mlx.evaluation.speed.bench import worker; worker()"


def worker() -> None:
    """One run in this process: its order as JSON on standard input, what it measured on output."""
    print(json.dumps(one_run(json.load(sys.stdin))))


def one_run(order: dict[str, Any]) -> dict[str, Any]:
    """Load, make a cold song and warm ones, stream to the first chunk; see `measure` for order."""
    began = time.perf_counter()
    import mlx.core as mx

    if order.get("cache_limit") is not None:
        mx.set_cache_limit(order["cache_limit"])
    model = musicot_mlx.load(order["model"])
    loaded = time.perf_counter() - began
    ready = mx.get_peak_memory()
    options = {"duration": order["duration"], "seed": order["seed"]}
    if "music" in model.options:  # or the model may answer instead of playing
        options["music"] = True
    if order["batch"] > 1:
        options["candidates"] = order["batch"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if order.get("save", True) else None  # random weights make no song
        songs = [_song(model, options, place) for _ in range(1 + order["songs"])]
    began = time.perf_counter()
    whole = {name: value for name, value in options.items() if name != "candidates"}
    next(model.stream(PROMPT, **whole))
    first_audio = time.perf_counter() - began
    report = {
        "load_seconds": loaded,
        "first_audio_seconds": first_audio,
        "cold": songs[0],
        "warm": songs[1:],
        "memory": {
            "peak_active_gb": max(ready, mx.get_peak_memory()) / 1e9,
            "cache_gb": mx.get_cache_memory() / 1e9,
            "process_gb": hardware.peak_resident() / 1e9,
        },
        "dtype": str(model.dtype).removeprefix("mlx.core."),
    }
    if order["counts"]:
        counts = _counts(model, order["duration"], order["batch"])
        report["ceilings"] = hardware.ceilings(report["dtype"])
        report["costs"] = {stage: vars(cost) for stage, cost in counts.stages.items()}
        report["operations"], report["evals"] = counts.operations, counts.evals_per_token
        report["machine"] = hardware.facts()
    return report


def _counts(model: Any, duration: float, batch: int) -> cost.Counts:
    """What the family counts of its songs; nothing where it counts nothing."""
    count = model.family.get("costs")
    return count(model, duration=duration, batch=batch) if count else cost.Counts({}, {}, {})


def _song(model: Any, options: dict[str, Any], folder: Path | None) -> dict[str, float]:
    """Seconds of each stage of one song, by the family's names, and of the whole."""
    began = time.perf_counter()
    song = model.generate(PROMPT, **options)
    rendered = time.perf_counter()
    if folder is not None:
        song.save(folder / "song.wav")
    ended = time.perf_counter()
    names = model.family.stages
    stages = {name: song.timings.get(key, 0.0) for key, name in names.items()}
    rest = {key: spent for key, spent in song.timings.items() if key not in names}
    return stages | rest | {"file": ended - rendered, "total": ended - began}


def measure(
    model: str,
    *,
    duration: float,
    runs: int,
    songs: int = 1,
    seed: int = 1,
    batch: int = 1,
    bits: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """One row: `runs` fresh processes, each with `songs` warm songs after a cold one.

    batch: songs drawn in one batch (candidates). bits: 4, 8, ... as the model is stored, or None.
    Raises what fresh_process raises, and MusicotError for an unknown model.
    """
    folder = mlx_folder(model)
    if not family_of(folder).can("songs"):
        raise MusicotError(f"{model} makes no songs; pass a {titles('songs')} model")
    order = {
        "model": str(folder),
        "duration": duration,
        "seed": seed,
        "songs": songs,
        "batch": batch,
    }
    reports = []
    for i in range(runs):
        line = fresh_process([sys.executable, "-c", WORKER], order | {"counts": i == 0})
        reports.append(json.loads(line))
        if progress:
            progress(i + 1, runs)
    return _row(reports, duration=duration, batch=batch, bits=bits, runs=runs)


def fresh_process(command: list[str], order: dict[str, Any] | None = None) -> str:
    """The last line that a command prints, `order` being its input as JSON.

    Raises MusicotError for a package that is missing, RunError with the last complaint otherwise.
    """
    root = str(Path(musicot_mlx.__file__).parent.parent)  # found from any folder, as it is here
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        command,
        input=None if order is None else json.dumps(order),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no word of it"])[-1]
        if "No module named" in last:
            raise MusicotError(f"{last}; pip install 'musicot-mlx[torch]'")
        raise RunError(f"a measured process ended with {result.returncode}: {last}")
    return (result.stdout.strip().splitlines() or [""])[-1]


def _row(
    reports: list[dict[str, Any]], *, duration: float, batch: int, bits: int | None, runs: int
) -> dict[str, Any]:
    warm = [song for report in reports for song in report["warm"]]
    cold = [r["load_seconds"] + r["cold"]["total"] for r in reports]
    names = [name for name in warm[0] if name != "total"]
    stages = {name: _spread([song.get(name, 0.0) for song in warm]) for name in names}
    total = _spread([song["total"] for song in warm])
    audio = duration * batch
    first, costs = reports[0], reports[0]["costs"]
    seconds = {name: stage["median"] for name, stage in stages.items()}
    counted = {name: cost.Cost(**each) for name, each in costs.items()}
    return {
        "duration": duration,
        "batch": batch,
        "bits": bits,
        "dtype": first["dtype"],
        "runs": runs,
        "stages": stages,
        "total": total,
        "rtf": {key: value / audio for key, value in total.items()},
        "times_real_time": audio / total["median"],
        "cold_seconds": _spread(cold),
        "cold_rtf": statistics.median(cold) / audio,
        "load_seconds": _spread([r["load_seconds"] for r in reports]),
        "first_audio_seconds": _spread([r["first_audio_seconds"] for r in reports]),
        "memory": {key: max(r["memory"][key] for r in reports) for key in first["memory"]},
        "ceilings": first["ceilings"],
        "roofline": cost.roofline(counted, seconds, first["ceilings"], audio),
        "operations": first["operations"],
        "evals_per_token": first["evals"],
        "machine": first["machine"],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def bounds(row: dict[str, Any]) -> dict[str, float]:
    """RTF that each Mac's published bandwidth allows the audio tokens at best, by chip.

    A bound and no prediction: the bytes that this run read, at that speed, and nothing else.
    """
    read = row["roofline"].get("audio tokens")
    if read is None:
        return {}
    size = read["steps"] * read["bytes_per_step"]
    return {
        chip: size / (gigabytes * 1e9) / row["duration"]
        for chip, gigabytes in hardware.PUBLISHED_BANDWIDTH.items()
    }


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown: songs, then stages of each, then what bounds them."""
    lines = [
        "| song | RTF (lowest-highest) | x real time | cold RTF | first audio | peak active "
        "| cache | process |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        memory, rtf = row["memory"], row["rtf"]
        lines.append(
            f"| {_name(row)} | {rtf['median']:.2f} ({rtf['low']:.2f}-{rtf['high']:.2f}) "
            f"| {row['times_real_time']:.1f} | {row['cold_rtf']:.2f} "
            f"| {row['first_audio_seconds']['median']:.1f} s | {memory['peak_active_gb']:.2f} GB "
            f"| {memory['cache_gb']:.2f} GB | {memory['process_gb']:.2f} GB |"
        )
    for row in results["rows"]:
        lines += ["", *_stage_table(row)]
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    extra = f", {row['batch']} in a batch" if row["batch"] > 1 else ""
    bits = f", {row['bits']} bits" if row["bits"] else ""
    return f"{row['duration']:g} s{extra}{bits}, {row['dtype']}"


def _stage_table(row: dict[str, Any]) -> list[str]:
    audio = row["duration"] * row["batch"]
    lines = [
        f"| {_name(row)} | seconds | RTF | steps/s | MB read a step | GFLOP a second of audio "
        "| of copy speed | of matmul speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, stage in row["stages"].items():
        seconds = stage["median"]
        roofline = row["roofline"].get(name)
        cells = [name, f"{seconds:.2f}", f"{seconds / audio:.3f}"]
        if roofline is None or "steps_per_second" not in roofline:
            cells += [""] * 5
        else:
            cells += [
                f"{roofline['steps_per_second']:.1f}",
                f"{roofline['bytes_per_step'] / 1e6:.1f}",
                f"{roofline['flops_per_second_of_audio'] / 1e9:.1f}",
                f"{100 * roofline['share_of_copy']:.0f} %",
                f"{100 * roofline['share_of_matmul']:.0f} %",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    counted, evals = row["operations"], row["evals_per_token"]
    if counted:
        listed = ", ".join(f"{count} of one {what}" for what, count in counted.items())
        lines += [
            "",
            f"MLX operations: {listed}; the host waits {evals['eval']:.2f} and queues "
            f"{evals['async_eval']:.2f} times a token",
        ]
    return lines
