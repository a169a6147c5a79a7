"""musicot lora: tune a model on one's own songs, with mlx-lm's flags, and prove that it took."""

import argparse
import sys
from pathlib import Path
from typing import Any

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError

# Flags whose dest is the name of an option (training/options.py), with its default in the help.
_LORA = ("rank", "scale", "dropout")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, number = parser.add_argument, flags.number
    count = number(1, whole=True)
    add("--model", metavar="NAME", help="embedded name, folder or Hub id (default: musicot-mini)")
    add("--train", action="store_true", default=None, help="tune the model")
    add("--test", action="store_true", default=None, help="tell the loss on the test songs")
    add(
        "--data",
        metavar="FOLDER",
        help="train.jsonl, metadata.json, or audio files with same-named .txt captions",
    )
    add(
        "--part",
        metavar="NAME",
        help="network to tune: semantic_lm or diffusion, or MusicGen's decoder (default: the "
        "model's first)",
    )
    add("--fine-tune-type", choices=("lora", "dora", "full"), help="(default: lora)")
    add(
        "--optimizer", choices=("adam", "adamw", "muon", "sgd", "adafactor"), help="(default: adam)"
    )
    add("--rank", type=count, metavar="R", help="rank of the adapter (default: 8)")
    add("--scale", type=number(-1e6), metavar="S", help="scale of the adapter (default: 20)")
    add("--dropout", type=number(0, 1), metavar="P", help="dropout before it (default: 0)")
    add(
        "--num-layers",
        type=number(-1, whole=True),
        metavar="N",
        help="how many of the last layers are tuned, -1 is all (default: -1)",
    )
    add("--batch-size", type=count, metavar="N", help="songs a batch (default: 4)")
    add("--iters", type=count, metavar="N", help="batches in all (default: 1000)")
    add(
        "--val-batches",
        type=number(-1, whole=True),
        metavar="N",
        help="held-out batches, -1 is all (default: 8)",
    )
    add(
        "--test-batches",
        type=number(-1, whole=True),
        metavar="N",
        help="test batches, -1 is all (default: -1)",
    )
    add(
        "--learning-rate",
        type=number(0),
        metavar="X",
        help="highest learning rate; it rises to it, then falls to a tenth (default: 1e-4)",
    )
    add("--warmup", type=number(0, whole=True), metavar="N", help="updates of the rise")
    add(
        "--clip-norm",
        type=number(0),
        metavar="X",
        help="longest gradient, 0 is any (default: 1)",
    )
    add("--steps-per-report", type=count, metavar="N", help="(default: 10)")
    add(
        "--steps-per-eval",
        type=count,
        metavar="N",
        help="batches between validations, each with a render (default: 100)",
    )
    add("--save-every", type=count, metavar="N", help="batches between checkpoints (default: 100)")
    add(
        "--patience",
        type=number(0, whole=True),
        metavar="N",
        help="stop after N validations without a better one, 0 is never (default: 0)",
    )
    add("--grad-accumulation-steps", type=count, metavar="N", help="batches an update (default: 1)")
    add(
        "--grad-checkpoint",
        action="store_true",
        default=None,
        help="compute activations twice: less memory, more time",
    )
    add(
        "--clear-cache-threshold",
        type=number(0, whole=True),
        metavar="BYTES",
        help="free MLX's cache when it grows beyond this (default: 0, never)",
    )
    add(
        "--max-seq-length",
        type=number(64, whole=True),
        metavar="N",
        help="tokens of the longest sequence (default: 2048)",
    )
    add(
        "--adapter-path",
        metavar="FOLDER",
        help="folder for adapter, checkpoints, losses.png and renders (default: adapters)",
    )
    add("--resume-adapter-file", metavar="FILE", help="begin with the weights of this adapter file")
    add(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in --adapter-path, as if never interrupted",
    )
    add("--config", "-c", metavar="FILE", help="YAML file of options; flags override it")
    add("--trigger", metavar="WORD", help="word that every caption is to begin with")
    add(
        "--max-song-minutes",
        type=number(0.1),
        metavar="M",
        help="longer songs are skipped (default: 30)",
    )
    add("--cache-dir", metavar="FOLDER", help="where encoded songs are kept (default: ~/.cache)")
    add("--render-prompt", metavar="TEXT", help="prompt of the renders (default: a caption)")
    add(
        "--render-seconds",
        type=number(0, flags.MAX_SECONDS, unit="seconds"),
        metavar="S",
        help="length of the renders, 0 is none (default: 10)",
    )
    add("--render-seed", type=flags.seed, metavar="N", help="(default: 0)")
    add("--render-songs", type=count, metavar="N", help="renders before and after (default: 2)")
    add("--report-to", metavar="NAME", help="wandb, swanlab, or both with a comma")
    add("--project-name", metavar="NAME", help="project to report to")
    add("--seed", type=flags.seed, metavar="N", help="same seed, same run (default: 0)")


def run(args: argparse.Namespace) -> int:
    given = {k: v for k, v in vars(args).items() if k not in ("config", "resume", *_LORA)}
    given["lora_parameters"] = {k: getattr(args, k) for k in _LORA if getattr(args, k) is not None}

    from musicot_mlx.training.options import read_options

    options = read_options(given, args.config)
    if not (options.train or options.test):
        raise MusicotError("nothing to do; pass --train, --test or both")
    if not Path(options.data).expanduser().exists():
        raise MusicotError(f"no data at {options.data}; pass --data FOLDER")

    import musicot_mlx as mc
    from musicot_mlx.training.tune import evaluate, tune

    with Progress() as progress:
        if not options.train:
            loss = evaluate(options, mc.load, say=_say, progress=progress)
            print(f"Test loss {loss:.4f}")
            return 0
        try:
            tune(
                options,
                mc.load,
                resume=args.resume,
                say=_say,
                progress=progress,
                callback=_callback(options),
            )
        except KeyboardInterrupt:
            again = "the same command with --resume goes on from the last checkpoint"
            print(f"musicot: interrupted; {again}", file=sys.stderr)
            return 130
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def _callback(options: Any) -> Any:
    """mlx-lm's reporter to wandb or swanlab, of the first process alone; or None."""
    from musicot_mlx.nn.distributed import World
    from musicot_mlx.nn.mlx_lm_light import reporting_callbacks

    if not options.report_to or not World().first:
        return None

    try:
        return reporting_callbacks(
            options.report_to,
            project_name=options.project_name,
            log_dir=options.adapter_path,
            config=options.to_dict(),
        )
    except ImportError as error:
        raise MusicotError(f"--report-to {options.report_to}: {error}") from error
