"""musicot convert: a PyTorch checkpoint to an MLX folder."""

import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError, RunError


def _parts(text: str) -> dict[str, int | None]:
    """A check: part names with commas between, each with `=bits` or without."""
    bits_by_part: dict[str, int | None] = {}
    for item in flags.names(text):
        name, _, bits = item.partition("=")
        if bits not in ("", "2", "3", "4", "5", "6", "8"):
            raise ValueError(f"expected 2, 3, 4, 5, 6 or 8 bits, got {item!r}")
        bits_by_part[name] = int(bits) if bits else None
    return bits_by_part


_quantizing = partial(flags.flag, panel="Quantisation")


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot convert."""

    hf_path: str = flags.flag(
        "FOLDER",
        "PyTorch checkpoint: folder, file or Hub id; NAME:SIZE where it holds several",
        "--hf-path",
        "--model",
        required=True,
    )
    mlx_path: str = flags.flag("FOLDER", "folder to write", required=True, check=flags.folder)
    quantize: bool = _quantizing(
        "", "quantise linear layers and embeddings", "--quantize", "-q", default=False
    )
    q_bits: Literal[2, 3, 4, 5, 6, 8] | None = _quantizing(
        "", "bits a weight (default: 8, or what the mode says)"
    )
    q_group_size: Literal[16, 32, 64, 128] | None = _quantizing(
        "", "weights that share a scale (default: 64, or what the mode says)"
    )
    q_mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = _quantizing(
        "", "how weights are quantised (default: affine)", default="affine"
    )
    q_parts: dict[str, int | None] | None = _quantizing(
        "A,B=BITS",
        "parts to quantise, some with bits of their own, e.g. decoder=4,text_encoder=8; the word "
        "embeddings adds theirs (default: all; of MusicGen text_encoder and decoder, without "
        "embeddings; of MuMu-LLaMA those and llama, words and bridges, the last two with 8 bits)",
        check=_parts,
    )
    dtype: Literal["float16", "bfloat16", "float32"] = flags.flag(
        "", "type of what is not quantised (default: float16)", default="float16"
    )
    text_encoder: str | None = flags.flag(
        "FOLDER",
        "folder or Hub id of the T5 that audiocraft's MusicGen files lack (default: the one they "
        "name, google-t5/t5-base); of MuMu-LLaMA one with T5's tokenizer.json",
    )
    tokenizer: str | None = flags.flag(
        "FILE",
        "RoBERTa's tokenizer.json, for CLAP files without one (default: beside the file, else "
        "from the Hub); LLaMA-2's tokenizer.model for MuMu-LLaMA (default: beside the file)",
    )
    keep_lora: bool = flags.flag(
        "",
        "leave LoRA that a checkpoint holds beside its weights instead of merging it (MuMu-LLaMA): "
        "more exact in few bits, a little slower",
        default=False,
    )
    check: bool = flags.flag(
        "",
        "run PyTorch beside MLX, part by part, and print the largest errors; exit code 1 if one is "
        "over its tolerance",
        default=False,
    )


def run(args: Arguments) -> int:
    missing = [name for name in ("torch", "transformers", "diffusers") if not find_spec(name)]
    if args.check and missing:
        raise MusicotError(
            f"--check needs {', '.join(missing)}: pip install '.[torch]' in a checkout"
        )

    from musicot_mlx.convert.convert import convert

    with Progress() as progress:
        summary = convert(
            args.hf_path,
            args.mlx_path,
            quantize=args.quantize,
            bits=args.q_bits,
            group_size=args.q_group_size,
            mode=args.q_mode,
            q_parts=args.q_parts,
            dtype=args.dtype,
            text_encoder=args.text_encoder,
            tokenizer=args.tokenizer,
            keep_lora=args.keep_lora,
            say=lambda line: print(line, file=sys.stderr, flush=True),
            progress=lambda done, total: progress("writing", done, total),
        )
    print(summary)
    if args.check:
        from musicot_mlx.convert.check import check

        with Progress() as progress:
            differences = check(args.hf_path, args.mlx_path, progress=progress)
        print("\n".join(map(str, differences)))
        if not all(difference.passed for difference in differences):
            raise RunError(
                f"{args.mlx_path} is not what PyTorch computes: see the lines that say LOOK"
            )
    return 0
