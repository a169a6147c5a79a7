"""A plan: the musical thoughts of a song, one for every 10 s, before a second of it is rendered.

A thought is a CLAP audio embedding quantised by RVQ (arXiv 2503.19611, section 4.2). As it lives in
the space of texts, `plan.activity(["drums", "piano"])` reads what each segment holds (section 5.3).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from musicot_mlx.atomic import write_text
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.activity import activity

if TYPE_CHECKING:
    from musicot_mlx.models.clap import ClapEmbedder
    from musicot_mlx.models.rvq import ResidualVQ

FORMAT, VERSION = "musicot-plan", 1


class Renderer(Protocol):
    """A model that can say whether it can render a plan, and give its thoughts their vectors."""

    clap: "ClapEmbedder"
    rvq: "ResidualVQ"

    def check_plan(self, plan: "Plan", where: str) -> "Plan": ...


@dataclass(frozen=True)
class Plan:
    """Thoughts of a song as codes and as the vectors that the codes stand for.

    codes: int32 (levels, segments), coarse level first; embeddings: float32 (segments, dim), unit
    length; vector: float32 (dim,), the CLAP embedding that conditions the song; duration in
    seconds.
    """

    codes: np.ndarray
    embeddings: np.ndarray
    vector: np.ndarray
    duration: float
    thought_seconds: float
    seed: int
    prompt: str | None = None
    tags: tuple[str, ...] = ()
    lyrics: str = ""
    model: "Renderer | None" = field(default=None, repr=False, compare=False)

    @property
    def segments(self) -> int:
        return self.codes.shape[1]

    def without_thoughts(self) -> "Plan":
        """The same request without a chain of thoughts: the base system that the paper compares
        with, for songs of up to the model's context.
        """
        return replace(self, codes=self.codes[:, :0])

    def activity(self, anchors: Sequence[str], *, calibrated: bool = True) -> np.ndarray:
        """How much each thought sounds like each text, float32 (segments, anchors).

        In standard deviations above the model's typical thought, so that anchors compare; bare
        cosines where not `calibrated`. Raises MusicotError for a plan without its model.
        """
        if self.model is None:
            raise MusicotError(
                "this plan has no model at hand; load it with Plan.load(path, model)"
            )
        clap, rvq = self.model.clap, self.model.rvq
        return activity(self.embeddings, anchors, embedder=clap, rvq=rvq, calibrated=calibrated)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON; the thoughts' vectors follow from their codes and are not kept."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "prompt": self.prompt,
            "tags": list(self.tags),
            "lyrics": self.lyrics,
            "seed": self.seed,
            "duration": self.duration,
            "thought_seconds": self.thought_seconds,
            "codes": self.codes.tolist(),
            "vector": [float(v) for v in self.vector],
        }

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, source: "str | Path | dict[str, Any]", model: "Renderer") -> "Plan":
        """A saved plan, from a file or from its JSON object, for the model that is to render it.

        Raises MusicotError for a file that is no plan and for codes that the model does not have.
        """
        where = "the plan"
        if not isinstance(source, dict):
            where = str(source)
            source = _read(Path(source))
        if source.get("format") != FORMAT:
            raise MusicotError(f"{where} is not a plan; make one with `musicot plan -o plan.json`")
        if source.get("version") != VERSION:
            raise MusicotError(
                f"{where} is a plan of version {source.get('version')!r}; expected {VERSION}"
            )
        try:
            codes = np.array(source["codes"], dtype=np.int32)
            vector = np.array(source["vector"], dtype=np.float32)
            plan = cls(
                codes=codes,
                embeddings=np.zeros((0, 0), dtype=np.float32),
                vector=vector,
                duration=float(source["duration"]),
                thought_seconds=float(source["thought_seconds"]),
                seed=int(source["seed"]),
                prompt=None if source["prompt"] is None else str(source["prompt"]),
                tags=tuple(str(tag) for tag in source["tags"]),
                lyrics=str(source["lyrics"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MusicotError(
                f"{where} is a damaged plan ({type(error).__name__}: {error})"
            ) from None
        return model.check_plan(plan, where)

    def with_vectors(self, embeddings: np.ndarray, model: "Renderer") -> "Plan":
        """The same plan with the vectors of its thoughts and the model that it is for."""
        return replace(self, embeddings=embeddings, model=model)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MusicotError(f"can't read the plan {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MusicotError(f"{path} is not JSON, so it is not a plan ({error})") from None
    if not isinstance(value, dict):
        raise MusicotError(f"{path} is not a plan; make one with `musicot plan -o plan.json`")
    return value
