"""What becomes of a prompt's words: those kept out of the song, and what is told of the rest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.tokens.denials import Reading, reading
from musicot_mlx.tokens.instruments import ELSEWHERE, FAMILIES, VOICES, family_of, singular
from musicot_mlx.tokens.known_words import METRE, SAYS_NOTHING, unknown_words
from musicot_mlx.tokens.progressions import named_key
from musicot_mlx.tokens.tags import says_alone
from musicot_mlx.tokens.tempo import fold, is_tempo, named_tempo

USUAL = (1.0, 2.0)  # of `strength`
# What "solo piano" goes without, and how much of the strength that keeps out. Over nine such
# prompts, four seeds each, the tagger hears drums in 2 of 36 songs (12 without), bass in 1 (11) and
# what was asked for in 24 (25); more of it, or all other families too, costs the instrument itself.
ACCOMPANIMENT, ACCOMPANIED = ("drums", "bass"), 0.35
_STYLE = re.compile(r"\b(?:music|piece|ballad|pop|song|solo|melody|fingerstyle|rap beat|lofi)\b")
SHOWN = 6  # words or tags named in a line
LONGEST = 40  # characters of such a word


@dataclass(frozen=True)
class Wording:
    """What a model knows of words: the `wording` section of config.json, counted in training.

    known: the words of its captions, a space between. without: for a family of instruments, a
    number a code of the audio tokens, a space between: the tenths of nats by which the code is
    likelier where the family plays than in the same music without it. away: for a family, the
    thousandths by which each number of a CLAP vector of music changes, on average, where the family
    is taken out. strength: for a family, how often its log-odds count, and how many such steps
    vectors go; both at most until a family is no longer heard (benchmarks/denials.py).
    """

    known: str = ""
    without: Mapping[str, str] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    strength: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(self.known.split())

    def check(self, codes: int, dim: int) -> None:
        """MusicotError unless tables have a number for each of so many codes, and each of so many
        numbers of a vector.
        """
        for what, tables, size in (("without", self.without, codes), ("away", self.away, dim)):
            for family, table in tables.items():
                try:
                    fits = len(_numbers(table)) == size
                except ValueError:
                    fits = False
                if not fits:
                    raise MusicotError(f"config wording.{what}.{family}: expected {size} numbers")

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
        return self._added(self.without, _kept_out(words), 0, -0.1)

    def leaving(self, words: str | None) -> np.ndarray | None:
        """What is added to CLAP vectors and thoughts to lead away from the families that words
        deny, float32 (dim,); None where there is nothing to leave.
        """
        return self._added(self.away, _kept_out([words]), 1, 0.001)

    def _added(
        self, tables: Mapping[str, str], families: Mapping[str, float], which: int, unit: float
    ) -> np.ndarray | None:
        """The sum of families' tables, each as strong as it is to be."""
        strong = {
            each: share * self.strength.get(each, USUAL)[which] for each, share in families.items()
        }
        rows = [
            np.float32(unit * times) * _numbers(tables[each])
            for each, times in strong.items()
            if times and each in tables
        ]
        return sum(rows) if rows else None


def told(
    prompt: str,
    *,
    name: str,
    wording: Wording,
    tags: Sequence[str],
    names: Sequence[str],
    knows_harmony: bool,
    lyrics: str = "",
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
    taken = ", ".join(tags[:SHOWN]) or "what is nearest"
    if read.denied and not read.asked:
        notes.append(f"goes by {taken}, as the prompt asks for nothing")
    if unknown.words or (unknown.voices and unknown.nothing_known):
        which = _listed(unknown.words or unknown.voices)
        which = f"none of the words of this prompt ({which})" if unknown.nothing_known else which
        knows = "knows" if unknown.nothing_known else "doesn't know"
        notes.append(f"{knows} {which} and goes by {taken} instead")
    if unknown.voices and (unknown.words or not unknown.nothing_known):
        notes.append(f"doesn't sing ({_listed(unknown.voices)})")
    elif unknown.voices:
        notes.append("doesn't sing")
    if lyrics and not wording.words & VOICES:
        notes.append("reads lyrics but doesn't sing them")
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


def _kept_out(words: Sequence[str | None]) -> dict[str, float]:
    """The families denied, less those that earlier words ask for, and of what accompanies an
    instrument that is asked for alone a smaller share: it is not what the words are about.
    """
    denied = dict.fromkeys(_denied(words), 1.0)
    first = reading(words[0] if words else None)
    if says_alone(first.asked) and first.asked_families:
        implied = dict.fromkeys(ACCOMPANIMENT, ACCOMPANIED)
        denied = {f: s for f, s in implied.items() if f not in first.asked_families} | denied
    return dict(sorted(denied.items()))


def _denied(words: Iterable[str | None]) -> list[str]:
    """The families denied, less those that earlier words ask for."""
    asked: set[str] = set()
    denied: set[str] = set()
    for read in map(reading, words):
        denied |= read.families - asked
        asked |= read.asked_families
    return sorted(denied)


def _numbers(table: str) -> np.ndarray:
    return np.array(table.split(), np.float32)


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
    whole = [word if len(word) <= LONGEST else word[: LONGEST - 1] + "…" for word in words[:SHOWN]]
    shown = ", ".join(f'"{word}"' for word in whole)
    return shown + (f" and {len(words) - SHOWN} more" if len(words) > SHOWN else "")


def _joined(notes: Sequence[str]) -> str:
    return ", and ".join(notes) if len(notes) < 3 else "; ".join(notes)


def vocabulary(wording: Wording, names: Sequence[str], *, knows_harmony: bool) -> dict[str, Any]:
    """What a model plays by the words that ask for it (MusicotPlanner.vocabulary)."""
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
