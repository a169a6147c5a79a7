"""Which of a model's tags a prompt asks for: those it names, those near it in CLAP's space, and
its tempo.
"""

import re
from collections.abc import Sequence

import numpy as np

from musicot_mlx.tokens.denials import reading
from musicot_mlx.tokens.instruments import family_of
from musicot_mlx.tokens.tempo import asked_tempo, close_tempo, is_tempo

# "solo cello", but not "a guitar solo over drums"
_ALONE = re.compile(
    r"\b(?:solo(?= (?!over\b|with\b|on\b|in\b|and\b|by\b|at\b)\w)"
    r"|alone|lone|unaccompanied|by itself|on its own)\b",
    re.I,
)


def alone(names: Sequence[str], words: str | None) -> bool:
    """Whether words ask for what they name and nothing beside it: "one flute by itself"."""
    return says_alone(words) and bool(named_tags(names, words or ""))


def says_alone(words: str | None) -> bool:
    """Whether words say that something plays alone, whatever it is."""
    return bool(_ALONE.search(words or ""))


def named_tags(names: Sequence[str], words: str) -> list[str]:
    """The tags that stand in the words, in the plural too; tempi are asked_tempo's."""
    matches = (re.search(rf"\b{re.escape(name)}(?:e?s)?\b", words, re.I) for name in names)
    return [n for n, hit in zip(names, matches, strict=True) if hit and not is_tempo(n)]


def chosen_tags(
    names: Sequence[str], cosine: np.ndarray, threshold: float, *words: str | None
) -> list[str]:
    """The tags of a prompt: those that its words name, then those whose CLAP-text cosine (tags,)
    with it exceeds delta (eq 5), `no drums` left out of both, where it asks for more than what it
    names; and the tempo.

    A small CLAP puts a flute near a hip hop beat, where the word "flute" is plain; but it knows the
    style that words do not name. words: the prompt, then what else may name a tempo.
    """
    text = (words[0] if words else None) or ""
    read = reading(text)
    denied = _words(" ".join(read.denied))
    near = (n for n, c in zip(names, cosine, strict=True) if c > threshold and not is_tempo(n))
    chosen = named_tags(names, read.asked)
    if not alone(names, text):
        chosen += [name for name in near if name not in chosen and not denied & _words(name)]
    chosen = [name for name in chosen if family_of(name) not in read.families]
    bpm = asked_tempo((), words)
    tempo = close_tempo(names, bpm) if bpm else None
    return [*chosen, tempo] if tempo else chosen


def _words(text: str) -> set[str]:
    """The words of a text as "no drums" and "jazz drum kit" share one: small, no plural."""
    return {word.rstrip("s") for word in re.findall(r"\w+", text.lower())} - {"and", "or"}
