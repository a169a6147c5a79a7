"""Chords and keys as text, as pitch classes, and as features of a frame.

Not in the paper. Codes say timbre and rhythm and leave a small diffusion to guess the notes, so
where the harmony is known every frame is conditioned on its chord, as MusiConGen (arXiv 2407.15060)
conditions MusicGen: the pitch classes of the chord and its root. Numpy alone, because both sides
read it.

A chord is written as on a lead sheet ("Am", "F#m7b5", "Bbmaj7", "C/E"; "N" is no chord), a key as
"D minor", "Dm" or "Bb mixolydian". A song's harmony is a timeline: pairs (second, chord) in order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PITCH_CLASSES = 12
CHORD_FEATURES = 2 * PITCH_CLASSES  # is in the chord; is its root
NO_CHORD = "N"

SHARPS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SCALES = {  # semitones above the tonic
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
}
IONIAN = {  # semitones from a mode's tonic up to that of the major scale with the same notes
    "major": 0, "dorian": 10, "phrygian": 8, "lydian": 7, "mixolydian": 5, "minor": 3, "locrian": 1,
}  # fmt: skip
SHARP_MAJORS = (7, 2, 9, 4, 11)  # G D A E B
# Semitones above the root. Of two names for the same notes the first is written, all are read.
QUALITIES = {
    "": (0, 4, 7), "m": (0, 3, 7), "dim": (0, 3, 6), "aug": (0, 4, 8),
    "maj7": (0, 4, 7, 11), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10), "m7b5": (0, 3, 6, 10),
    "dim7": (0, 3, 6, 9), "mmaj7": (0, 3, 7, 11), "maj7#5": (0, 4, 8, 11), "7#5": (0, 4, 8, 10),
    "7b5": (0, 4, 6, 10), "6": (0, 4, 7, 9), "m6": (0, 3, 7, 9), "sus2": (0, 2, 7),
    "sus4": (0, 5, 7), "7sus4": (0, 5, 7, 10), "5": (0, 7), "9": (0, 4, 7, 10, 2),
    "maj9": (0, 4, 7, 11, 2), "m9": (0, 3, 7, 10, 2), "add9": (0, 4, 7, 2), "madd9": (0, 3, 7, 2),
    "6/9": (0, 4, 7, 9, 2), "7b9": (0, 4, 7, 10, 1), "7#9": (0, 4, 7, 10, 3),
    "11": (0, 7, 10, 2, 5), "m11": (0, 3, 7, 10, 2, 5), "13": (0, 4, 7, 10, 2, 9),
}  # fmt: skip
SPELLINGS = {  # other ways to write a quality
    "M": "", "maj": "", "major": "", "min": "m", "mi": "m", "minor": "m", "-": "m", "o": "dim",
    "°": "dim", "+": "aug", "M7": "maj7", "Maj7": "maj7", "major7": "maj7", "Δ": "maj7",
    "Δ7": "maj7", "dom7": "7", "min7": "m7", "mi7": "m7", "-7": "m7", "minor7": "m7", "ø": "m7b5",
    "ø7": "m7b5", "-7b5": "m7b5", "min7b5": "m7b5", "hdim7": "m7b5", "o7": "dim7", "°7": "dim7",
    "mM7": "mmaj7", "minmaj7": "mmaj7", "m(maj7)": "mmaj7", "+7": "7#5", "aug7": "7#5",
    "min6": "m6", "sus": "sus4", "7sus": "7sus4", "M9": "maj9", "min9": "m9", "-9": "m9",
    "69": "6/9", "min11": "m11",
}  # fmt: skip
_ROOT = re.compile(r"([A-G])([#♯b♭]{0,2})(.*)", re.S)


@dataclass(frozen=True)
class Chord:
    """A chord: root and bass are pitch classes (0 = C), bass only where it is not the root."""

    root: int
    quality: str = ""
    bass: int | None = None

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """Root first; a foreign bass note joins at the end."""
        notes = tuple((self.root + step) % 12 for step in QUALITIES[self.quality])
        return notes if self.bass is None or self.bass in notes else (*notes, self.bass)

    def transposed(self, semitones: int) -> "Chord":
        bass = None if self.bass is None else (self.bass + semitones) % 12
        return Chord((self.root + semitones) % 12, self.quality, bass)

    def name(self, key: "Key | None" = None) -> str:
        """As on a lead sheet in `key`: flats or sharps as the key has them."""
        sharp = key.sharp if key is not None else self.root in (1, 6) or self.quality == "m7b5"
        names = SHARPS if sharp else FLATS
        bass = "" if self.bass is None else f"/{names[self.bass]}"
        return f"{names[self.root]}{self.quality}{bass}"


@dataclass(frozen=True)
class Key:
    """A tonic (pitch class, 0 = C) and a mode of SCALES."""

    tonic: int
    mode: str = "major"

    @property
    def scale(self) -> tuple[int, ...]:
        """The seven pitch classes, tonic first."""
        return tuple((self.tonic + step) % 12 for step in SCALES[self.mode])

    @property
    def sharp(self) -> bool:
        """Whether the key is written with sharps."""
        major = (self.tonic + IONIAN[self.mode]) % 12  # with six, F# and Eb are what is written
        return major in SHARP_MAJORS or self.tonic == major == 6

    def chord(self, degree: int, *, sevenths: bool = False) -> Chord:
        """The chord in thirds on a degree of the scale (0 = tonic)."""
        steps = (0, 2, 4, 6) if sevenths else (0, 2, 4)
        return chord_of([self.scale[(degree + step) % 7] for step in steps])

    def transposed(self, semitones: int) -> "Key":
        return Key((self.tonic + semitones) % 12, self.mode)

    def __str__(self) -> str:
        return f"{(SHARPS if self.sharp else FLATS)[self.tonic]} {self.mode}"


def chord_of(pitch_classes: Sequence[int]) -> Chord:
    """The chord of these pitch classes, the root first; ValueError where no quality has them."""
    root = pitch_classes[0]
    steps = {(p - root) % 12 for p in pitch_classes}
    for quality, notes in QUALITIES.items():
        if set(notes) == steps:
            return Chord(root, quality)
    raise ValueError(f"no chord has the pitch classes {list(pitch_classes)}")


def _pitch_class(text: str) -> int | None:
    match = _ROOT.fullmatch(text)
    if match is None or match[3]:
        return None
    return _altered(match[1], match[2])


def _altered(letter: str, accidentals: str) -> int:
    up = sum(1 if sign in "#♯" else -1 for sign in accidentals)
    return (LETTERS[letter] + up) % 12


@lru_cache(maxsize=1024)
def parse_chord(text: str) -> Chord | None:
    """The chord that `text` writes; None for "N" (also "NC", "N.C."), no chord.

    Raises ValueError, with examples, for what is no chord.
    """
    label = text.strip()
    if label.upper() in ("N", "NC", "N.C."):
        return None
    match = _ROOT.fullmatch(label)
    if match is not None:
        rest, bass = match[3], None
        if "/" in rest and rest not in QUALITIES:
            rest, _, low = rest.rpartition("/")
            bass = _pitch_class(low)
            match = match if bass is not None else None
        quality = SPELLINGS.get(rest, rest)
        if match is not None and quality in QUALITIES:
            root = _altered(match[1], match[2])
            return Chord(root, quality, None if bass == root else bass)
    raise ValueError(
        f"{text!r} is no chord; write chords like C, Am, F#m7, Bbmaj7, Gsus4 or C/E, and N for none"
    )


def chord_name(text: str, key: Key | None = None) -> str:
    """A chord as this module writes it ("Amin7" is "Am7")."""
    chord = parse_chord(text)
    return NO_CHORD if chord is None else chord.name(key)


_KEY = re.compile(r"\s*([A-Ga-g])\s*([#♯b♭]|-?flat|-?sharp)?\s*(m|[a-z]+)?\s*", re.I)
_MODES = {"": "major", "maj": "major", "min": "minor", "m": "minor", "ionian": "major"}
_MODES |= {"aeolian": "minor"} | {mode: mode for mode in SCALES}


def parse_key(text: str) -> Key:
    """The key that `text` names: "D minor", "Dm", "f# dorian", "B flat major", "C".

    Raises ValueError, with examples, for what is no key.
    """
    match = _KEY.fullmatch(text)
    word = match[3] or "" if match else "?"
    mode = _MODES.get("major" if word == "M" else word.lower())
    if match is None or mode is None:
        raise ValueError(
            f"{text!r} is no key; write a note and a mode, like 'D minor', 'Bb major' or "
            f"'F# dorian' (modes: {', '.join(SCALES)})"
        )
    sign = (match[2] or "").lower().lstrip("-")
    sign = {"flat": "b", "sharp": "#"}.get(sign, sign)
    return Key(_altered(match[1].upper(), sign), mode)


@lru_cache(maxsize=1024)
def _chord_features(label: str) -> np.ndarray:
    features = np.zeros(CHORD_FEATURES, np.float32)
    chord = parse_chord(label)
    if chord is not None:
        features[list(chord.pitch_classes)] = 1.0
        features[PITCH_CLASSES + chord.root] = 1.0
    return features


def harmony_features(
    chords: Sequence[tuple[float, str]], frames: int, *, frame_rate: float, start: float = 0.0
) -> np.ndarray:
    """Features of each frame's chord, float32 (frames, CHORD_FEATURES).

    chords: (second, chord) in order; a frame has the chord that sounds at its middle, zeros before
    the first and where there is none. start: seconds of the first frame.
    """
    if not chords:
        return np.zeros((frames, CHORD_FEATURES), np.float32)
    seconds = start + (np.arange(frames) + 0.5) / frame_rate
    table = np.stack([_chord_features(NO_CHORD), *(_chord_features(c) for _, c in chords)])
    return table[np.searchsorted([t for t, _ in chords], seconds, side="right")]
