"""MuMu-LLaMA at full shape with random weights: LLaMA-2 7B in 4 bits, loaded and asked.

    python benchmarks/mumu_llama_7b.py --json benchmarks/results/mumu-llama-7b.json

Writes an MLX folder as convert does (4 bits in groups of 64; embeddings, head and bridges in 8;
encoders float16), matrix by matrix, so that no full one is ever held; then a process of its own
loads it and answers. No weights are published ones, so the answer is noise: what is measured is
that it runs, in how much memory, beside what pipelines/memory.py says of it beforehand. Time is
not: a CPU multiplies packed weights many times slower than a Mac's GPU.
`--folder` keeps the folder (5.5 GB) and uses one that is there.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import musicot_mlx  # noqa: F401  (OpenBLAS before MLX)

# isort: split
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from musicot_mlx.evaluation.speed import hardware
from musicot_mlx.models.hubert import MERT_330M, Hubert
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import LLAMA_2_7B, MumuLlama, Words, WordsConfig
from musicot_mlx.models.vit import VIT_BASE, VIVIT_BASE, ViT
from musicot_mlx.pipelines.memory import weight_bytes
from musicot_mlx.pipelines.mumu_llama import wording
from musicot_mlx.pipelines.mumu_llama.memory import answer
from musicot_mlx.weights.checkpoint import read_config, write_safetensors
from musicot_mlx.weights.config import config_to_dict

GROUP = 64
BITS = {"llama": 4, "words": 8, "bridges": 8}
NETWORKS: dict[str, tuple[type[nn.Module], Any]] = {
    "llama": (MumuLlama, LLAMA_2_7B),
    "words": (Words, WordsConfig(vocab_size=32008, hidden_size=4096)),
    "bridges": (Bridges, BridgesConfig(hidden_size=4096)),
    "mert": (Hubert, MERT_330M),
    "vit": (ViT, VIT_BASE),
    "vivit": (ViT, VIVIT_BASE),
}
QUESTION = "What instruments play in this piece of music ?"
TOKENS = 20


def packed(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> dict[str, mx.array]:
    """A matrix as mx.quantize would leave it: uniform codes, of the usual deviation 1/sqrt(in)."""
    rows, columns = shape
    words = rng.integers(0, 1 << 32, (rows, columns * bits // 32), dtype=np.uint32)
    deviation = (((1 << bits) ** 2 - 1) / 12) ** 0.5
    scale = columns**-0.5 / deviation
    groups = (rows, columns // GROUP)
    return {
        "weight": mx.array(words),
        "scales": mx.full(groups, scale, dtype=mx.float16),
        "biases": mx.full(groups, -scale * ((1 << bits) - 1) / 2, dtype=mx.float16),
    }


def tensors(part: str, rng: np.random.Generator) -> Iterator[tuple[str, dict[str, mx.array]]]:
    """The arrays of a part, layer by layer: path, and what stands there."""
    network, config = NETWORKS[part]
    made = network(config)  # lazy: nothing of it is evaluated
    linears = {
        path: layer.weight.shape
        for path, layer in made.named_modules()
        if type(layer) in (nn.Linear, nn.Embedding)
        and layer.weight.shape[-1] % GROUP == 0
        and part in BITS
    }
    for key, value in tree_flatten(made.parameters()):
        path, _, leaf = key.rpartition(".")
        if leaf == "weight" and path in linears:
            yield f"{part}.{path}", packed(rng, value.shape, BITS[part])
            continue
        exact = part == "llama" and (path == "" or "norm" in key) or key == "norm.weight"
        norm = "norm" in key and leaf == "weight"
        drawn = rng.standard_normal(value.shape, dtype=np.float32)
        drawn = 1 + 0.1 * drawn if norm else drawn * (0.3 if key == "gates" else 0.02)
        yield f"{part}.{path}".rstrip("."), {leaf: mx.array(drawn).astype(
            mx.float32 if exact else mx.float16
        )}  # fmt: skip


def tokenizer() -> Tokenizer:
    """32,000 words, those of the prompt among them, and the tokens of music."""
    said = (wording.OPENING + wording.TURN.format(question=QUESTION)).split()
    said += ["#", "###", ".", ":", "?", "Instruction", "Response", "\n"]
    names = list(dict.fromkeys(["<unk>", "<s>", "</s>", *said]))
    names += [f"word{number}" for number in range(32000 - len(names))]
    made = Tokenizer(WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens([f"[AUD{number}]" for number in range(8)])
    return made


def write(folder: Path) -> Path:
    """The folder, a file a part."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, weight_map = np.random.default_rng(0), {}
    for number, part in enumerate(NETWORKS, start=1):
        piece, count = {}, 0
        for path, arrays in tensors(part, rng):
            piece |= {f"{path}.{leaf}": value for leaf, value in arrays.items()}
            if sum(value.nbytes for value in piece.values()) > 400e6:
                count = _flush(folder, number, count, piece, weight_map)
        _flush(folder, number, count, piece, weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    whole = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    config = {name: config_to_dict(config) for name, (_, config) in NETWORKS.items()}
    config["quantization"] = {
        **whole,
        **{name: {**whole, "bits": bits} for name, bits in BITS.items() if bits != 4},
        **{name: False for name in NETWORKS if name not in BITS},
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "mumu_llama", **config}))
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _flush(
    folder: Path, number: int, count: int, piece: dict[str, mx.array], weight_map: dict[str, str]
) -> int:
    if piece:
        name = f"model-part{number}-{count}.safetensors"
        weight_map |= dict.fromkeys(piece, name)
        write_safetensors(folder / name, piece)  # which empties it
    return count + 1


def ask(folder: Path) -> dict[str, Any]:
    """In a process of its own: load, answer, and what that took."""
    import musicot_mlx as mc

    model = mc.load(folder)
    model.keep_within(0)  # parts take turns, as where memory is short
    llama, words = model.shelf("llama", "words")
    resident = hardware.peak_resident()
    loading = mx.get_peak_memory()
    mx.reset_peak_memory()
    given = model.ask(
        QUESTION,
        answer_tokens=TOKENS,
        answer_temperature=0.0,
    )
    config = read_config(folder, model_types=("mumu_llama",))
    sizes = weight_bytes(folder, config)
    prompt = wording.prompt_ids(model.tokenizer, QUESTION, longest=1024)
    weights = sum(sizes[name][1] for name in ("llama", "words"))
    positions = len(prompt) + TOKENS
    predicted = weights + answer(config, mx.float32.size if _on_cpu() else 2, positions=positions)
    return {
        "model": "LLaMA-2 7B, 4 bits in groups of 64, words 8 bits; random weights",
        "machine": hardware.facts(),
        "stored_gb": round(sum(stored for stored, _ in sizes.values()) / 1e9, 3),
        "prompt_tokens": len(prompt),
        "answer_tokens": TOKENS,
        "answer_words": len(given.text.split()),
        "weights_predicted_gb": round(weights / 1e9, 3),
        "weights_gb": round(_bytes(llama, words) / 1e9, 3),
        "answer_predicted_gb": round(predicted / 1e9, 3),
        "answer_peak_gb": round(mx.get_peak_memory() / 1e9, 3),
        "loading_peak_gb": round(loading / 1e9, 3),
        "process_peak_gb": round(max(resident, hardware.peak_resident()) / 1e9, 3),
    }


def _bytes(*networks: nn.Module) -> int:
    return sum(v.nbytes for network in networks for _, v in tree_flatten(network.parameters()))


def _on_cpu() -> bool:
    from musicot_mlx.generation import device

    return device.on_cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--folder", type=Path, help="keep the model here, or use the one there")
    parser.add_argument("--ask", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(ask(args.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch) / "mumu"
        if not (folder / "config.json").is_file():
            write(folder)
        command = [sys.executable, "-P", __file__, "--ask", "--folder", str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        report = json.loads(done.stdout.splitlines()[-1])
    for name in ("weights", "answer"):
        ours = report[f"{name}_gb" if name == "weights" else "answer_peak_gb"]
        predicted = report[f"{name}_predicted_gb"]
        report[f"{name}_off_by"] = round(ours / predicted - 1, 3)
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
