"""What is typed while music plays: a line to what it asks for.

Everything that is none of the words below is music to come, so a line is seldom wrong; `play` says
so where the words would mean something else.
"""

import math
import re
from dataclasses import dataclass
from enum import Enum

from musicot_mlx.audio.writing import FORMATS
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import LARGEST_SEED
from musicot_mlx.texts import one_line

BEATS = 4  # of a bar
MORE = 0.3  # what a text or a recording counts for that is added
LONGEST_LINE = 1000  # characters
HELP = """\
a jazz piano trio     any words: the next thought
play WORDS            the same, for words that mean something here
more strings          as it is, and strings: 0.3 of it
@song.wav 0.5         as it is, and what the recording holds: 0.5 of it (1: that alone)
no drums, drums       without drums, with drums; free drums leaves it to the music
8 bars no drums       for so many bars only, 4/4 at the tempo given (8 s no drums: seconds)
strength 4            how strictly thoughts are followed, -1 to 6.8
glide 4               seconds from a thought to the next
tempo 96              beats a minute that bars are counted by; the music follows none
seed 3                other draws
save song.wav         keep what was heard last
help, quit"""


class Asks(Enum):
    """What a line asks for."""

    NOTHING = ""
    PROMPT = "play"
    MORE = "more"
    FILE = "@"
    DRUMS = "drums"
    STRENGTH = "strength"
    SEED = "seed"
    GLIDE = "glide"
    TEMPO = "tempo"
    SAVE = "save"
    HELP = "help"
    QUIT = "quit"


CHANGES = {Asks.PROMPT, Asks.MORE, Asks.FILE, Asks.DRUMS, Asks.STRENGTH, Asks.SEED}


@dataclass(frozen=True)
class Line:
    """asks: what; text: the words, the file, or how drums are; number: of weight, strength, seed,
    seconds or tempo. seconds: how long it holds, None for good.
    """

    asks: Asks
    text: str = ""
    number: float = 0.0
    seconds: float | None = None


_DRUMS = {
    "drums": "play", "with drums": "play",
    "no drums": "none", "without drums": "none", "drums off": "none",
    "free drums": "free", "drums free": "free", "drums on": "play",
}  # fmt: skip
_ALONE = {"help": Asks.HELP, "?": Asks.HELP, "quit": Asks.QUIT, "exit": Asks.QUIT, "q": Asks.QUIT}
# word -> what it asks for, what the words after it count for, and an example of them
_WORDED = {
    "more": (Asks.MORE, MORE, "strings"),
    "play": (Asks.PROMPT, 1.0, "a jazz piano trio"),
}
# word -> what it asks for, lowest and highest number, and what is said of them
_NUMBERED = {
    "strength": (Asks.STRENGTH, -1.0, 6.8, "from -1 to 6.8"),
    "glide": (Asks.GLIDE, 0.0, 30.0, "of seconds from 0 to 30"),
    "tempo": (Asks.TEMPO, 20.0, 400.0, "of beats a minute from 20 to 400"),
    "seed": (Asks.SEED, 0.0, float(LARGEST_SEED), "of 0 or more, without decimals"),
}
_UNIT = r"(bars?|seconds?|secs?|s)"
_SPAN = re.compile(
    rf"(?:for )?(\S+) {_UNIT}\b[:,]? *(?:of )?(.*)|(.+?) for (\S+) {_UNIT}", re.IGNORECASE
)
_SHORTEST, _LONGEST = 0.1, 3600.0  # seconds


def read_line(text: str, tempo: float) -> Line:
    """What a line asks for; bars are counted by `tempo`, beats a minute.

    Raises MusicotError, a sentence, for one that can't be meant.
    """
    if len(text) > LONGEST_LINE:
        raise MusicotError(f"a line has at most {LONGEST_LINE} characters, this one {len(text)}")
    words = one_line("".join(each if each.isprintable() else " " for each in text))
    span = _SPAN.fullmatch(words)
    if span is None:
        return _asked(words)
    before, unit, rest, first, after, other = span.groups()
    count, unit, rest = (before or after), (unit or other).lower(), rest if before else first
    if (number := _number(count)) is None:
        return _asked(words)  # "sing a bars blues" is music
    seconds = number * BEATS * 60 / tempo if unit.startswith("bar") else number
    if not _SHORTEST <= seconds <= _LONGEST:
        raise MusicotError(f"{count} {unit} are {seconds:g} s; ask for 0.1 s to an hour")
    line = _asked(rest)
    if line.asks not in CHANGES or _SPAN.fullmatch(rest):
        raise MusicotError(f"say what those {count} {unit} are: {count} {unit} no drums")
    return Line(line.asks, line.text, line.number, seconds)


def _asked(words: str) -> Line:
    """What a line asks for that holds for good."""
    low = words.lower()
    first, _, rest = words.partition(" ")
    word = first.lower()
    if not words:
        return Line(Asks.NOTHING)
    if low in _ALONE:
        return Line(_ALONE[low])
    if low in _DRUMS:
        return Line(Asks.DRUMS, _DRUMS[low])
    if words.startswith("@"):
        return _file(words[1:])
    if word in _NUMBERED and len(words.split()) <= 2:
        return _numbered(word, rest)
    if word == "save":
        return _save(rest)
    if word in _WORDED:
        asks, weight, example = _WORDED[word]
        if not _says_something(rest):
            raise MusicotError(f"{word} takes words, as in: {word} {example}")
        return Line(asks, rest, weight)
    if not _says_something(words):
        raise MusicotError(f"{words[:40]!r} says nothing that can be played; help lists what does")
    return Line(Asks.PROMPT, words, 1.0)


def _file(given: str) -> Line:
    """A recording, and how much it counts: the last word, where that is a number."""
    name, _, last = given.strip().rpartition(" ")
    weight = _number(last)
    if weight is None or not name:
        name, weight = given.strip(), 0.5
    name = name.strip().strip("\"'")
    if not name:
        raise MusicotError("name the recording, as in: @song.wav 0.5")
    if not 0 < weight <= 1:
        raise MusicotError(f"a recording counts for more than 0 and at most 1, not {weight:g}")
    return Line(Asks.FILE, name, weight)


def _numbered(word: str, given: str) -> Line:
    asks, low, high, bounds = _NUMBERED[word]
    number = _number(given) if asks is not Asks.SEED else _whole(given)
    if number is None or not low <= number <= high:
        raise MusicotError(f"{word} takes a number {bounds}, got {given[:40] or 'none'}")
    return Line(asks, number=number)


def _save(given: str) -> Line:
    name = given.strip().strip("\"'")
    if name.rpartition(".")[2].lower() not in FORMATS or not name.rpartition(".")[0]:
        raise MusicotError(f"name the file to save, a .{', .'.join(FORMATS)}: save song.wav")
    return Line(Asks.SAVE, name)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 30 else None


def _says_something(words: str) -> bool:
    return any(letter.isalpha() for letter in words)
