"""Which of a model's tags a prompt asks for: those it names, those near it in CLAP's space, and
its tempo.

A small CLAP knows slow from fast but not 96 from 104 beats a minute, so a number in the words goes
past it: tempi are tags of their own, "104 bpm", on a grid whose steps are 4 %. Numpy alone, because
the pipeline and both trainers count with it.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

SLOWEST, STEP, STEPS = 60.0, 1.04, 29  # BPM of the first tempo tag, ratio and number of steps
TEMPO_TAGS = tuple(f"{SLOWEST * STEP**step:.0f} bpm" for step in range(STEPS))
_TAG = re.compile(r"(\d+) bpm")
_NAMED = re.compile(r"(?<![\d.])(\d{2,3}(?:\.\d+)?)[\s-]*(?:bpm\b|beats (?:per|a) minute)", re.I)

_SLOW = re.compile(r"\b(?:slow(?:ly|er)?|unhurried|down-?tempo|adagio|largo)\b", re.I)
_FAST = re.compile(r"\b(?:fast(?:er)?|quick(?:ly)?|up-?tempo|rapid|allegro|presto)\b", re.I)
_NOT = re.compile(r"\b(?:not|never)\s+(?:\w+\s+)?\w+", re.I)  # "not too fast"
SLOW, FAST = 96.0, 118.0  # BPM of slow music at most, of fast music at least

# "solo cello", but not "a guitar solo over drums"
_ALONE = re.compile(
    r"\b(?:solo(?= (?!over\b|with\b|on\b|in\b|and\b|by\b|at\b)\w)"
    r"|alone|lone|unaccompanied|by itself|on its own)\b",
    re.I,
)

# "no drums or bass", up to where the sentence turns
_DENIED = re.compile(r"\b(?:no|without)\b[^,.;:]*?(?=\bbut\b|\bwith\b|[,.;:]|$)", re.I)


def tempo_tag(bpm: float) -> str:
    """The tag of a tempo; doubled or halved into 60 to 180 BPM. Raises ValueError for none."""
    if not 0 < bpm < math.inf:
        raise ValueError(f"tempo is {bpm} BPM, expected one above 0")
    step = round(math.log(fold(bpm) / SLOWEST) / math.log(STEP))
    return TEMPO_TAGS[min(max(step, 0), STEPS - 1)]  # a tempo on the grid's edge may round past it


def fold(bpm: float) -> float:
    """A tempo doubled or halved into what has a tag, about 60 to 180 BPM."""
    while bpm < SLOWEST / STEP**0.5:
        bpm *= 2
    while bpm > SLOWEST * STEP ** (STEPS - 0.5):
        bpm /= 2
    return bpm


def tempo_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The tempo tag of a song's metadata, by its `bpm`; none where that is no tempo."""
    try:
        return (tempo_tag(float(record["bpm"])),)
    except (KeyError, TypeError, ValueError):
        return ()


def is_tempo(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def named_tempo(words: str | None) -> float | None:
    """The BPM that words name ("a waltz at 96 BPM"), the first of several; None where none."""
    found = _NAMED.search(words or "")
    return float(found[1]) if found and float(found[1]) > 0 else None


def asked_tempo(tags: Iterable[str], words: Iterable[str | None]) -> float:
    """The BPM, folded, that the first of `words` to name one names, or else a tempo tag; 0 where
    nothing tells.
    """
    told = [named_tempo(text) for text in words]
    told += [float(found[1]) for tag in tags if (found := _TAG.fullmatch(tag))]
    return next((fold(bpm) for bpm in told if bpm), 0.0)


def paced_tempi(names: Iterable[str], words: str | None) -> list[str]:
    """The tempo tags among `names`; only slow ones for words that say slow, fast ones for fast."""
    said = _NOT.sub(" ", words or "")
    slow, fast = (bool(pattern.search(said)) for pattern in (_SLOW, _FAST))
    low, high = (FAST if fast and not slow else 0.0), (SLOW if slow and not fast else math.inf)
    tempi = {tag: float(found[1]) for tag in names if (found := _TAG.fullmatch(tag))}
    return [tag for tag, bpm in tempi.items() if low <= bpm <= high] or list(tempi)


def alone(names: Sequence[str], words: str | None) -> bool:
    """Whether words ask for what they name and nothing beside it: "one flute by itself"."""
    return bool(_ALONE.search(words or "")) and bool(named_tags(names, words or ""))


def named_tags(names: Sequence[str], words: str) -> list[str]:
    """The tags that stand in the words, in the plural too; tempi are asked_tempo's."""
    found = (re.search(rf"\b{re.escape(name)}(?:e?s)?\b", words, re.I) for name in names)
    return [n for n, hit in zip(names, found, strict=True) if hit and not is_tempo(n)]


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
    denied = _words(" ".join(_DENIED.findall(text)))
    near = (n for n, c in zip(names, cosine, strict=True) if c > threshold and not is_tempo(n))
    chosen = named_tags(names, _DENIED.sub(" ", text))
    if not alone(names, text):
        chosen += [name for name in near if name not in chosen and not denied & _words(name)]
    bpm = asked_tempo((), words)
    if bpm and tempo_tag(bpm) in names:
        chosen.append(tempo_tag(bpm))
    return chosen


def _words(text: str) -> set[str]:
    """The words of a text as "no drums" and "jazz drum kit" share one: small, no plural."""
    return {word.rstrip("s") for word in re.findall(r"\w+", text.lower())} - {"and", "or"}
