"""musicot convert: a PyTorch checkpoint to an MLX folder."""

import argparse
from importlib.util import find_spec

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--hf-path",
        "--model",
        required=True,
        metavar="FOLDER",
        help="PyTorch checkpoint: folder, file or Hub id",
    )
    add("--mlx-path", required=True, metavar="FOLDER", help="folder to write")
    add("--quantize", "-q", action="store_true", help="quantise linear layers and embeddings")
    add(
        "--q-bits",
        type=int,
        choices=(2, 3, 4, 5, 6, 8),
        help="bits a weight (default: 8, or what the mode says)",
    )
    add(
        "--q-group-size",
        type=int,
        choices=(16, 32, 64, 128),
        help="weights that share a scale (default: 64, or what the mode says)",
    )
    add(
        "--q-mode",
        default="affine",
        choices=("affine", "mxfp4", "mxfp8", "nvfp4"),
        help="how weights are quantised (default: affine)",
    )
    add(
        "--q-parts",
        type=_parts,
        metavar="A,B=BITS",
        help="parts to quantise, some with bits of their own, e.g. decoder=4,text_encoder=8; the "
        "word embeddings adds theirs (default: all; of MusicGen text_encoder and decoder, without "
        "embeddings)",
    )
    add(
        "--dtype",
        default="float16",
        choices=("float16", "bfloat16", "float32"),
        help="type of what is not quantised (default: float16)",
    )
    add(
        "--text-encoder",
        metavar="FOLDER",
        help="folder or Hub id of the T5 that audiocraft's MusicGen files lack (default: the one "
        "they name, google-t5/t5-base)",
    )
    add(
        "--tokenizer",
        metavar="FILE",
        help="RoBERTa's tokenizer.json, for CLAP files without one (default: beside the file, "
        "else from the Hub)",
    )
    add(
        "--check",
        action="store_true",
        help="run PyTorch beside MLX, part by part, and print the largest errors",
    )


def run(args: argparse.Namespace) -> int:
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
            progress=lambda done, total: progress("writing", done, total),
        )
    print(summary)
    if args.check:
        from musicot_mlx.convert.check import check

        with Progress() as progress:
            differences = check(args.hf_path, args.mlx_path, progress=progress)
        print("\n".join(map(str, differences)))
    return 0


def _parts(text: str) -> dict[str, int | None]:
    """An argparse type: part names with commas between, each with `=bits` or without."""
    found: dict[str, int | None] = {}
    for item in flags.names(text):
        name, _, bits = item.partition("=")
        if bits not in ("", "2", "3", "4", "5", "6", "8"):
            raise argparse.ArgumentTypeError(f"expected 2, 3, 4, 5, 6 or 8 bits, got {item!r}")
        found[name] = int(bits) if bits else None
    return found
