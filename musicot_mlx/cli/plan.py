"""musicot plan: only the thoughts of a song, as numbers, as a picture, and as a file to render.

A plan is made from a prompt, references or audio, or taken from a file, and then edited. Edits are
made in one order, whatever the order of the flags: arrange, extend, morph, key and chords,
transpose, set, lock.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress, peak_memory
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families
from musicot_mlx.pipelines.plans.anchors import ANCHORS, anchors_of

if TYPE_CHECKING:
    import numpy as np

    from musicot_mlx.pipelines.plans.plan import Plan

CHORDS = "chords:"  # what --set begins with where it is chords that change
MADE_BY = (
    "words",
    "prompt",
    "bpm",
    "duration",
    "reference",
    "reference_weights",
    "lyrics_file",
    "tags",
)


def segments(text: str) -> list[int]:
    """A check: segments, as whole numbers with commas between."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"expected segments from 0 with commas between, such as 0,1, got {text!r}"
        ) from None


_editing = partial(flags.flag, panel="Edits")
_output = partial(flags.flag, panel="Output")


@dataclass(kw_only=True)
class Arguments(flags.Writing, flags.Asked):
    """The flags of musicot plan, beside those that are options of a family."""

    planning: ClassVar[bool] = True

    from_audio: str | None = flags.song("FILE", "plan what this audio holds, second by second")
    from_words: str | None = flags.song(
        "FILE",
        "plan what this plan of any model, or that of a song's .json, says in words, in the space "
        "of this model",
    )
    plan: str | None = _editing("FILE", "begin with this plan, or the plan of a song's .json")
    arrange: list[int] | None = _editing(
        "N,N",
        "segments in this order, from 0: name one twice to repeat it, none to drop it",
        check=segments,
    )
    extend: float | None = _editing(
        "S", "let the model go on for S seconds", check=flags.number(1.0, unit="seconds")
    )
    morph: tuple[str, str] | None = _editing(
        "FILE X", "go the part X (0 to 1) of the way to another plan"
    )
    set: list[str] | None = _editing(
        "A-B=WHAT",
        "seconds A to B, on the plan's grid, become a text, or @FILE (audio or a plan; "
        "@FILE#t=30 begins at 30 s), or get other chords (10-20=chords: Dm G), or are asked for "
        "otherwise by a model that knows how (10-20=drums: none, 10-20=style-strength: 4; with "
        "nothing behind the colon as the song is); may be repeated",
    )
    transpose: int | None = _editing(
        "N",
        "key and chords N semitones higher, lower below 0",
        check=flags.number(-48, 48, whole=True, unit="semitones"),
    )
    lock: list[int] | None = _editing(
        "N,N", "keep these segments and those set, and draw all others anew", check=segments
    )
    seed: int | None = flags.song(
        "N",
        "same seed, same plan; random draws one (default: 0, in an edit one that the plan hasn't "
        "had)",
        check=flags.seed_or_random,
    )
    output: str | None = _output(
        "FILE",
        "write the plan, for musicot generate --plan",
        "--output",
        "-o",
        check=flags.place,
    )
    png: str | None = _output("FILE", "draw the arrangement", check=flags.place)
    anchors: list[str] | None = _output(
        "A,B",
        f"texts to hold the thoughts against (default: {','.join(ANCHORS)} and those in words)",
        check=flags.names,
    )
    json: bool = _output("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    _check(args)
    import musicot_mlx as mc

    name = args.model or "musicot-mini"
    model = mc.load(name, adapter_path=args.adapter_path)
    message = f"{name} makes no plan of thoughts; pass a {families.titles('plan')} model"
    family = families.require(model, "plan", message)
    planning = (*flags.family_options(planning=True), "lyrics")
    known = model.wishes.planned()
    if "chords" in known:  # what is transposed
        known = (*known, "transpose")
    flags.refuse_foreign(args, (*planning, "transpose"), known, name, family)
    heard = args.from_audio or args.reference or args.plan
    if heard and args.lock is None and args.extend is None:
        _refuse(args, model.drawing, "none is drawn", "says how thoughts are drawn")
    started = time.perf_counter()
    plan = first = _first_plan(model, args)
    for edit in _edits(model, args):
        plan = edit(plan)
    elapsed = time.perf_counter() - started
    anchors = args.anchors or anchors_of(plan)
    activity = plan.activity(anchors)  # (segments, anchors)
    files = []
    if args.output:
        plan.save(args.output)
        files.append(args.output)
    if args.png:
        from musicot_mlx.evaluation.harness.plots import plot_plan
        from musicot_mlx.evaluation.measures.sections import section_letters

        title = plan.prompt or str(plan.origins[0])
        plot_plan(
            activity,
            anchors,
            plan.thought_seconds,
            title,
            args.png,
            duration=plan.duration,
            letters=section_letters(plan.embeddings),
            chords=plan.chord_changes(),
            controls=[(f"set {name}", texts) for name, texts in plan.control_rows()],
        )
        files.append(args.png)

    table = _table(plan, activity, anchors)
    changes = _changes(first, plan, anchors)
    where = f" -> {', '.join(files)}" if files else ""
    line = (
        f"plan of {plan.duration:g} s: {len(activity)} thoughts in {elapsed:.2f} s, "
        f"peak memory {peak_memory()['peak_resident_gb']:.2f} GB{where}"
    )
    segment_tags = model.tags_of(plan)
    tags = list(_tags(plan, segment_tags))
    harmony = [_harmony(plan)] if plan.chords else []
    text = "\n".join([table, *tags, *harmony, *changes, line])
    print(text, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        report = {
            "prompt": plan.prompt,
            "duration": plan.duration,
            "seed": plan.seed,
            "tags": list(plan.tags),
            "segment_tags": [list(tags) for tags in segment_tags],
            "key": plan.key,
            "chords": list(plan.chords),
            "chord_changes": [list(change) for change in plan.chord_changes()],
            "controls": [dict(each) for each in plan.controls],
            "anchors": anchors,
            "activity": [[round(float(value), 4) for value in row] for row in activity],
            "origins": [str(origin) for origin in plan.origins],
            "history": list(plan.history),
            "files": files,
            "elapsed_seconds": round(elapsed, 3),
            **peak_memory(),
        }
        print(json.dumps(report, sort_keys=True), flush=True)
    return 0


def _check(args: Arguments) -> None:
    """What can be told before the model is loaded."""
    if args.plan is not None:
        _refuse(args, (*MADE_BY, "from_audio", "from_words"), "the plan is made")
    if args.from_words is not None:
        _refuse(args, (*MADE_BY, "from_audio"), "the words are those of the plan")
    args.prompt, args.words = flags.prompt_of(args), None
    if args.from_audio is not None and args.bpm is not None:
        raise MusicotError("the tempo of --from-audio is heard in it; leave out --bpm")
    if args.from_audio is not None and args.reference is not None:
        raise MusicotError("pass --from-audio or --reference, not both")
    if not any((args.prompt, args.reference, args.from_audio, args.from_words, args.plan)):
        raise MusicotError(
            'nothing to plan; write what the music should be, as in musicot plan "slow jazz", or '
            "pass --reference, --from-audio, --from-words or --plan"
        )
    flags.check_references(args)
    sources = [("plan", args.plan), ("audio", args.from_audio), ("plan", args.from_words)]
    if args.morph is not None:
        sources.append(("plan", args.morph[0]))
        try:
            args.morph = (args.morph[0], flags.number(0, 1)(args.morph[1]))
        except ValueError as error:
            raise MusicotError(f"--morph: {error}") from error
    args.set = [_parse_set(text) for text in args.set or ()]
    sources += [("source", str(wish.path)) for wish in args.set if wish.path is not None]
    for label, path in sources:
        if path is not None:
            flags.require_file(path, label)


def _refuse(
    args: Arguments, names: Sequence[str], why: str, what: str = "belongs to planning"
) -> None:
    """Raise MusicotError for a flag of planning where there is nothing left to be planned."""
    for name in names:
        if getattr(args, name, None) is not None:
            flag = flags.spelled(type(args), name)
            raise MusicotError(f"{flag} {what}, and {why}; leave out {flag}")


@dataclass(frozen=True)
class _Set:
    """What --set asks for: seconds from and to, and words, or a file and the second in it to begin
    at, or a control and its value.
    """

    first: float
    last: float
    words: str
    path: Path | None = None
    start: float = 0.0
    control: str | None = None
    value: str = ""


def _parse_set(text: str) -> _Set:
    match = re.fullmatch(r"\s*([\d.]+)\s*-\s*([\d.]+)\s*=\s*(.*?)\s*", text, flags=re.DOTALL)
    try:
        first, last = float(match[1]), float(match[2])
    except (TypeError, ValueError):
        raise MusicotError(
            f"--set {text!r} isn't understood; write seconds and what they become, such as "
            "'10-20=full drum kit' or '20-30=@chorus.wav'"
        ) from None
    words = match[3]
    if not words.strip("@ "):
        raise MusicotError(f"--set {text!r} says nothing; write a text or @FILE after the =")
    name, colon, value = words.partition(":")
    if colon and (control := _control(name)):
        return _Set(first, last, words, control=control, value=value.strip())
    if not words.startswith("@"):
        return _Set(first, last, words)
    path, start = Path(words[1:]), 0.0
    offset = re.fullmatch(r"(.+)#t=(\d+(?:\.\d+)?)", words[1:])
    if offset and not path.is_file():  # a file may bear such a name
        path, start = Path(offset[1]), float(offset[2])
    return _Set(first, last, words, path, start)


def _control(text: str) -> str | None:
    """The option of any family that a word before a colon names, where no words of music begin so:
    one of a segment, of planning, or of a number. Whether the model knows it of a segment, it says.
    """
    flag = "--" + "-".join(text.lower().replace("_", " ").split())
    options, planning = flags.family_options(), flags.family_options(planning=True)
    for name, said in options.items():
        meant = said.check or name in planning or name in families.controls()
        if meant and flag in said.names and flag != f"--{CHORDS[:-1]}":
            return name
    return None


def _value(name: str, text: str) -> Any:
    """The value of a control as it is written; None where nothing is."""
    said = flags.family_options()[name]
    if said.choices and text and text not in said.choices:
        raise MusicotError(f"--set: {name} is {text!r}; ask for one of {', '.join(said.choices)}")
    try:
        return None if not text else said.check(text) if said.check else text
    except ValueError as error:
        raise MusicotError(f"--set: {name}: {error}") from error


def _first_plan(model: Any, args: Arguments) -> "Plan":
    """The plan before it is edited."""
    import musicot_mlx as mc

    if args.plan is not None:
        return mc.Plan.load(args.plan, model)
    if args.from_words is not None:
        return model.plan_from_words(args.from_words, seed=args.seed)
    prompt = args.prompt
    lyrics = flags.read_text(args.lyrics_file, "lyrics file") if args.lyrics_file else None
    common_options = {"seed": args.seed or 0, "lyrics": lyrics, "tags": args.tags}
    common_options |= {"key": args.key, "chords": args.chords}
    if args.from_audio is not None:
        given = {name: value for name, value in common_options.items() if value is not None}
        return model.plan_from_audio(args.from_audio, prompt, duration=args.duration, **given)
    names = flags.family_options(planning=True)
    options = {name: getattr(args, name) for name in names} | common_options
    with Progress() as progress:
        given = {name: value for name, value in options.items() if value is not None}
        return model.plan(prompt, progress=progress, **given)


def _edits(model: Any, args: Arguments) -> list[Any]:
    """The edits asked for, each a function from plan to plan."""
    import musicot_mlx as mc

    asked = {name: getattr(args, name) for name in model.drawing if hasattr(args, name)}
    drawing = {"seed": args.seed, **asked}
    edits: list[Any] = []
    if args.arrange is not None:
        edits.append(lambda plan: plan.arrange(args.arrange))
    if args.extend is not None:
        edits.append(lambda plan: plan.extend(args.extend, **drawing))
    if args.morph is not None:
        edits.append(lambda plan: plan.morph(mc.Plan.load(args.morph[0], model), args.morph[1]))
    if args.plan is not None and args.chords is not None:
        chords = None if args.chords.strip().lower() == "none" else args.chords
        edits.append(lambda plan: plan.with_chords(chords, key=args.key))
    elif args.plan is not None and args.key is not None:
        edits.append(lambda plan: plan.in_key(args.key))
    if args.transpose is not None:
        edits.append(lambda plan: plan.transpose(args.transpose))
    locked: set[int] = set()

    def put(plan: "Plan", wish: _Set) -> "Plan":
        places = _places(plan, wish.first, wish.last)
        if wish.control is not None:  # its thoughts stay free
            known = wish.control in model.wishes.controls()
            value = _value(wish.control, wish.value) if known else wish.value
            return plan.set(places, **{wish.control: value})
        if wish.words.lower().startswith(CHORDS):
            return plan.with_chords(wish.words[len(CHORDS) :], where=places)
        locked.update(range(plan.segments)[places])
        if wish.path is None:
            return plan.replace(places, wish.words, seed=args.seed)
        if wish.path.suffix.lower() != ".json":
            return plan.replace(places, wish.path, start=wish.start)
        other = mc.Plan.load(wish.path, model)
        return plan.replace(places, other[round(wish.start / other.thought_seconds) :])

    edits += [partial(put, wish=wish) for wish in args.set]
    if args.lock is not None:
        edits.append(lambda plan: plan.redraw(lock=[*args.lock, *locked], **drawing))
    return edits


def _places(plan: "Plan", first: float, last: float) -> slice:
    """The segments of seconds `first` to `last`, which must lie on the grid of thoughts."""
    step = plan.thought_seconds
    start, stop = first / step, last / step
    if abs(last - plan.duration) < 0.05:  # the song's end, wherever it falls
        stop = plan.segments
    if not 0 <= first < last or last > max(plan.duration, plan.segments * step):
        raise MusicotError(f"--set {first:g}-{last:g}: the plan covers 0 to {plan.duration:g} s")
    if max(abs(start - round(start)), abs(stop - round(stop))) * step > 0.05:
        near = int(start) * step, min(-int(-stop // 1) * step, plan.duration)
        raise MusicotError(
            f"--set {first:g}-{last:g}: a thought covers {step:g} s, so give multiples of it, such "
            f"as {near[0]:g}-{near[1]:g}"
        )
    return slice(round(start), round(stop))


def _table(plan: "Plan", activity: "np.ndarray", anchors: list[str]) -> str:
    """What each thought has of each anchor, and the controls of each segment: a row an anchor or a
    control, a column a segment.
    """
    controls = [(f"set {name}", texts) for name, texts in plan.control_rows()]
    width = max(8, *map(len, [*anchors, *(name for name, _ in controls)]))
    starts = "".join(f"{index * plan.thought_seconds:>6g}" for index in range(len(activity)))
    rows = [f"{'seconds':<{width}}{starts}"]
    for anchor, row in zip(anchors, activity.T, strict=True):
        rows.append(f"{anchor:<{width}}" + "".join(f"{value:>6.1f}" for value in row))
    for name, texts in controls:
        rows.append(f"{name:<{width}}" + "".join(f"{text or '-':>6}" for text in texts))
    return "\n".join(rows)


def _tags(plan: "Plan", segment_tags: list[Sequence[str]]) -> Iterator[str]:
    """The tags of the song, and of what was put into it."""
    guests, step = plan.guests(), plan.thought_seconds
    if plan.tags and None in guests:
        yield f"tags: {', '.join(plan.tags)}"
    told = zip(segment_tags, [guest is not None for guest in guests], strict=True)
    runs = groupby(enumerate(told), lambda place: place[1])
    for (tags, is_guest), run in runs:
        places = [place for place, _ in run]
        if tags and is_guest:
            stop = min((places[-1] + 1) * step, plan.duration)
            yield f"tags of {places[0] * step:g}-{stop:g} s: {', '.join(tags)}"


def _harmony(plan: "Plan") -> str:
    """The key and the bars, those that only repeat left out."""
    from musicot_mlx.pipelines.plans.harmony import bar_starts
    from musicot_mlx.tokens.progressions import period

    bars = plan.chords[: period(plan.chords)]
    again = ", repeated" if len(bars) < len(plan.chords) else ""
    starts = bar_starts(plan)
    return f"{plan.key}, a bar {starts[1]:.3g} s: {' | '.join(bars)}{again}"


def _changes(first: "Plan", plan: "Plan", anchors: list[str]) -> list[str]:
    """A line for each segment that isn't what it was: its origin, and the anchors that moved."""
    lines = []
    if plan.duration != first.duration:
        lines.append(f"{plan.duration:g} s long, before {first.duration:g} s")
    before, after = first.activity(anchors), plan.activity(anchors)
    step = plan.thought_seconds
    for place, origin in enumerate(plan.origins):
        there = place < first.segments
        if there and (plan.codes[:, place] == first.codes[:, place]).all():
            continue
        line = f"{place * step:g}-{min((place + 1) * step, plan.duration):g} s: {origin}"
        if there:
            moved = sorted(
                range(len(anchors)), key=lambda i: -abs(after[place, i] - before[place, i])
            )[:3]
            line += "; " + ", ".join(
                f"{anchors[i]} {before[place, i]:.1f} -> {after[place, i]:.1f}" for i in moved
            )
        lines.append(line)
    return lines
