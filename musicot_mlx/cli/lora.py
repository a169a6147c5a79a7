"""musicot lora: tune a model on one's own songs, with mlx-lm's flags, and prove that it took."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError

# Flags whose dest is the name of an option (training/options.py), with its default in the help.
_LORA = ("rank", "scale", "dropout")
_COUNT = flags.number(1, whole=True)


_data = partial(flags.flag, panel="Data")
_adapter = partial(flags.flag, panel="Adapter")
_learning = partial(flags.flag, panel="Learning")
_reports = partial(flags.flag, panel="Validation and reports")


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot lora."""

    model: str | None = flags.flag(
        "NAME", "embedded name, folder or Hub id (default: musicot-mini)"
    )
    train: bool | None = flags.flag("", "tune the model")
    test: bool | None = flags.flag("", "tell the loss on the test songs")
    data: str | None = _data(
        "FOLDER", "train.jsonl, metadata.json, or audio files with same-named .txt captions"
    )
    part: str | None = _adapter(
        "NAME",
        "what to tune: semantic_lm or diffusion, MusicGen's decoder, lm, or MuMu-LLaMA's stage: "
        "captions, music, answers (default: the model's first)",
    )
    fine_tune_type: Literal["lora", "dora", "full"] | None = _adapter("", "(default: lora)")
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] | None = _learning(
        "", "(default: adam)"
    )
    rank: int | None = _adapter("R", "rank of the adapter (default: 8)", check=_COUNT)
    scale: float | None = _adapter(
        "S", "scale of the adapter (default: 20)", check=flags.number(-1e6)
    )
    dropout: float | None = _adapter(
        "P", "dropout before it (default: 0)", check=flags.number(0, 1)
    )
    num_layers: int | None = _adapter(
        "N",
        "how many of the last layers are tuned, -1 is all (default: -1)",
        check=flags.number(-1, whole=True),
    )
    batch_size: int | None = _learning("N", "songs a batch (default: 4)", check=_COUNT)
    iters: int | None = _learning("N", "batches in all (default: 1000)", check=_COUNT)
    val_batches: int | None = _reports(
        "N", "held-out batches, -1 is all (default: 8)", check=flags.number(-1, whole=True)
    )
    test_batches: int | None = _reports(
        "N", "test batches, -1 is all (default: -1)", check=flags.number(-1, whole=True)
    )
    learning_rate: float | None = _learning(
        "X",
        "highest learning rate; it rises to it, then falls to a tenth (default: 1e-4)",
        check=flags.number(0),
    )
    warmup: int | None = _learning("N", "updates of the rise", check=flags.number(0, whole=True))
    clip_norm: float | None = _learning(
        "X", "longest gradient, 0 is any (default: 1)", check=flags.number(0)
    )
    steps_per_report: int | None = _reports("N", "(default: 10)", check=_COUNT)
    steps_per_eval: int | None = _reports(
        "N", "batches between validations, each with a render (default: 100)", check=_COUNT
    )
    save_every: int | None = _reports(
        "N", "batches between checkpoints (default: 100)", check=_COUNT
    )
    patience: int | None = _learning(
        "N",
        "stop after N validations without a better one, 0 is never (default: 0)",
        check=flags.number(0, whole=True),
    )
    grad_accumulation_steps: int | None = _learning(
        "N", "batches an update (default: 1)", check=_COUNT
    )
    grad_checkpoint: bool | None = _learning(
        "", "compute activations twice: less memory, more time"
    )
    clear_cache_threshold: int | None = _learning(
        "BYTES",
        "free MLX's cache when it grows beyond this (default: 0, never)",
        check=flags.number(0, whole=True),
    )
    max_seq_length: int | None = _learning(
        "N", "tokens of the longest sequence (default: 2048)", check=flags.number(64, whole=True)
    )
    adapter_path: str | None = _adapter(
        "FOLDER", "folder for adapter, checkpoints, losses.png and renders (default: adapters)"
    )
    resume_adapter_file: str | None = _adapter(
        "FILE", "begin with the weights of this adapter file"
    )
    resume: bool = flags.flag(
        "",
        "go on from the last checkpoint in --adapter-path, as if never interrupted",
        default=False,
    )
    config: str | None = flags.flag(
        "FILE", "YAML file of options; flags override it", "--config", "-c"
    )
    trigger: str | None = _data("WORD", "word that every caption is to begin with")
    max_song_minutes: float | None = _data(
        "M", "longer songs are skipped (default: 30)", check=flags.number(0.1)
    )
    cache_dir: str | None = _data("FOLDER", "where encoded songs are kept (default: ~/.cache)")
    render_prompt: str | None = _reports("TEXT", "prompt of the renders (default: a caption)")
    render_seconds: float | None = _reports(
        "S",
        "length of the renders, 0 is none (default: 10)",
        check=flags.seconds_or_none,
    )
    render_seed: int | None = _reports("N", "(default: 0)", check=flags.seed)
    render_songs: int | None = _reports("N", "renders before and after (default: 2)", check=_COUNT)
    report_to: str | None = _reports("NAME", "wandb, swanlab, or both with a comma")
    project_name: str | None = _reports("NAME", "project to report to")
    seed: int | None = _learning("N", "same seed, same run (default: 0)", check=flags.seed)


def run(args: Arguments) -> int:
    given = {
        k: v for k, v in vars(args).items() if k not in ("config", "resume", "overwrite", *_LORA)
    }
    given["lora_parameters"] = {k: getattr(args, k) for k in _LORA if getattr(args, k) is not None}

    from musicot_mlx.training.options import read_options

    options = read_options(given, args.config)
    if not (options.train or options.test):
        raise MusicotError("nothing to do; pass --train, --test or both")
    if not Path(options.data).expanduser().exists():
        raise MusicotError(f"no data at {options.data}; pass --data FOLDER")
    if options.train and not (args.resume or args.overwrite):
        flags.require_empty(options.adapter_path, "go on with it (--resume) or replace it")

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
    from musicot_mlx.nn.mlx_lm import reporting_callbacks

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
