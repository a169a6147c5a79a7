"""Plans as the page sees them, and the edits that it asks for.

All here runs in the engine's thread: it reads and changes plans of a loaded model. What is stored
is the plan as JSON; nothing of a plan lives longer than a request.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from itertools import zip_longest
from typing import Any

from musicot_mlx import Plan
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.sections import section_letters
from musicot_mlx.pipelines.plans.anchors import anchors_of
from musicot_mlx.pipelines.plans.harmony import bar_starts
from musicot_mlx.pipelines.plans.origin import Origin
from musicot_mlx.studio import bodies
from musicot_mlx.studio.engine import Engine
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.files import Files, Names, shown, source_of
from musicot_mlx.studio.store import Store, Version
from musicot_mlx.studio.wishes import resolved
from musicot_mlx.tokens.tempo import asked_tempo

BEATS = 4  # a bar
MOST_ANCHORS, LONGEST_ANCHOR = 24, 100


def asked_anchors(text: str | None) -> list[str] | None:
    """The words of ?anchors=drums,bass; None where none are given."""
    words = list(dict.fromkeys(" ".join(each.split()) for each in (text or "").split(",")))
    words = [each for each in words if each]
    if len(words) > MOST_ANCHORS or any(len(each) > LONGEST_ANCHOR for each in words):
        raise Refused(
            422,
            f"at most {MOST_ANCHORS} anchors of {LONGEST_ANCHOR} letters are taken",
            param="anchors",
        )
    return words or None


def document(
    version: Version,
    model: Any,
    anchors: Sequence[str] | None,
    *,
    warnings: Sequence[str] = (),
    preview: bool = False,
) -> dict[str, Any]:
    """A plan document: all that is to be seen of a version of a plan."""
    plan = Plan.load(version.value, model)
    anchors = list(anchors or anchors_of(plan))
    bars = _bars(plan)
    beats = [bar + (after - bar) * beat / BEATS for bar, after in _pairs(bars) for beat in range(4)]
    return {
        "id": version.plan,
        "version": version.number,
        "versions": version.versions,
        "can_undo": version.parent is not None,
        "can_redo": version.can_redo,
        "preview": preview,
        "model": version.model,
        "adapters": version.adapters,
        "prompt": plan.prompt,
        "lyrics": plan.lyrics,
        "seed": plan.seed,
        "duration": plan.duration,
        "segment_seconds": plan.thought_seconds,
        "key": plan.key,
        "bpm": plan.bpm or asked_tempo(plan.tags, (plan.prompt,)) or None,
        "tags": list(plan.tags),
        "options": version.options,
        "chords": _chords(plan),
        "bars": [_rounded(bar) for bar in bars if bar < plan.duration],
        "beats": [_rounded(beat) for beat in beats if beat < plan.duration],
        "sections": _sections(plan),
        "anchors": anchors,
        "segments": _segments(plan, model, version.locked, anchors),
        "changed": _changed(version),
        "edit": version.edit,
        "warnings": list(warnings),
        "created": version.created,
        "updated": version.updated,
    }


def outside(plan: Plan, names: Names) -> dict[str, Any]:
    """A plan as JSON, in which files are called by their labels."""
    return names.outside(plan.to_dict())


def _segments(
    plan: Plan, model: Any, locked: list[bool], anchors: list[str]
) -> list[dict[str, Any]]:
    activity, words = plan.activity(anchors), plan.words()
    conditioning = getattr(model, "conditioning", None)
    tags = conditioning.tags_of(plan) if conditioning else [plan.tags] * plan.segments
    step = plan.thought_seconds
    return [
        {
            "index": index,
            "start": index * step,
            "end": min((index + 1) * step, plan.duration),
            "label": str(origin),
            "words": words[index],
            "origin": _origin(origin),
            "locked": locked[index],
            "tags": list(tags[index]),
            "controls": dict(plan.controls_of(index)),
            "activity": [_rounded(value) for value in activity[index]],
        }
        for index, origin in enumerate(plan.origins)
    ]


def _origin(origin: Origin) -> dict[str, Any]:
    source = source_of(origin.file)
    name = origin.file and (shown(origin.file) if source else str(replace(origin, start=None)))
    return {
        "kind": origin.kind,
        "words": origin.words,
        "source": source,
        "name": name,
        "start": origin.start,
        "seed": origin.seed,
    }


def _sections(plan: Plan) -> list[dict[str, Any]]:
    """Segments that sound alike, side by side, under one letter."""
    found: list[dict[str, Any]] = []
    for index, letter in enumerate(section_letters(plan.embeddings)):
        start = index * plan.thought_seconds
        end = min(start + plan.thought_seconds, plan.duration)
        if found and found[-1]["letter"] == letter:
            found[-1]["end"] = end
        else:
            found.append({"letter": letter, "start": start, "end": end})
    return found


def _bars(plan: Plan) -> list[float]:
    """Where bars begin, and where the last one ends; none where no tempo is known."""
    if not plan.bpm and not asked_tempo(plan.tags, (plan.prompt,)):
        return []
    return [float(start) for start in bar_starts(plan)]


def _chords(plan: Plan) -> list[dict[str, Any]]:
    changes = [*plan.chord_changes(), (plan.duration, "")]
    return [
        {"start": _rounded(start), "end": _rounded(end), "chord": chord}
        for (start, chord), (end, _) in _pairs(changes)
    ]


def _changed(version: Version) -> list[int]:
    """The segments whose thoughts, or what is asked beside them, differ from those of the version
    before.
    """
    if version.previous is None:
        return []
    now, before = (_by_segment(each) for each in (version.value, version.previous))
    pairs = zip_longest(now, before[: len(now)])
    return [index for index, (ours, theirs) in enumerate(pairs) if ours != theirs]


def _by_segment(value: dict[str, Any]) -> list[tuple]:
    """Codes and controls of each segment of a plan as JSON."""
    codes = list(zip(*value["codes"], strict=True))
    return list(zip(codes, value.get("controls") or [{}] * len(codes), strict=True))


def _pairs(values: Sequence) -> list[tuple]:
    return list(zip(values, values[1:], strict=False))


def _rounded(value: float) -> float:
    return round(float(value), 3)


# --- drawing and editing --------------------------------------------------------------------------


def drawn(engine: Engine, body: bodies.NewPlan, options: dict[str, Any], names: Names) -> Plan:
    """The plan that a request asks for; options are those of planning, as they are stored."""
    about = engine.model(body.model)
    model = engine.loaded(about.name, [each.model_dump() for each in body.adapters])
    given = resolved(about, options, names)
    seed = {} if body.seed is None else {"seed": body.seed}
    if body.from_audio is None:
        with names.telling(), _named_as_asked():
            return model.plan(body.prompt, **given, **seed)
    hear = getattr(model, "plan_from_audio", None)
    known = inspect.signature(hear).parameters if hear else {}
    for name in given:
        if name not in known:
            raise Refused(
                422, f"{name} is not asked for beside from_audio", param=f"options.{name}"
            )
    if hear is None:
        raise Refused(422, f"a {about.family.title} model hears no plan", param="from_audio")
    file = names.file(body.from_audio)
    with names.telling(), _named_as_asked():
        return hear(file, body.prompt, **given, **seed)


@contextmanager
def _named_as_asked() -> Iterator[None]:
    """Within it errors name the option that they are about as the request does."""
    try:
        yield
    except MusicotError as error:
        if error.option not in (None, "prompt"):
            error.option = f"options.{error.option}"
        raise


@dataclass(frozen=True)
class Edited:
    """A plan after an edit, and which of its segments are locked."""

    plan: Plan
    locked: list[bool]


class Editor:
    """One edit of one plan."""

    def __init__(self, version: Version, model: Any, store: Store, files: Files) -> None:
        self.plan, self.locked = Plan.load(version.value, model), list(version.locked)
        self.names = files.names()
        self._version, self._model, self._store = version, model, store

    def make(self, edit: bodies.Edit) -> Edited:
        """The plan after the edit. Raises MusicotError for what can't be done to it."""
        for name in ("segments", "order"):
            for place in getattr(edit, name, None) or ():
                if place >= self.plan.segments:
                    raise Refused(
                        422,
                        f"there is no segment {place}; the plan has 0 to {self.plan.segments - 1}",
                        param=name,
                    )
        with self.names.telling():
            made = self._make(edit)
        return made if isinstance(made, Edited) else Edited(made, self.locked)

    @singledispatchmethod
    def _make(self, edit: bodies.Edit) -> Plan | Edited:
        raise TypeError(f"no edit {edit}")

    @_make.register
    def _(self, edit: bodies.Replace) -> Plan:
        self._require_free(edit.segments)
        source, options = self._source(edit.source), {"seed": edit.seed}
        return self.plan.replace(edit.segments, source, start=edit.source.start, **options)

    @_make.register
    def _(self, edit: bodies.Morph) -> Plan:
        source = edit.source
        whole = edit.segments is None
        if whole and source.plan is None:
            raise Refused(422, "name the segments that morph", param="segments")
        places = list(range(self.plan.segments)) if whole else edit.segments
        self._require_free(places)
        other = self._source(source)
        if not isinstance(other, Plan):  # what they would be if they were set to it
            set_to = self.plan.replace(places, other, seed=edit.seed, start=source.start)
            other = set_to.arrange(places)
        return self.plan.morph(other, edit.amount, where=None if whole else places)

    @_make.register
    def _(self, edit: bodies.Redraw) -> Plan:
        everywhere = range(self.plan.segments)
        if edit.segments is not None:
            self._require_free(edit.segments)
        places = everywhere if edit.segments is None else edit.segments
        kept = [i for i in everywhere if self.locked[i] or i not in places]
        return self.plan.redraw(lock=kept, seed=edit.seed)

    @_make.register
    def _(self, edit: bodies.Lock) -> Edited:
        yes = edit.edit == "lock"
        locked = [yes if i in edit.segments else held for i, held in enumerate(self.locked)]
        return Edited(self.plan, locked)

    @_make.register
    def _(self, edit: bodies.Chords) -> Plan:
        return self.plan.with_chords(edit.chords, where=edit.segments, key=edit.key)

    @_make.register
    def _(self, edit: bodies.Key) -> Plan:
        return self.plan.in_key(edit.key)

    @_make.register
    def _(self, edit: bodies.Transpose) -> Plan:
        return self.plan.transpose(edit.semitones)

    @_make.register
    def _(self, edit: bodies.Arrange) -> Edited:
        self._require_free([i for i in range(self.plan.segments) if i not in edit.order])
        return Edited(self.plan.arrange(edit.order), [self.locked[i] for i in edit.order])

    @_make.register
    def _(self, edit: bodies.Delete) -> Edited:
        self._require_free(edit.segments)
        left = [held for i, held in enumerate(self.locked) if i not in edit.segments]
        return Edited(self.plan.delete(edit.segments), left)

    @_make.register
    def _(self, edit: bodies.Duplicate) -> Edited:
        after = max(edit.segments) + 1
        copies = [False] * (len(edit.segments) * edit.times)
        locked = [*self.locked[:after], *copies, *self.locked[after:]]
        return Edited(self.plan.repeat(edit.segments, edit.times), locked)

    @_make.register
    def _(self, edit: bodies.Insert) -> Edited:
        source = self._source(edit.source)
        if edit.source.start:
            raise Refused(422, "what is inserted begins at its beginning", param="source.start")
        plan = self.plan.insert(edit.before, source, count=edit.count, seed=edit.seed)
        new = [False] * (plan.segments - self.plan.segments)
        return Edited(plan, [*self.locked[: edit.before], *new, *self.locked[edit.before :]])

    @_make.register
    def _(self, edit: bodies.Extend) -> Edited:
        plan = self.plan.extend(edit.seconds, seed=edit.seed)
        return Edited(plan, self.locked + [False] * (plan.segments - self.plan.segments))

    @_make.register
    def _(self, edit: bodies.Set) -> Plan:
        known = self._model.family.get("options").about()
        for name in edit.controls:
            if name not in known:
                raise Refused(422, f"there is no control {name[:60]!r}", param="controls")
        return self.plan.set(edit.segments, **edit.controls)

    def _require_free(self, places: Sequence[int]) -> None:
        held = [place for place in places if self.locked[place]]
        if held:
            listed = ", ".join(map(str, held))
            raise Refused(422, f"segment {listed} is locked; unlock it first", param="segments")

    def _source(self, source: bodies.Source) -> Any:
        """What a plan takes of a source: words, a file, or another plan."""
        if source.words is not None:
            if source.words.strip().startswith("@"):
                raise Refused(422, "words describe music, they name no file", param="source.words")
            return source.words
        if source.plan is None:
            return self.names.file(source)
        other = self._version
        if source.plan != other.plan:
            other = self._store.plan(source.plan)
        try:
            plan = Plan.load(other.value, self._model)
        except MusicotError as error:
            raise Refused(422, str(error), param="source.plan") from None
        return plan if source.segments is None else plan.arrange(source.segments)
