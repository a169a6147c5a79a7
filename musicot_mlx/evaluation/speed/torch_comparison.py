"""MLX beside the PyTorch reference: the same weights, the same run, processes in turn.

Three shapes stand side by side, float32 all:

- a model as it is, its weights turned back into a PyTorch checkpoint and converted from there as a
  user would: both sides hold the same numbers. A song is as long as the reference makes them, one
  diffusion window; both sides take the same steps and guidance;
- the semantic LM at the paper's 1 B shape, and MusicGen small's decoder, with random weights and
  few tokens: seconds a token, two rows of guidance, caches on both sides.

No process holds both libraries: PyTorch would call the OpenBLAS that was loaded for MLX, whose
threads and its own wait for each other, and be twenty times slower.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.speed import bench as speed
from musicot_mlx.evaluation.speed import hardware
from musicot_mlx.pipelines.conversion_cache import mlx_folder
from musicot_mlx.pipelines.families import family_of
from musicot_mlx.weights.checkpoint import read_config

SHAPES = ("model", "lm-1b", "musicgen-small")
RECIPE = (
    "fresh processes in turn, medians over all of them; the model: warm songs of one diffusion "
    "window after a cold one, its own weights on both sides, the reference's LM with transformers' "
    "key-value cache and both rows of guidance in a batch; lm-1b and musicgen-small: random "
    "weights, seconds a token after the first ones; float32"
)
WORKER = "from musicot_mlx.evaluation.speed.torch_comparison import worker; worker()"
TOKENS, SKIPPED = 20, 4  # of the random shapes: the first hold the prefill and the caches' growth
PREFIX = {"lm-1b": 40, "musicgen-small": 12}  # positions before the tokens, or of text
_STAGES = ("audio tokens", "diffusion", "decode", "total")
_REFERENCE = "musicot_mlx.reference"


def torch(
    model: str,
    *,
    runs: int,
    songs: int = 3,
    shapes: tuple[str, ...] = SHAPES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Seconds on both sides: of each stage of `songs` warm songs, of a token of the other shapes.

    Raises MusicotError for a model that is not MusiCoT's, or where PyTorch is missing.
    """
    done, total = 0, 2 * runs * len(shapes)

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    results: dict[str, Any] = {"recipe": RECIPE, "model": model, "runs": runs, "rows": []}
    for shape in shapes:
        if shape == "model":
            timed = _songs(model, runs=runs, songs=songs, step=step)
            results |= {"duration": timed["duration"], "songs": songs}
        else:
            timed = _tokens(shape, runs=runs, step=step)
        results["rows"] += timed["rows"]
        results["machine"] = timed["machine"]
    return results | {"table": table(results)}


def _songs(model: str, *, runs: int, songs: int, step: Callable[[], None]) -> dict[str, Any]:
    folder = mlx_folder(model)
    family = family_of(folder)
    if not family.can("to_pytorch"):
        raise MusicotError(f"{model} is a {family.title}, which has no PyTorch side here")
    duration = one_window(read_config(folder, model_types=(family.model_type,)))
    order = {"duration": duration, "seed": 1, "songs": songs, "batch": 1, "save": False}
    sides: dict[str, list[dict[str, float]]] = {"MLX": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as room:
        pytorch, mlx = str(Path(room) / "pytorch"), str(Path(room) / "mlx")
        back = [sys.executable, "-m", "musicot_mlx.convert.to_pytorch"]
        speed.fresh_process([*back, str(folder), pytorch])
        convert = [sys.executable, "-m", "musicot_mlx", "convert", "--dtype", "float32"]
        speed.fresh_process([*convert, "--hf-path", pytorch, "--mlx-path", mlx])
        machine, reference = {}, {}
        for i in range(runs):
            more = ["song", pytorch, "--duration", str(duration), "--songs", str(songs)]
            reference = _reference(more)
            sides["PyTorch"] += reference["songs"]
            step()
            job = order | {"model": mlx, "counts": i == 0}
            report = json.loads(speed.fresh_process([sys.executable, "-c", speed.WORKER], job))
            sides["MLX"] += report["warm"]
            machine = machine or report["machine"]
            step()
    rows = []
    for stage in _STAGES:
        seconds = {side: [song[stage] for song in timed] for side, timed in sides.items()}
        rows.append(_row(f"{Path(model).name}, {duration:g} s: {stage}", seconds))
    return {"rows": rows, "duration": duration, "machine": machine | _torch_facts(reference)}


def one_window(config: dict[str, Any]) -> float:
    """Seconds of the longest song of whole codes that is one window of the diffusion."""
    diffusion = config["diffusion"]
    rate = diffusion.get("audio_frame_rate", 25.0)
    frames = round(diffusion.get("window_seconds", 20.0) * diffusion["latent_rate"])
    return int(frames / diffusion["latent_rate"] * rate + 1e-6) / rate


def _tokens(shape: str, *, runs: int, step: Callable[[], None]) -> dict[str, Any]:
    from musicot_mlx.models.semantic_lm import MUSICOT_1B

    sides: dict[str, list[float]] = {"MLX": [], "PyTorch": []}
    ours, reference = {}, {}
    config = [json.dumps(asdict(MUSICOT_1B))] if shape == "lm-1b" else []
    length = ["--tokens", str(TOKENS), "--skipped", str(SKIPPED), "--prefix", str(PREFIX[shape])]
    for _ in range(runs):
        reference = _reference([shape, *config, *length])
        sides["PyTorch"] += reference["seconds"]
        step()
        ours = json.loads(
            speed.fresh_process([sys.executable, "-c", WORKER], {"shape": shape, "tokens": TOKENS})
        )
        sides["MLX"] += ours["seconds"]
        step()
    row = _row(f"{shape}, random weights: a token", sides)
    return {"rows": [row], "machine": ours["machine"] | _torch_facts(reference)}


def _reference(arguments: list[str]) -> dict[str, Any]:
    return json.loads(
        speed.fresh_process([sys.executable, "-m", f"{_REFERENCE}.speed", *arguments])
    )


def _torch_facts(report: dict[str, Any]) -> dict[str, Any]:
    return {f"torch_{name}": report[name] for name in ("threads", "device", "blas")}


def _row(what: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    median = {side: statistics.median(times) for side, times in seconds.items()}
    spread = {side: [min(times), max(times)] for side, times in seconds.items()}
    ratio = median["PyTorch"] / median["MLX"]
    return {"what": what, **median, "ratio": ratio, "lowest_highest": spread}


def worker() -> None:
    """The MLX side of a random shape: its order as JSON on standard input, figures on output."""
    order = json.load(sys.stdin)
    seconds = {"lm-1b": lm_1b, "musicgen-small": musicgen_small}[order["shape"]](order["tokens"])
    print(json.dumps({"seconds": seconds[SKIPPED:], "machine": hardware.facts()}))


def lm_1b(tokens: int) -> list[float]:
    """Seconds of each of the first tokens of the paper's 1 B LM, two rows of guidance."""
    import mlx.core as mx

    from musicot_mlx.generation.semantic import DecodingRun as Run
    from musicot_mlx.models.semantic_lm import MUSICOT_1B, SemanticLM

    lm = _built(SemanticLM(MUSICOT_1B))
    run = Run(lm, [lm.prefix(None, [5] * PREFIX["lm-1b"]), lm.prefix(None, [5] * 4)], 1)
    head = lm.head(*MUSICOT_1B.vocabulary.audio_range)
    seconds = []
    for i in range(tokens):
        began = time.perf_counter()
        logp = run.log_probabilities(head, 1.3)
        code = mx.random.categorical(logp, key=mx.random.key(i)).astype(mx.int32)
        mx.eval(code)
        run.feed(code + MUSICOT_1B.audio_offset)
        seconds.append(time.perf_counter() - began)
    return seconds


def musicgen_small(tokens: int) -> list[float]:
    """Seconds of each of the first steps of MusicGen small's decoder, four codebooks a step."""
    import mlx.core as mx

    from musicot_mlx.generation.musicgen import MusicgenCondition, generate_codes
    from musicot_mlx.models.musicgen import MUSICGEN_SMALL, Musicgen

    lm = _built(Musicgen(MUSICGEN_SMALL))
    condition = MusicgenCondition(
        mx.random.normal((PREFIX["musicgen-small"], MUSICGEN_SMALL.text_hidden_size))
    )
    keys = [mx.random.key(0)]
    marks = [time.perf_counter()]
    for _ in generate_codes(lm, [condition], frames=tokens, keys=keys, block=1):
        marks.append(time.perf_counter())
    return [after - before for before, after in zip(marks[:-1], marks[1:], strict=True)]


def _built(network: Any) -> Any:
    """The network with small random weights, drawn one by one, as large ones need; as it runs."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from musicot_mlx.pipelines.parts import for_device

    for _, value in tree_flatten(network.parameters()):
        mx.eval(value)
        mx.clear_cache()
    network.eval()
    return for_device(network)


def table(results: dict[str, Any]) -> str:
    """The rows as Markdown; above 1 MLX is the faster."""
    lines = ["| what | MLX | PyTorch | MLX's speed, PyTorch's being 1 |", "|---|---|---|---|"]
    for row in results["rows"]:
        seconds = f"{row['MLX']:.3f} s | {row['PyTorch']:.3f} s"
        lines.append(f"| {row['what']} | {seconds} | {row['ratio']:.2f} |")
    machine = results["machine"]
    lines += [
        "",
        f"{machine['chip']}, {machine['cores']} cores; MLX on {machine['device']}, "
        f"{machine['blas']}; PyTorch on {machine['torch_device']}, {machine['torch_threads']} "
        f"threads, {machine['torch_blas']}",
    ]
    return "\n".join(lines)
