"""What becomes of a prompt's words: those kept out of the song, and what is told of the rest."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.tokens.denials import Reading, reading
from musicot_mlx.tokens.instruments import ELSEWHERE, FAMILIES, VOICES, family_of, singular
from musicot_mlx.tokens.known_words import METRE, SAYS_NOTHING, unknown_words
from musicot_mlx.tokens.progressions import named_key
from musicot_mlx.tokens.tempo import fold, is_tempo, named_tempo

STRENGTH = 2.0  # how often a family's log-odds are taken from the codes' log-probabilities
_STYLE = re.compile(r"\b(?:music|piece|ballad|pop|song|solo|melody|fingerstyle|rap beat|lofi)\b")
SHOWN = 6  # words or tags named in a line


@dataclass(frozen=True)
class Wording:
    """What a model knows of words: the `wording` section of config.json, counted in training.

    known: the words of its captions, a space between. without: for a family of instruments, a
    number a code of the audio tokens, a space between: the tenths of nats by which the code is
    likelier where the family plays than in the same music without it.
    """

    known: str = ""
    without: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(self.known.split())

    def check(self, codes: int) -> None:
        """MusicotError unless every table of `without` has a number for each of so many codes."""
        for family, table in self.without.items():
            try:
                fits = len(np.array(table.split(), np.float32)) == codes
            except ValueError:
                fits = False
            if not fits:
                raise MusicotError(f"config wording.without.{family}: expected {codes} numbers")

    def asked(self, words: str) -> str:
        """The words that a text model is to read: where the model can keep families of instruments
        out, those denied are left out.
        """
        return (reading(words).asked or words) if self.without else words

    def lean(self, *words: str | None) -> np.ndarray | None:
        """What keeps out the families that words deny, added to the log-probability of each audio
        code: float32 (codes,), None where there is nothing to keep out. What earlier words ask for,
        later ones do not deny.
        """
        asked: set[str] = set()
        denied: set[str] = set()
        for read in map(reading, words):
            denied |= read.families - asked
            asked |= read.asked_families
        tables = [self.without[family] for family in sorted(denied) if family in self.without]
        if not tables:
            return None
        return np.float32(-STRENGTH / 10) * sum(np.array(t.split(), np.float32) for t in tables)


def told(
    prompt: str,
    *,
    name: str,
    wording: Wording,
    tags: Sequence[str],
    names: Sequence[str],
    knows_harmony: bool,
) -> str | None:
    """One line of what a prompt asks for and does not get, None where there is nothing to tell.

    tags: those taken; names: all that the model has.
    """
    if not wording.known:
        return None  # nobody can say what it knows
    read = reading(prompt)
    tag_words = {word for tag in names for word in tag.split()}
    unknown = unknown_words(read.asked, wording.words | tag_words)
    notes = []
    if unknown.words or (unknown.voices and unknown.nothing_known):
        which = _listed(unknown.words or unknown.voices)
        which = f"none of the words of this prompt ({which})" if unknown.nothing_known else which
        knows = "knows" if unknown.nothing_known else "doesn't know"
        taken = ", ".join(tags[:SHOWN]) or "what is nearest"
        notes.append(f"{knows} {which} and goes by {taken} instead")
    if unknown.voices and (unknown.words or not unknown.nothing_known):
        notes.append(f"doesn't sing ({_listed(unknown.voices)})")
    elif unknown.voices:
        notes.append("doesn't sing")
    if metre := METRE.search(read.asked):
        notes.append(f"plays four beats a bar, not {metre[0]}")
    if not knows_harmony and (key := named_key(prompt)):
        notes.append(f"knows no keys ({key})")
    bpm = named_tempo(prompt)
    if bpm and fold(bpm) != bpm:
        notes.append(f"plays {bpm:g} BPM as {fold(bpm):.4g}")
    if kept := _not_kept_out(read, wording):
        notes.append(f"can't keep out {_listed(kept)}")
    hint = "; musicot tags lists what it knows" if unknown.words or unknown.voices else ""
    return f"{name} {_joined(notes)}{hint}" if notes else None


def _not_kept_out(read: Reading, wording: Wording) -> list[str]:
    """The things denied that may sound all the same."""
    never = VOICES | ELSEWHERE | {"word", "accompaniment", "backing"}
    return [
        thing
        for thing in read.denied
        if (family_of(thing) not in read.families or family_of(thing) not in wording.without)
        and not {singular(word) for word in thing.split()} & never
    ]


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(f'"{word}"' for word in words[:SHOWN])
    return shown + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _joined(notes: Sequence[str]) -> str:
    return ", and ".join(notes) if len(notes) < 3 else "; ".join(notes)


def vocabulary(wording: Wording, names: Sequence[str], *, knows_harmony: bool) -> dict[str, Any]:
    """What a model plays by the words that ask for it (Planner.vocabulary)."""
    tempi = [float(tag.split()[0]) for tag in names if is_tempo(tag)]
    families: dict[str, list[str]] = {}
    styles = []
    for tag in names:
        family = family_of(tag)
        if is_tempo(tag):
            continue
        plays = family and "drum and bass" not in tag and not _STYLE.search(tag)
        (families.setdefault(family, []) if plays else styles).append(tag)
    said = {word for tag in names for word in tag.split()}
    others = sorted(word for word in wording.words - said - SAYS_NOTHING if len(word) > 2)
    return {
        "styles": styles,
        "instruments": {family: families[family] for family in FAMILIES if family in families},
        "tempi": [min(tempi), max(tempi)] if tempi else [],
        "harmony": knows_harmony,
        "left_out": [family for family in FAMILIES if family in wording.without],
        "words": others,
        "sings": bool(wording.words & VOICES),
    }
