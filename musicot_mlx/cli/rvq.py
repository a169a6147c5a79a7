"""musicot rvq: codebooks of musical thoughts for any CLAP, from audio or embeddings."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress, peak_memory
from musicot_mlx.errors import MusicotError


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot rvq."""

    data: str = flags.flag("DATA", "folder of audio, or embeddings (.npy, .npz)", positional=True)
    model: str | None = flags.flag(
        "NAME",
        "CLAP that embeds the audio, or a model with one: embedded name, folder or Hub id "
        "(default: musicot-mini)",
    )
    output: str = flags.flag(
        "FOLDER", "folder to write", "--output", "-o", required=True, check=flags.folder
    )
    codebooks: int = flags.flag(
        "L",
        "levels, each for what the ones before leave (default: 8)",
        check=flags.number(1, 64, whole=True),
        default=8,
    )
    codebook_size: int = flags.flag(
        "K", "codes a level (default: 1024)", check=flags.number(2, 65536, whole=True), default=1024
    )
    passes: int = flags.flag(
        "N",
        "passes over the data after the k-means start (default: 20)",
        check=flags.number(0, 10000, whole=True),
        default=20,
    )
    held_out: float = flags.flag(
        "SHARE",
        "share of the files, or of the embeddings, that only measures (default: 0.1)",
        check=flags.number(0, 0.9),
        default=0.1,
    )
    seed: int = flags.flag("N", "same seed, same codebooks", check=flags.seed, default=0)
    save_embeddings: str | None = flags.flag(
        "FILE",
        "also keep the embeddings of the audio (.npz), to fit again without embedding",
        check=flags.place,
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    path = Path(args.data)
    if not path.exists():
        raise MusicotError(f"no folder or file at {path}")
    if path.is_file() and path.suffix not in (".npy", ".npz"):
        raise MusicotError(f"{path} is a file; pass a folder of audio, or .npy or .npz embeddings")
    if path.is_file() and args.save_embeddings:
        raise MusicotError("--save-embeddings is for a folder of audio")
    if args.save_embeddings and Path(args.save_embeddings).suffix != ".npz":
        raise MusicotError(f"--save-embeddings {args.save_embeddings} should end in .npz")

    from musicot_mlx.training import rvq

    options = rvq.FitOptions(
        codebooks=args.codebooks,
        codebook_size=args.codebook_size,
        passes=args.passes,
        held_out=args.held_out,
        seed=args.seed,
    )
    began = time.perf_counter()
    with Progress() as progress:
        if path.is_dir():
            vectors, groups = _embed(path, args, lambda *at: progress("embedding", *at))
            source = f"CLAP embeddings of the audio in {path.name}"
        else:
            vectors, groups = rvq.read_embeddings(path)
            source = f"the vectors of {path.name}"
        fitted = rvq.fit(
            vectors, options, groups=groups, progress=lambda *at: progress("levels", *at)
        )
    rvq.save(args.output, fitted, options, source=source)
    elapsed = time.perf_counter() - began
    if args.json:
        report = {"output": args.output, "vectors": fitted.vectors, "dim": fitted.rvq.config.dim}
        report |= {"train_cosine": fitted.train, "held_out_cosine": fitted.held_out}
        print(json.dumps(report | {"codes_used": fitted.used, "seconds": round(elapsed, 2)}))
        return 0
    print(rvq.table(fitted))
    print(
        f"{args.output}: {args.codebooks} x {args.codebook_size} codes for {fitted.vectors} "
        f"vectors of {fitted.rvq.config.dim} in {elapsed:.1f} s, peak memory "
        f"{peak_memory()['peak_resident_gb']:.2f} GB"
    )
    return 0


def _embed(folder: Path, args: Arguments, progress: Callable[[int, int], None]) -> tuple[Any, Any]:
    """Embeddings of the audio of a folder and their files, kept in a file if asked."""
    import numpy as np

    from musicot_mlx.atomic import atomic_path
    from musicot_mlx.training.rvq import embeddings_of_folder

    clap = flags.load_clap(args.model or "musicot-mini")
    vectors, groups = embeddings_of_folder(folder, clap, progress=progress)
    if args.save_embeddings:
        with atomic_path(args.save_embeddings) as temporary:
            np.savez(temporary, embeddings=vectors, groups=groups)
    return vectors, groups
