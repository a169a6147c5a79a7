"""Published CLAP at full size: laion_clap's class with random weights, converted, compared.

    python benchmarks/clap_parity.py --json benchmarks/results/clap-parity.json

Saves an HTSAT-base checkpoint as laion_clap does, converts it with `musicot convert` in a process
of its own, whose highest resident memory is what the system counted, and holds text, audio and
log-mel against laion_clap. Needs `pip install --no-deps laion-clap==1.1.7 torchlibrosa==0.1.0`, and
3 GB of memory and of disk. The table is printed from the JSON.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from musicot_mlx import __version__

RECIPE = (
    "laion_clap's CLAP, random weights at which every layer matters, saved as its training does; "
    "one process a conversion: musicot convert --hf-path FILE --mlx-path FOLDER; peak is ru_maxrss "
    "of that process; errors are the largest absolute difference of 3 texts and 3 windows, float32"
)
KINDS = {"float16": ["--dtype", "float16"], "float32": ["--dtype", "float32"], "8-bit": ["-q"]}
TEXTS = ["solo piano, slow", "full drum kit and a fast walking bass", "a"]


def reference(size: str) -> Any:
    """laion_clap's class at a published size, with random weights."""
    import torch

    from musicot_mlx.models.clap import CLAP_HTSAT_BASE, CLAP_HTSAT_TINY
    from musicot_mlx.reference.laion_clap import build_laion_clap
    from musicot_mlx.weights.config import config_to_dict

    torch.manual_seed(0)
    config = {"base": CLAP_HTSAT_BASE, "tiny": CLAP_HTSAT_TINY}[size]
    clap = build_laion_clap(config_to_dict(config))
    with torch.no_grad():
        for name, value in clap.named_parameters():
            if "_extractor" in name or "logit_scale" in name or "_embeddings" in name:
                continue
            if value.ndim >= 2 and not name.endswith("bias_table"):
                value.normal_(0, value[0].numel() ** -0.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.1)
        clap.audio_branch.bn0.running_mean.normal_(-40, 5)
        clap.audio_branch.bn0.running_var.uniform_(50, 400)
    return clap


def make(folder: Path, size: str) -> None:
    """The .pt file, and a tokenizer of RoBERTa's size: bytes, and tokens that no text has."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    from musicot_mlx.reference.laion_clap import save_as_upstream

    save_as_upstream(reference(size), folder / "clap.pt")
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"<{number}>" for number in range(50265 - len(words))]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(folder / "tokenizer.json"))


def compare(folder: Path, size: str) -> None:
    """Print the errors of the float32 folder as JSON."""
    import mlx.core as mx
    import numpy as np
    import torch

    import musicot_mlx as mc
    from musicot_mlx.convert.check import sound
    from musicot_mlx.reference import laion_clap

    theirs = reference(size)
    began = time.perf_counter()
    ours = mc.load(folder / "float32")
    loaded = time.perf_counter() - began
    rng = np.random.default_rng(0)
    waveform = np.concatenate([sound(48000, seconds, rng) for seconds in (10, 10, 5)])
    windows = ours.windows(waveform, 48000)
    ids, mask = ours.text_ids(TEXTS)
    text = laion_clap.embed_text(theirs, torch.from_numpy(ids).long(), torch.from_numpy(mask))
    audio = laion_clap.embed_audio(theirs, torch.from_numpy(windows))
    mel = laion_clap.log_mel(theirs, torch.from_numpy(windows))
    pairs = {
        "text": (ours.embed_text(TEXTS), text),
        "audio": (ours.embed_audio(waveform, 48000), audio),
        "log_mel_db": (np.array(ours.config.log_mel()(mx.array(windows))), mel),
    }
    found = {name: float(np.abs(a - b.numpy()).max()) for name, (a, b) in pairs.items()}
    alike = {name: float((b @ b.T).min()) for name, (_, b) in pairs.items() if b.ndim == 2}
    parameters = sum(value.numel() for value in theirs.parameters())
    tensors = len(theirs.state_dict())
    print(
        json.dumps(
            {"errors": found, "least_alike": alike, "load_seconds": round(loaded, 2)}
            | {"parameters": parameters, "tensors": tensors}
        )
    )


def measured(command: list[str]) -> dict[str, float]:
    """Seconds and highest resident bytes of a process; this one stays small, so it is not counted.

    Exits with the process's words when it fails.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(output.decode())
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return {"seconds": time.perf_counter() - began, "peak_bytes": usage.ru_maxrss * unit}


def measure(size: str, folder: Path) -> dict[str, Any]:
    step = [sys.executable, __file__, "--folder", str(folder), "--size", size, "--step"]
    subprocess.run([*step, "make"], check=True)
    file = folder / "clap.pt"
    rows = []
    for kind, options in KINDS.items():
        paths = ["--hf-path", str(file), "--mlx-path", str(folder / kind)]
        run = measured([sys.executable, "-m", "musicot_mlx", "convert", *paths, *options])
        written = sum(path.stat().st_size for path in (folder / kind).glob("*.safetensors"))
        ratio = run["peak_bytes"] / file.stat().st_size
        rows.append({"kind": kind, "written_bytes": written, "peak_to_file": round(ratio, 2)} | run)
    compared = subprocess.run([*step, "compare"], check=True, stdout=subprocess.PIPE, text=True)
    return {
        "size": size,
        "file_bytes": file.stat().st_size,
        "conversions": rows,
        **json.loads(compared.stdout.splitlines()[-1]),
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = []
    for found in results["sizes"]:
        errors = found["errors"]
        lines += [
            f"HTSAT-{found['size']}, {found['parameters'] / 1e6:.1f} M parameters in "
            f"{found['tensors']} tensors, file {found['file_bytes'] / 1e6:.0f} MB; errors: text "
            f"{errors['text']:.1e}, audio {errors['audio']:.1e}, log-mel "
            f"{errors['log_mel_db']:.1e} dB",
            "",
            "| folder | written | seconds | peak memory | of the file |",
            "|---|---|---|---|---|",
        ]
        for row in found["conversions"]:
            lines.append(
                f"| {row['kind']} | {row['written_bytes'] / 1e6:.0f} MB | {row['seconds']:.1f} | "
                f"{row['peak_bytes'] / 1e6:.0f} MB | {row['peak_to_file']:.2f} x |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("mlx", "numpy", "torch", "transformers", "laion-clap", "torchlibrosa")
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names} | {"musicot-mlx": __version__},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["base"], choices=("base", "tiny"))
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--size", default="base", help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=("make", "compare"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        {"make": make, "compare": compare}[args.step](args.folder, args.size)
        return 0
    found = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            found.append(measure(size, Path(folder)))
    results = {"recipe": RECIPE, "sizes": found, "machine": machine()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
