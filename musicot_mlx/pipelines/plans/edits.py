"""Edits that bring other thoughts into a plan: of words, of audio, of other plans, or drawn anew.

Those that only move segments about are in arrangement.py.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import needed, number, shown
from musicot_mlx.pipelines.plans.arrangement import Arrangement, Where
from musicot_mlx.pipelines.plans.origin import Origin
from musicot_mlx.pipelines.plans.thoughts import (
    Audio,
    audio_of,
    embed_windows,
    from_words,
    is_file,
    quantised,
    slerp,
    spread,
    window_count,
)

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan


class Edits(Arrangement):
    """The edits of a plan, each of which returns a new one."""

    def replace(
        self: "Plan",
        where: Where,
        source: "str | Audio | Plan",
        *,
        seed: int | None = None,
        start: float = 0.0,
    ) -> "Plan":
        """Other thoughts in these segments: those of a text, an audio file, or another plan.

        A text is drawn by the model, `seed` deciding which of its thoughts. Audio is a Path,
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

    def morph(self: "Plan", other: "Plan", amount: float, *, where: Where | None = None) -> "Plan":
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
        if not isinstance(other, Edits):
            raise MusicotError(f"a plan morphs into another plan, not into {shown(other)}")
        places = list(range(self.segments)) if where is None else self._places(where)
        columns = spread(other.segments, len(places))
        theirs = other.codes[:, columns]
        model = self._model()
        model.space.require(other.space, "the other plan", model.name)
        if len(theirs) != len(self.codes):
            raise MusicotError("the plans come from models of different codebooks")
        between = theirs if amount == 1 else self.codes[:, places]  # the ends stay exact
        if 0 < amount < 1:
            vectors = slerp(self.embeddings[places], other.embeddings[columns], amount)
            between = quantised(model, vectors)
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
            changes["controls"] = self.controls
            if nearer is other:
                changes["controls"] = tuple(other.controls_of(column) for column in columns)
            changes["vector"] = (
                nearer.vector if amount in (0, 1) else slerp(self.vector, other.vector, amount)
            )
        record = {"edit": "morph", "segments": places, "amount": amount}
        record["by"] = other.prompt or str(other.origins[0])
        return self._edited(record, codes=codes, origins=origins, **changes)

    def redraw(
        self: "Plan",
        lock: Where = (),
        *,
        seed: int | None = None,
        **drawing: float | None,
    ) -> "Plan":
        """New thoughts from the model in all segments but the locked ones, which keep their codes.

        drawing: how, by those options of planning that the model draws by, as thought_temperature
        of MusiCoT and variation of Magenta RealTime 2.
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
            **drawing,
        )

    def extend(
        self: "Plan",
        seconds: float,
        *,
        seed: int | None = None,
        **drawing: float | None,
    ) -> "Plan":
        """The plan of a song that is `seconds` longer: the model goes on from the thoughts there
        are. drawing: see `redraw`.

        Raises MusicotError for a song that would last longer than the model can make.
        """
        seconds = needed("seconds", seconds, unit="s")
        if not 0 < seconds < np.inf:
            raise MusicotError(f"a plan can't be extended by {seconds:g} s")
        duration = self.duration + seconds
        self._require_length(duration)
        more = self._model().segments(duration) - self.segments
        locked_codes = np.pad(self.codes, ((0, 0), (0, more)), constant_values=-1)
        return self._drawn(
            locked_codes,
            {"edit": "extend", "seconds": seconds, "seed": self._seed(seed)},
            duration=duration,
            **drawing,
        )

    def insert(
        self: "Plan",
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
        if count is None and not isinstance(source, (str, Edits)) or is_file(source):
            count = count or window_count(audio_of(source), self.thought_seconds)
        if count is None:
            count = source.segments if isinstance(source, Edits) else 1
        duration = self.thought_seconds * (self.segments + count)
        if before < self.segments:  # the last segment stays as short as it is
            duration += self.duration - self.thought_seconds * self.segments
        self._require_length(duration)
        codes, origins, record = self._thoughts(source, count, seed)
        columns = np.arange(count) % codes.shape[1]
        origins = [origins[column] for column in columns]
        record |= {"edit": "insert", "segments": list(range(before, before + count))}
        order = [*range(before), *[None] * count, *range(before, self.segments)]
        return self._edited(
            record,
            order=order,
            controls=self._inserted(before, source, columns),
            codes=np.insert(self.codes, [before], codes[:, columns], axis=1),
            origins=[*self.origins[:before], *origins, *self.origins[before:]],
            duration=duration,
        )

    def _inserted(
        self: "Plan", before: int, source: "str | Audio | Plan", columns: np.ndarray
    ) -> tuple[Mapping[str, Any], ...]:
        """The controls of all segments with those of new ones, which a plan brings along."""
        theirs = [source.controls_of(i) if isinstance(source, Edits) else {} for i in columns]
        ours = [self.controls_of(i) for i in range(self.segments)]
        return (*ours[:before], *theirs, *ours[before:])

    def _thoughts(
        self: "Plan", source: "str | Audio | Plan", count: int, seed: int, start: float = 0.0
    ) -> tuple[np.ndarray, list[Origin], dict[str, Any]]:
        """Codes (levels, some), where each comes from, and what the history says of it."""
        model = self._model()
        if isinstance(source, Edits):
            model.space.require(source.space, "the other plan", model.name)
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
        self: "Plan",
        locked_codes: np.ndarray,
        record: dict[str, Any],
        *,
        duration: float | None = None,
        **drawing: float | None,
    ) -> "Plan":
        """The plan with codes from the model wherever `locked_codes` holds -1."""
        codes = self._model().draw_thoughts(
            self.vector,
            words=self.prompt,
            tags=self.tags,
            lyrics=self.lyrics,
            segments=locked_codes.shape[1],
            locked_codes=locked_codes,
            seed=record["seed"],
            **self._model().require_drawing(drawing),
        )[0]
        drawn = Origin("drawn", self.prompt, seed=record["seed"])
        free = (locked_codes < 0).any(axis=0)
        origins = [drawn if is_free else self.origins[i] for i, is_free in enumerate(free)]
        return self._edited(
            record, codes=codes, origins=origins, duration=duration or self.duration
        )


def _is_empty(where: Where) -> bool:
    return hasattr(where, "__len__") and len(where) == 0
