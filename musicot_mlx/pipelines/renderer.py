"""What renders plans: the space its thoughts live in, and what every renderer of plans offers.

A plan is codes of vectors in one space, so it means something to the models of that space alone.
Words and audio that thoughts came from can be planned anew in another.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from musicot_mlx.errors import MusicotError

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan


@dataclass(frozen=True)
class Space:
    """Where thoughts live: whose embedding, its dimensions, codes a thought, seconds of a thought.

    name: `space` of config.json, "clap" where a model does not say.
    """

    name: str
    dim: int
    codebooks: int
    seconds: float

    @property
    def id(self) -> str:
        """What plans and sidecars carry: "clap-musicot-mini-512"."""
        return f"{self.name}-{self.dim}"

    def require(self, other: str | None, where: str, model: str) -> None:
        """Raise MusicotError for a plan of another space, with the command that plans anew; None is
        a plan that does not say. where: its file, or what it is; model: what ours is called.
        """
        if other not in (None, self.id):
            file = shlex.quote(where) if Path(where).is_file() else "FILE"
            raise MusicotError(
                f"{where} was made in the space {ascii(other)[:60]} and the thoughts of this model "
                f"live in {self.id!r}; pass --model that made it, or plan anew from its words: "
                f"musicot plan --model {shlex.quote(model)} --from-words {file} -o new.plan.json, "
                "in Python model.plan_from_words(plan)"
            )


@runtime_checkable
class Renderer(Protocol):
    """A model that draws thoughts and renders plans of its space.

    render gives blocks of codes (songs, codes) of several plans in one batch, waveform the samples
    (samples, channels) of one plan's codes. frame_rate is codes a second; prefill_frames how many
    codes a window looks back on.
    """

    clap: Any  # embeds texts and audio into the space
    rvq: Any  # vectors of the space to codes and back
    space: Space
    sample_rate: int
    frame_rate: float
    prefill_frames: int

    def draw_thoughts(self, vector: np.ndarray, **options: Any) -> np.ndarray: ...

    def check_plan(self, plan: "Plan", where: str) -> "Plan": ...

    def render(
        self, plans: "Sequence[Plan]", seeds: Sequence[int], wish: Any, kept: Any = None
    ) -> Iterator[np.ndarray]: ...

    def waveform(
        self, plan: "Plan", codes: Sequence[np.ndarray], wish: Any, kept: Any = None
    ) -> Iterator[np.ndarray]: ...
