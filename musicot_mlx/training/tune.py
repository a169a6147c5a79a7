"""A tuning run from data to proof: what `musicot lora` does, told in order.

    data set -> encoded songs -> adapter layers -> training -> the adapter on a fresh model

The proof is what a user would hear and count: a fixed prompt and seeds rendered before and after,
how near the renders lie to the training songs by the model's own ear or the embedded CLAP, the
held-out loss before and after, and how many keys of the saved adapter a freshly loaded model took.
"""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from musicot_mlx.atomic import write_text
from musicot_mlx.audio.files import write_audio
from musicot_mlx.errors import MusicotError
from musicot_mlx.nn.adapters import add_layers, fingerprint
from musicot_mlx.nn.distributed import World
from musicot_mlx.pipelines.clap import load_embedded
from musicot_mlx.pipelines.families import known
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.training.curves import plot_losses
from musicot_mlx.training.data import read_data, require_enough
from musicot_mlx.training.musicot import LearningOptions
from musicot_mlx.training.options import LoraOptions
from musicot_mlx.training.songs import Progress, cache_folder, encode_songs
from musicot_mlx.training.trainer import Trainer
from musicot_mlx.weights.adapters import read_adapters

LICENCES = "You tune on your own files: that you may use them so is yours to know."
_LEARNED = ("part", "trigger", "thought_weight", "max_seq_length", "text_condition_share")
Load = Callable[..., Any]  # load(name, adapter_path=...) -> a model that generates


@dataclass(frozen=True)
class Proof:
    """What a run came to; a similarity is the mean cosine of renders to the songs' centre."""

    part: str
    songs: int
    skipped: int
    iterations: int
    best: int
    loss_before: float
    loss_after: float
    similarity_before: float | None
    similarity_after: float | None
    keys_applied: int
    test_loss: float | None

    def lines(self) -> list[str]:
        """The proof for people."""
        fall = 100 * (1 - self.loss_after / self.loss_before)
        moved = f"{fall:.1f} % lower" if fall > 0 else f"{-fall:.1f} % higher"
        lines = [
            f"{self.songs} songs used, {self.skipped} skipped",
            f"held-out loss {self.loss_before:.4f} before, {self.loss_after:.4f} after ({moved}), "
            f"best at iteration {self.best} of {self.iterations}",
        ]
        if fall <= 0:
            lines.append("nothing learned carries over to held-out songs: lower --learning-rate")
        if self.similarity_before is not None and self.similarity_after is not None:
            lines.append(
                f"similarity of renders to the training songs {self.similarity_before:.3f} "
                f"before, {self.similarity_after:.3f} after"
            )
        if self.test_loss is not None:
            lines.append(f"test loss {self.test_loss:.4f}")
        lines.append(f"{self.keys_applied} adapter keys applied to a freshly loaded model")
        return lines


def task_of(model: Any, options: LoraOptions, *, judged: bool = False) -> Any:
    """The task of the network that is to be tuned: options.part, or the family's first.

    judged: renders are compared with the songs; a family without an ear of its own is then lent
    the embedded model's CLAP. Raises MusicotError for a model or a part that can't be tuned.
    """
    family = getattr(model, "family", None)
    if not getattr(family, "tasks", None):
        *others, last = [each.title for each in known() if each.tasks]
        tunable = f"{', '.join(others)} and {last}"
        raise MusicotError(f"{options.model} can't be tuned; {tunable} models can")
    part = options.part or next(iter(family.tasks))
    if part not in family.tasks:
        parts = ", ".join(family.tasks)
        raise MusicotError(f"part is {part!r}; of {options.model} {parts} can be tuned")
    if options.render_seconds:
        family.require_duration(options.render_seconds, "render_seconds")
    names = ("thought_weight", "condition_dropout", "text_condition_share", "max_seq_length")
    learning = LearningOptions(**{name: getattr(options, name) for name in names})
    task = family.task(part)
    if family.can("ear"):
        return task(model, learning)
    judged = judged and bool(options.render_seconds) and getattr(task, "renders", True)
    return task(model, learning, load_embedded() if judged else None)


def songs_of(
    task: Any, options: LoraOptions, *, say: Callable[[str], None], progress: Progress | None
) -> tuple[dict[str, list[Any]], int, int]:
    """Encoded songs by split, and how many files were used and skipped.

    Names every file that can't be used; raises MusicotError where fewer than two can. A task whose
    data is of another form reads it itself (`songs`).
    """
    if own := getattr(task, "songs", None):
        return own(options, say=say, progress=progress)
    data = read_data(options.data, trigger=options.trigger, max_minutes=options.max_song_minutes)
    encoders, cache = task.encoders(), cache_folder(options.cache_dir)
    pieces = {
        split: encode_songs(
            entries,
            encoders,
            piece_seconds=task.piece_seconds,
            cache=cache,
            skipped=data.skipped,
            progress=progress,
        )
        for split, entries in data.splits.items()
    }
    for skipped in data.skipped:
        say(str(skipped))
    used = {piece.entry.path for split_pieces in pieces.values() for piece in split_pieces}
    require_enough(len(used), data.skipped, options.data)
    if not pieces["valid"] or not pieces["train"]:  # all of one split was skipped
        both = pieces["valid"] + pieces["train"]
        first = both[0].entry.path
        pieces["valid"] = [piece for piece in both if piece.entry.path == first]
        pieces["train"] = [piece for piece in both if piece.entry.path != first]
    songs = {
        split: [task.song(piece) for piece in split_pieces]
        for split, split_pieces in pieces.items()
    }
    say(
        f"{len(used)} songs ({len(songs['train'])} pieces to learn from, {len(songs['valid'])} "
        f"held out), {len(data.skipped)} skipped"
    )
    if task.unknown_tags:
        say(f"tags that the model does not have: {', '.join(sorted(task.unknown_tags))}")
    return songs, len(used), len(data.skipped)


def base_of(model: Any, task: Any, options: LoraOptions) -> dict[str, Any]:
    """What the adapter is made for, so that another model refuses it."""
    bases = getattr(task, "bases", {task.part: task.module})
    return {
        "model": options.model,
        "model_type": model.family.model_type,
        "fingerprints": {part: fingerprint(each) for part, each in bases.items()},
    }


def tune(
    options: LoraOptions,
    load: Load,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
    callback: Any = None,
) -> Proof:
    """Train an adapter into options.adapter_path and prove that it took.

    Beside it: losses.json and losses.png, proof.json, renders/. Raises MusicotError for data or
    settings that don't fit, RunError where the loss stops being a number.
    """
    world, folder = World(), Path(options.adapter_path)
    say = say if world.first else lambda line: None
    model = load(options.model)
    task = task_of(model, options, judged=True)
    say(LICENCES)
    songs, used, skipped = songs_of(task, options, say=say, progress=progress)
    number = _digest(songs["train"] + songs["valid"])
    world.require_same("the data set", number)
    config = {**options.to_dict(), "part": task.part, "base": base_of(model, task, options)}
    config |= {"data_digest": number, **getattr(task, "config", {})}

    mx.random.seed(options.seed)
    names = add_layers(
        task.module,
        kind=options.fine_tune_type,
        num_layers=options.num_layers,
        **options.lora_parameters,
    )
    if opens := getattr(task, "open", None):  # what learns beside layers of blocks
        names = opens(options)
    say(_trainable(task.module, len(names)))
    prompt = options.render_prompt or task.first_caption
    wanted = bool(options.render_seconds) and getattr(task, "renders", True)
    renders = Renders(options, prompt, folder / "renders")

    def render(step: int) -> None:
        if step:
            renders.one(model, f"step-{step:07d}", options.render_seed)
        else:
            renders.several(model, "before")

    trainer = Trainer(
        task,
        songs["train"],
        songs["valid"],
        options,
        config=config,
        say=say,
        render=render if wanted else None,
        callback=callback,
    )
    log = trainer.run(resume=resume)
    test_loss = None
    if options.test and songs["test"]:
        trainer.restore_best()
        test_loss = trainer.evaluate(_test_items(task, songs, options))
    proof = None
    if world.first:
        fresh = load(options.model, adapter_path=str(folder))
        if wanted:
            renders.several(fresh, "after")
        clap = getattr(fresh, "clap", None) or getattr(task, "listener", None)
        near = {
            name: renders.similarity(name, clap, task.centre(songs["train"])) if clap else None
            for name in ("before", "after")
        }
        proof = Proof(
            part=task.part,
            songs=used,
            skipped=skipped,
            iterations=trainer.step,
            best=log.best,
            loss_before=log.before,
            loss_after=log.after,
            similarity_before=near["before"],
            similarity_after=near["after"],
            keys_applied=fresh.adapter_keys,
            test_loss=test_loss,
        )
        write_text(folder / "proof.json", json.dumps(asdict(proof), indent=1) + "\n")
        plot_losses(log, f"{options.model}, {task.part}: {used} songs", folder / "losses.png")
        findings = getattr(task, "findings", list)
        for line in [*proof.lines(), *findings()]:
            say(line)
    return proof


def evaluate(
    options: LoraOptions,
    load: Load,
    *,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> float:
    """Mean loss on the test songs of the model with the adapter in options.adapter_path, or, where
    that is empty, of the model alone. Captions and weights are those that the adapter learned by.
    """
    learned = {}
    for adapter in read_adapters(options.adapter_path or None):
        learned |= {name: adapter.config[name] for name in _LEARNED if name in adapter.config}
    options = replace(options, **learned)
    model = load(options.model, adapter_path=options.adapter_path or None)
    task = task_of(model, options)
    songs, _, _ = songs_of(task, options, say=say, progress=progress)
    if not songs["test"]:
        raise MusicotError(f"{options.data} holds no test songs; write test.jsonl")
    trainer = Trainer(task, songs["train"], songs["valid"], options, config={}, say=say)
    return trainer.evaluate(_test_items(task, songs, options))


def _test_items(task: Any, songs: dict[str, list[Any]], options: LoraOptions) -> list[Any]:
    return task.held_out(songs["test"], max(options.test_batches * options.batch_size, -1))


class Renders:
    """Songs of one prompt and fixed seeds, kept as WAV files in `folder`."""

    def __init__(self, options: LoraOptions, prompt: str, folder: Path) -> None:
        self.options, self.prompt, self.folder = options, prompt, folder

    def one(self, model: Any, name: str, seed: int) -> None:
        seconds = self.options.render_seconds
        song = model.generate(self.prompt, duration=seconds, seed=seed, **AS_MADE)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_audio(self.folder / f"{name}.wav", song.waveform, song.sample_rate)

    def several(self, model: Any, name: str) -> None:
        for number in range(self.options.render_songs):
            self.one(model, f"{name}-{number}", self.options.render_seed + number)

    def similarity(self, name: str, clap: Any, centre: np.ndarray) -> float | None:
        """Mean cosine of the named renders to a unit vector; None where none was rendered."""
        from musicot_mlx.audio.files import read_audio

        files = sorted(self.folder.glob(f"{name}-*.wav"))
        if not files or not self.options.render_seconds:
            return None
        return float(np.mean([clap.embed_audio(*read_audio(file)) @ centre for file in files]))


def _digest(songs: Sequence[Any]) -> int:
    """31 bits that tell one encoded data set from another."""
    checksum = 0
    for song in songs:
        checksum = zlib.crc32(song.name.encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(song.codes).tobytes(), checksum)
    return checksum & 0x7FFFFFFF


def _trainable(module: Any, keys: int) -> str:
    from mlx.utils import tree_flatten

    tuned = sum(value.size for _, value in tree_flatten(module.trainable_parameters()))
    return f"Trainable parameters: {tuned / 1e6:.3f} M in {keys} keys"
