"""What MuMu-LLaMA learns from exchanges about songs, pictures and films: the words of the answer.

MuMu-LLaMA (arXiv 2412.06660), section 4, in three stages on one's own sets (question_sets.py):
captions, music asked for in words, then questions and edits. The loss is the cross-entropy of the
answer's tokens and of the end. Where upstream differs from what it says, or can't work:

- gates learn in every stage, and with them the queries and bridges: upstream leaves gates out,
  which begin at zero, so that nothing that is heard could count;
- the rows of the eight tokens of music learn at both ends; upstream leaves the output's out;
- an answer ends with </s>, which upstream never trains, so that its answers run on;
- encoders don't learn: what they make of a file is kept on disk, and made in eval mode, where
  upstream masks parts of the features that it trains on;
- the squared error of a projector is left out, for music is made of the words alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from musicot_mlx.atomic import atomic_path
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.mumu_bridges import Bridges
from musicot_mlx.models.mumu_llama import MODALITIES, MumuLlama, Words
from musicot_mlx.nn.adapters import ADAPTABLE, wear
from musicot_mlx.pipelines.given import text as plain_text
from musicot_mlx.pipelines.mumu_llama.listening import audio_states, image_states, video_states
from musicot_mlx.pipelines.mumu_llama.wording import END, prompt_ids
from musicot_mlx.training.data import HELD_OUT, require_enough
from musicot_mlx.training.musicot import LearningOptions, spread
from musicot_mlx.training.records import Skipped, json_lines, json_list
from musicot_mlx.training.songs import FORMAT, Progress, cache_folder, digest
from musicot_mlx.weights.adapters import WHOLE


@dataclass(frozen=True)
class Exchange:
    """A question and its answer as ids, the prompt's first, and what is heard and seen.

    start: where the answer begins. parts: modality -> encoder states, float32 (parts, size).
    """

    name: str
    ids: np.ndarray
    start: int
    parts: Mapping[str, np.ndarray]

    @property
    def weight(self) -> float:
        """Tokens that are learned."""
        return float(len(self.ids) - self.start)

    @property
    def codes(self) -> np.ndarray:
        """What tells one data set from another."""
        return self.ids


class Listener(nn.Module):
    """The networks that learn together; encoders are not among them."""

    def __init__(self, llama: MumuLlama, words: Words, bridges: Bridges) -> None:
        super().__init__()
        self.llama, self.words, self.bridges = llama, words, bridges

    @property
    def layers(self) -> list[nn.Module]:
        """LLaMA's blocks."""
        return self.llama.layers

    def features(self, exchanges: Sequence[Exchange]) -> dict[str, mx.array]:
        """What LLaMA hears and sees of a batch: modality -> (batch, hidden), zeros where a row has
        nothing of it, which is as if it were absent.
        """
        found = {}
        for modality in MODALITIES:
            rows = [i for i, each in enumerate(exchanges) if modality in each.parts]
            if not rows:
                continue
            parts = np.stack([exchanges[i].parts[modality] for i in rows])
            parts = mx.array(parts.astype(np.float32))
            pooled = self.bridges[modality].pooled(parts)
            features = self.bridges.feature(modality, pooled)
            if len(rows) < len(exchanges):
                none = mx.zeros((len(exchanges), features.shape[-1]), features.dtype)
                features = none.at[mx.array(rows)].add(features)
            found[modality] = features
        return found


def answer_loss(listener: Listener, exchanges: Sequence[Exchange]) -> mx.array:
    """Cross-entropy in nats of every token of the answers, summed.

    Right padding needs no mask: a causal row never looks to its right. The head sees learned
    positions alone.
    """
    time = max(len(each.ids) for each in exchanges) - 1  # the last one is a target only
    inputs = np.zeros((len(exchanges), time), dtype=np.int32)
    positions, targets = [], []
    for row, each in enumerate(exchanges):
        inputs[row, : len(each.ids) - 1] = each.ids[:-1]
        positions.append(row * time + np.arange(each.start - 1, len(each.ids) - 1))
        targets.append(each.ids[each.start :])
    offsets = listener.llama.offsets(listener.features(exchanges))
    hidden = listener.llama(listener.words.embed(mx.array(inputs)), None, offsets)
    learned = hidden.reshape(-1, hidden.shape[-1])[mx.array(np.concatenate(positions))]
    logits = listener.words.logits(learned)  # (targets, vocabulary)
    target = mx.array(np.concatenate(targets).astype(np.int32))
    return nn.losses.cross_entropy(logits, target, reduction="sum")


# --- sets to exchanges ----------------------------------------------------------------------------

_SUFFIXES = {
    "image": frozenset(".png .jpg .jpeg .webp .gif .bmp .tif .tiff .heic".split()),
    "video": frozenset(".mp4 .mov .mkv .avi .webm .m4v .mpg .mpeg".split()),
}
_PART = {"audio": "mert", "image": "vit", "video": "vivit"}  # whose states a modality is


@dataclass(frozen=True)
class Told:
    """An entry of a set: a question and its answer, the file it is about, and whether music is to
    follow.
    """

    name: str
    question: str
    answer: str
    modality: str | None
    path: Path | None
    music: bool


def read_sets(folder: Path, sets: Sequence[str], skipped: list[Skipped]) -> dict[str, list[Told]]:
    """The entries of some sets by split; `valid/` and `test/` are folders of their own.

    Entries that say nothing or whose file is missing go to `skipped`. Raises MusicotError where
    there is none of the sets, and for files that are no JSON.
    """
    splits = {"train": folder, "valid": folder / "valid", "test": folder / "test"}
    found: dict[str, list[Told]] = {}
    for split, place in splits.items():
        files = [place / f"{name}{suffix}" for name in sets for suffix in (".json", ".jsonl")]
        entries = [each for file in files if file.is_file() for each in _entries(file, skipped)]
        found[split] = []
        for where, entry in entries:
            try:
                found[split].append(_told(where, entry, folder))
            except MusicotError as error:
                skipped.append(Skipped(where, str(error)))
    if not found["train"] and not skipped:
        raise MusicotError(
            f"{folder} holds no {' or '.join(f'{name}.json' for name in sets)}; "
            "musicot dataset makes them of a folder of songs"
        )
    if not found["valid"]:
        paths = list(dict.fromkeys(each.path for each in found["train"]))
        held = set(paths[::HELD_OUT]) if len(paths) > 1 else set()
        rest = [each for each in found["train"] if each.path not in held]
        found["valid"] = [each for each in found["train"] if each.path in held]
        found["train"] = rest
    return found


def _entries(file: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON list or of JSON lines, each with its name."""
    if file.suffix == ".jsonl":
        return json_lines(file, skipped)
    return json_list(file, "an exchange")


def _told(where: str, entry: Any, folder: Path) -> Told:
    turns = (
        entry.get("conversations") or entry.get("conversation") if isinstance(entry, dict) else 0
    )
    if not isinstance(turns, list) or len(turns) < 2:
        raise MusicotError("it has no conversations of two turns")
    if not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns):
        raise MusicotError("each turn must be an object with a value, which is text")
    question, answer = turns[0]["value"].strip(), turns[-1]["value"].strip()
    output, modality = turns[-1].get("output_modality"), turns[0].get("input_modality")
    if not question or not answer:
        raise MusicotError("its question or its answer is empty")
    plain_text("its question", question), plain_text("its answer", answer)
    name = entry.get("input_file") or entry.get("audio_name") or ""
    if modality == "text" or not name:
        return Told(where, question, answer, None, None, output == "audio")
    path = folder / str(name)
    try:
        there = path.is_file()
    except OSError:  # the name is longer than any file's
        there = False
    if not there:
        raise MusicotError(f"there is no file {name}")
    if modality not in MODALITIES:
        modality = next(
            (m for m, ends in _SUFFIXES.items() if path.suffix.lower() in ends), "audio"
        )
    return Told(where, question, answer, modality, path, output == "audio")


class Hearing:
    """What encoders make of files, kept on disk under the hashes of the file and of the encoder."""

    def __init__(self, model: Any, cache: Path) -> None:
        self._model, self._cache = model, cache
        self._keys: dict[str, str] = {}

    def parts(self, modality: str, path: Path) -> np.ndarray:
        """Encoder states (parts, size): of a song the time means of all layers, else all tokens.

        Raises MusicotError for a file that can't be read.
        """
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:24]
        kept = self._cache / f"{content}-{self._key(modality)}-{FORMAT}.npy"
        if not kept.is_file():
            made = np.array(self._encode(modality, path).astype(mx.float32))
            with atomic_path(kept) as temporary:
                np.save(temporary, made if modality == "audio" else made.astype(np.float16))
        return np.load(kept, mmap_mode="r")

    def _key(self, modality: str) -> str:
        if modality not in self._keys:
            (encoder,) = self._model.shelf(_PART[modality])
            self._keys[modality] = f"{_PART[modality]}-{digest(encoder)}"
        return self._keys[modality]

    def _encode(self, modality: str, path: Path) -> mx.array:
        (encoder,) = self._model.shelf(_PART[modality])
        encoder.eval()
        if modality == "audio":
            return audio_states(encoder, path)
        if modality == "image":
            return image_states(encoder, path)[0]
        return video_states(encoder, path, self._model.film)[0]


# --- the tasks ------------------------------------------------------------------------------------


class ListenerTask:
    """One stage of training; a subclass names its sets."""

    part = ""
    sets: tuple[str, ...] = ()
    prefix = ""  # keys of the adapter begin with the network's own part
    renders = False
    config: dict[str, Any] = {WHOLE: True}

    def __init__(self, model: Any, options: LearningOptions, listener: Any = None) -> None:
        if model.config["bridges"].get("pooling", "mean") != "mean":
            raise MusicotError(
                f"{model.name} pools songs by an RNN, of which no weights were ever published: it "
                "is not tuned, for all states of every frame would have to be kept, which is 230 "
                "MB a minute of a song, where others keep their means"
            )
        self.model, self.options = model, options
        llama, words, bridges = model.shelf("llama", "words", "bridges")
        self.module = Listener(llama, words, bridges)
        self.first_caption = ""

    @property
    def bases(self) -> dict[str, nn.Module]:
        """Networks that tell for which model an adapter was made."""
        return {"llama": self.module.llama}

    def songs(
        self, options: Any, *, say: Callable[[str], None], progress: Progress | None
    ) -> tuple[dict[str, list[Exchange]], int, int]:
        """Exchanges by split, how many can be used and how many were skipped; every one that was is
        named. Raises MusicotError where fewer than two are left.
        """
        skipped: list[Skipped] = []
        told = read_sets(Path(options.data).expanduser(), self.sets, skipped)
        hearing, cache = Hearing(self.model, cache_folder(options.cache_dir)), {}
        every = [(split, each) for split, entries in told.items() for each in entries]
        found: dict[str, list[Exchange]] = {split: [] for split in told}
        for number, (split, each) in enumerate(every):
            if progress:
                progress("encoding", number, len(every))
            try:
                key = (each.modality, each.path)
                if each.path is not None and key not in cache:
                    cache[key] = hearing.parts(each.modality, each.path)
                parts = {} if each.path is None else {each.modality: cache[key]}
                found[split].append(self._exchange(each, parts))
            except (MusicotError, OSError) as error:
                skipped.append(Skipped(each.name, str(error)))
        for each in skipped:
            say(str(each))
        used = sum(map(len, found.values()))
        require_enough(used, skipped, options.data)
        if not found["valid"] or not found["train"]:
            both = found["train"] + found["valid"]
            found["train"], found["valid"] = both[1:], both[:1]
        say(
            f"{used} exchanges ({len(found['train'])} to learn from, {len(found['valid'])} held "
            f"out), {len(skipped)} skipped"
        )
        return found, used, len(skipped)

    def _exchange(self, told: Told, parts: Mapping[str, np.ndarray]) -> Exchange:
        tokenizer, words = self.model.tokenizer, self.module.words.config
        longest = min(self.options.max_seq_length, self.module.llama.config.max_position_embeddings)
        prompt = prompt_ids(tokenizer, told.question, longest=longest)
        answer = tokenizer.encode(told.answer, add_special_tokens=False).ids
        music = list(range(words.first_music_token, words.vocab_size)) if told.music else []
        ids = [*prompt, *answer, *music, END]
        if len(ids) > longest:
            raise MusicotError(f"it has {len(ids):,} tokens, the longest may have {longest:,}")
        return Exchange(told.name, np.array(ids, np.int32), len(prompt), parts)

    def open(self, options: Any) -> list[str]:
        """What learns beside LLaMA's layers; paths of it all.

        The words' both ends and the bridges wear adapters as the layers do; gates, queries, norms
        and what pools states are small and learn as they are. Of full tuning everything does.
        """
        module, kind = self.module, options.fine_tune_type
        if kind == "full":
            module.unfreeze()
            for each in getattr(module.llama, "value_lora", []):
                each.freeze()
            return [path for path, _ in tree_flatten(module.trainable_parameters())]
        pools = tuple(f"{modality}.pool" for modality in MODALITIES)
        for part in (module.words, module.bridges):
            layers = [
                (path, wear(layer, kind=kind, **options.lora_parameters))
                for path, layer in part.named_modules()
                if isinstance(layer, ADAPTABLE) and path not in pools
            ]
            part.update_modules(tree_unflatten(layers))
        module.llama.unfreeze(keys=["gates", "queries"], recurse=False, strict=True)
        for path, layer in module.named_modules():
            if isinstance(layer, nn.RMSNorm) or path.removeprefix("bridges.") in pools:
                layer.unfreeze()
        return [path for path, _ in tree_flatten(module.trainable_parameters())]

    def findings(self) -> list[str]:
        """What the run did to the gates, in words."""
        gates = mx.tanh(mx.abs(self.module.llama.gates.astype(mx.float32)))
        return [
            f"gates are open to {gates.max().item():.3g} of 1, {gates.mean().item():.3g} on average"
        ]

    def draw(self, songs: Sequence[Exchange], rng: np.random.Generator) -> Exchange:
        return songs[rng.integers(len(songs))]

    def held_out(self, songs: Sequence[Exchange], limit: int) -> list[Exchange]:
        """Exchanges spread over all of them, at most `limit`."""
        return spread(list(songs), limit)

    def weight(self, item: Exchange) -> float:
        return item.weight

    def loss(self, items: Sequence[Exchange]) -> mx.array:
        return answer_loss(self.module, items)


class CaptionsTask(ListenerTask):
    """Stage 1: what a song, a picture or a film is like."""

    part, sets = "captions", ("captions",)


class MusicTask(ListenerTask):
    """Stage 2: music asked for in words."""

    part, sets = "music", ("instructions",)


class AnswersTask(ListenerTask):
    """Stage 3: questions, and music made of what is heard and seen."""

    part, sets = "answers", ("questions", "edits")
