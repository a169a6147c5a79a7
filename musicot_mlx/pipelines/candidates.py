"""Candidates: several renders of one wish, of which the one that came nearest to it is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from musicot_mlx.audio.files import check_render
from musicot_mlx.errors import RunError, SilentRender
from musicot_mlx.pipelines.options import Embedder

Made = TypeVar("Made")


@dataclass(frozen=True)
class Score:
    """How near a candidate came: the mean cosine of its windows with each thing it was held against
    (the prompt, the plan, a reference).

    seed makes the candidate alone. A broken render (silent, noise, collapsed) scores -1.
    """

    seed: int
    cosines: Mapping[str, float] = field(default_factory=dict)
    broken: bool = False

    @property
    def score(self) -> float:
        """All count alike: a plan may be well rendered and far from the prompt."""
        return -1.0 if self.broken else float(np.mean(list(self.cosines.values())))

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON."""
        cosines = {name: round(value, 6) for name, value in self.cosines.items()}
        return {
            "seed": self.seed,
            "broken": self.broken,
            **cosines,
            "score": round(self.score, 6),
        }


@dataclass(frozen=True)
class Best(Generic[Made]):
    """The candidate that came nearest, and how all of them did."""

    number: int
    song: Made
    scores: list[Score]

    def to_dict(self, seed: int) -> dict[str, Any]:
        """What the settings of a chosen song say of the choice; `seed` is the one asked for."""
        return choice(seed, [score.to_dict() for score in self.scores], self.number)


def choice(seed: int, scores: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """The choice as JSON: of which seed's candidates, the seed of the one kept, and all scores."""
    return {"of_seed": seed, "kept": scores[number]["seed"], "scores": list(scores)}


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of a seed's candidates: itself first, then others that no near seed shares."""
    derived = (np.random.SeedSequence([seed, k]).generate_state(1)[0] for k in range(1, count))
    return [seed, *map(int, derived)]


def best_of(
    seeds: Sequence[int], render: Callable[[int], Made], judge: Callable[[int, Made], Score]
) -> Best[Made]:
    """Render a candidate a seed, one after another, and keep the one with the highest score.

    render(number) makes one, judge(number, song) scores it; a silent one is none. Only the best so
    far is held, so memory does not grow with the candidates. Raises SilentRender where all are.
    """
    best, scores = -1, []
    best_song, silence = None, None
    for number in range(len(seeds)):
        try:
            song = render(number)
        except SilentRender as silent:
            silence = silent
            scores.append(Score(seeds[number], broken=True))
            continue
        scores.append(judge(number, song))
        if best < 0 or scores[number].score > scores[best].score:
            best, best_song = number, song
    if best < 0:
        raise silence
    return Best(best, best_song, scores)


def score(
    clap: Embedder,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    seed: int,
    prompt: np.ndarray | None = None,
    thoughts: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    fault: str | None = None,
) -> Score:
    """Hold a render (frames, channels) against a prompt's vector (dim,), thoughts (segments, dim)
    and a reference's vector (dim,), all of unit length; what is None does not count.

    fault: what is known to be broken about it, None where nobody looked.
    """
    try:
        if fault is None:
            check_render(waveform, sample_rate)
    except RunError as error:
        fault = str(error)
    if fault:
        return Score(seed, broken=True)
    embeddings = clap.embed_audio(waveform, sample_rate)  # (segments, dim)
    cosines = {}
    if prompt is not None:
        cosines["prompt"] = float((embeddings @ prompt).mean())
    if thoughts is not None:
        shared = min(len(embeddings), len(thoughts))
        cosines["plan"] = float((embeddings[:shared] * thoughts[:shared]).sum(axis=1).mean())
    if reference is not None:
        cosines["reference"] = float((embeddings @ reference).mean())
    return Score(seed, cosines)
