"""The workspace of a pretraining: its checked config, its songs, what finished stages have left."""

from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongData, SongEntry
from musicot_mlx.reference.diffusion import SemanticDiffusion
from musicot_mlx.reference.musicot import PARTS, build_rvq
from musicot_mlx.reference.semantic_tokenizer import SemanticTokenizer
from musicot_mlx.reference.train.warm_start import FIRST, WarmStart
from musicot_mlx.reference.trainer import Batch, Metrics, Trainer, TrainingConfig, load_weights
from musicot_mlx.reference.vae import VAE
from musicot_mlx.texts import read_text

MINI = Path(__file__).parent.parent / "configs" / "mini.yaml"
STAGE_OPTIONS = {
    "seconds",
    "kl_weight",
    "condition_dropout",
    "thought_weight",
    "thought_dropout",
    "history_dropout",
    "text_condition_share",
}
SAME = (  # what two parts must agree on
    (("clap", "projection_dim"), ("rvq", "dim")),
    (("clap", "projection_dim"), ("semantic_lm", "clap_dim")),
    (("clap", "projection_dim"), ("diffusion", "clap_dim")),
    (("clap", "text_config", "vocab_size"), ("semantic_lm", "text_vocab_size")),
    (("rvq", "codebooks"), ("semantic_lm", "thought_codebooks")),
    (("rvq", "codebook_size"), ("semantic_lm", "thought_codebook_size")),
    (("semantic_tokenizer", "codebook_size"), ("semantic_lm", "audio_codebook_size")),
    (("semantic_tokenizer", "codebook_size"), ("diffusion", "audio_codebook_size")),
    (("vae", "latent_dim"), ("diffusion", "latent_dim")),
)


def read_config(file: Path) -> dict[str, Any]:
    """The YAML config, checked: MusicotError for what is absent, unknown or at odds.

    A config may name a `base`, a file beside it, and then says only what differs from that.
    """
    config = _read_yaml(file)
    if isinstance(config, dict) and "base" in config:
        base = _read_yaml(file.parent / str(config.pop("base")))
        config = _merged(base, config)
    sections = (*PARTS, "sampling", "data", "training")
    absent = [name for name in sections if not isinstance(config, dict) or name not in config]
    if absent:
        raise MusicotError(f"{file} lacks the sections {', '.join(absent)}; start from {MINI}")
    for part, network in (
        ("vae", VAE),
        ("semantic_tokenizer", SemanticTokenizer),
        ("diffusion", SemanticDiffusion),
    ):
        unknown = set(config[part]) - set(signature(network).parameters)
        if unknown:
            raise MusicotError(f"{file}: {part} knows no {', '.join(sorted(unknown))}")

    def value(path: tuple[str, ...]) -> Any:
        entry = config
        for name in path:
            entry = entry.get(name) if isinstance(entry, dict) else None
        if entry is None:
            raise MusicotError(f"{file} lacks {'.'.join(path)}")
        return entry

    for one, other in SAME:
        if value(one) != value(other):
            raise MusicotError(
                f"{file}: {'.'.join(one)} is {value(one)}, {'.'.join(other)} is {value(other)}; "
                "they must agree"
            )
    return config


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(read_text(file))
    except OSError as error:
        raise MusicotError(f"can't read {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise MusicotError(f"{file} is not YAML: {' '.join(str(error).split())}") from error


def _merged(base: Any, own: Any) -> Any:
    """`own` laid over `base`, sections within sections."""
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return base | {key: _merged(base.get(key), value) for key, value in own.items()}


class Workspace:
    """What every stage needs: the YAML config, the songs, and the folder where stages leave their
    weights. A stage that left none begins with those of `start`, if there is one.
    """

    def __init__(
        self,
        config: dict[str, Any],
        data: SongData,
        out: Path,
        start: WarmStart | None = None,
        *,
        device: str | None = None,
        workers: int = 0,
        follow: float = 0.0,
    ) -> None:
        """device: "cpu" or "cuda", by default a GPU where there is one; workers: processes that
        build batches; follow: seconds that encoding waits for songs still being rendered.
        """
        self.config, self.data, self.out, self.start = config, data, out, start
        self.workers, self.follow = workers, follow
        self.process = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        self.device = self.process.device

    def options(self, stage: str) -> dict[str, Any]:
        if stage not in self.config["training"]:
            raise MusicotError(f"the config lacks training.{stage}; see {MINI}")
        return self.config["training"][stage]

    def training(self, stage: str) -> TrainingConfig:
        known = {f.name: type(f.default) for f in fields(TrainingConfig)}
        chosen = {}
        for name, value in self.options(stage).items():
            if name not in known.keys() | STAGE_OPTIONS:
                raise MusicotError(f"training.{stage} knows no {name}")
            if name in known:
                try:
                    chosen[name] = known[name](value)  # YAML reads 1e-3 as a string
                except ValueError as error:
                    raise MusicotError(f"training.{stage}.{name} is {value!r}") from error
        return TrainingConfig(**chosen)

    def run(
        self,
        stage: str,
        model: nn.Module,
        batch: Callable[[int, np.random.Generator], Batch],
        validate: Callable[[nn.Module], Metrics],
    ) -> nn.Module:
        size = sum(p.numel() for p in model.parameters()) / 1e6
        begun = self.start is not None and stage in FIRST and not self.has(stage)
        if begun:
            self.start.fill(model, stage, self.data.tags())
        if self.process.is_main_process:
            after = f", from {self.start.folder}" if begun else ""
            print(f"stage {stage}: {size:.1f} M parameters{after}", flush=True)
        settings = self.training(stage)
        # what lies on the device is gathered there; what Python builds, others can build
        workers = 0 if stage.startswith("diffusion") else self.workers
        trainer = Trainer(
            model, batch, validate, settings, self.out / stage,
            cpu=self.device.type == "cpu", workers=workers,
        )  # fmt: skip
        return trainer.run()

    def has(self, stage: str) -> bool:
        """Whether a stage has left weights of its own."""
        folder = self.out / stage
        return (folder / "last.pt").is_file() or any(folder.glob("best-*.pt"))

    def weights(self, stage: str, prefix: str = "") -> dict[str, Tensor]:
        """The weights a stage left, those under `prefix` with it taken off; else the start's.

        Raises MusicotError where there are none.
        """
        if self.start is not None and not self.has(stage):
            weights = self.start.part(stage)
            if not weights:
                raise MusicotError(f"{self.start.folder} has no {stage}; run --stage {stage} first")
            return weights
        state = load_weights(self.out / stage)
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def song(self, rng: np.random.Generator) -> SongEntry:
        return self.data.training[rng.integers(len(self.data.training))]

    # Trained parts, rebuilt from the folder.

    def vae(self) -> VAE:
        model = VAE(**self.config["vae"])
        model.load_state_dict(self.weights("vae", "vae."))
        return model.eval()

    def clap(self, stage: str | None = None) -> nn.Module:
        """CLAP as `stage` left it; None: after `clap_noise`, if it ran."""
        stage = stage or ("clap_noise" if self.has("clap_noise") else "clap")
        model = clap_parts.build_clap(self.config["clap"])
        model.load_state_dict(self.weights(stage, "clap."))
        return model.eval()

    def tokenizer(self) -> Any:
        file = self.out / "tokenizer.json"
        if not file.is_file() and self.start is not None:
            file = self.start.folder / "tokenizer.json"
        if not file.is_file():
            raise MusicotError(f"{file} is not there; run --stage clap first")
        return clap_parts.Tokenizer.from_file(str(file))

    def semantic_tokenizer(self) -> SemanticTokenizer:
        model = SemanticTokenizer(**self.config["semantic_tokenizer"])
        model.load_state_dict(self.weights("semantic_tokenizer", "tokenizer."))
        return model.eval()

    def rvq(self) -> ResidualVQ:
        model = build_rvq(self.config["rvq"])
        model.load_state_dict(self.weights("rvq"))
        return model.eval()


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def held_out_start(song: SongEntry, seconds: float) -> float:
    """Where a held-out window of a song starts: at 15 s, or as late as a shorter song allows."""
    return min(15.0, max(0.0, song.duration - seconds))
