"""Does tuning take? Ten pieces of one style, 200 steps, before and after; and what it costs.

    python benchmarks/lora.py --json benchmarks/results/lora.json   # all; long on two cores
    python benchmarks/lora.py machines memory --json benchmarks/results/lora.json

`style` has the band play ten pieces to learn from and four to hold out (fixed seeds; FluidSynth and
a sound font are needed), as from a worn tape: a style that no model here was trained on. It tunes
the semantic LM and the diffusion with `musicot lora`, kills one run at half time and resumes it,
and renders a prompt of the trigger word alone with several seeds. What is nearer the style is told
by CLAP and by signal measures that know no model. `machines` compares one process with two under
mlx.launch; `memory` measures peaks of a step at the shape of musicgen-small with random weights.
Each writes its own section of the JSON; the tables are printed from it. `--steps` and `--renders`
shorten a trial.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import musicot_mlx as mc
from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.audio.signals import measure
from musicot_mlx.cli import main as musicot
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.weights.hub import resolve

STYLE, TRIGGER = "funk", "zyx"
TAPE_SPEED, TAPE_HZ = 0.8, 2500.0  # a worn tape: slower and lower, and dull
TRAIN_SEEDS, VALID_SEEDS = range(9000, 9010), range(9100, 9104)
DURATION = 30.0  # seconds of a piece and of a render
# Every linear layer of the diffusion, those around its blocks too: a tape changes latents as such.
DIFFUSION_LAYERS = """\
lora_parameters:
  rank: 16
  scale: 20.0
  keys: [attn1.to_qkv, attn1.to_out, attn2.to_q, attn2.to_kv, attn2.to_out, ff.gate_up, ff.down,
    dit.proj_in, dit.proj_out, dit.preprocess_conv, dit.postprocess_conv,
    dit.timestep_proj.linear_2, semantic_embedding]
"""
SIGNALS = ("onset_rate", "percussive_share", "spectral_centroid")


def make_songs(folder: Path, style: str) -> None:
    """The band's pieces of one style, with train.jsonl and valid.jsonl; made once."""
    import soundfile

    from musicot_mlx.reference.band import caption, compose, render

    folder.mkdir(parents=True, exist_ok=True)
    for split, seeds in (("train", TRAIN_SEEDS), ("valid", VALID_SEEDS)):
        rows = []
        for seed in seeds:
            piece, file = compose(seed, duration=DURATION, style=style), folder / f"{seed}.wav"
            if not file.is_file():
                audio = worn_tape(render(piece).mean(axis=1))
                soundfile.write(file, audio, 44100, subtype="PCM_16")
            words = caption(piece, np.random.default_rng(seed))
            rows.append({"audio": file.name, "caption": words})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def worn_tape(waveform: np.ndarray) -> np.ndarray:
    """A waveform (samples,) at 44.1 kHz, slower and lower, its highs gone, its peaks pressed."""
    from scipy.signal import butter, sosfilt

    slow = resample(waveform, round(44100 * TAPE_SPEED), 44100)[: len(waveform)]
    dull = sosfilt(butter(4, TAPE_HZ, fs=44100, output="sos"), slow)
    return 0.5 * np.tanh(3 * dull / np.abs(dull).max())


def model_hash(model: str) -> str:
    found = hashlib.sha256()
    for file in sorted(resolve(model).glob("*.safetensors")):
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def lora(model: str, data: Path, out: Path, steps: int, *more: str) -> dict[str, Any]:
    """Run `musicot lora --train`; its losses and proof."""
    flags = ["lora", "--train", "--model", model, "--data", str(data), "--adapter-path", str(out)]
    code = musicot([*flags, "--trigger", TRIGGER, "--iters", str(steps), *more])
    if code:
        raise SystemExit(code)
    losses = json.loads((out / "losses.json").read_text())
    return {"losses": losses, "proof": json.loads((out / "proof.json").read_text())}


def style(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    data = work / f"songs-{STYLE}"
    make_songs(data, STYLE)
    before = model_hash(args.model)
    parts = {}
    layers = work / "diffusion.yaml"
    layers.write_text(DIFFUSION_LAYERS)
    for part, more in (
        (
            "semantic_lm",
            ["--batch-size", "2", "--learning-rate", "5e-4", "--max-seq-length", "400"],
        ),
        (
            "diffusion",
            ["--batch-size", "8", "--learning-rate", "6e-4", "--config", str(layers)],
        ),
    ):
        out = work / part
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        common = ["--part", part, "--steps-per-eval", str(args.steps // 4)]
        common += ["--val-batches", "12", "--render-seconds", "0", *more]
        found = lora(args.model, data, out, args.steps, *common)
        parts[part] = {
            "steps": args.steps,
            "seconds": round(time.perf_counter() - began, 1),
            "loss_before": found["proof"]["loss_before"],
            "loss_after": found["proof"]["loss_after"],
            "fall": 1 - found["proof"]["loss_after"] / found["proof"]["loss_before"],
            "best": found["proof"]["best"],
            "keys_applied": found["proof"]["keys_applied"],
            "flags": [Path(flag).name for flag in more],
            "layers": DIFFUSION_LAYERS if part == "diffusion" else "all of the blocks",
        }
        if part == "semantic_lm":
            parts[part]["resumed"] = resumed(args, data, work, common, found["losses"])
    adapters = [str(work / part) for part in parts]
    report = {
        "model": model_name(args.model),
        "style": STYLE,
        "songs": len(TRAIN_SEEDS),
        "held_out": len(VALID_SEEDS),
        "parts": parts,
        "renders": nearness(args.model, adapters, data, work, args.renders),
        "base_file_untouched": model_hash(args.model) == before,
    }
    return report


def resumed(
    args: argparse.Namespace, data: Path, work: Path, flags: list[str], whole: dict[str, Any]
) -> dict[str, Any]:
    """Kill a run after half of its steps, resume it, and compare its losses with the unbroken."""
    out, stop = work / "broken", args.steps // 2
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "musicot_mlx", "lora", "--train", "--model", args.model]
    command += ["--data", str(data), "--adapter-path", str(out), "--trigger", TRIGGER]
    command += ["--iters", str(args.steps), "--save-every", str(stop), *flags]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while run.poll() is None and not (out / "training_state.safetensors").is_file():
        time.sleep(0.05)
    run.kill()  # no chance to tidy up
    run.wait()
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    again = json.loads((out / "losses.json").read_text())
    difference = np.abs(np.array(again["train"]) - np.array(whole["train"]))
    return {
        "killed_after_step": stop,
        "steps_compared": len(difference) - stop,
        "largest_difference": float(difference[stop:].max()),
        "same_best": again["best"] == whole["best"],
    }


def nearness(model: str, adapters: list[str], data: Path, work: Path, count: int) -> dict[str, Any]:
    """Renders of the trigger word before and after, held against the style's own pieces."""
    pieces = [read_audio(data / f"{seed}.wav") for seed in (*TRAIN_SEEDS, *VALID_SEEDS)]
    plain, tuned = mc.load(model), mc.load(model, adapter_path=adapters)
    centre = np.concatenate([plain.clap.embed_audio(*piece) for piece in pieces]).mean(axis=0)
    centre /= np.linalg.norm(centre)
    target = {name: [getattr(measure(*piece), name) for piece in pieces] for name in SIGNALS}
    medians = {name: float(np.median(values)) for name, values in target.items()}
    rows: dict[str, Any] = {"prompt": TRIGGER, "seeds": count, "style": medians}
    for label, pipeline in (("before", plain), ("after", tuned)):
        songs = []
        for seed in range(count):
            song = pipeline.generate(TRIGGER, duration=DURATION, seed=seed, **AS_MADE)
            song.save(work / f"{label}-{seed}.wav")
            near = float((pipeline.clap.embed_audio(song.waveform, 44100) @ centre).mean())
            songs.append({"clap": near, **asdict(measure(song.waveform, song.sample_rate))})
        rows[label] = {name: [round(s[name], 4) for s in songs] for name in ("clap", *SIGNALS)}
    return rows


def model_name(model: str) -> str:
    return Path(model).name


def machines(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The same short run in one process and in two under mlx.launch; its losses compared."""
    data = work / f"songs-{STYLE}"
    make_songs(data, STYLE)
    launch = Path(sys.executable).with_name("mlx.launch")
    losses, seconds = {}, {}
    for count in (1, 2):
        out = work / f"processes-{count}"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "musicot_mlx", "lora", "--train", "--model", args.model]
        command += ["--data", str(data), "--adapter-path", str(out), "--iters", "8"]
        command += ["--batch-size", "4", "--max-seq-length", "300", "--render-seconds", "0"]
        command += ["--val-batches", "2", "--grad-accumulation-steps", "2", "--save-every", "4"]
        if count > 1:
            command = [str(launch), "-n", str(count), "--backend", "ring", "--", *command]
        began = time.perf_counter()
        # mlx.launch polls its standard input: an open pipe keeps it from spinning
        run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        if run.wait():
            raise SystemExit(run.returncode)
        seconds[count] = round(time.perf_counter() - began, 1)
        losses[count] = json.loads((out / "losses.json").read_text())
    train = np.abs(np.subtract(losses[1]["train"], losses[2]["train"])).max()
    valid = np.abs(np.subtract(losses[1]["valid"], losses[2]["valid"])).max()
    return {
        "iterations": 8,
        "updates": 4,
        "largest_difference_train": float(train),
        "largest_difference_held_out": float(valid),
        "seconds": seconds,
    }


def memory(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Peaks of one training step at musicgen-small's shape: rank 8, 10 s, one song, float32."""
    found = {}
    for saving in (False, True):
        command = [sys.executable, __file__, "step", *(["--grad-checkpoint"] if saving else [])]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        found["with_checkpointing" if saving else "plain"] = json.loads(run.stdout)
    return {"shape": "musicgen-small", "rank": 8, "seconds": 10, "dtype": "float32", **found}


def step(args: argparse.Namespace) -> None:
    """One such step in this process; prints its figures as JSON."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from musicot_mlx.models.musicgen import MUSICGEN_SMALL, Musicgen
    from musicot_mlx.nn.adapters import add_layers
    from musicot_mlx.pipelines.parts import for_device
    from musicot_mlx.training.musicgen import Excerpt, decoder_loss
    from musicot_mlx.training.trainer import checkpointed

    lm, rng = for_device(Musicgen(MUSICGEN_SMALL)), np.random.default_rng(0)
    add_layers(lm, kind="lora", num_layers=-1, rank=8, scale=20.0, dropout=0.0)
    codes = rng.integers(0, 2048, (4, round(10 * MUSICGEN_SMALL.frame_rate))).astype(np.int32)
    text = mx.random.normal((12, MUSICGEN_SMALL.text_hidden_size))
    mx.eval(lm.parameters(), text)
    weights = sum(value.nbytes for _, value in tree_flatten(lm.parameters()))
    mx.reset_peak_memory()
    began = time.perf_counter()
    with checkpointed(lm.layers if args.grad_checkpoint else []):
        loss = nn.value_and_grad(lm, lambda: decoder_loss(lm, [Excerpt("", codes, text)]))()
        mx.eval(loss)
    report = {
        "weights_gb": round(weights / 1e9, 3),
        "peak_gb": round(mx.get_peak_memory() / 1e9, 3),
        "seconds_a_step": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(report))


def table(results: dict[str, Any]) -> str:
    lines = []
    if found := results.get("style"):
        lines += ["| part | held-out loss before | after | lower by |", "|---|---|---|---|"]
        for name, part in found["parts"].items():
            lines.append(
                f"| {name} | {part['loss_before']:.3f} | {part['loss_after']:.3f} | "
                f"{100 * part['fall']:.0f} % |"
            )
        renders = found["renders"]
        lines += ["", "| renders of the trigger word | before | after | the style |"]
        lines += ["|---|---|---|---|"]
        for name in ("clap", *SIGNALS):
            cells = [f"{np.median(renders[label][name]):.3g}" for label in ("before", "after")]
            own = renders["style"].get(name)
            lines.append(
                f"| {name} | {' | '.join(cells)} | {'' if own is None else f'{own:.3g}'} |"
            )
    if found := results.get("machines"):
        lines += ["", f"one process against two: losses within {_largest(found):.1e}"]
    if found := results.get("memory"):
        peaks = [found[name]["peak_gb"] for name in ("plain", "with_checkpointing")]
        lines += ["", f"musicgen-small, 10 s: {peaks[0]:.2f} GB, checkpointed {peaks[1]:.2f} GB"]
    return "\n".join(lines)


def _largest(found: dict[str, Any]) -> float:
    return max(found["largest_difference_train"], found["largest_difference_held_out"])


SECTIONS = {"style": style, "machines": machines, "memory": memory}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", help="style, machines, memory (default: all)")
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--steps", type=int, default=200, help="of style's runs (default: 200)")
    parser.add_argument("--renders", type=int, default=6, help="songs before and after")
    parser.add_argument("--work", type=Path, help="folder for songs and adapters, kept")
    parser.add_argument("--json", type=Path, help="put the results into this file")
    parser.add_argument("--grad-checkpoint", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == ["step"]:
        step(args)
        return 0
    chosen = args.what or list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {}
        if args.json and args.json.is_file():
            results = json.loads(args.json.read_text())
        for name in chosen:
            found = SECTIONS[name](args, work)
            results[name] = {**found, "machine": f"{platform.machine()}, {platform.system()}"}
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
