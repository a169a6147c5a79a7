"""What is rendered to judge a model, and the features of each render, kept in a folder.

A render has a prompt, a seed, and a variant of the sampling. Renders and their features (CLAP
embeddings, tags, tempo) lie in files of their own, so that a run that was stopped goes on where it
was, and more processes than one can share the work.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.audio.files import read_audio, write_audio
from musicot_mlx.audio.harmony import chords_heard, share_in_key
from musicot_mlx.audio.signals import tempo
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness.prompts import Prompt
from musicot_mlx.pipelines.options import AS_MADE

WORDINGS, CAPTIONS = "wordings", "captions"  # hand-written prompts; captions of held-out songs
BARE = "no thoughts"  # the chain left out when sampling
BASE = "no thoughts, trained so"  # a model of its own
SETTINGS = "renders.json"  # of the renders in a folder: what they were made by
WINDOW = 10.0  # seconds that CLAP and the tagger take at a time


@dataclass(frozen=True)
class EvalRender:
    """A render: variant, place of the prompt in its list, prompt, seed, duration in seconds."""

    variant: str
    index: int
    prompt: Prompt
    seed: int
    duration: float

    @property
    def stem(self) -> str:
        """Path of its files inside the folder of renders, without a suffix."""
        return f"{self.variant.replace(',', '').replace(' ', '-')}/{self.index:03d}-{self.seed}"


@dataclass(frozen=True)
class SongFeatures:
    """What is measured of a render or of a real song, by windows of 10 s.

    clap: float32 (windows, dim); tags: float32 (windows, labels), or (windows, 0) without a tagger;
    tempo: BPM of the whole, 0 for none; planned: the plan's thoughts, float32 (segments, dim), no
    segments where there was no plan; key_share: of the notes, how many lie on the best scale;
    chords: the share of the chords asked for that a reader finds, NaN where none were.
    """

    clap: np.ndarray
    tags: np.ndarray
    tempo: float
    planned: np.ndarray
    key_share: float = np.nan
    chords: float = np.nan


def variants(model: Any) -> dict[str, dict[str, Any]]:
    """The ablations of the paper's Table 1 that sampling alone can make: name -> options. None of a
    model whose thoughts no language model draws.

    What the two stages share is the audio tokens' temperature and scale; the paper names no value.
    """
    if "thought_temperature" not in model.options:
        return {}
    sampling = model.sampling
    heat = {"thought_temperature": sampling.audio_temperature}
    scale = {"thought_guidance": sampling.audio_guidance}
    return {
        "single temperature": heat,
        "single guidance": scale,
        "neither": heat | scale,
        BARE: {},
    }


def all_renders(
    prompts: Sequence[Prompt],
    captions: Sequence[Prompt],
    *,
    duration: float,
    seeds: int,
    ablated: Sequence[str],
    ablation_prompts: int,
) -> list[EvalRender]:
    """All renders: every prompt once, four of them with more seeds, captions, and each ablation.

    The prompts of an ablation and of more seeds lie evenly over the list.
    """
    renders = [EvalRender(WORDINGS, i, prompt, 1, duration) for i, prompt in enumerate(prompts)]
    for i in _evenly(len(prompts), 4):
        renders += [EvalRender(WORDINGS, i, prompts[i], s, WINDOW) for s in range(2, seeds + 1)]
    renders += [EvalRender(CAPTIONS, i, prompt, 1, WINDOW) for i, prompt in enumerate(captions)]
    for variant in ablated:
        places = _evenly(len(prompts), ablation_prompts)
        renders += [EvalRender(variant, i, prompts[i], 1, duration) for i in places]
    return renders


def _evenly(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of 0..count-1, evenly apart."""
    return sorted({round(x) for x in np.linspace(0, count - 1, min(wanted, count))})


def write_render(model: Any, render: EvalRender, folder: Path) -> None:
    """Make a render with `model` (a MusicotPipeline), unless its files are there."""
    audio, thoughts = (folder / f"{render.stem}{suffix}" for suffix in (".flac", ".plan.npy"))
    if audio.is_file() and thoughts.is_file():
        return
    audio.parent.mkdir(parents=True, exist_ok=True)
    options = variants(model).get(render.variant, {})
    plan = model.plan(render.prompt.text, duration=render.duration, seed=render.seed, **options)
    planned = plan.embeddings
    if render.variant in (BARE, BASE):
        plan, planned = plan.without_thoughts(), planned[:0]
    song = model.generate(plan=plan, seed=render.seed, **AS_MADE)
    write_text(folder / f"{render.stem}.chords.json", json.dumps(plan.chord_changes()))
    write_audio(audio, song.waveform, song.sample_rate)
    with atomic_path(thoughts) as temporary, temporary.open("wb") as file:
        np.save(file, planned.astype(np.float32))


def render_features(clap: Any, tagger: Any, render: EvalRender, folder: Path) -> SongFeatures:
    """The features of a render that lies in the folder; kept beside it."""
    file = folder / f"{render.stem}.heard.npz"
    planned = np.load(folder / f"{render.stem}.plan.npy")
    if not file.is_file():
        waveform, rate = read_audio(folder / f"{render.stem}.flac")
        with atomic_path(file) as temporary:
            chords_file = folder / f"{render.stem}.chords.json"
            chords = json.loads(chords_file.read_text()) if chords_file.is_file() else ()
            np.savez(temporary, **_features(clap, tagger, waveform, rate, chords))
    with np.load(file) as arrays:
        harmony = {name: float(arrays[name]) for name in ("key_share", "chords")}
        return SongFeatures(
            arrays["clap"], arrays["tags"], float(arrays["tempo"]), planned, **harmony
        )


def song_features(clap: Any, tagger: Any, waveform: np.ndarray, sample_rate: int) -> SongFeatures:
    """The features of a waveform (samples, channels)."""
    arrays = _features(clap, tagger, waveform, sample_rate)
    tempo_found, share = float(arrays["tempo"]), float(arrays["key_share"])
    return SongFeatures(arrays["clap"], arrays["tags"], tempo_found, arrays["clap"][:0], share)


def _features(
    clap: Any,
    tagger: Any,
    waveform: np.ndarray,
    rate: int,
    chords: Sequence[tuple[float, str]] = (),
) -> dict[str, np.ndarray]:
    embeddings = clap.embed_audio(waveform, rate)
    tags = np.zeros((len(embeddings), 0), np.float32)
    if tagger is not None:
        tags = tagger.tag(waveform, rate)
    followed = chords_heard(waveform, rate, chords)
    return {
        "clap": embeddings,
        "tags": tags,
        "tempo": np.array(tempo(waveform, rate)),
        "key_share": np.array(share_in_key(waveform, rate)),
        "chords": np.array(np.nan if followed is None else followed),
    }


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder of renders, or render up one of the same settings.

    Raises MusicotError where it holds renders of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if not file.is_file():
        write_text(file, text)
    elif file.read_text() != text:
        raise MusicotError(
            f"{folder} holds renders of another model or other settings; pass another --output, "
            "or remove it"
        )


def fingerprint(folder: Path) -> str:
    """Twelve hex digits that tell a model folder's config and weights from any other's."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:12]


def network_fingerprint(network: nn.Module) -> str:
    """Twelve hex digits that tell a network's weights from any other's, wherever they lie."""
    digest = hashlib.sha256()
    for name, value in sorted(tree_flatten(network.parameters())):
        digest.update(name.encode())
        digest.update(np.array(value.reshape(-1).view(mx.uint8)))
    return digest.hexdigest()[:12]


def digest(value: Any) -> str:
    """Twelve hex digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def waiting(renders: Sequence[EvalRender], folder: Path) -> Iterator[EvalRender]:
    """The renders that are not rendered yet."""
    for render in renders:
        if not (folder / f"{render.stem}.plan.npy").is_file():
            yield render
