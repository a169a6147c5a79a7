"""Tempi as tags of their own: "104 bpm", on a grid whose steps are 4 %.

A small CLAP knows slow from fast but not 96 from 104 beats a minute, so a number in the words goes
past it. The pipeline and both trainers count with this module.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

SLOWEST, STEP, STEPS = 60.0, 1.04, 29  # BPM of the first tempo tag, ratio and number of steps
TEMPO_TAGS = tuple(f"{SLOWEST * STEP**step:.0f} bpm" for step in range(STEPS))
_TAG = re.compile(r"(\d+) bpm")
_NAMED = re.compile(r"(?<![\d.])(\d{1,4}(?:\.\d+)?)[\s-]*(?:bpm\b|beats (?:per|a) minute)", re.I)

_SLOW = re.compile(r"\b(?:slow(?:ly|er)?|unhurried|down-?tempo|adagio|largo)\b", re.I)
_FAST = re.compile(r"\b(?:fast(?:er)?|quick(?:ly)?|up-?tempo|rapid|allegro|presto)\b", re.I)
_NOT = re.compile(r"\b(?:not|never)\s+(?:\w+\s+)?\w+", re.I)  # "not too fast"
SLOW, FAST = 96.0, 118.0  # BPM of slow music at most, of fast music at least


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
    except (KeyError, TypeError, ValueError, OverflowError):
        return ()


def is_tempo(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def named_tempo(words: str | None) -> float | None:
    """The BPM that words name ("a waltz at 96 BPM"), the first of several; None where none."""
    match = _NAMED.search(words or "")
    return float(match[1]) if match and float(match[1]) > 0 else None


def asked_tempo(tags: Iterable[str], words: Iterable[str | None], *, exact: float = 0.0) -> float:
    """The BPM, folded, that the first of `words` to name one names, or else a tempo tag; 0 where
    nothing tells. exact: what a tag near it was rounded from, which then counts instead.
    """
    told = [(named_tempo(text), bool(_TAG.fullmatch(text or ""))) for text in words]
    told += [(float(found[1]), True) for tag in tags if (found := _TAG.fullmatch(tag))]
    bpm, rounded = next(((fold(bpm), is_tag) for bpm, is_tag in told if bpm), (0.0, False))
    near = rounded and exact > 0 and abs(math.log(exact / bpm)) < 1.6 * math.log(STEP)
    return exact if near else bpm


def nearest_tempo(names: Iterable[str], bpm: float) -> str | None:
    """The tempo tag among `names` nearest to a tempo, doubled or halved into what has a tag; None
    where there are none.
    """
    tempi = [name for name in names if is_tempo(name)]
    away = {name: abs(math.log(float(name.split()[0]) / fold(bpm))) for name in tempi}
    return min(tempi, key=away.__getitem__, default=None)


def close_tempo(names: Iterable[str], bpm: float) -> str | None:
    """The nearest tempo tag if it is at most a step and a half of the grid away, None else."""
    tag = nearest_tempo(names, bpm)
    near = tag and abs(math.log(float(tag.split()[0]) / fold(bpm))) < 1.6 * math.log(STEP)
    return tag if near else None


def paced_tempi(names: Iterable[str], words: str | None) -> list[str]:
    """The tempo tags among `names`; only slow ones for words that say slow, fast ones for fast."""
    said = _NOT.sub(" ", words or "")
    slow, fast = (bool(pattern.search(said)) for pattern in (_SLOW, _FAST))
    low, high = (FAST if fast and not slow else 0.0), (SLOW if slow and not fast else math.inf)
    tempi = {tag: float(match[1]) for tag in names if (match := _TAG.fullmatch(tag))}
    return [tag for tag, bpm in tempi.items() if low <= bpm <= high] or list(tempi)
