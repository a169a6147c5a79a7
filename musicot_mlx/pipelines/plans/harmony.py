"""The harmony of a plan: bars in time, and what becomes of them when segments move.

A plan's chords are bars from the song's first frame to its end (tokens/progressions.py); where they
fall follows from the tempo, which a segment that was set to words may change.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from musicot_mlx.audio.harmony import heard_harmony, pitch_classes
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import given
from musicot_mlx.tokens.harmony import Key, parse_chord, parse_key
from musicot_mlx.tokens.progressions import Bars, key_of, parse_bars, repeated
from musicot_mlx.tokens.tempo import asked_tempo

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan

USUAL_BPM = 96.0  # beats a minute that bars are counted by where no tempo is known: 2.5 s a bar


def tempi(plan: "Plan") -> np.ndarray:
    """Beats a minute of each segment's bars, (segments,), at least one: what the language model is
    conditioned on, and where that is nothing the plan's own tempo.
    """
    named_bpm = [
        asked_tempo(plan.tags, (text, plan.prompt), exact=plan.bpm)
        for text in plan.words() or [None]
    ]
    return np.array([bpm or plan.bpm or USUAL_BPM for bpm in named_bpm])


def bar_starts(plan: "Plan") -> np.ndarray:
    """Seconds at which the bars begin that begin within the plan, and where the last one ends."""
    bpm = tempi(plan)
    edges = np.minimum(np.arange(len(bpm) + 1) * plan.thought_seconds, plan.duration)
    edges[-1] = plan.duration
    bars = np.concatenate([[0.0], np.cumsum(np.diff(edges) * bpm / 240.0)])
    edges, bars = np.append(edges, edges[-1] + 240.0 / bpm[-1]), np.append(bars, bars[-1] + 1)
    count = max(1, int(np.ceil(bars[-2] - 1e-6)))
    return np.interp(np.arange(count + 1), bars, edges)


def fitted(plan: "Plan", bars: Sequence[str]) -> Bars:
    """As many of these bars as the plan has, from the beginning where they run out."""
    return repeated(bars, len(bar_starts(plan)) - 1) if bars else ()


def parted(plan: "Plan", other: "Plan") -> int:
    """The first segment in which the chords of two plans differ; how many both have, if none."""
    step, shared = plan.thought_seconds, min(plan.segments, other.segments)
    end = min(plan.duration, other.duration)
    ours, theirs = (
        [change for change in each.chord_changes() if change[0] < end] for each in (plan, other)
    )
    for a, b in zip_longest(ours, theirs):
        if a != b:
            return min(int(min(c[0] for c in (a, b) if c) / step + 1e-6), shared)
    return shared


def placed(plan: "Plan", bars: Sequence[str], segments: Sequence[int]) -> Bars:
    """The plan's bars with these, in turn, in the bars that begin in `segments`."""
    starts = bar_starts(plan)[:-1]
    where = np.minimum((starts + 1e-6) // plan.thought_seconds, plan.segments - 1).astype(int)
    inside = [i for i, segment in enumerate(where) if segment in set(segments)]
    if not inside:
        raise MusicotError(
            f"no bar begins in segments {', '.join(map(str, segments))}; a bar lasts "
            f"{240 / tempi(plan)[segments[0]]:.3g} s"
        )
    changed = list(plan.chords or ("N",) * len(starts))
    for bar, chord in zip(inside, repeated(bars, len(inside)), strict=True):
        changed[bar] = chord
    return tuple(changed)


def carried(before: "Plan", after: "Plan", order: Sequence[int | None]) -> Bars:
    """The bars of `after`, whose segments are those of `before` in this `order`: each segment keeps
    its chords, and a new one (None) has what the progression goes on with.
    """
    if not before.chords:
        return ()
    step, old = before.thought_seconds, bar_starts(before)
    bars = []
    for index, start in enumerate(bar_starts(after)[:-1] + 1e-6):
        segment = min(int(start / step), len(order) - 1)
        source = order[segment]
        place = index
        if source is not None:
            there = start + (source - segment) * step
            place = int(np.searchsorted(old, there, side="right")) - 1
        bars.append(repeated(before.chords, max(place, 0) + 1)[max(place, 0)])
    return tuple(bars)


def check(plan: "Plan", where: str) -> None:
    """MusicotError, one line, for a key or chords of a plan that are none."""
    try:
        if plan.key is not None:
            parse_key(plan.key)
        for bar in plan.chords:
            for label in bar.split() or [bar]:
                parse_chord(label)
    except ValueError as error:
        raise MusicotError(f"{where}: {error}") from error


def of_audio(plan: "Plan", waveform: np.ndarray, sample_rate: int) -> tuple[Bars, Key]:
    """The chords that a waveform has in the plan's bars, read in halves of a bar, and its key."""
    starts = bar_starts(plan)
    middles = (starts[:-1] + starts[1:]) / 2
    edges = np.append(np.stack([starts[:-1], middles], axis=1), starts[-1])
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    key, read = heard_harmony(pitch_classes(waveform, sample_rate), spans)
    halves = zip(read[::2], read[1::2], strict=True)
    return tuple(a if a == b else f"{a} {b}" for a, b in halves), key


def wanted_key(text: str | None) -> Key | None:
    """The key that a user asks for; MusicotError for what is none."""
    try:
        return None if text is None else parse_key(given.text("key", text))
    except ValueError as error:
        raise MusicotError(str(error), option="key") from error


def wanted_bars(text: str | Sequence[str], key: Key | None) -> Bars:
    """The bars that a user writes, as one text or one a bar; MusicotError for what is no chord."""
    try:
        bars = given.items(text)
        if bars is not None:
            text = " | ".join([*(given.text("a chord", bar) for bar in bars), ""])
        return parse_bars(given.text("chords", text), key)
    except ValueError as error:
        raise MusicotError(str(error), option="chords") from error


def named(key: Key | None, bars: Sequence[str]) -> str | None:
    """The key of bars as text: the one given, or the one they are in; None without any."""
    return str(key or key_of(bars)) if bars else None if key is None else str(key)
