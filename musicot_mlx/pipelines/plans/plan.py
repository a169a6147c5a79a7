"""A plan: the musical thoughts of a song, one for every 10 s, before a second of it is rendered.

A thought is an embedding of a space of texts and music quantised by RVQ (arXiv 2503.19611, section
4.2). As it lives in the space of texts, `plan.activity(["drums", "piano"])` reads what each segment
holds (section 5.3). Plans don't change: every edit returns a new one, whose history tells how it
came about. Segments count from 0; -1 is the last, and a slice means several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import write_json
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import path_of, texts_of
from musicot_mlx.pipelines.plans import harmony
from musicot_mlx.pipelines.plans.activity import activity
from musicot_mlx.pipelines.plans.arrangement import in_words
from musicot_mlx.pipelines.plans.edits import Edits
from musicot_mlx.pipelines.plans.file import FORMAT, VERSION, checked, plan_within, read_plan
from musicot_mlx.pipelines.plans.origin import Origin, guests
from musicot_mlx.pipelines.plans.thoughts import PlanModel
from musicot_mlx.tokens.progressions import chord_changes

FINGERPRINT = 8  # numbers of each vector that a file keeps
NEAR = 0.02  # 16-bit weights differ by less


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Edits):
    """Thoughts of a song as codes and as the vectors that the codes stand for.

    codes: int32 (levels, segments), coarse level first; embeddings: float32 (segments, dim), unit
    length; vector: float32 (dim,), the CLAP embedding that conditions the song; duration in
    seconds; origins: where each segment's thought came from; history: the edits, oldest first.
    key: as "D minor"; chords: bars from the song's first frame on, "Am" or "Am F" each, none where
    the harmony is left open; bpm: what bars are counted by where nothing asks for a tempo;
    controls: what segments are asked for beside their thoughts, of models that know such (set).
    len(plan) are its segments. Plans are equal that are saved alike; a notebook shows a picture. A
    pickled plan leaves its model behind: model.generate takes it, check_plan gives it one again.
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
    origins: tuple[Origin, ...] = ()
    history: tuple[dict[str, Any], ...] = ()
    key: str | None = None
    chords: tuple[str, ...] = ()
    bpm: float = 0.0
    controls: tuple[Mapping[str, Any], ...] = ()  # a segment each, by name; () where none has any
    space: str | None = None  # id of the space that the thoughts live in; None: not said
    model: PlanModel | None = field(default=None, repr=False, compare=False)

    @property
    def segments(self) -> int:
        return self.codes.shape[1]

    def without_thoughts(self) -> "Plan":
        """The same request without a chain of thoughts: the base system that the paper compares
        with, for songs of up to the model's context.
        """
        return replace(self, codes=self.codes[:, :0], origins=(), controls=())

    # --- view -------------------------------------------------------------------------------------

    def activity(self, anchors: str | Sequence[str], *, calibrated: bool = True) -> np.ndarray:
        """How much each thought sounds like each text, float32 (segments, anchors); one text is one
        anchor.

        In standard deviations above the model's typical thought, so that anchors compare; bare
        cosines where not `calibrated`. Raises MusicotError for a plan without its model.
        """
        model = self._model()
        texts = model.anchors(texts_of("anchors", anchors))
        return activity(self.embeddings, texts, rvq=model.rvq, calibrated=calibrated)

    def guests(self) -> list[Origin | None]:
        """Where each segment came from that was put in from outside, None where it is the song's
        own (origin.py).
        """
        return guests(self.origins, self.prompt, self.history)

    def words(self) -> list[str | None]:
        """What each segment was set to in words, None where the song's own prompt holds."""
        return [guest and guest.text for guest in self.guests()]

    def vectors(self) -> np.ndarray:
        """What each segment is asked to be, float32 (segments, dim): the song's vector, and of a
        guest its own thought. (dim,) where there is none.
        """
        own = [guest is not None for guest in self.guests()]
        if not any(own):
            return self.vector
        return np.where(np.array(own)[:, None], self.embeddings, self.vector)

    def controls_of(self, segment: int) -> Mapping[str, Any]:
        """What a segment is asked for beside its thought, by name; what is not there is the
        song's own.
        """
        return self.controls[segment] if self.controls else {}

    def control_rows(self) -> list[tuple[str, list[str]]]:
        """The controls that any segment has, to be shown: (name in words, a text a segment)."""
        names = dict.fromkeys(name for each in self.controls for name in each)
        return [
            (name.replace("_", " "), [in_words(each.get(name, "")) for each in self.controls])
            for name in names
        ]

    def chord_changes(self) -> tuple[tuple[float, str], ...]:
        """(second, chord) of every chord of the plan, in order."""
        return chord_changes(self.chords, harmony.bar_starts(self)) if self.chords else ()

    def changed(self, other: "Plan") -> int:
        """The first segment whose thought, controls or chords differ from the other plan's; where
        one ends, if none does.
        """
        shared = min(self.segments, other.segments)
        differ = (self.codes[:, :shared] != other.codes[:, :shared]).any(axis=0)
        differ |= [self.controls_of(i) != other.controls_of(i) for i in range(shared)]
        first = int(np.argmax(differ)) if differ.any() else shared
        return min(first, harmony.parted(self, other))

    def shared_seconds(self, other: "Plan", *, glide: float = 0.0) -> float:
        """Seconds that songs of both plans have in common: up to the first segment that changed,
        less the `glide` to it in seconds.
        """
        changed = self.changed(other)
        shared = changed * self.thought_seconds
        if changed < max(self.segments, other.segments):
            shared -= glide
        return min(shared, self.duration, other.duration)

    # --- keep -------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON (`plan.schema.json`); its vectors follow from the codes and aren't kept,
        but for their beginnings, which tell whether a model has the same codebooks.
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "prompt": self.prompt,
            "tags": list(self.tags),
            "lyrics": self.lyrics,
            "key": self.key,
            "chords": list(self.chords),
            "bpm": self.bpm,
            "controls": [dict(each) for each in self.controls],
            "space": self.space,
            "seed": self.seed,
            "duration": self.duration,
            "thought_seconds": self.thought_seconds,
            "codes": self.codes.tolist(),
            "begins": [
                [round(float(v), 3) for v in row[:FINGERPRINT]]
                for row in self.embeddings[: self.segments]
            ],
            "origins": [
                {key: value for key, value in asdict(origin).items() if value is not None}
                for origin in self.origins
            ],
            "history": [dict(record) for record in self.history],
            "vector": [float(v) for v in self.vector],
        }

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_json(path_of("path", path), self.to_dict())

    @classmethod
    def load(cls, source: "str | Path | dict[str, Any]", model: PlanModel) -> "Plan":
        """A saved plan, from a file, the .json beside a song, or its JSON object, for the model
        that is to render it.

        Raises MusicotError, one line, for a file that is no plan, codes that the model does not
        have, and thoughts that mean something else to it than they did.
        """
        if isinstance(source, dict):
            where, value = "the plan", checked(plan_within(source), "the plan")
        else:
            where, value = str(source), read_plan(path_of("the plan", source))
        codes = np.array(value["codes"], dtype=np.int32)
        # version 1 didn't say where thoughts came from
        origins = value.get("origins", [{"kind": "unknown"}] * codes.shape[1])
        plan = cls(
            codes=codes,
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=np.array(value["vector"], dtype=np.float64).astype(np.float32),
            duration=float(value["duration"]),
            thought_seconds=float(value["thought_seconds"]),
            seed=int(value["seed"]),
            prompt=value["prompt"],
            tags=tuple(value["tags"]),
            lyrics=value["lyrics"],
            origins=tuple(Origin(**origin) for origin in origins),
            history=tuple(value.get("history", ())),
            key=value.get("key"),  # from version 3 on, as chords and bpm
            chords=tuple(value.get("chords", ())),
            bpm=float(value.get("bpm", 0.0)),
            controls=tuple(value.get("controls", ())),  # from version 4 on
            space=value.get("space"),
        )
        plan = model.check_plan(plan, where)
        for row, fingerprint in zip(plan.embeddings, value.get("begins", ()), strict=False):
            if not np.allclose(row[: len(fingerprint)], fingerprint[: len(row)], rtol=0, atol=NEAR):
                raise MusicotError(
                    f"{where} was made with another model: its codes mean other thoughts to this "
                    "one; pass --model, or plan anew"
                )
        return plan

    def with_vectors(self, embeddings: np.ndarray, model: PlanModel) -> "Plan":
        """The same plan with the vectors of its thoughts and the model that it is for."""
        return replace(self, embeddings=embeddings, model=model)
