"""A model that plans: what there is to say of its thoughts whatever their space is.

Words and references become a plan, audio is heard as one, and what comes from outside is held
against what the model can render. A family says how its thoughts are drawn, and what else its plans
hold.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from musicot_mlx import __version__
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.device import turn
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.pipelines.given import items, number, path_of, shown
from musicot_mlx.pipelines.options import Embedder, PlannedOptions, checked, files_of
from musicot_mlx.pipelines.plans.file import read_plan
from musicot_mlx.pipelines.plans.origin import Origin, guests
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.thoughts import (
    Audio,
    blended,
    embed_windows,
    length_of,
    quantised,
    unit,
    vectors_of,
    window_count,
)
from musicot_mlx.pipelines.renderer import Space
from musicot_mlx.pipelines.song import Clock


@dataclass(frozen=True)
class Thoughts:
    """Vectors (segments, dim) that become a plan, and where each came from."""

    vectors: np.ndarray
    origins: Sequence[Origin]


class Planner(ABC):
    """The base of a family's planner. wishes: its options; drawing: those of them that say how
    thoughts are drawn.
    """

    wishes: ClassVar[type[PlannedOptions]]
    drawing: ClassVar[tuple[str, ...]]
    adapters: tuple[str, ...] = ()

    def __init__(
        self, *, embedder: Embedder, rvq: ResidualVQ, sampling: Any, name: str, space: Space
    ) -> None:
        self.clap, self.rvq, self.sampling = embedder, rvq, sampling
        self.name, self.space = name, space

    # --- what is a family's own -------------------------------------------------------------------

    @abstractmethod
    def plan(self, prompt: str | None = None, **options: Any) -> Plan:
        """The thoughts of a song, by those options of `wishes` that belong to planning."""

    @abstractmethod
    def draw_thoughts(self, vector: np.ndarray, **options: Any) -> np.ndarray:
        """Codes int32 (songs, levels, segments) of thoughts for a vector (dim,)."""

    @abstractmethod
    def _require_own(self, plan: Plan, where: str) -> None:
        """Raise MusicotError for what a plan may not hold beside its thoughts."""

    # --- what a family may say otherwise ----------------------------------------------------------

    def segments(self, duration: float) -> int:
        """Thoughts of a song of `duration` seconds."""
        return max(1, math.ceil(duration / self.space.seconds - 1e-6))

    def text_vector(self, words: str) -> np.ndarray:
        """The vector (dim,) of what words ask for."""
        return self.clap.embed_text([words])[0]

    def _tags(self, vector: np.ndarray, wish: PlannedOptions) -> Sequence[str]:
        """The tags of a song."""
        return ()

    def tags_of(self, plan: Plan) -> list[Sequence[str]]:
        """The tags that each segment is asked for with."""
        return [plan.tags] * plan.segments

    def _completed(self, plan: Plan, wish: PlannedOptions) -> Plan:
        """A plan with what belongs to it beside its thoughts."""
        return plan

    # --- settings ---------------------------------------------------------------------------------

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """All that makes a song again, as JSON: what the sidecar of a song holds."""
        return self._settings(self.wishes.of(self.sampling, prompt, **options))

    def _settings(self, wish: PlannedOptions) -> dict[str, Any]:
        adapters = {"adapter_path": list(self.adapters)} if self.adapters else {}
        return {
            **wish.saved(),
            **adapters,
            "model": self.name,
            "version": __version__,
            "space": self.space.id,
        }

    # --- plans ------------------------------------------------------------------------------------

    @property
    def longest(self) -> float:
        """Seconds of the longest song."""
        return self.wishes.about()["duration"].metadata["high"]

    def require_drawing(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """How thoughts are to be drawn, checked; what is None is left out.

        Raises TypeError for a name that is none of `drawing`, MusicotError for a bad value.
        """
        self.wishes.require_known(options, self.drawing)
        about = self.wishes.about()
        given = {name: value for name, value in options.items() if value is not None}
        return {name: checked(about[name], value) for name, value in given.items()}

    def require_controls(self, controls: Mapping[str, Any], where: str) -> dict[str, Any]:
        """What a segment is to be asked for beside its thought, checked.

        Raises MusicotError for a value that is none, and for what the model asks of no segment.
        """
        known = self.wishes.controls()
        for name in controls:
            if name not in known:
                hint = f"it takes {' and '.join(known)}" if known else "set it to words instead"
                raise MusicotError(
                    f"{where}: {self.name} takes no {shown(name)} of a segment; {hint}"
                )
        about = self.wishes.about()
        return {name: checked(about[name], value) for name, value in controls.items()}

    def _controls(self, plan: Plan, where: str) -> tuple[dict[str, Any], ...]:
        """The controls of a plan's segments, checked; none where no segment has any."""
        if not any(plan.controls):
            return ()
        if len(plan.controls) != plan.segments:
            raise MusicotError(
                f"{where}: {len(plan.controls)} controls for {plan.segments} segments"
            )
        return tuple(self.require_controls(each, where) for each in plan.controls)

    def _asked(self, prompt: str | None, options: Mapping[str, Any]) -> Plan:
        """The plan of a call of `plan`."""
        options = self.wishes.by_field(options)
        self.wishes.require_known(options, self.wishes.planned())
        wish = self.wishes.of(self.sampling, prompt, **options)
        with turn():
            return self._plan(wish, Clock())

    def _plan(self, wish: PlannedOptions, clock: Clock) -> Plan:
        """The plan of a wish: the one it holds, or a new one."""
        if wish.plan is not None:
            with clock("plan"):
                return self.check_plan(wish.plan, "the plan")
        wish = replace(wish, prompt=wish.words)
        prompt, files = wish.prompt, files_of(wish.reference)
        if prompt is not None and not prompt.strip():
            message = "the prompt is empty; describe the music, e.g. 'solo piano, calm'"
            raise MusicotError(message, option="prompt")
        if prompt is None and not files:
            raise MusicotError("nothing to plan; give a prompt or a reference", option="prompt")
        if wish.reference_weights is not None and not files:
            message = "there are reference weights, but no reference"
            raise MusicotError(message, option="reference_weights")
        vector = None
        if prompt is not None:
            with clock("text"):
                vector = self.text_vector(prompt)
        with clock("plan"):
            if files:
                plan = self._of_thoughts(self._blended(files, wish), vector, wish)
            else:
                plan = self._drawn(vector, wish)
            return self.check_plan(self._completed(plan, wish), "the plan")

    def _drawn(self, vector: np.ndarray, wish: PlannedOptions) -> Plan:
        """A plan that the model draws under the prompt's vector (dim,)."""
        segments, tags = self.segments(wish.duration), self._tags(vector, wish)
        if wish.progress:
            wish.progress("thoughts", 0, segments)
        codes = self.draw_thoughts(
            vector,
            words=wish.prompt,
            tags=tags,
            lyrics=wish.lyrics or "",
            segments=segments,
            seed=wish.seed,
            **{name: getattr(wish, name) for name in self.drawing},
        )[0]
        if wish.progress:
            wish.progress("thoughts", segments, segments)
        origins = [Origin("drawn", wish.prompt, seed=wish.seed)] * segments
        return self._made(codes, vector, tags, origins, wish)

    def _blended(self, files: Sequence[str | Path], wish: PlannedOptions) -> Thoughts:
        """The thoughts of references, each followed from its beginning to its end."""
        segments, given = self.segments(wish.duration), wish.reference_weights
        weights = [1.0] * len(files) if given is None else items(given) or [given]
        vectors = blended(self, files, weights, self.space.seconds, segments)
        names = " + ".join(Path(file).name for file in files)
        origin = Origin("audio", names, file=str(files[0]) if len(files) == 1 else None)
        return Thoughts(vectors, [origin] * segments)

    def _heard(self, audio: Audio, wish: PlannedOptions, duration: float | None) -> Plan:
        """A plan of the thoughts that audio itself holds, at its own pace: of all of it, or of its
        first `duration` seconds.

        Raises MusicotError for audio that can't be read, or is shorter than `duration`.
        """
        asked = number("duration", duration, unit="s")
        frames, rate = length_of(audio)
        name = "the audio" if isinstance(audio, tuple) else str(audio)
        lasts = frames / rate
        duration = lasts if asked is None else asked
        bounds = self.wishes.about()["duration"].metadata
        if not bounds["low"] <= duration <= bounds["high"]:
            raise MusicotError(
                f"{name}: {duration:.4g} s; a plan covers {bounds['low']:g} to "
                f"{bounds['high']:g} s, so pass a duration"
            )
        if lasts < duration - 0.1:
            raise MusicotError(
                f"{name} lasts {lasts:.4g} s, less than the {duration:g} s asked for"
            )
        step = self.space.seconds
        windows = np.minimum(np.arange(self.segments(duration)), window_count(audio, step) - 1)
        vectors = embed_windows(self, audio, step, windows.tolist())  # (segments, dim)
        file = None if isinstance(audio, tuple) else str(audio)
        origins = [Origin("audio", file=file, start=float(window * step)) for window in windows]
        vector = None if wish.prompt is None else self.text_vector(wish.prompt)
        wish = replace(wish, duration=duration)
        return self._of_thoughts(Thoughts(vectors, origins), vector, wish)

    def plan_from_words(self, plan: Plan | str | Path, *, seed: int | None = None) -> Plan:
        """A plan of this model that asks for what a plan of any model says in words: its prompt, as
        long as this model's songs can be, and in its segments what they were set to, words or files
        that are still there.

        plan: a Plan, a file, or the .json beside a song; seed: the plan's own if None. Chords and
        controls go along where this model knows them. Raises MusicotError for a plan that says
        nothing in words and was heard in no file.
        """
        value = plan.to_dict() if isinstance(plan, Plan) else read_plan(path_of("the plan", plan))
        prompt, origins = value["prompt"], [Origin(**each) for each in value.get("origins", ())]
        heard = [each.file for each in origins if each.file and Path(each.file).is_file()]
        if prompt is None and not heard:
            raise MusicotError(
                "the plan has no prompt, and what it was heard in is not here; plan anew with a "
                "prompt"
            )
        given = {name: value.get(name) for name in ("lyrics", "key", "chords")}
        given["reference"] = heard[0] if prompt is None else None
        known = {*self.wishes.planned(), *self.wishes.controls()}
        made = self.plan(
            prompt,
            duration=min(float(value["duration"]), self.longest),
            seed=value["seed"] if seed is None else seed,
            **{name: each for name, each in given.items() if each and name in known},
        )
        # where each of our segments lies in theirs, by its middle
        step, last = float(value["thought_seconds"]), len(value["codes"][0]) - 1
        middles = (np.arange(made.segments) + 0.5) * self.space.seconds
        there = np.minimum(middles // step, last).astype(int).tolist()
        brought = guests(origins, prompt, value.get("history", ()))
        runs = groupby(enumerate(there if brought else ()), lambda pair: brought[pair[1]])
        for origin, run in runs:
            places = [place for place, _ in run]
            if origin is not None and origin.text:
                made = made.replace(places, origin.text, seed=origin.seed)
            elif origin is not None and origin.file in heard:
                within = places[0] * self.space.seconds - there[places[0]] * step
                start = max(0.0, (origin.start or 0.0) + within)
                made = made.replace(places, Path(origin.file), start=start)
        for place, theirs in enumerate(there if value.get("controls") else ()):
            own = value["controls"][theirs].items()
            if own := {name: each for name, each in own if name in known}:
                made = made.set(place, **own)
        return made

    def _of_thoughts(
        self, thoughts: Thoughts, vector: np.ndarray | None, wish: PlannedOptions
    ) -> Plan:
        """A plan of these thoughts, under the prompt's vector (dim,) or their own mean."""
        vector = unit(thoughts.vectors.mean(axis=0)) if vector is None else vector
        codes = quantised(self, thoughts.vectors)
        return self._made(codes, vector, self._tags(vector, wish), thoughts.origins, wish)

    def _made(
        self,
        codes: np.ndarray,
        vector: np.ndarray,
        tags: Sequence[str],
        origins: Sequence[Origin],
        wish: PlannedOptions,
    ) -> Plan:
        return Plan(
            codes=codes,
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=vector,
            duration=float(wish.duration),
            thought_seconds=self.space.seconds,
            seed=wish.seed,
            prompt=wish.prompt,
            tags=tuple(tags),
            lyrics=wish.lyrics or "",
            origins=tuple(origins),
            space=self.space.id,
        )

    def check_plan(self, plan: Plan, where: str) -> Plan:
        """The plan with its vectors, if it is one that this model can render; MusicotError
        otherwise.
        """
        self.space.require(plan.space, where, self.name)
        rvq, codes, step = self.rvq.config, plan.codes, self.space.seconds
        bounds = self.wishes.about()["duration"].metadata
        if codes.ndim != 2 or codes.shape[0] != rvq.codebooks:
            raise MusicotError(
                f"{where}: codes have shape {codes.shape}, expected ({rvq.codebooks}, segments)"
            )
        if plan.thought_seconds != step:
            raise MusicotError(
                f"{where}: a thought covers {plan.thought_seconds:g} s, of this model {step:g} s"
            )
        bare = not codes.shape[1]
        if not bare and (codes.min() < 0 or codes.max() >= rvq.codebook_size):
            raise MusicotError(f"{where}: codes must lie in 0..{rvq.codebook_size - 1}")
        if plan.vector.shape != (self.space.dim,) or not np.isfinite(plan.vector).all():
            raise MusicotError(f"{where}: vector must hold {self.space.dim} finite numbers")
        if not bounds["low"] <= plan.duration <= bounds["high"]:
            raise MusicotError(
                f"{where}: duration must lie in {bounds['low']:g} to {bounds['high']:g} s"
            )
        if not bare and self.segments(plan.duration) != codes.shape[1]:
            raise MusicotError(
                f"{where}: {codes.shape[1]} thoughts do not cover {plan.duration:g} s; one covers "
                f"{step:g} s"
            )
        self._require_own(plan, where)
        plan = replace(plan, space=self.space.id, controls=self._controls(plan, where))
        vectors = unit(plan.vector)[None] if bare else vectors_of(self, codes)
        return plan.with_vectors(vectors, self)
