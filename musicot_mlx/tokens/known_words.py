"""Which words of a prompt a model does not know, and which of them are worth a word to the user.

A model knows the words of the captions that it was trained on. Of the others those are told that
name music it can't play (tokens/instruments.py), and those that are no plain English; where it
knows no word at all, everything.
"""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

from musicot_mlx.tokens.harmony import parse_chord, parse_key
from musicot_mlx.tokens.instruments import ELSEWHERE, FAMILIES, VOICES, singular
from musicot_mlx.tokens.plain_english import LITTLE, PLAIN

_TOKEN = re.compile(r"[^\W_]+(?:['’&#♯+-]+[^\W_]+)*[#♯+]?")
_NUMERAL = re.compile(r"[b#]?(?:vii|iii|iv|vi|ii|i|v)(?:°|o)?7?", re.I)
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th|s|bpm|hz|khz|db|secs?|min|x)?|bpm", re.I)
SAYS_NOTHING = frozenset(  # of what is to be heard, though captions have them
    """a about after an and around at back bar beat beats bpm by down for full going hard in joined
    just later line lead main mid minute music no of on only opening or over part per piece played
    s section song the theme track tune twelve up with without featuring instrumental medium
    moderate tempo b c d e f g ab bb db eb""".split()
)
_FAMILY_WORDS = frozenset(word for words in FAMILIES.values() for word in words)
_ENDINGS = ("s", "es", "d", "ed", "ing", "ly", "y", "er", "or", "est", "ish", "al", "ness", "less",
            "like", "some", "ful", "able", "ward", "wards", "style", "esque", "ist", "ian", "n't",
            "'s", "in", "ier", "iest", "ily", "ity", "ation", "ment")  # fmt: skip
METRE = re.compile(
    r"(?<![\d/])(?!(?:2|4)/4)(?:\d{1,2}/(?:2|4|8|16))(?![\d/])"
    r"|\bwaltz(?:es|ing)?\b|\b(?:odd|triple|compound|ternary|irregular)[- ](?:met(?:er|re)|time)\b"
    r"|\bin (?:three|five|seven)(?:[- ](?:four|eight))?(?=\s*(?:[,.;]|$))",
    re.I,
)


@dataclass(frozen=True)
class Unknown:
    """Words, as the prompt writes them: voices to sing, others that the model does not know, and
    whether it knows any word at all.
    """

    voices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    nothing_known: bool = False


def unknown_words(asked: str, known: Set[str]) -> Unknown:
    """What of a prompt, its denials taken out, a model does not know.

    known: the words of its captions, small.
    """
    asked = METRE.sub(" ", asked)
    told, voices, silent, heard = [], [], [], False
    for word in _words(asked):
        small = _plain(word)
        forms = set(_forms(small))
        if mine := forms & known:
            heard = heard or bool(mine - SAYS_NOTHING)
        elif forms & VOICES:
            voices.append(word)
        elif forms & ELSEWHERE:
            told.append(word)
        elif forms & _FAMILY_WORDS:
            heard = True
        elif small in LITTLE:
            continue
        elif not forms & PLAIN:
            told.append(word)
        else:
            silent.append(word)
    told += [] if heard else silent
    return Unknown(tuple(dict.fromkeys(voices)), tuple(dict.fromkeys(told)), not heard)


def _words(asked: str) -> Iterator[str]:
    """The words that could be words: no numbers, keys, chords or numerals; of a compound its parts,
    unless the whole is a word of its own ("k-pop").
    """
    asked = re.sub(r"\br\s?(?:&|'n'|and)\s?b\b", "rnb", asked, flags=re.I)
    for word in _TOKEN.findall(asked):
        whole = set(_forms(_plain(word)))
        parts = [word] if whole & (ELSEWHERE | VOICES | PLAIN) else re.split(r"[&'’+-]+", word)
        for part in parts:
            if len(part) > 1 and not _is_notation(part) or not part.isascii():
                yield part


def _is_notation(word: str) -> bool:
    if _ORDINAL.fullmatch(word) or _NUMERAL.fullmatch(word):
        return True
    for parse in (parse_chord, parse_key):
        try:
            parse(word)
        except ValueError:
            continue
        return True
    return False


def _plain(word: str) -> str:
    return re.sub(r"[-&'’]", "", word.lower()) if "-" in word or "&" in word else word.lower()


def _forms(word: str) -> Iterator[str]:
    """The word, and what it may be a form of: "drifting" of drift, "sunnier" of sunny."""
    yield word
    yield singular(word)
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 3:
            continue
        yield from (stem, stem + "e", stem + "y")
        if stem.endswith("i"):
            yield stem[:-1] + "y"
        if stem[-1] == stem[-2]:
            yield stem[:-1]
        if stem != word and (more := stem.removesuffix("ing")) != stem and len(more) > 2:
            yield from (more, more + "e")
