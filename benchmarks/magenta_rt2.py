"""Magenta RealTime 2's small shape with random weights: conversion, 10 s, and upstream beside it.

    python -m benchmarks.magenta_rt2 /tmp/mrt2 --json benchmarks/results/magenta-rt2.json
    ... --upstream /tmp/env/bin/python     an environment with magenta-rt 2.0.3

The checkpoint has the released file's 374 names and shapes (tests/parity/magenta_rt2); what is
counted, bytes and kernels, holds for the real one. Frames of the language model and of the codec
are timed apart, upstream's own MLX code on the same file in a process of its own, in turns with
ours. MusicCoCa is left out: it runs once a plan. Float32, as a CPU computes. Memory is that of a
tiny model's stream, 30 s against 300 s, and what the real shape's language model keeps of the past.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import musicot_mlx  # noqa: F401  (OpenBLAS before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.convert.keymaps import depthformer, spectrostream
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.evaluation.speed import cost, hardware
from musicot_mlx.generation import device
from musicot_mlx.generation.magenta_rt2 import FrameRun, generate_codes
from musicot_mlx.models.depthformer import Depthformer, DepthformerConfig
from musicot_mlx.models.spectrostream import SpectroStream, SpectroStreamConfig
from musicot_mlx.pipelines.magenta_rt2 import FAMILY
from musicot_mlx.pipelines.parts import for_device
from musicot_mlx.tokens.magenta_rt2 import frame_ids
from musicot_mlx.weights.checkpoint import load_strict, part
from tests.support import tiny_magenta_model
from tests.support.networks import as_stored

ROOT = Path(__file__).resolve().parent.parent
KEYS = ROOT / "tests" / "parity" / "magenta_rt2" / "keys_small.tsv.gz"
STYLE = [660, 597, 668, 315, 857, 217, 930, 175, 655, 343, 534, 137]
FRAMES, CODEC_FRAMES = 50, 12  # of a timing

UPSTREAM = """
import sys, time
from tests.parity.magenta_rt2.upstream import stub_all
stub_all()
import magenta_rt
import mlx.core as mx, numpy as np
import sequence_layers.mlx as sl
from magenta_rt.mlx import load_weights, model, spectrostream, system
experiment = model.get_model_class("mrt2_small")()
experiment.compute_dtype = mx.float32
codec = spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config(
    rvq_truncation_level=12, use_unique_codes=False)
sampler = system.MagentaRT2Sampler.Config(
    depthformer=experiment.depthformer_config(), spectrostream=codec, int16_outputs=False).make()
load_weights.convert_to_bf16 = lambda module: None
load_weights.load_weights(sampler, sys.argv[1], num_input_channels=experiment.input_num_channels)
row = np.array([*STYLE, *[-1] * 129, 20, 10, 2]) + 7
block = sl.Sequence(mx.array(row[None, None].astype("i4")), mx.array([[True]]))
constants = {"temperature": mx.array([1.3]), "top_k": mx.array([40])}
spec = sl.ChannelSpec(shape=(144,), dtype=mx.int32)
def timed(step, frames):
    seconds = []
    for _ in range(frames):
        began = time.perf_counter(); step(); seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[4:]))
lm = sampler.layers[0]
state = lm.get_initial_state(1, spec, constants=constants)
def frame():
    global state
    y, state = lm.step(x=block, state=state, constants=constants); mx.eval(y.values)
alone = timed(frame, FRAMES)
whole = sampler.get_initial_state(1, spec, constants=constants)
def both():
    global whole
    y, whole, _ = sampler.step_with_emits(x=block, state=whole, constants=constants, training=False)
    mx.eval(y.values)
print("TIMED", alone, timed(both, CODEC_FRAMES))
"""


def write_checkpoint(path: Path) -> None:
    """Random weights under the released names."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng, arrays = np.random.default_rng(0), {}
    for line in gzip.open(KEYS, "rt"):
        key, shape = line.split("\t")[:2]
        size = tuple(int(n) for n in shape.strip("()").split(",") if n)
        noise = rng.standard_normal(size, dtype=np.float32)
        scale = 0.3 if len(size) < 2 else np.prod(size[:-1]) ** -0.5
        value = 1 + 0.1 * noise if key.endswith("norm/scale") else scale * noise
        arrays[key] = mx.array(value.astype(np.float32))
    mx.save_safetensors(str(path), arrays)


def converted(path: Path, target: Path) -> dict[str, Any]:
    """The file read by the key tables and written as the MLX folder has it."""
    began = time.perf_counter()
    arrays = mx.load(str(path))
    prefixes = {"lm": depthformer.PREFIX, "codec": spectrostream.DECODER}
    rules = {"lm": depthformer.RULES, "codec": spectrostream.DECODER_RULES}
    made = {}
    for name, prefix in prefixes.items():
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        own = apply_rules(rules[name], own, where=name)
        made |= {f"{name}.{key}": value for key, value in own.items()}
    mx.save_safetensors(str(target), made)
    return {"arrays": len(arrays), "seconds": round(time.perf_counter() - began, 1)}


def loaded(target: Path) -> tuple[Depthformer, SpectroStream]:
    arrays, lm, codec = mx.load(str(target)), Depthformer(DepthformerConfig()), None
    load_strict(lm, part(arrays, "lm"), where="lm")
    codec = SpectroStream(SpectroStreamConfig())
    codec.encoder = None  # not of this file
    load_strict(codec, part(arrays, "codec"), where="codec")
    mx.eval(lm.parameters(), codec.parameters())
    return for_device(lm), for_device(codec)


def requests(frames: int) -> np.ndarray:
    return np.broadcast_to(frame_ids(np.array(STYLE)), (1, frames, 144))


def ours(lm: Depthformer, codec: SpectroStream) -> dict[str, float]:
    """Seconds of a frame of codes, and of the codec for a frame, as a song is decoded."""
    began, seconds = time.perf_counter(), []
    blocks = generate_codes(lm, requests(FRAMES), keys=[mx.random.key(0)], block=1)
    codes = []
    for block in blocks:
        codes.append(block)
        seconds.append(time.perf_counter() - began)
    frame = float(np.median(np.diff(seconds)[5:]))
    joint = mx.array(np.concatenate(codes[: CODEC_FRAMES + 1], axis=-1))
    began = time.perf_counter()
    mx.eval(codec.decode(joint))
    return {"frame": frame, "codec": (time.perf_counter() - began) / CODEC_FRAMES}


def theirs(python: str, checkpoint: Path, *, preload: str = "") -> dict[str, float]:
    """Upstream's seconds; preload: a BLAS in place of the one that MLX's wheel brings."""
    code = UPSTREAM.replace("STYLE", str(STYLE)).replace("CODEC_FRAMES", str(CODEC_FRAMES))
    code = code.replace("FRAMES", str(FRAMES))
    out = subprocess.run(
        [python, "-c", code, str(checkpoint)],
        cwd=ROOT, env=os.environ | {"LD_PRELOAD": preload}, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    alone, both = (float(x) for x in out.split("TIMED", 1)[1].split())
    return {"frame": alone, "frame_and_codec": both}


def counts(lm: Depthformer) -> dict[str, Any]:
    """What holds anywhere: bytes read for a frame in 16 and 8 bits, and the kernels of one on a
    GPU, in bfloat16 as it is stored and before it is compiled.
    """
    _, values = cost.magenta_weights(lm)
    stored = Depthformer(lm.config)
    as_stored(stored, FAMILY, "lm")
    noise = mx.zeros((1, 12, 1024))
    with mock.patch.object(device, "compiled", lambda function: function):
        run = FrameRun(stored, requests(4), temperature=1.0)
        mx.eval(stored.parameters(), run.next(noise), run.rings, run.ids)
        graph = cost.gpu_counts(lambda: run.next(noise))
    return {"weights_read_a_frame": values, "bfloat16_mb": values * 2 / 1e6, **graph}


def stream_memory() -> dict[str, float]:
    """Peak of a tiny model's stream by its length, MB; the process must hold nothing else yet."""
    model, peaks = tiny_magenta_model.pipeline(past=24), {}
    list(model.stream("calm piano", duration=5, seed=1))
    for seconds in (30, 300):
        mx.reset_peak_memory()
        for _ in model.stream("calm piano", duration=seconds, seed=1):
            pass  # as a player takes it
        peaks[f"{seconds}_s_mb"] = round(mx.get_peak_memory() / 1e6, 2)
    return peaks


def kept(lm: Depthformer) -> float:
    """Keys and values of the real shape, MB, however long it plays."""
    run = FrameRun(lm, requests(4))
    return round(sum(value.nbytes for _, value in tree_flatten(run.rings)) / 1e6, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--upstream", help="the python of an environment with magenta-rt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checkpoint = args.folder / "checkpoints" / "mrt2_small.safetensors"
    found: dict[str, Any] = {"memory": {"tiny_stream": stream_memory()}}
    write_checkpoint(checkpoint)
    found["conversion"] = converted(checkpoint, args.folder / "mlx.safetensors")
    lm, codec = loaded(args.folder / "mlx.safetensors")
    found["counts"] = counts(lm)
    found["memory"]["real_shape_past_mb"] = kept(lm)
    rounds = []
    for _ in range(args.rounds):
        row: dict[str, Any] = {"ours": ours(lm, codec)}
        if args.upstream:
            row["upstream"] = theirs(args.upstream, checkpoint)
            blas = "libopenblas.so.0"
            row["upstream_with_openblas"] = theirs(args.upstream, checkpoint, preload=blas)
        rounds.append(row)
        print(row, flush=True)
    found["rounds"] = rounds
    began = time.perf_counter()
    blocks = generate_codes(lm, requests(251), keys=[mx.random.key(1)])
    sound = [np.array(piece) for piece in codec.decode_stream(map(mx.array, blocks))]
    seconds = sum(piece.shape[1] for piece in sound) / codec.config.sample_rate
    assert all(np.isfinite(piece).all() for piece in sound)
    spent = time.perf_counter() - began
    found["song"] = {"seconds": seconds, "real_time_factor": round(spent / seconds, 2)}
    scale = 1 if sys.platform == "darwin" else 1024
    found["process_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9
    found["machine"] = hardware.facts()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
