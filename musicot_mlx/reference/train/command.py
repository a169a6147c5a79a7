"""Pretraining of MusiCoT, a stage at a time, on the songs of a metadata JSON.

    python -m musicot_mlx.reference.train --data FOLDER --out FOLDER [--stage NAME ...]

The order is that of the dependencies. vae, clap and best_rq then semantic_tokenizer read audio;
encode turns songs into embeddings and codes, from which rvq and semantic_lm learn, encode_latents
into latents for diffusion; assemble writes the checkpoint folder that `musicot convert` reads.
Every stage resumes where it stopped; `--start-from CHECKPOINT` begins with the weights of another
training. Several GPUs: `accelerate launch -m
musicot_mlx.reference.train ...`; each process then draws its own batches and encodes its own songs,
and the first writes the weights.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.data import SongData
from musicot_mlx.reference.train.assemble import assemble
from musicot_mlx.reference.train.audio_stages import (
    train_best_rq,
    train_clap,
    train_semantic_tokenizer,
    train_vae,
)
from musicot_mlx.reference.train.clap_robustness import train_clap_noise
from musicot_mlx.reference.train.diffusion_stages import train_diffusion, train_diffusion_guided
from musicot_mlx.reference.train.encode import encode, encode_latents
from musicot_mlx.reference.train.token_stages import (
    train_rvq,
    train_semantic_lm,
    train_tempo_head,
    train_thought_bias,
)
from musicot_mlx.reference.train.warm_start import WarmStart
from musicot_mlx.reference.train.workspace import MINI, Workspace, read_config

STAGES: dict[str, Callable[[Workspace], None]] = {
    "vae": train_vae,
    "clap": train_clap,
    "clap_noise": train_clap_noise,
    "best_rq": train_best_rq,
    "semantic_tokenizer": train_semantic_tokenizer,
    "encode": encode,
    "rvq": train_rvq,
    "tempo_head": train_tempo_head,
    "thought_bias": train_thought_bias,
    "semantic_lm": train_semantic_lm,
    "encode_latents": encode_latents,
    "diffusion": train_diffusion,
    "diffusion_guided": train_diffusion_guided,
    "assemble": assemble,
}


def main(argv: list[str] | None = None) -> int:
    """Run the stages asked for; bad input is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m musicot_mlx.reference.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=MINI, help="YAML config (default: the mini)")
    parser.add_argument("--data", type=Path, required=True, help="metadata JSON or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument(
        "--stage",
        nargs="+",
        choices=list(STAGES),
        default=list(STAGES),
        metavar="NAME",
        help=f"stages to run (default: all, in this order): {', '.join(STAGES)}",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="a checkpoint/ folder of a training; stages that have no weights begin with those it "
        "holds",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="where to train (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that build the language model's batches (default: 0, a thread)",
    )
    parser.add_argument(
        "--follow",
        type=float,
        default=0.0,
        metavar="S",
        help="encode songs while they are being rendered, until none came for S seconds",
    )
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        if args.device == "cuda" and not torch.cuda.is_available():
            raise MusicotError("this machine has no CUDA device; leave out --device")
        start = WarmStart.read(args.start_from) if args.start_from else None
        workspace = Workspace(
            read_config(args.config),
            SongData(args.data),
            args.out,
            start,
            device=args.device,
            workers=args.workers,
            follow=args.follow,
        )
        for stage in args.stage:
            STAGES[stage](workspace)
            workspace.process.wait_for_everyone()
    except MusicotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
