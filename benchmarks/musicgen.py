"""MusicGen at musicgen-small's shape with random weights: steps, codec, batches and memory.

    python benchmarks/musicgen.py steps codec batch memory --json benchmarks/results/musicgen.json

Needs the [torch] extra: `steps` and `codec` run transformers beside MLX in one run, in turns, each
on all cores, and report medians and their ratio. PyTorch has a process of its own: in one process
the OpenBLAS that MLX calls answers PyTorch's matrix products too, and its waiting threads make
PyTorch several times slower. Float32, no pretrained weights. The tables are printed from the JSON;
nothing is compared with another machine. `memory` runs each length in a process of its own.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import musicot_mlx  # (OpenBLAS before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from musicot_mlx.generation import musicgen as loop
from musicot_mlx.generation.musicgen import MusicgenCondition, generate_codes
from musicot_mlx.models.encodec import ENCODEC_32KHZ, Encodec
from musicot_mlx.models.musicgen import MUSICGEN_SMALL, Musicgen, MusicgenConfig
from musicot_mlx.models.t5 import T5Config, T5Encoder
from musicot_mlx.pipelines.musicgen.pipeline import MusicgenPipeline, MusicgenSampling
from musicot_mlx.pipelines.parts import for_device

THREADS = os.cpu_count()  # what OpenBLAS takes by itself
TEXT_TOKENS = 12
ROUNDS = 5
SONG = 1.0  # seconds
PROMPTS = [
    f"{tempo} {music} with {sound}"
    for tempo, sound in (("slow", "a deep bass and strings"), ("fast", "drums and a bright organ"))
    for music in ("solo piano", "lo-fi hip hop", "orchestral film music", "techno")
]
SECTIONS = ("steps", "codec", "batch", "memory")


def network(config: MusicgenConfig) -> Musicgen:
    """A decoder with small random weights."""
    lm = Musicgen(config)
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(lm.parameters()))))
    lm.update(
        tree_map(
            lambda w: 0.02 * mx.random.normal(w.shape, key=next(keys)) if w.ndim > 1 else w,
            lm.parameters(),
        )
    )
    mx.eval(lm.parameters())
    return for_device(lm)


def conditions(songs: int) -> list[MusicgenCondition]:
    keys = mx.random.split(mx.random.key(1), songs)
    return [MusicgenCondition(mx.random.normal((TEXT_TOKENS, 768), key=key)) for key in keys]


def blocks(lm: Musicgen, songs: int, frames: int, **settings: Any) -> Any:
    keys = list(mx.random.split(mx.random.key(2), songs))
    return generate_codes(lm, conditions(songs), frames=frames, keys=keys, **settings)


def seconds_a_step(lm: Musicgen, songs: int, steps: int) -> float:
    """From the first block of five steps to the last, the beginning not counted."""
    marks = []
    for block in blocks(lm, songs, steps + 2, block=5):
        marks.append((time.perf_counter(), block.shape[-1]))
    counted = [frames for _, frames in marks[1:-1]]  # the last holds what the delay left
    return (marks[-2][0] - marks[0][0]) / sum(counted)


# --- sections ---


def steps(rounds: int) -> dict[str, Any]:
    """Time of a step with guidance, beside transformers; what a step reads and runs."""
    lm, beside = network(MUSICGEN_SMALL), Beside("decoder")
    rows = []
    for count in (40, 160):
        ours, theirs = [], []
        beside(10), seconds_a_step(lm, 1, 10)  # warm
        for _ in range(rounds if count < 100 else 1 + rounds // 4):
            theirs.append(1e3 * beside(count))
            ours.append(1e3 * seconds_a_step(lm, 1, count))
        rows.append({"steps": count, "mlx_ms": _spread(ours), "torch_ms": _spread(theirs)})
        rows[-1]["ratio"] = rows[-1]["mlx_ms"]["median"] / rows[-1]["torch_ms"]["median"]
    beside.close()
    return {"rows": rows, **step_anatomy(lm)}


class Beside:
    """PyTorch in a process of its own, which waits between its turns: seconds of what is asked."""

    def __init__(self, model: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--torch", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"MUSICOT_NO_OPENBLAS": "1"},
        )

    def __call__(self, asked: int | str) -> float:
        print(asked, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def answer(model: str) -> int:
    """The other end of Beside."""
    if model == "decoder":
        decoder = torch_decoder()
        runs = {"": lambda asked: decoder(int(asked))}
    else:
        codec = torch_codec()
        runs = {name: lambda asked: _timed(codec[asked]) for name in codec}
    for line in sys.stdin:
        asked = line.strip()
        print(runs.get(asked, runs.get(""))(asked), flush=True)
    return 0


def torch_decoder() -> Callable[[int], float]:
    """transformers' generate at the same shape: seconds a step."""
    import torch
    import transformers as hf

    torch.set_num_threads(THREADS)
    config = hf.MusicgenConfig(
        text_encoder=hf.T5Config(
            vocab_size=64, d_model=768, d_kv=64, d_ff=64, num_layers=1, num_heads=12
        ),
        audio_encoder=hf.EncodecConfig(  # the codec is not timed here
            target_bandwidths=[2.2],
            sampling_rate=32000,
            num_filters=2,
            num_lstm_layers=1,
            upsampling_ratios=[8, 5, 4, 4],
            hidden_size=8,
            codebook_size=2048,
            codebook_dim=8,
        ),  # fmt: skip
        decoder=hf.MusicgenDecoderConfig(),
    )
    model = hf.MusicgenForConditionalGeneration(config).eval()
    made = model.generation_config
    made.pad_token_id = made.bos_token_id = made.decoder_start_token_id = 2048
    ids = torch.randint(1, 64, (1, TEXT_TOKENS))
    marks: list[float] = []

    class Clock(hf.LogitsProcessor):
        def __call__(self, ids: Any, scores: Any) -> Any:
            marks.append(time.perf_counter())
            return scores

    def run(count: int) -> float:
        marks.clear()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), guidance_scale=3.0, do_sample=True,
            top_k=250, max_new_tokens=count, logits_processor=hf.LogitsProcessorList([Clock()]),
        )  # fmt: skip
        return (marks[-1] - marks[4]) / (len(marks) - 5)

    return run


def step_anatomy(lm: Musicgen) -> dict[str, Any]:
    """Bytes that a step reads, operations that it runs, evaluations and host reads a frame."""
    sizes = {name: value.nbytes for name, value in tree_flatten(lm.parameters())}
    unread = ("encoder_attn.kv", "embed_tokens", "enc_to_dec_proj")  # once a song, or by row
    read = sum(size for name, size in sizes.items() if not any(part in name for part in unread))
    width = lm.config.hidden_size * 4
    gathered = lm.config.num_codebooks * width
    position = 2 * 2 * width * lm.config.num_hidden_layers  # keys and values of two rows
    text = 2 * TEXT_TOKENS * width * lm.config.num_hidden_layers
    calls = {"async_eval": 0, "host_reads": 0}
    asynchronous, stack = mx.async_eval, mx.stack
    run = loop.DecodingRun(lm, conditions(1), 3.0)
    run.begin(0)
    tokens = mx.full((1, lm.config.num_codebooks, 1), lm.config.pad_id)
    mx.eval(run.logits(tokens))
    with tempfile.NamedTemporaryFile("r", suffix=".dot") as file:
        key = mx.random.key(0)[None]
        drawn = loop.draw_codebooks(run.logits(tokens), key, temperature=1.0, top_k=250)
        mx.export_to_dot(file.name, drawn)
        operations = sum("shape=rectangle" in line for line in file.read().splitlines())

    def count_async(*arrays: Any) -> None:
        calls["async_eval"] += 1
        asynchronous(*arrays)

    def count_stack(arrays: Any, axis: int = 0) -> mx.array:
        calls["host_reads"] += axis == -1  # the loop's own, before a block goes to the host
        return stack(arrays, axis=axis)

    mx.async_eval, mx.stack = count_async, count_stack
    try:
        frames = sum(block.shape[-1] for block in blocks(lm, 1, 47))
    finally:
        mx.async_eval, mx.stack = asynchronous, stack
    steps_run = frames + 3
    return {
        "weights_bytes": sum(sizes.values()),
        "bytes_read_per_step": {
            "weights": read + gathered,
            "text_keys_and_values": text,
            "cache_per_position": position,
        },
        "share_of_weights_read": (read + gathered) / sum(sizes.values()),
        "operations_per_step": operations,
        "async_evals_per_step": calls["async_eval"] / steps_run,
        "host_reads_per_step": calls["host_reads"] / steps_run,
    }


def codec(rounds: int) -> dict[str, Any]:
    """Decoding 10 s at 32 kHz beside transformers."""
    model, beside = for_device(Encodec(ENCODEC_32KHZ)), Beside("codec")
    mx.eval(model.parameters())
    codes, waveform = mx.array(some_codes()), mx.array(some_waveform())
    runs = {
        "decode": lambda: mx.eval(model.decode(codes)),
        "encode": lambda: mx.eval(model.encode(waveform)),
    }
    out = {}
    for name, run in runs.items():
        ours, theirs = [], []
        beside(name), run()  # warm
        for _ in range(rounds):
            theirs.append(beside(name))
            ours.append(_timed(run))
        out[name] = {"seconds": 10, "mlx_s": _spread(ours), "torch_s": _spread(theirs)}
        out[name]["ratio"] = out[name]["mlx_s"]["median"] / out[name]["torch_s"]["median"]
    beside.close()
    return out


def some_codes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2048, (1, 4, 500))


def some_waveform() -> np.ndarray:
    """10 s of noise, (batch, samples, channels)."""
    return 0.1 * np.random.default_rng(1).standard_normal((1, 320000, 1)).astype(np.float32)


def torch_codec() -> dict[str, Callable[[], Any]]:
    """transformers' EnCodec of the same shape."""
    import torch
    import transformers as hf

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    model = hf.EncodecModel(
        hf.EncodecConfig(
            target_bandwidths=[2.2],
            sampling_rate=32000,
            num_filters=64,
            hidden_size=128,
            upsampling_ratios=[8, 5, 4, 4],
            codebook_size=2048,
            codebook_dim=128,
            use_causal_conv=False,
            use_conv_shortcut=False,
        )  # fmt: skip
    ).eval()
    codes = torch.from_numpy(some_codes())[None]
    waveform = torch.from_numpy(some_waveform().swapaxes(1, 2).copy())
    return {
        "decode": lambda: model.decode(codes, [None]),
        "encode": lambda: model.encode(waveform),
    }


def batch(rounds: int) -> dict[str, Any]:
    """Eight prompts in one pass against one at a time: steps of the decoder, and whole songs."""
    lm, single, together = network(MUSICGEN_SMALL), [], []
    for _ in range(rounds):
        single.append(1e3 * seconds_a_step(lm, 1, 20))
        together.append(1e3 * seconds_a_step(lm, 8, 10))
    out = {"songs": 8, "one_ms": _spread(single), "eight_ms": _spread(together)}
    out["throughput_ratio"] = 8 * out["one_ms"]["median"] / out["eight_ms"]["median"]
    model = pipeline(lm)
    model.generate("warm", duration=1.0)
    single, together = [], []
    for _ in range(max(1, rounds // 4)):
        each = [_timed(lambda p=p: model.generate(p, duration=SONG)) for p in PROMPTS]
        single.append(sum(each))
        together.append(_timed(lambda: model.generate_batch(PROMPTS, duration=SONG)))
    out |= {"song_seconds": SONG, "one_at_a_time_s": _spread(single)}
    out["in_one_pass_s"] = _spread(together)
    out["song_ratio"] = out["one_at_a_time_s"]["median"] / out["in_one_pass_s"]["median"]
    return out


def pipeline(lm: Musicgen) -> MusicgenPipeline:
    """What `musicot generate --prompt-file` runs, at the released sizes with random weights."""
    words = {word: i for i, word in enumerate(["?", *sorted(set(" ".join(PROMPTS).split()))])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    text_encoder, codec = for_device(T5Encoder(T5Config())), for_device(Encodec(ENCODEC_32KHZ))
    mx.eval(text_encoder.parameters(), codec.parameters())
    return MusicgenPipeline(
        text_encoder=text_encoder, decoder=lm, codec=codec, tokenizer=tokenizer,
        sampling=MusicgenSampling(), name="small",
    )  # fmt: skip


# seconds, layers, seconds that are given: whole depth for 30 s, and beyond one window
LENGTHS = ((30.0, 24, 0.0), (30.0, 2, 0.0), (90.0, 2, 0.0))


def memory(rounds: int) -> dict[str, Any]:
    """Peak memory of the decoder alone: at 30 s, and beyond one window at fewer layers."""
    rows = []
    for length in LENGTHS:
        command = [sys.executable, __file__, "--one-memory", *map(str, length)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(out))
    return {"rows": rows}


def one_memory(seconds: float, layers: int, given: float) -> dict[str, Any]:
    """Generate so much in this process, its first seconds given; say what was held at most."""
    config = dataclasses.replace(MUSICGEN_SMALL, num_hidden_layers=layers)
    lm = network(config)
    weights = sum(value.nbytes for _, value in tree_flatten(lm.parameters()))
    frames = round(seconds * config.frame_rate)
    cached = min(frames, loop.WINDOW) + config.num_codebooks
    cached = -(-cached // 256) * 256  # the cache grows in blocks
    text = 2 * TEXT_TOKENS * config.hidden_size * 4 * layers
    caches = 2 * 2 * cached * config.hidden_size * 4 * layers + text
    shape = (1, config.num_codebooks, round(given * config.frame_rate))
    start = np.random.default_rng(0).integers(0, config.vocab_size, shape)
    mx.clear_cache()
    mx.reset_peak_memory()
    most_cached = 0
    for _ in blocks(lm, 1, frames, start=start):
        most_cached = max(most_cached, mx.get_cache_memory())
    peak = mx.get_peak_memory()
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "of_them_given": given,
        "layers": layers,
        "weights_bytes": weights,
        "caches_bytes": caches,
        "peak_bytes": peak,
        "buffer_cache_bytes": most_cached,
        "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
        "ratio": peak / (weights + caches),
    }


# --- report ---


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine() -> dict[str, Any]:
    packages = {name: version(name) for name in ("mlx", "torch", "transformers", "numpy")}
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "python": platform.python_version(),
        "packages": {**packages, "musicot-mlx": musicot_mlx.__version__},
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| what | MLX | PyTorch | ratio |", "|---|---|---|---|"]

    def pair(value: dict[str, float], unit: str) -> str:
        return f"{value['median']:.3g} {unit} ({value['min']:.3g}-{value['max']:.3g})"

    if "steps" in results:
        for row in results["steps"]["rows"]:
            ours, theirs = pair(row["mlx_ms"], "ms"), pair(row["torch_ms"], "ms")
            what = f"a step, mean of {row['steps']}"
            lines.append(f"| {what} | {ours} | {theirs} | {row['ratio']:.2f} |")
    if "codec" in results:
        for name, row in results["codec"].items():
            ours, theirs = pair(row["mlx_s"], "s"), pair(row["torch_s"], "s")
            lines.append(f"| EnCodec {name}, 10 s | {ours} | {theirs} | {row['ratio']:.2f} |")
    if "batch" in results:
        row = results["batch"]
        eight, one = pair(row["eight_ms"], "ms"), pair(row["one_ms"], "ms")
        lines.append(
            f"| a step of 8 songs; of one | {eight}; {one} | | "
            f"{row['throughput_ratio']:.1f} x the songs |"
        )
        eight, one = pair(row["in_one_pass_s"], "s"), pair(row["one_at_a_time_s"], "s")
        lines.append(
            f"| 8 prompts, {row['song_seconds']:g} s each, in one pass; one at a time | "
            f"{eight}; {one} | | {row['song_ratio']:.1f} x the songs |"
        )
    for row in results.get("memory", {}).get("rows", []):
        lines.append(
            f"| memory, {row['seconds']:g} s, {row['layers']} layers | "
            f"{row['peak_bytes'] / 1e9:.2f} GB ({row['ratio']:.2f} x weights and caches), "
            f"buffer cache {row['buffer_cache_bytes'] / 1e9:.2f} GB, "
            f"resident {row['peak_resident_bytes'] / 1e9:.2f} GB | | |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", help=f"all, or some of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="keep the results here, section by section")
    parser.add_argument("--one-memory", nargs=3, type=float, help=argparse.SUPPRESS)
    parser.add_argument("--torch", choices=("decoder", "codec"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch:
        return answer(args.torch)
    if args.one_memory:
        seconds, layers, given = args.one_memory
        print(json.dumps(one_memory(seconds, int(layers), given)))
        return 0
    results = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    unknown = sorted(set(args.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    for name in args.sections or SECTIONS:
        results[name] = globals()[name](args.rounds)
        results |= {"recipe": f"{args.rounds} rounds in turns, medians", "machine": machine()}
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
