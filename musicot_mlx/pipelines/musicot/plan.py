"""A plan: the musical thoughts of a song, one for every 10 s, before a second of it is rendered.

A thought is a CLAP audio embedding quantised by RVQ (arXiv 2503.19611, section 4.2). As it lives in
the space of texts, `plan.activity(["drums", "piano"])` reads what each segment holds (section 5.3).
Plans don't change: every edit returns a new one, whose history tells how it came about. Segments
count from 0; -1 is the last, and a slice means several.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import write_json
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import items, needed, number, path_of, seed_of, shown, texts_of
from musicot_mlx.pipelines.musicot import harmony
from musicot_mlx.pipelines.musicot.activity import activity
from musicot_mlx.pipelines.musicot.options import MusicotOptions
from musicot_mlx.pipelines.musicot.origin import Origin, guests
from musicot_mlx.pipelines.musicot.plan_file import FORMAT, VERSION, checked, plan_within, read_plan
from musicot_mlx.pipelines.musicot.plan_value import PlanValue
from musicot_mlx.pipelines.musicot.thoughts import (
    Audio,
    PlanModel,
    audio_of,
    embed_windows,
    from_words,
    is_file,
    quantised,
    slerp,
    spread,
    window_count,
)
from musicot_mlx.pipelines.options import checked as checked_option
from musicot_mlx.tokens.progressions import chord_changes, transposed

Where = int | slice | Sequence[int]
_PLACES = "segments are whole numbers, counted from 0"
FINGERPRINT = 8  # numbers of each vector that a file keeps
NEAR = 0.02  # 16-bit weights differ by less


@dataclass(frozen=True, eq=False, repr=False)
class Plan(PlanValue):
    """Thoughts of a song as codes and as the vectors that the codes stand for.

    codes: int32 (levels, segments), coarse level first; embeddings: float32 (segments, dim), unit
    length; vector: float32 (dim,), the CLAP embedding that conditions the song; duration in
    seconds; origins: where each segment's thought came from; history: the edits, oldest first.
    key: as "D minor"; chords: bars from the song's first frame on, "Am" or "Am F" each, none where
    the harmony is left open; bpm: what bars are counted by where nothing asks for a tempo.
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
    space: str | None = None  # id of the space that the thoughts live in; None: not said
    model: PlanModel | None = field(default=None, repr=False, compare=False)

    @property
    def segments(self) -> int:
        return self.codes.shape[1]

    def without_thoughts(self) -> "Plan":
        """The same request without a chain of thoughts: the base system that the paper compares
        with, for songs of up to the model's context.
        """
        return replace(self, codes=self.codes[:, :0], origins=())

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

    def __getitem__(self, where: int | slice) -> "Plan":
        """These segments as a plan of their own, to put into another."""
        places = self._places(where)
        return self._arranged(places, {"edit": "take", "segments": places})

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

    def chord_changes(self) -> tuple[tuple[float, str], ...]:
        """(second, chord) of every chord of the plan, in order."""
        return chord_changes(self.chords, harmony.bar_starts(self)) if self.chords else ()

    def changed(self, other: "Plan") -> int:
        """The first segment whose thought or chords differ from the other plan's; where one ends,
        if none does.
        """
        shared = min(self.segments, other.segments)
        differ = (self.codes[:, :shared] != other.codes[:, :shared]).any(axis=0)
        first = int(np.argmax(differ)) if differ.any() else shared
        return min(first, harmony.parted(self, other))

    # --- edit -------------------------------------------------------------------------------------

    def replace(
        self,
        where: Where,
        source: "str | Audio | Plan",
        *,
        seed: int | None = None,
        start: float = 0.0,
    ) -> "Plan":
        """Other thoughts in these segments: those of a text, an audio file, or another plan.

        A text is drawn by the LM, `seed` deciding which of its thoughts. Audio is a Path,
        `"@file.wav"` or (waveform, rate in Hz), heard from `start` seconds on; its windows of 10 s,
        as a plan's segments, fill the places in turn and begin anew where they run out. All other
        segments keep their codes.
        Raises MusicotError for segments that aren't there and sources that can't be used.
        """
        places = self._places(where)
        seed = self._seed(seed)
        codes, origins, record = self._thoughts(source, len(places), seed, start)
        columns = np.arange(len(places)) % codes.shape[1]
        new_codes, new_origins = self.codes.copy(), list(self.origins)
        new_codes[:, places] = codes[:, columns]
        for place, column in zip(places, columns, strict=True):
            new_origins[place] = origins[column]
        return self._edited(
            {"edit": "replace", "segments": places, **record}, codes=new_codes, origins=new_origins
        )

    def morph(self, other: "Plan", amount: float, *, where: Where | None = None) -> "Plan":
        """Thoughts `amount` (0 to 1) of the way to the other plan's: slerp, then quantised again.

        Whole plans meet from beginning to end whatever their lengths, and what the song is asked to
        be goes the same way; `where` morphs these segments only: `plan.morph(plan[3], 0.5,
        where=1)`. Raises MusicotError for an amount beyond 0 to 1.
        """
        amount = needed(
            "the amount of a morph",
            amount,
            low=0,
            high=1,
            words="give 0 (none) to 1 (the other)",
        )
        if not isinstance(other, Plan):
            raise MusicotError(f"a plan morphs into another plan, not into {shown(other)}")
        places = list(range(self.segments)) if where is None else self._places(where)
        columns = spread(other.segments, len(places))
        theirs = other.codes[:, columns]
        self._model().space.require(other.space, "the other plan")
        if len(theirs) != len(self.codes):
            raise MusicotError("the plans come from models of different codebooks")
        between = theirs if amount == 1 else self.codes[:, places]  # the ends stay exact
        if 0 < amount < 1:
            vectors = slerp(self.embeddings[places], other.embeddings[columns], amount)
            between = quantised(self._model(), vectors)
        codes, origins = self.codes.copy(), list(self.origins)
        codes[:, places] = between
        for place, column in zip(places, columns, strict=True):
            ours, origin = self.origins[place], other.origins[column]
            if 0 < amount < 1:
                origin = Origin("morph", f"{ours} > {origin}"[:200])
            origins[place] = ours if amount == 0 else origin
        changes: dict[str, Any] = {}
        if where is None:
            nearer = self if amount < 0.5 else other
            changes = {"prompt": nearer.prompt, "tags": nearer.tags, "lyrics": nearer.lyrics}
            changes |= {"key": nearer.key, "chords": nearer.chords, "bpm": nearer.bpm}
            changes["vector"] = (
                nearer.vector if amount in (0, 1) else slerp(self.vector, other.vector, amount)
            )
        record = {"edit": "morph", "segments": places, "amount": amount}
        record["by"] = other.prompt or str(other.origins[0])
        return self._edited(record, codes=codes, origins=origins, **changes)

    def redraw(
        self,
        lock: Where = (),
        *,
        seed: int | None = None,
        thought_temperature: float | None = None,
        thought_guidance: float | None = None,
    ) -> "Plan":
        """New thoughts from the LM in all segments but the locked ones, which keep their codes.

        In the level-major order the segments after a locked one attend to its coarse code, and so
        do all segments at the finer levels.
        """
        locked = set(self._places(lock)) if not _is_empty(lock) else set()
        free = [i for i in range(self.segments) if i not in locked]
        if not free:
            raise MusicotError("all segments are locked; leave one out to have it drawn anew")
        locked_codes = self.codes.copy()
        locked_codes[:, free] = -1
        return self._drawn(
            locked_codes,
            {"edit": "redraw", "segments": free, "seed": self._seed(seed)},
            thought_temperature=thought_temperature,
            thought_guidance=thought_guidance,
        )

    def with_chords(
        self,
        chords: str | Sequence[str] | None,
        where: Where | None = None,
        *,
        key: str | None = None,
    ) -> "Plan":
        """The same thoughts with other chords, repeated to the end of the song, or only in the bars
        that begin in the segments `where`.

        chords: "Am F C G", "Am F | C | G", numerals in `key` (by default the plan's), or one text a
        bar; None leaves the harmony open. Raises MusicotError for what is no chord or no key.
        """
        asked = harmony.wanted_key(key)
        now = asked or harmony.wanted_key(self.key)
        bars = () if chords is None else harmony.wanted_bars(chords, now)
        record: dict[str, Any] = {"edit": "chords", "by": " ".join(bars) or "none"}
        if where is None:
            now, bars = asked, harmony.fitted(self, bars)
            named = harmony.named(now, bars)
        else:
            record["segments"] = places = self._places(where)
            bars = harmony.placed(self, bars or ("N",), places)
            named = self.key if asked is None else str(asked)
        return self._edited(record, codes=self.codes, origins=self.origins, chords=bars, key=named)

    def transpose(self, semitones: int) -> "Plan":
        """The same thoughts with key and chords so many semitones higher (lower below 0)."""
        semitones = needed("semitones", semitones, low=-1200, high=1200, whole=True)
        if not self.chords:
            raise MusicotError("this plan names no chords to transpose; give it some: with_chords")
        key = harmony.wanted_key(self.key)
        key = None if key is None else key.transposed(semitones)
        return self._edited(
            {"edit": "transpose", "semitones": semitones},
            codes=self.codes,
            origins=self.origins,
            chords=transposed(self.chords, semitones, key),
            key=None if key is None else str(key),
        )

    def in_key(self, key: str) -> "Plan":
        """The same thoughts with the chords moved to another tonic, the nearer way; the mode stays.

        Raises MusicotError for a key of another mode, and for a plan without chords.
        """
        new, old = harmony.wanted_key(key), harmony.wanted_key(self.key)
        if old is None or new.mode != old.mode:
            raise MusicotError(
                f"the plan is in {self.key or 'no key'}, so {new} asks for other chords; pass them "
                "with the key"
            )
        return self.transpose((new.tonic - old.tonic + 6) % 12 - 6)

    def extend(
        self,
        seconds: float,
        *,
        seed: int | None = None,
        thought_temperature: float | None = None,
        thought_guidance: float | None = None,
    ) -> "Plan":
        """The plan of a song that is `seconds` longer: the LM goes on from the thoughts there are.

        Raises MusicotError for a song that would last over 300 s.
        """
        seconds = needed("seconds", seconds, unit="s")
        if not 0 < seconds < np.inf:
            raise MusicotError(f"a plan can't be extended by {seconds:g} s")
        duration = self.duration + seconds
        _check_length(duration)
        more = self._model().segments(duration) - self.segments
        locked_codes = np.pad(self.codes, ((0, 0), (0, more)), constant_values=-1)
        return self._drawn(
            locked_codes,
            {"edit": "extend", "seconds": seconds, "seed": self._seed(seed)},
            duration=duration,
            thought_temperature=thought_temperature,
            thought_guidance=thought_guidance,
        )

    def insert(
        self,
        before: int,
        source: "str | Audio | Plan",
        *,
        count: int | None = None,
        seed: int | None = None,
    ) -> "Plan":
        """New segments before segment `before` (at the end where that is `plan.segments`).

        Sources are those of `replace`. count: how many segments; None: one of a text, all of audio
        and of a plan.
        """
        before = needed("before", before, whole=True)
        if not 0 <= before <= self.segments:
            raise MusicotError(
                f"can't insert before segment {before}; this plan takes 0 to {self.segments}"
            )
        count = number(
            "count", count, low=1, high=1000, whole=True, words="insert at least 1, at most 1000"
        )
        seed = self._seed(seed)
        if count is None and not isinstance(source, (str, Plan)) or is_file(source):
            count = count or window_count(audio_of(source), self.thought_seconds)
        if count is None:
            count = source.segments if isinstance(source, Plan) else 1
        duration = self.thought_seconds * (self.segments + count)
        if before < self.segments:  # the last segment stays as short as it is
            duration += self.duration - self.thought_seconds * self.segments
        _check_length(duration)
        codes, origins, record = self._thoughts(source, count, seed)
        columns = np.arange(count) % codes.shape[1]
        origins = [origins[column] for column in columns]
        record |= {"edit": "insert", "segments": list(range(before, before + count))}
        order = [*range(before), *[None] * count, *range(before, self.segments)]
        return self._edited(
            record,
            order=order,
            codes=np.insert(self.codes, [before], codes[:, columns], axis=1),
            origins=[*self.origins[:before], *origins, *self.origins[before:]],
            duration=duration,
        )

    def repeat(self, where: Where, times: int = 1) -> "Plan":
        """These segments once more, `times` over, after the last of them."""
        times = needed("times", times, low=1, high=1000, whole=True, words="repeat at least once")
        places = self._places(where)
        after = max(places) + 1
        order = [*range(after), *places * times, *range(after, self.segments)]
        return self._arranged(order, {"edit": "repeat", "segments": places, "times": times})

    def delete(self, where: Where) -> "Plan":
        """The plan without these segments; at least one must stay."""
        places = self._places(where)
        order = [i for i in range(self.segments) if i not in places]
        if not order:
            raise MusicotError("all segments would be deleted; leave at least one")
        return self._arranged(order, {"edit": "delete", "segments": places})

    def reorder(self, order: Sequence[int]) -> "Plan":
        """All segments in another order: `plan.reorder([2, 0, 1])` begins with the third."""
        places = self._places(order)
        if sorted(places) != list(range(self.segments)):
            raise MusicotError(
                f"an order must name each of the segments 0 to {self.segments - 1} once; arrange "
                "takes any"
            )
        return self._arranged(places, {"edit": "reorder", "segments": places})

    def arrange(self, order: Sequence[int]) -> "Plan":
        """Segments in any order, named twice to be heard twice and left out to be deleted."""
        places = self._places(order)
        return self._arranged(places, {"edit": "arrange", "segments": places})

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

    # --- how edits are made -----------------------------------------------------------------------

    def _model(self) -> PlanModel:
        if self.model is None:
            raise MusicotError(
                "this plan has no model at hand; load it with Plan.load(path, model)"
            )
        return self.model

    def _seed(self, seed: int | None) -> int:
        """A seed that no edit before had, unless one is asked for."""
        seed = seed_of(seed)
        return self.seed + 1 + len(self.history) if seed is None else seed

    def _places(self, where: Where) -> list[int]:
        """Segments as non-negative numbers, in the order given."""
        count = self.segments
        if isinstance(where, slice):
            try:
                places = list(range(count))[where]
            except TypeError:
                raise MusicotError(f"{_PLACES}, got {shown(where)}") from None
        else:
            several = items(where)
            wanted = [where] if several is None else several
            places = [needed("a place", place, whole=True, words=_PLACES) for place in wanted]
            for place in places:
                if not -count <= place < count:
                    # IndexError as well, so that a plan can be looped over
                    raise _NoSegment(f"there is no segment {place}; this plan has 0 to {count - 1}")
            places = [place % count for place in places]
        if not places:
            raise MusicotError(f"no segment is meant by {where}; this plan has 0 to {count - 1}")
        return places

    def _thoughts(
        self, source: "str | Audio | Plan", count: int, seed: int, start: float = 0.0
    ) -> tuple[np.ndarray, list[Origin], dict[str, Any]]:
        """Codes (levels, some), where each comes from, and what the history says of it."""
        model = self._model()
        if isinstance(source, Plan):
            model.space.require(source.space, "the other plan")
            if len(source.codes) != len(self.codes):
                raise MusicotError("the plans come from models of different codebooks")
            return (
                source.codes,
                list(source.origins),
                {"by": f"plan: {source.prompt or ''}".strip()},
            )
        if isinstance(source, str) and not is_file(source):
            codes = from_words(model, source, count, seed)
            words = " ".join(source.split())
            origins = [Origin("words", words, seed=seed)] * count
            return codes, origins, {"by": words, "seed": seed}
        audio, step = audio_of(source), self.thought_seconds
        start = needed("start", start, low=0, high=1e9, unit="s")
        windows = list(range(min(count, window_count(audio, step, start))))
        codes = quantised(model, embed_windows(model, audio, step, windows, offset=start))
        file = None if isinstance(audio, tuple) else str(audio)
        origins = [Origin("audio", file=file, start=start + window * step) for window in windows]
        return codes, origins, {"by": file or "audio"}

    def _drawn(
        self,
        locked_codes: np.ndarray,
        record: dict[str, Any],
        *,
        duration: float | None = None,
        thought_temperature: float | None,
        thought_guidance: float | None,
    ) -> "Plan":
        """The plan with codes from the LM wherever `locked_codes` holds -1."""
        about = MusicotOptions.about()
        codes = self._model().draw_thoughts(
            self.vector,
            words=self.prompt,
            tags=self.tags,
            lyrics=self.lyrics,
            segments=locked_codes.shape[1],
            locked_codes=locked_codes,
            seed=record["seed"],
            thought_temperature=checked_option(about["thought_temperature"], thought_temperature),
            thought_guidance=checked_option(about["thought_guidance"], thought_guidance),
        )[0]
        drawn = Origin("drawn", self.prompt, seed=record["seed"])
        free = (locked_codes < 0).any(axis=0)
        origins = [drawn if is_free else self.origins[i] for i, is_free in enumerate(free)]
        return self._edited(
            record, codes=codes, origins=origins, duration=duration or self.duration
        )

    def _arranged(self, order: list[int], record: dict[str, Any]) -> "Plan":
        """Segments in this order; only the last may be shorter than the others."""
        step, last = self.thought_seconds, self.segments - 1
        tail = self.duration - step * last if order[-1] == last else step
        duration = step * (len(order) - 1) + tail
        _check_length(duration)
        origins = [self.origins[i] for i in order]
        codes = self.codes[:, order]
        return self._edited(record, order=order, codes=codes, origins=origins, duration=duration)

    def _edited(
        self, record: dict[str, Any], order: Sequence[int | None] | None = None, **changes: Any
    ) -> "Plan":
        """The plan with these changes; `order`: where each segment stood, None for a new one."""
        changes["codes"] = np.ascontiguousarray(changes["codes"], dtype=np.int32)
        changes["origins"] = tuple(changes["origins"])
        plan = replace(self, **changes, history=(*self.history, record))
        if order is not None:
            plan = replace(plan, chords=harmony.carried(self, plan, order))
        elif plan.chords:  # as many bars as there are now
            plan = replace(plan, chords=harmony.fitted(plan, plan.chords))
        return self._model().check_plan(plan, "the edited plan")


class _NoSegment(MusicotError, IndexError):
    """A segment that the plan does not have."""


def _is_empty(where: Where) -> bool:
    return hasattr(where, "__len__") and len(where) == 0


def _check_length(duration: float) -> None:
    """Before work is done for a song that could not be rendered."""
    if duration > 300:
        raise MusicotError(f"the song would last {duration:g} s; a plan covers at most 300 s")
