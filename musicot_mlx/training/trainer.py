"""The tuning loop: validation, checkpoints, early stop, and a resume that is the unbroken run.

What step n does follows from the seed and n alone: its batch, its dropped conditions, its noise. So
a checkpoint holds the tuned weights, the optimizer's state and the step, and a resumed run prints
the losses that an unbroken one would have printed. mlx-lm's loop has no resume of this kind; its
flags, files and lines are kept where it has them.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from musicot_mlx.atomic import write_text
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.nn.adapters import blocks_of
from musicot_mlx.nn.distributed import World
from musicot_mlx.texts import read_json
from musicot_mlx.training.options import FREE_TO_CHANGE, LoraOptions, schedule
from musicot_mlx.weights.adapters import ADAPTER_CONFIG, ADAPTER_FILE, save_adapter, save_arrays

STATE_FILE, LOG_FILE = "training_state.safetensors", "losses.json"
_CLASSES = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "muon": optim.Muon,
    "sgd": optim.SGD,
    "adafactor": optim.Adafactor,
}


class Task(Protocol):
    """A network, and how its batches are drawn and judged."""

    part: str

    @property
    def module(self) -> nn.Module: ...

    def draw(self, songs: Sequence[Any], rng: np.random.Generator) -> Any: ...

    def held_out(self, songs: Sequence[Any], limit: int) -> list[Any]: ...

    def weight(self, item: Any) -> float: ...

    def loss(self, items: Sequence[Any]) -> mx.array: ...


@dataclass
class Log:
    """Losses by iteration, as `losses.json` keeps them; the held-out loss of iteration 0 is the
    untuned model's.
    """

    train: list[float] = field(default_factory=list)  # one an iteration
    valid: list[tuple[int, float]] = field(default_factory=list)
    best: int = 0  # iteration of the kept weights
    saved: int = 0  # last iteration that can be resumed from

    @property
    def before(self) -> float:
        return self.valid[0][1]

    @property
    def after(self) -> float:
        """The held-out loss of the kept weights."""
        return dict(self.valid)[self.best]

    def to_dict(self) -> dict[str, Any]:
        return {"train": self.train, "valid": self.valid, "best": self.best, "saved": self.saved}


class Trainer:
    """Tunes `task.module`, which wears its adapter layers already, and writes the adapter folder.

    render(iteration) is called after every validation; callback is mlx-lm's TrainingCallback.
    Raises RunError that names step and batch where the loss is no number any more.
    """

    def __init__(
        self,
        task: Task,
        train: Sequence[Any],
        valid: Sequence[Any],
        options: LoraOptions,
        *,
        config: dict[str, Any],
        say: Callable[[str], None] = print,
        render: Callable[[int], None] | None = None,
        callback: Any = None,
    ) -> None:
        self.task, self.train, self.options, self.config = task, train, options, config
        self.world = World()
        self.say = say if self.world.first else lambda line: None
        self.render, self.callback = render, callback
        self.folder = Path(options.adapter_path)
        if options.batch_size % self.world.size:
            raise MusicotError(
                f"batch_size {options.batch_size} must be a multiple of the {self.world.size} "
                "processes"
            )
        self.checks = task.held_out(
            valid, options.val_batches * options.batch_size if options.val_batches >= 0 else -1
        )
        optimizer_class = _CLASSES[options.optimizer]
        settings = options.optimizer_config.get(options.optimizer) or {}
        try:
            self.optimizer = optimizer_class(learning_rate=schedule(options), **settings)
        except TypeError as error:
            raise MusicotError(f"optimizer_config.{options.optimizer}: {error}") from error
        self.optimizer.init(task.module.trainable_parameters())
        self.gradients: Any = None  # of the iterations since the last update
        self.log = Log()
        self.step = 0

    # --- one run ----------------------------------------------------------------------------------

    def run(self, *, resume: bool = False) -> Log:
        """Train to the end, or to the early stop; the log."""
        options, module = self.options, self.task.module
        if resume:
            self._resume()
        elif options.resume_adapter_file:
            self._load_weights(Path(options.resume_adapter_file))
        if not resume or self.world.size > 1:
            module.update(self.world.from_first(module.trainable_parameters()))
        if self.world.first and not resume:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.config, indent=2, sort_keys=True) + "\n"
            write_text(self.folder / ADAPTER_CONFIG, text)
        with checkpointed(blocks_of(module) if options.grad_checkpoint else []):
            if not self.log.valid:
                self._validate()
            self._train()
        return self.log

    def _train(self) -> None:
        options = self.options
        began, since = time.perf_counter(), self.step
        while self.step < options.iters and not self._stopped_early():
            self._iterate()
            if self.step % options.steps_per_report == 0 or self.step == options.iters:
                self._report(since, time.perf_counter() - began)
                began, since = time.perf_counter(), self.step
            if self.step % options.steps_per_eval == 0 or self.step == options.iters:
                self._validate()
                began, since = time.perf_counter(), self.step
            if self.step % options.save_every == 0 or self.step == options.iters:
                self._save()
        self._save()
        if self.world.first:
            self._write_log()

    def _stopped_early(self) -> bool:
        """Whether the last `patience` validations were no better than the best."""
        patience = self.options.patience
        after = [step for step, _ in self.log.valid if step > self.log.best]
        if patience and self.log.best and len(after) >= patience:
            self.say(
                f"Iter {self.step}: stopped early, the held-out loss has not fallen since "
                f"iteration {self.log.best}"
            )
            return True
        return False

    def batch(self, step: int) -> list[Any]:
        """The items of an iteration, the same on every process."""
        rng = np.random.default_rng([self.options.seed, step])
        return [self.task.draw(self.train, rng) for _ in range(self.options.batch_size)]

    def _iterate(self) -> None:
        options, world, module = self.options, self.world, self.task.module
        self.step += 1
        items = self.batch(self.step)
        weight = sum(map(self.task.weight, items))
        mine = items[world.rank :: world.size]
        mx.random.seed(((options.seed << 20) + self.step) * world.size + world.rank)  # LoRA dropout
        module.train()
        # the mean over processes is then the mean over the batch
        loss, gradients = loss_and_gradients(self.task, mine, weight / world.size)
        if self.gradients is not None:
            gradients = tree_map(lambda a, b: a + b, gradients, self.gradients)
        value = (world.sum(loss) / world.size).item()
        self.log.train.append(value)
        self._require_number(value, "loss", items)
        if self.step % options.grad_accumulation_steps:
            self.gradients = gradients
            mx.eval(gradients)
            return
        self.gradients = None
        gradients = world.average_gradients(gradients)
        if options.grad_accumulation_steps > 1:
            gradients = tree_map(lambda g: g / options.grad_accumulation_steps, gradients)
        gradients, norm = optim.clip_grad_norm(gradients, options.clip_norm or 1e30)
        self._require_number(norm.item(), "gradient", items)
        self.optimizer.update(module, gradients)
        mx.eval(module.trainable_parameters(), self.optimizer.state)
        if mx.get_cache_memory() > options.clear_cache_threshold > 0:
            mx.clear_cache()

    def _require_number(self, value: float, what: str, items: Sequence[Any]) -> None:
        if math.isfinite(value):
            return
        kept = f"the weights of iteration {self.log.saved}" if self.log.saved else "nothing yet"
        raise RunError(
            f"the {what} is {value} at step {self.step}, batch "
            f"{', '.join(dict.fromkeys(item.name for item in items))}; {self.folder} keeps {kept}; "
            "lower the learning rate, or look at these songs"
        )

    def evaluate(self, items: Sequence[Any]) -> float:
        """Mean loss of held-out items, nothing dropped; the processes share the work."""
        module, world, size = self.task.module, self.world, self.options.batch_size
        module.eval()
        total = mx.array(0.0)
        mine = items[world.rank :: world.size]
        for start in range(0, len(mine), size):
            total = total + self.task.loss(mine[start : start + size])
            mx.eval(total)
        return (world.sum(total) / sum(map(self.task.weight, items))).item()

    def restore_best(self) -> None:
        """Put the kept weights back into the module, where later ones were no better."""
        if self.log.best in (0, self.step):
            return
        if self.world.first:
            self._load_weights(self.folder / ADAPTER_FILE)
        module = self.task.module
        module.update(self.world.from_first(module.trainable_parameters()))

    def _validate(self) -> None:
        began = time.perf_counter()
        value = self.evaluate(self.checks)
        elapsed = time.perf_counter() - began
        self.log.valid.append((self.step, value))
        self.say(f"Iter {self.step}: Val loss {value:.4f}, Val took {elapsed:.1f}s")
        if self.callback and self.world.first:
            self.callback.on_val_loss_report(
                {"iteration": self.step, "val_loss": value, "val_time": elapsed}
            )
        losses = [loss for step, loss in self.log.valid if step]
        if self.step and value <= min(losses):
            self.log.best = self.step
            self._write_adapter()
        if self.render and self.world.first:
            self.task.module.eval()
            self.render(self.step)

    def _report(self, since: int, elapsed: float) -> None:
        count = self.step - since
        loss = float(np.mean(self.log.train[since : self.step]))
        info = {
            "iteration": self.step,
            "train_loss": loss,
            "learning_rate": self.optimizer.learning_rate.item(),
            "iterations_per_second": count / elapsed,
            "peak_memory": mx.get_peak_memory() / 1e9,
        }
        self.say(
            f"Iter {self.step}: Train loss {loss:.4f}, Learning Rate {info['learning_rate']:.3e}, "
            f"It/sec {info['iterations_per_second']:.3f}, Peak mem {info['peak_memory']:.3f} GB"
        )
        if self.callback and self.world.first:
            self.callback.on_train_loss_report(info)

    # --- files ------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, mx.array]:
        """What is tuned, under the names of the adapter file."""
        tuned = tree_flatten(self.task.module.trainable_parameters())
        return {f"{self._prefix}{path}": value for path, value in tuned}

    @property
    def _prefix(self) -> str:
        """What keys of the adapter file begin with: the part, where a task tells nothing else."""
        return getattr(self.task, "prefix", f"{self.task.part}.")

    def _write_adapter(self) -> None:
        if self.world.first:
            save_adapter(self.folder, self.config, self.arrays())

    def _save(self) -> None:
        if self.step == self.log.saved or not self.step:
            return
        if self.step % self.options.grad_accumulation_steps:
            return  # the last few iterations of a run made no update
        self.log.saved = self.step
        if not self.world.first:
            return
        if not self.log.best:
            self._write_adapter()
        save_arrays(self.folder / f"{self.step:07d}_{ADAPTER_FILE}", self.arrays())
        state = dict(tree_flatten({"optimizer": self.optimizer.state}))
        state |= {f"model.{name}": value for name, value in self.arrays().items()}
        log = json.dumps(self.log.to_dict())
        save_arrays(self.folder / STATE_FILE, state, {"log": log})
        self._write_log()

    def _write_log(self) -> None:
        write_text(self.folder / LOG_FILE, json.dumps(self.log.to_dict(), indent=1) + "\n")

    def _resume(self) -> None:
        """Go back to the state of the last save. Raises MusicotError where there is none."""
        file = self.folder / STATE_FILE
        saved: dict[str, mx.array] = {}
        log: dict[str, Any] = {}
        if self.world.first:
            saved, log = _read_state(file)
            self._require_same_options()
        own = self.arrays()
        weights = {k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")}
        if self.world.first and {k: v.shape for k, v in weights.items()} != {
            k: v.shape for k, v in own.items()
        }:
            raise MusicotError(f"{file} is of other layers; train anew in another --adapter-path")
        log = json.loads(self.world.text_from_first(json.dumps(log)))
        prefix = self._prefix
        own = {k.removeprefix(prefix): v for k, v in {**own, **weights}.items()}
        self.task.module.update(tree_unflatten(list(own.items())), strict=False)
        state = [
            (k.removeprefix("optimizer."), v)
            for k, v in saved.items()
            if k.startswith("optimizer.")
        ]
        if state:
            self.optimizer.state = tree_unflatten(state)
        self.optimizer.state = self.world.from_first(self.optimizer.state)
        self.step = log["saved"]
        log["valid"] = [(int(step), float(value)) for step, value in log["valid"]]
        self.log = Log(**log)
        self.say(f"Resumed at iteration {self.step}")

    def _require_same_options(self) -> None:
        before = read_json(self.folder / ADAPTER_CONFIG)
        for name, value in json.loads(json.dumps(self.config)).items():
            if name in FREE_TO_CHANGE or before.get(name, value) == value:
                continue
            if name in ("base", "data_digest"):
                what = "model" if name == "base" else "data set"
                raise MusicotError(f"the run to resume was on another {what}; leave out --resume")
            raise MusicotError(
                f"the run to resume had {name} {before[name]!r}, now it is {value!r}; a resumed "
                "run keeps its settings"
            )

    def _load_weights(self, file: Path) -> None:
        """Start from the weights of an adapter file, as mlx-lm's --resume-adapter-file."""
        if not file.is_file():
            raise MusicotError(f"no adapter file at {file}")
        try:
            loaded = mx.load(str(file))
        except (RuntimeError, ValueError) as error:
            raise MusicotError(f"{file} is truncated or not safetensors") from error
        own = self.arrays()
        if {k: v.shape for k, v in loaded.items()} != {k: v.shape for k, v in own.items()}:
            raise MusicotError(
                f"{file} does not hold the layers that are tuned here; pass the rank, keys and "
                "layers that it was trained with"
            )
        prefix = self._prefix
        weights = [(name.removeprefix(prefix), value) for name, value in loaded.items()]
        self.task.module.load_weights(weights, strict=False)


def _read_state(file: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    if not file.is_file():
        raise MusicotError(f"nothing to resume: no {file}; leave out --resume")
    try:
        arrays, metadata = mx.load(str(file), return_metadata=True)
        return arrays, json.loads(metadata["log"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise MusicotError(f"{file} is damaged; train anew") from error


def loss_and_gradients(task: Task, items: Sequence[Any], weight: float) -> tuple[mx.array, Any]:
    """The loss of items over `weight`, and its gradients by what is tuned.

    Backward through 16-bit layers most of that division waits: a gradient by one of the 100,000
    numbers of a batch is less than float16 can hold, and would be lost. What is left of it, some
    1/16, is far from both of float16's ends.
    """
    boost = 2.0 ** (round(math.log2(weight)) - 4) if _is_sixteen_bit(task.module) else 1.0
    step = nn.value_and_grad(task.module, lambda: task.loss(items) * (boost / weight))
    loss, gradients = step()
    if boost == 1.0:
        return loss, gradients
    return loss / boost, tree_map(lambda g: g / boost, gradients)


def _is_sixteen_bit(module: nn.Module) -> bool:
    kinds = (mx.float16, mx.bfloat16)
    return any(value.dtype in kinds for _, value in tree_flatten(module.parameters()))


@contextmanager
def checkpointed(blocks: Sequence[nn.Module]):
    """Within it, blocks keep no activations for the backward pass but compute them twice.

    mlx-lm's grad_checkpoint changes a class for good and lets no gradient into a dataclass.
    """
    before = [type(block) for block in blocks]
    for block in blocks:
        block.__class__ = _checkpointed_class(type(block))
    try:
        yield
    finally:
        for block, kind in zip(blocks, before, strict=True):
            block.__class__ = kind


def _checkpointed_class(kind: type) -> type:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        # arrays inside a dataclass would be constants to mx.checkpoint: no gradient would pass
        kinds = [type(a) if is_dataclass(a) else None for a in args]
        plain = [vars(a) if record else a for a, record in zip(args, kinds, strict=True)]

        def inner(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            self.update(parameters)
            args = [record(**a) if record else a for a, record in zip(args, kinds, strict=True)]
            return kind.__call__(self, *args, **kwargs)

        return mx.checkpoint(inner)(self.trainable_parameters(), *plain, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})
