"""Harmony in words: the key and the chords that a prompt names, and what is usual where it is mute.

A progression is a tuple of bars, each one chord or several that share the bar ("Am", "C G"). In
text a bar line parts bars ("Am F | C | G"); without bar lines every chord has a bar. Roman numerals
("ii V I") are read in a key. `musicot_mlx/reference/train` makes the table of what is usual.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from musicot_mlx.tokens.harmony import (
    NO_CHORD,
    SCALES,
    Chord,
    Key,
    chord_name,
    parse_chord,
    parse_key,
)

Bars = tuple[str, ...]
Row = tuple[str, str, str, int]  # tag, mode, bars as text in C, how many songs

MOST_BARS = 2000
NAMED = {  # progressions by name, as numerals for a major and for a minor key
    r"(?:twelve|12)[ -]?bar(?:[ -]blues)?": (
        "I7 I7 I7 I7 IV7 IV7 I7 I7 V7 IV7 I7 V7",
        "i7 i7 i7 i7 iv7 iv7 i7 i7 V7 iv7 i7 V7",
    ),
    r"(?:eight|8)[ -]?bar blues": ("I V7 IV IV I V7 I V7", "i V7 iv iv i V7 i V7"),
    r"doo[ -]?wop|50s progression": ("I vi IV V", "i VI iv V"),
    r"(?:pachelbel|canon progression)": ("I V vi iii IV I IV V", "i v VI III iv i iv V"),
    r"andalusian cadence": ("vi V IV III", "i VII VI V"),
}
USUAL = {  # degrees, where no table tells
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 5, 6)),
}
USUAL_MODAL = ((0, 3, 0, 3), (0, 6, 0, 6))
SAD = r"\b(?:sad|melanchol\w*|dark|tense|gloomy|mournful|wistful|ominous|sorrowful|brooding)\b"
GLAD = (
    r"\b(?:happy|bright|cheerful|uplifting|joyful|joyous|sunny|triumphant|peaceful|warm|tender|"
    r"gentle|relax\w*|calm\w*|soothing)\b"
)

_NOTE = r"[A-G](?:[#♯♭]|b(?![a-z])|[ -](?:sharp|flat))?"
_MODE = (
    r"(?:major|minor|maj|min|" + "|".join(m for m in SCALES if m not in ("major", "minor")) + ")"
)
_WITH_MODE = re.compile(rf"(?<![\w#])({_NOTE})[ -]?({_MODE})\b(?! key\b)")
_LOWER = re.compile(rf"\b(?:in|key of) ([b-g](?:#|b|[ -](?:sharp|flat))?)[ -]({_MODE})\b", re.I)
_IN_NOTE = re.compile(rf"\b(?:in|key of|key:) (?:the key of )?({_NOTE})(m?)(?![\w#'’-]|\s+[A-G]\b)")
_ONLY_MODE = re.compile(r"\b(major|minor)(?:[ -]key)\b|\bin (?:a )?(major|minor)\b", re.I)
_BETWEEN = re.compile(r"[\s,|>–—→-]+")
_ROMAN = re.compile(
    r"([b#♭♯]?)(VII|VI|IV|V|III|II|I|vii|vi|iv|v|iii|ii|i)"
    r"(°7|°|o7|o|dim7|dim|ø7|ø|\+|aug|maj7|M7|7sus4|7|6|9|sus2|sus4)?"
)
_DEGREES = {"i": 0, "ii": 1, "iii": 2, "iv": 3, "v": 4, "vi": 5, "vii": 6}


# --- what words name ------------------------------------------------------------------------------


def named_key(words: str | None) -> Key | None:
    """The key that words name ("a waltz in D minor", "key of Bb"); None where they name none."""
    text = words or ""
    if match := _WITH_MODE.search(text):
        return parse_key(f"{match[1]} {match[2]}")
    if match := _LOWER.search(text):
        return parse_key(f"{match[1]} {match[2]}")
    if match := _IN_NOTE.search(text):
        return parse_key(f"{match[1]}{match[2]}")
    return None


def named_mode(words: str | None) -> str | None:
    """Major or minor where words say or mean it ("in a minor key", "sad"); None else."""
    text = words or ""
    if match := _ONLY_MODE.search(text):
        return (match[1] or match[2]).lower()
    sad, glad = (re.search(mood, text, re.I) for mood in (SAD, GLAD))
    return None if bool(sad) == bool(glad) else "minor" if sad else "major"


def named_bars(words: str | None, key: Key | None = None) -> Bars:
    """The chords that words name: a run of chords ("Am F C G", "Dm7 - G7 - Cmaj7"), of numerals
    ("ii V I") or a progression by name ("twelve-bar blues"); () where they name none. Numerals and
    names are read in `key`, C where there is none.
    """
    text = words or ""
    for run in _runs(text, _is_chord):
        article = run[0] == "A" and len(run) == 2  # "A Bb clarinet"
        if len(run) >= 3 or len(run) == 2 and not article and any(len(chord) > 1 for chord in run):
            return tuple(chord_name(chord, key) for chord in run)
    for run in _runs(text, lambda token: _ROMAN.fullmatch(token) is not None):
        if len(run) >= 3:
            in_key = key or Key(0, "minor" if "i" in run else "major")
            return tuple(_numeral(token, in_key).name(in_key) for token in run)
    for name, (major, minor) in NAMED.items():
        if re.search(rf"\b(?:{name})\b", text, re.I):
            in_key = key or Key(0, named_mode(text) or "major")
            numerals = minor if in_key.mode in ("minor", "dorian", "phrygian") else major
            return tuple(_numeral(token, in_key).name(in_key) for token in numerals.split())
    return ()


def parse_bars(text: str, key: Key | None = None) -> Bars:
    """The bars that `text` writes: "Am F C G", "Am F | C | G", "i VI III VII" or a name of NAMED.

    Raises ValueError, with what it did not understand.
    """
    for name in NAMED:
        if re.fullmatch(name, text.strip(), re.I):
            return named_bars(text, key)
    if text.strip().lower() == "none":
        return ()
    if not text.strip(" |"):
        raise ValueError("there are no chords; write some, like 'Am F C G', or 'none'")
    bars: list[str] = []
    for bar in text.split("|") if "|" in text else text.replace(",", " ").split():
        tokens = bar.replace(",", " ").split()
        if not tokens and "|" in text and bar in (text.split("|")[0], text.split("|")[-1]):
            continue  # a line before the first bar or after the last
        if tokens == ["%"] and bars:  # as the bar before
            bars.append(bars[-1])
            continue
        if not tokens:
            raise ValueError(f"{text!r} has an empty bar; write N for a bar without a chord")
        bars.append(" ".join(_read(token, key) for token in tokens))
    if len(bars) > MOST_BARS:
        raise ValueError(f"there are {len(bars)} bars; write at most {MOST_BARS}, they repeat")
    return tuple(bars)


def _read(token: str, key: Key | None) -> str:
    if _ROMAN.fullmatch(token):
        return _numeral(token, key or Key(0)).name(key)
    return chord_name(token, key)


def _numeral(token: str, key: Key) -> Chord:
    """A Roman numeral as a chord of `key`: lower case is minor, and the mode's own degrees count
    ("VI" in A minor is F)."""
    sign, roman, suffix = _ROMAN.fullmatch(token).groups()
    degree = _DEGREES[roman.lower()]
    scale = SCALES["major"] if sign else SCALES[key.mode]
    shift = 0 if not sign else 1 if sign in "#♯" else -1
    root = (key.tonic + scale[degree] + shift) % 12
    suffix = suffix or ""
    if roman.islower() and not suffix.startswith(("°", "o", "dim", "ø")):
        suffix = "m" + suffix
    chord = parse_chord(f"C{suffix}")
    return chord.transposed(root)


def _is_chord(token: str) -> bool:
    try:
        return parse_chord(token) is not None
    except ValueError:
        return False


def _runs(text: str, belongs: Callable[[str], bool]) -> list[list[str]]:
    """Stretches of tokens that belong, longest first."""
    runs: list[list[str]] = [[]]
    tokens = [token.strip(".;:()\"'") for token in _BETWEEN.split(text)]
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        of_key = re.fullmatch(_MODE + "|flat|sharp", following, re.I)  # "D minor" is a key
        if token and belongs(token) and not of_key:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return sorted(runs, key=len, reverse=True)[: len(runs) - (not runs[-1])]


# --- what is usual --------------------------------------------------------------------------------


def key_of(bars: Sequence[str]) -> Key:
    """The major or minor key that the chords fit best; the first and the last lean to the tonic."""
    chords = [chord for bar in bars for label in bar.split() if (chord := parse_chord(label))]

    def fit(key: Key) -> float:
        scale = set(key.scale)
        inside = sum(len(scale & set(c.pitch_classes)) / len(c.pitch_classes) for c in chords)
        third = 4 if key.mode == "major" else 3
        tonic = [
            c.root == key.tonic and (key.tonic + third) % 12 in c.pitch_classes for c in chords
        ]
        return inside + 0.3 * sum(tonic) + (0.5 * tonic[0] + 0.3 * tonic[-1] if tonic else 0)

    keys = [Key(tonic, mode) for mode in ("major", "minor") for tonic in range(12)]
    return max(keys, key=fit)


def usual(
    table: Sequence[Row],
    tags: Sequence[str],
    words: str | None,
    seed: int,
    *,
    key: Key | None = None,
) -> tuple[Key, Bars]:
    """A key (or the one given) and a progression as songs with these tags have them, drawn by the
    seed; as glad or as sad as the words.
    """
    rng = np.random.default_rng([seed, 3])
    mode = key.mode if key is not None else named_mode(words)
    rows = [row for row in table if row[0] in tags] or list(table)
    fitting = [row for row in rows if mode in (None, row[1])]
    # a diminished triad is a colour on the way; where nobody asks for it, it is no place to stay
    fitting = [row for row in fitting if "dim" not in row[2]] or fitting
    if not fitting and key is None:
        fitting = [row for row in table if mode in (None, row[1])] or rows
    tonic = int(rng.integers(12))
    if not fitting:
        key = key or Key(tonic, mode or ("major", "minor")[rng.integers(2)])
        degrees = USUAL.get(key.mode, USUAL_MODAL)
        return key, tuple(key.chord(d).name(key) for d in degrees[rng.integers(len(degrees))])
    songs = np.array([row[3] for row in fitting], float)
    _, mode, text, _ = fitting[int(rng.choice(len(fitting), p=songs / songs.sum()))]
    key = key or Key(tonic, mode)
    return key, transposed(tuple(text.split("|")), key.tonic, key)


# --- bars in time ---------------------------------------------------------------------------------


def transposed(bars: Sequence[str], semitones: int, key: Key | None = None) -> Bars:
    """The bars so many semitones higher, written as in `key` (the new one)."""

    def moved(label: str) -> str:
        chord = parse_chord(label)
        return NO_CHORD if chord is None else chord.transposed(semitones).name(key)

    return tuple(" ".join(map(moved, bar.split())) for bar in bars)


def period(bars: Sequence[str]) -> int:
    """After how many bars they only repeat; all of them where they don't."""
    for n in range(1, len(bars)):
        if all(bars[i] == bars[i - n] for i in range(n, len(bars))):
            return n
    return len(bars)


def repeated(bars: Sequence[str], count: int) -> Bars:
    """`count` bars: these, and what they repeat, from the beginning."""
    turn = period(bars)
    return tuple(bars[i] if i < len(bars) else bars[i % turn] for i in range(count))


def chord_changes(bars: Sequence[str], starts: Sequence[float]) -> tuple[tuple[float, str], ...]:
    """(second, chord) of every chord of bars that begin at `starts`, the end of the last one more
    (bars + 1,); chords share their bar evenly.
    """
    spans = zip(bars, starts[:-1], starts[1:], strict=True)
    each = (
        [(round(a + (b - a) * i / len(chords), 4), chord) for i, chord in enumerate(chords)]
        for chords, a, b in ((bar.split(), a, b) for bar, a, b in spans)
    )
    return tuple(chain.from_iterable(each))
