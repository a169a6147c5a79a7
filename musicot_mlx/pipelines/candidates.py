"""Candidates: several renders of one wish, of which the one that came nearest to it is kept."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from musicot_mlx.audio.files import check_render
from musicot_mlx.errors import RunError

MOST = 16


class Embedder(Protocol):
    """What a CLAP offers: unit vectors of windows of 10 s, float32 (windows, dim)."""

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Score:
    """How near a candidate came: mean cosine of its segments with the prompt and with the plan.

    seed makes the candidate alone. A broken render (silent, noise, collapsed) scores -1.
    """

    seed: int
    prompt: float
    plan: float
    broken: bool = False

    @property
    def score(self) -> float:
        """Prompt and plan count alike: a plan may be well rendered and far from the prompt."""
        return -1.0 if self.broken else (self.prompt + self.plan) / 2

    def to_dict(self) -> dict[str, Any]:
        """The score as JSON."""
        found = {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}
        return {**found, "score": round(self.score, 6)}


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of a seed's candidates: itself first, then others that no near seed shares."""
    derived = (np.random.SeedSequence([seed, k]).generate_state(1)[0] for k in range(1, count))
    return [seed, *map(int, derived)]


def score(
    clap: Embedder,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    seed: int,
    prompt: np.ndarray,
    thoughts: np.ndarray,
) -> Score:
    """Hold a render (frames, channels) against a prompt's vector (dim,) and thoughts (segments,
    dim), all of unit length.
    """
    try:
        check_render(waveform, sample_rate)
    except RunError:
        return Score(seed, 0.0, 0.0, broken=True)
    heard = clap.embed_audio(waveform, sample_rate)  # (segments, dim)
    shared = min(len(heard), len(thoughts))
    followed = (heard[:shared] * thoughts[:shared]).sum(axis=1)
    return Score(seed, float((heard @ prompt).mean()), float(followed.mean()))
