"""musicot fuse: melt adapters into a model, with mlx-lm's flags."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", metavar="NAME", help="embedded name, folder or Hub id (default: musicot-mini)")
    add(
        "--adapter-path",
        nargs="+",
        default=["adapters"],
        metavar="FOLDER",
        help="adapters from musicot lora; FOLDER:0.5 counts half (default: adapters)",
    )
    add(
        "--save-path",
        default="fused_model",
        metavar="FOLDER",
        help="folder to write (default: fused_model)",
    )
    add("--dequantize", action="store_true", help="write every layer unquantised")
    add(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        help="type of what is not quantised (default: as the model has it)",
    )


def run(args: argparse.Namespace) -> int:
    import musicot_mlx as mc
    from musicot_mlx.training.fuse import fuse

    fused = fuse(
        args.model or "musicot-mini",
        args.adapter_path,
        args.save_path,
        load=mc.load,
        dequantize=args.dequantize,
        dtype=args.dtype,
    )
    print(fused)
    return 0
