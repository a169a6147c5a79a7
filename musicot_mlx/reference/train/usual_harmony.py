"""What chords are usual in which style, counted in the songs' metadata."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from musicot_mlx.reference.data import SongEntry
from musicot_mlx.tokens.harmony import Key, parse_chord, parse_key
from musicot_mlx.tokens.progressions import Bars, Row, transposed

LENGTHS = (4, 8, 12)  # bars of a progression, the shortest that repeats first
A_STYLE = 6  # progressions kept of each style


def usual_harmony(entries: Iterable[SongEntry]) -> list[Row]:
    """Rows (style, mode, bars in C with a line between, songs): the progressions that songs of a
    style begin with most often, where key, chords and bars are known.
    """
    counts: dict[str, Counter[tuple[str, str]]] = {}
    for entry in entries:
        bars = progression(entry)
        if bars:
            key = parse_key(entry.key)
            home = transposed(bars, -key.tonic, Key(0, key.mode))
            for genre in entry.genres:
                counts.setdefault(genre, Counter())[key.mode, "|".join(home)] += 1
    return [
        (genre, mode, text, songs)
        for genre in sorted(counts)
        for (mode, text), songs in counts[genre].most_common(A_STYLE)
    ]


def progression(entry: SongEntry) -> Bars:
    """The bars that a song begins with and then repeats; its first four where it repeats none; ()
    where key, chords or bars are not known.
    """
    if not (entry.key and entry.chords and entry.bpm):
        return ()
    starts = entry.first_bar + 240.0 / entry.bpm * np.arange(2 * max(LENGTHS))
    starts = starts[starts < entry.duration - 120.0 / entry.bpm]
    times = [time for time, _ in entry.chords]
    places = np.searchsorted(times, starts + 0.05, side="right") - 1
    bars = tuple(entry.chords[place][1] for place in places if place >= 0)
    if len(bars) < LENGTHS[0] or any(parse_chord(bar) is None for bar in bars):
        return ()
    for length in LENGTHS:
        if len(bars) >= 2 * length and bars[:length] == bars[length : 2 * length]:
            return bars[:length]
    return bars[: LENGTHS[0]]
