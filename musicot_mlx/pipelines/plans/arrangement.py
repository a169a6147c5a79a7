"""Edits that leave thoughts as they are: other orders of the segments, other chords.

What every edit has in common is here too: which segments are meant, and the plan that comes of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import items, needed, seed_of, shown
from musicot_mlx.pipelines.plans import harmony
from musicot_mlx.pipelines.plans.thoughts import PlanModel
from musicot_mlx.pipelines.plans.value import PlanValue
from musicot_mlx.tokens.progressions import transposed

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan

Where = int | slice | Sequence[int]
_PLACES = "segments are whole numbers, counted from 0"


class Arrangement(PlanValue):
    """A plan whose segments can be taken, moved, and given other chords."""

    def __getitem__(self: "Plan", where: int | slice) -> "Plan":
        """These segments as a plan of their own, to put into another."""
        places = self._places(where)
        return self._arranged(places, {"edit": "take", "segments": places})

    def repeat(self: "Plan", where: Where, times: int = 1) -> "Plan":
        """These segments once more, `times` over, after the last of them."""
        times = needed("times", times, low=1, high=1000, whole=True, words="repeat at least once")
        places = self._places(where)
        after = max(places) + 1
        order = [*range(after), *places * times, *range(after, self.segments)]
        return self._arranged(order, {"edit": "repeat", "segments": places, "times": times})

    def delete(self: "Plan", where: Where) -> "Plan":
        """The plan without these segments; at least one must stay."""
        places = self._places(where)
        order = [i for i in range(self.segments) if i not in places]
        if not order:
            raise MusicotError("all segments would be deleted; leave at least one")
        return self._arranged(order, {"edit": "delete", "segments": places})

    def reorder(self: "Plan", order: Sequence[int]) -> "Plan":
        """All segments in another order: `plan.reorder([2, 0, 1])` begins with the third."""
        places = self._places(order)
        if sorted(places) != list(range(self.segments)):
            raise MusicotError(
                f"an order must name each of the segments 0 to {self.segments - 1} once; arrange "
                "takes any"
            )
        return self._arranged(places, {"edit": "reorder", "segments": places})

    def arrange(self: "Plan", order: Sequence[int]) -> "Plan":
        """Segments in any order, named twice to be heard twice and left out to be deleted."""
        places = self._places(order)
        return self._arranged(places, {"edit": "arrange", "segments": places})

    def with_chords(
        self: "Plan",
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

    def transpose(self: "Plan", semitones: int) -> "Plan":
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

    def in_key(self: "Plan", key: str) -> "Plan":
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

    def set(self: "Plan", where: Where, **controls: Any) -> "Plan":
        """The same thoughts, asked for otherwise in these segments: `plan.set(2, drums="none",
        style_strength=4)`.

        controls: options of a song that the model takes of each segment too; None is the song's own
        again. Raises MusicotError for values that are none, and for what the model does not know of
        a segment.
        """
        places = self._places(where)
        given = self._model().require_controls(controls, "the edit")
        if not given:
            raise MusicotError("nothing is set; give a control, such as drums='none'")
        found = [dict(self.controls_of(i)) for i in range(self.segments)]
        for place in places:
            found[place] = {k: v for k, v in (found[place] | given).items() if v is not None}
        said = ", ".join(f"{k.replace('_', ' ')} {in_words(v)}" for k, v in given.items())
        record = {"edit": "set", "segments": places, "by": said}
        return self._edited(record, codes=self.codes, origins=self.origins, controls=tuple(found))

    # --- how edits are made -----------------------------------------------------------------------

    def _model(self: "Plan") -> PlanModel:
        if self.model is None:
            raise MusicotError(
                "this plan has no model at hand; load it with Plan.load(path, model)"
            )
        return self.model

    def _seed(self: "Plan", seed: int | None) -> int:
        """A seed that no edit before had, unless one is asked for."""
        seed = seed_of(seed)
        return self.seed + 1 + len(self.history) if seed is None else seed

    def _places(self: "Plan", where: Where) -> list[int]:
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

    def _require_length(self: "Plan", duration: float) -> None:
        """MusicotError, before work is done for a song that could not be rendered."""
        longest = self._model().longest
        if duration > longest:
            raise MusicotError(
                f"the song would last {duration:g} s; a plan covers at most {longest:g} s"
            )

    def _arranged(self: "Plan", order: list[int], record: dict[str, Any]) -> "Plan":
        """Segments in this order; only the last may be shorter than the others."""
        step, last = self.thought_seconds, self.segments - 1
        tail = self.duration - step * last if order[-1] == last else step
        duration = step * (len(order) - 1) + tail
        self._require_length(duration)
        origins = [self.origins[i] for i in order]
        codes = self.codes[:, order]
        return self._edited(record, order=order, codes=codes, origins=origins, duration=duration)

    def _edited(
        self: "Plan",
        record: dict[str, Any],
        order: Sequence[int | None] | None = None,
        **changes: Any,
    ) -> "Plan":
        """The plan with these changes; `order`: where each segment stood, None for a new one."""
        changes["codes"] = np.ascontiguousarray(changes["codes"], dtype=np.int32)
        changes["origins"] = tuple(changes["origins"])
        if order is not None and "controls" not in changes:
            carried = [{} if place is None else self.controls_of(place) for place in order]
            changes["controls"] = tuple(carried)
        plan = replace(self, **changes, history=(*self.history, record))
        if plan.controls:  # where segments were added, these have none
            more = plan.segments - len(plan.controls)
            plan = replace(plan, controls=(*plan.controls, *[{}] * more))
        if order is not None:
            plan = replace(plan, chords=harmony.carried(self, plan, order))
        elif plan.chords:  # as many bars as there are now
            plan = replace(plan, chords=harmony.fitted(plan, plan.chords))
        return self._model().check_plan(plan, "the edited plan")


class _NoSegment(MusicotError, IndexError):
    """A segment that the plan does not have."""


def in_words(value: Any) -> str:
    """The value of a control as it is shown."""
    if value is None:
        return "as the song"
    return f"{value:g}" if isinstance(value, float) else str(value)
