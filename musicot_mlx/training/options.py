"""Settings of a tuning run: mlx-lm's names and YAML file, its flags over the file's values.

`musicot lora --config lora.yaml --iters 200` reads the file, puts the flags over it, and keeps the
result in the adapter folder's adapter_config.json, from which `--resume` takes it again.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import number
from musicot_mlx.texts import read_text
from musicot_mlx.weights.adapters import KINDS
from musicot_mlx.weights.config import config_from_dict

OPTIMIZERS = ("adam", "adamw", "muon", "sgd", "adafactor")
LORA = {"rank": 8, "dropout": 0.0, "scale": 20.0}
# mlx-lm's own reader: YAML 1.1 takes 1e-5 for a string
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?(?:[eE][-+]?\d+)$")


@dataclass(frozen=True)
class LoraOptions:
    """What `musicot lora` may be told. Names that mlx-lm has mean what they mean there.

    An iteration is one batch; grad_accumulation_steps of them make one update of the weights.
    """

    model: str = "musicot-mini"
    train: bool = False
    test: bool = False
    data: str = "data"
    part: str | None = None  # which network; None: the family's first
    fine_tune_type: str = "lora"
    optimizer: str = "adam"
    optimizer_config: dict = field(default_factory=dict)
    seed: int = 0
    num_layers: int = -1
    batch_size: int = 4
    iters: int = 1000
    val_batches: int = 8
    test_batches: int = -1
    learning_rate: float = 1e-4
    lr_schedule: dict | None = None
    warmup: int | None = None  # updates; None: a tenth of them, 100 at most
    clip_norm: float = 1.0  # 0: off
    steps_per_report: int = 10
    steps_per_eval: int = 100
    save_every: int = 100
    patience: int = 0  # validations without a better loss before the run stops; 0: never
    grad_accumulation_steps: int = 1
    grad_checkpoint: bool = False
    clear_cache_threshold: int = 0
    max_seq_length: int = 2048
    resume_adapter_file: str | None = None
    adapter_path: str = "adapters"
    lora_parameters: dict = field(default_factory=dict)
    report_to: str | None = None
    project_name: str | None = None
    # MusiCoT's own
    trigger: str | None = None
    thought_weight: float = 1.0
    condition_dropout: float = 0.1
    text_condition_share: float = 0.5
    max_song_minutes: float = 30.0
    cache_dir: str | None = None
    render_prompt: str | None = None
    render_seconds: float = 10.0
    render_seed: int = 0
    render_songs: int = 2  # rendered before and after; every evaluation renders the first of them

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):  # plain numbers, which adapter_config.json can hold
            if each.type in (int, float, int | None):
                value = getattr(self, each.name)
                made = number(each.name, value, whole=each.type is not float)
                object.__setattr__(self, each.name, made)
        _among("fine_tune_type", self.fine_tune_type, KINDS)
        _among("optimizer", self.optimizer, OPTIMIZERS)
        for name in (
            "batch_size",
            "iters",
            "steps_per_report",
            "steps_per_eval",
            "save_every",
            "grad_accumulation_steps",
            "max_seq_length",
        ):
            if getattr(self, name) < 1:
                raise MusicotError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("learning_rate", "clip_norm", "thought_weight", "render_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MusicotError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("condition_dropout", "text_condition_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise MusicotError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if self.save_every % self.grad_accumulation_steps:
            raise MusicotError(
                f"save_every {self.save_every} must be a multiple of grad_accumulation_steps "
                f"{self.grad_accumulation_steps}"
            )
        object.__setattr__(self, "lora_parameters", _lora_parameters(self.lora_parameters))

    @property
    def updates(self) -> int:
        """Updates of the weights in the whole run."""
        return self.iters // self.grad_accumulation_steps

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What may differ between a run and the one that it resumes.
FREE_TO_CHANGE = {
    "model",
    "data",
    "train",
    "test",
    "test_batches",
    "adapter_path",
    "steps_per_report",
    "save_every",
    "report_to",
    "project_name",
    "cache_dir",
    "clear_cache_threshold",
    "grad_checkpoint",
    "render_prompt",
    "render_seconds",
    "render_seed",
    "render_songs",
    "resume_adapter_file",
    "max_song_minutes",
}


def read_options(flags: Mapping[str, Any], file: str | Path | None = None) -> LoraOptions:
    """Options from a YAML file and flags (None: not given), the flags winning.

    Raises MusicotError naming what is unknown, with the nearest known name, or of the wrong kind.
    """
    values = dict(_read_yaml(Path(file))) if file is not None else {}
    given = {name: value for name, value in flags.items() if value is not None}
    lora = {**(values.get("lora_parameters") or {}), **(given.pop("lora_parameters", None) or {})}
    values = {**{k: v for k, v in values.items() if v is not None}, **given}
    if lora:
        values["lora_parameters"] = lora
    return config_from_dict(LoraOptions, values, where=str(file or "options"))


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that reads 1e-5 as a number."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    try:
        values = yaml.load(read_text(file), Loader) or {}
    except OSError as error:
        raise MusicotError(f"can't read the config {file} ({error.strerror})") from error
    except (yaml.YAMLError, MusicotError) as error:
        raise MusicotError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise MusicotError(f"{file} should hold names and values")
    return values


def _lora_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """rank, scale, dropout and perhaps keys, checked."""
    if "alpha" in values and "scale" not in values:
        raise MusicotError("lora_parameters has alpha; mlx-lm's name is scale, alpha / rank")
    known = [*LORA, "keys"]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            raise MusicotError(f"lora_parameters: unknown name {name!r}{hint}")
    parameters = {**LORA, **values}
    try:
        rank, scale, dropout = (
            int(parameters["rank"]),
            float(parameters["scale"]),
            float(parameters["dropout"]),
        )
    except (TypeError, ValueError):
        raise MusicotError(f"lora_parameters are {parameters}; expected numbers") from None
    if rank < 1 or not math.isfinite(scale) or not 0 <= dropout < 1:
        raise MusicotError(
            f"lora_parameters: rank {rank} must be at least 1, scale {scale} finite, dropout "
            f"{dropout} from 0 to below 1"
        )
    keys = {"keys": [str(key) for key in parameters["keys"]]} if parameters.get("keys") else {}
    return {"rank": rank, "scale": scale, "dropout": dropout, **keys}


def _among(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise MusicotError(f"{name} is {value!r}, expected {', '.join(choices)}")


def schedule(options: LoraOptions) -> Callable[[Any], Any] | float:
    """The learning rate as a function of the update: warm-up, then a cosine down to a tenth.

    `lr_schedule` names one of mlx's instead, as in mlx-lm: {name, arguments, warmup, warmup_init}.
    mlx-lm's build_schedule has no default, and its first update has the rate 0.
    """
    import mlx.optimizers as optim

    wanted = options.lr_schedule
    if wanted is None:
        warmup = options.warmup
        warmup = min(100, options.updates // 10) if warmup is None else warmup
        rest = max(options.updates - warmup, 1)
        cosine = optim.cosine_decay(options.learning_rate, rest, options.learning_rate / 10)
        return _warmed(cosine, options.learning_rate, warmup, 0.0)
    build = getattr(optim.schedulers, str(wanted.get("name")), None)
    arguments = wanted.get("arguments")
    if build is None or not isinstance(arguments, list) or not arguments:
        raise MusicotError(
            f"lr_schedule is {wanted}; expected name (cosine_decay, linear_schedule, ...) and "
            "arguments"
        )
    try:
        main = build(*arguments)
    except (TypeError, ValueError) as error:
        raise MusicotError(f"lr_schedule {wanted['name']}: {error}") from error
    return _warmed(main, arguments[0], wanted.get("warmup", 0), wanted.get("warmup_init", 0.0))


def _warmed(
    main: Callable[[Any], Any], rate: float, steps: int, start: float
) -> Callable[[Any], Any]:
    import mlx.optimizers as optim

    if not steps:
        return main
    # one more, so that the first update does not have the rate 0
    rise = optim.linear_schedule(start + (rate - start) / (steps + 1), rate, steps)
    return optim.join_schedules([rise, main], [steps])
