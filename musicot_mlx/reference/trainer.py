"""One training loop for every stage: accelerate, bf16 autocast, accumulation, clipping, EMA,
resume, best three.

A stage is an `nn.Module` with `forward(batch) -> (loss, metrics)`, a function `batch(step, rng)`
that makes batches from `rng` alone, in a thread of its own, and a function `validate(model) ->
metrics` whose "loss" picks the best checkpoints. Torch's generator is seeded at every step, so that
a resumed run draws what an unbroken one draws. The same loop runs on a CPU, one GPU, or several
through `accelerate launch`.
"""

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler

from musicot_mlx.errors import MusicotError, RunError

Batch = dict[str, Any]
Metrics = dict[str, float]


@dataclass(frozen=True)
class TrainingConfig:
    """One stage's schedule. The cosine ends at `steps` or after `max_minutes` of training,
    whichever comes first.
    """

    steps: int = 10_000
    max_minutes: float = math.inf
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 3e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    precision: str = "bf16"
    checkpoint_minutes: float = 3.0
    validate_minutes: float = 5.0
    keep_best: int = 3
    seed: int = 0


def ema_update(decay: float) -> Callable[..., None]:
    """EMA whose decay warms up as (1 + n) / (10 + n), so that short runs are not held back by the
    start.
    """

    def update(averaged: Any, current: Any, count: Any) -> None:
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`; lists and the rest as they are."""
    return {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}


def save_atomic(state: Any, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """A stage's EMA weights: its best checkpoint by validation loss that is still there, or its
    last one. Raises MusicotError where the stage left nothing.
    """
    record = path / "log.json"
    best = json.loads(record.read_text()).get("best", []) if record.is_file() else []
    for entry in best:
        if (path / entry["file"]).is_file():
            return torch.load(path / entry["file"], map_location="cpu", weights_only=True)
    if not (path / "last.pt").is_file():
        raise MusicotError(f"{path} holds no weights; run --stage {path.name} first")
    return torch.load(path / "last.pt", map_location="cpu", weights_only=True)["ema"]


class _Draws(Dataset):
    """Batches by their step, for the processes of a DataLoader."""

    def __init__(self, draw: Callable[[int], Batch]) -> None:
        self.draw = draw

    def __getitem__(self, step: int) -> Batch:
        torch.set_num_threads(1)
        return self.draw(step)


class _CountFrom(Sampler):
    """first, first + 1, ..."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


class Trainer:
    """Trains `model` in `folder`; `run()` resumes from `last.pt` and returns the EMA model.

    Raises MusicotError where `last.pt` is of another model, RunError where the loss stops being a
    number.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: Callable[[int, np.random.Generator], Batch],
        validate: Callable[[nn.Module], Metrics],
        config: TrainingConfig,
        folder: Path,
        *,
        cpu: bool = False,
        workers: int = 0,
    ) -> None:
        """cpu: leave a GPU alone. workers: processes that build batches ahead; 0: one thread."""
        self.config, self.folder, self.workers = config, Path(folder), workers
        self.folder.mkdir(parents=True, exist_ok=True)
        AcceleratorState._reset_state()  # the stage before may have had another precision
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.accumulate,
            cpu=cpu or not torch.cuda.is_available(),
            # BEST-RQ leaves the quantiser out, a song without a score the notes
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(
            groups, config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.network = self.accelerator.unwrap_model(self.model)
        self.ema = AveragedModel(self.network, multi_avg_fn=ema_update(config.ema_decay))
        self.make_batch, self.validate = batch, validate
        self.step, self.elapsed = 0, 0.0
        self.log: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "best": []}
        if (self.folder / "last.pt").is_file():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.folder / "last.pt", map_location="cpu", weights_only=True)
        try:
            self.network.load_state_dict(state["model"])
            self.ema.module.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise MusicotError(
                f"{self.folder / 'last.pt'} is of another config; go back to it, or move "
                f"{self.folder} away to train anew"
            ) from error
        self.ema.n_averaged.fill_(state["step"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        if (self.folder / "log.json").is_file():
            log = json.loads((self.folder / "log.json").read_text())
            self.log["best"] = log["best"]
            for kind in ("train", "valid"):  # what came after last.pt is trained again
                self.log[kind] = [row for row in log[kind] if row["step"] <= self.step]

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.network.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        save_atomic(state, self.folder / "last.pt")
        self._write_log()

    def _write_log(self) -> None:
        record = {"config": asdict(self.config), **self.log}
        temporary = self.folder / "log.tmp"
        temporary.write_text(json.dumps(record, indent=1, default=str))
        os.replace(temporary, self.folder / "log.json")

    def _progress(self) -> float:
        return max(self.step / self.config.steps, self.elapsed / (60 * self.config.max_minutes))

    def _learning_rate(self) -> float:
        c = self.config
        if self.step < c.warmup_steps:
            return c.learning_rate * (self.step + 1) / c.warmup_steps
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress())))
        return c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * cosine

    def _rng(self, micro_step: int) -> np.random.Generator:
        """The draws of this process at this step, whatever was drawn before."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return np.random.default_rng([self.config.seed, micro_step * world + rank])

    def _draw(self, micro_step: int) -> Batch:
        return self.make_batch(micro_step, self._rng(micro_step))

    @contextmanager
    def _batches(self, first: int) -> Iterator[Iterator[Batch]]:
        """The batches from micro step `first` on, made ahead by a thread or by processes: the same
        ones either way.
        """
        if self.workers:
            loader = DataLoader(
                _Draws(self._draw),
                batch_size=None,
                sampler=_CountFrom(first),
                num_workers=self.workers,
                prefetch_factor=4,
                multiprocessing_context="fork",  # the songs are shared, not copied
            )
            yield iter(loader)
            return
        with ThreadPoolExecutor(1) as pool:

            def ahead() -> Iterator[Batch]:
                waiting = pool.submit(self._draw, first)
                try:
                    for micro in itertools.count(first + 1):
                        batch, waiting = waiting.result(), pool.submit(self._draw, micro)
                        yield batch
                finally:
                    waiting.cancel()

            drawn_ahead = ahead()
            try:
                yield drawn_ahead
            finally:
                drawn_ahead.close()

    def _validate(self) -> None:
        if not self.accelerator.is_main_process:
            return
        self.ema.module.eval()
        with torch.no_grad(), self.accelerator.autocast():
            metrics = self.validate(self.ema.module)
        self.log["valid"].append({"step": self.step, "minutes": self.elapsed / 60, **metrics})
        name = f"best-{self.step}.pt"
        best = [entry for entry in self.log["best"] if entry["file"] != name]
        if math.isfinite(metrics["loss"]):
            best.append({"file": name, "loss": metrics["loss"]})
        best.sort(key=lambda entry: entry["loss"])
        self.log["best"] = best[: self.config.keep_best]
        if any(entry["file"] == name for entry in self.log["best"]):
            save_atomic(self.ema.module.state_dict(), self.folder / name)
        self._write_log()
        for entry in best[self.config.keep_best :]:
            (self.folder / entry["file"]).unlink(missing_ok=True)
        shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
        print(f"valid  step {self.step}  {shown}", flush=True)

    def run(self) -> nn.Module:
        """Train to the end of the schedule; returns the EMA network in evaluation mode."""
        c = self.config
        saved = validated = logged = time.monotonic()
        micro = self.step * c.accumulate
        with self._batches(micro) as batches:
            while self._progress() < 1:
                began = time.monotonic()
                rate = self._learning_rate()
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.model.train()
                for _ in range(c.accumulate):
                    torch.manual_seed(int(self._rng(micro).integers(2**63)))
                    micro += 1
                    batch = next(batches)
                    with self.accelerator.accumulate(self.model):
                        with self.accelerator.autocast():
                            loss, metrics = self.model(to_device(batch, self.accelerator.device))
                        if not torch.isfinite(loss):
                            raise RunError(
                                f"the loss is {loss.item()} at step {self.step}; the last "
                                f"checkpoint in {self.folder} is from before: resume from it with "
                                "a lower learning_rate"
                            )
                        self.accelerator.backward(loss)
                        if self.accelerator.sync_gradients:
                            self.accelerator.clip_grad_norm_(self.model.parameters(), c.clip_norm)
                        self.optimizer.step()
                        self.optimizer.zero_grad()
                self.ema.update_parameters(self.network)
                self.step += 1
                now = time.monotonic()
                self.elapsed += now - began
                if self.accelerator.num_processes > 1:  # one clock: all must stop at one step
                    clock = torch.tensor(self.elapsed, device=self.accelerator.device)
                    self.elapsed = broadcast(clock).item()
                if now - logged > 15:
                    logged = now
                    row = {"step": self.step, "minutes": round(self.elapsed / 60, 2), "rate": rate}
                    row |= {"loss": loss.item(), **metrics}
                    self.log["train"].append(row)
                    shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items())
                    print(f"train  {shown}", flush=True)
                if now - saved > 60 * c.checkpoint_minutes:
                    saved = now
                    self._save()
                if now - validated > 60 * c.validate_minutes:
                    validated = now
                    self._validate()
        if not self.log["valid"] or self.log["valid"][-1]["step"] != self.step:
            self._validate()
        self._save()
        self.accelerator.wait_for_everyone()
        return self.ema.module.eval()
