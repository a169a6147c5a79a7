"""What callers give, made plain at the door: numbers, texts and files, or one sentence of refusal.

Numbers come from numpy, MLX or a web form's JSON as often as from Python. What is kept of them here
is an int, a float, a str or a Path, which a sidecar can hold and a random key can take. This module
loads nothing heavy.
"""

import math
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError

LARGEST_SEED = 2**63 - 1


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    whole: bool = False,
    unit: str = "",
    words: str = "",
) -> Any:
    """The value as an int, where whole numbers are asked for, or a float; None stays None.

    Scalars and arrays of one element of any library are numbers. Raises MusicotError for what is
    none (True, "4"), NaN, and what lies out of bounds; words: what to do then.
    """
    if value is None:
        return None
    value, found = _plain(value), None
    if not isinstance(value, (bool, str, bytes, bytearray)):
        try:
            found = int(value) if whole else float(value)
            if found != value or not low <= found <= high:  # NaN is not itself
                found = None
        except (TypeError, ValueError, OverflowError):
            found = None
    if found is None:
        wanted = bounds(low, high, whole, unit)
        unit = f" {unit}" if unit and isinstance(value, (int, float)) else ""
        raise MusicotError(f"{name} is {shown(value)}{unit}; {words or f'ask for {wanted}'}")
    return found


def needed(name: str, value: Any, **bounds: Any) -> Any:
    """A number that can't be left out: None is refused too."""
    if value is None:
        raise MusicotError(f"{name} is None; give a number")
    return number(name, value, **bounds)


def flag(value: Any) -> bool | None:
    """The value as a bool; None for what is none."""
    value = _plain(value)
    return value if isinstance(value, bool) else None


def seed_of(value: Any) -> int | None:
    """A seed, 0 to 2^63 - 1; None stays None."""
    return number("seed", value, low=0, high=LARGEST_SEED, whole=True)


def text(name: str, value: Any) -> str:
    """The value as a str; MusicotError for what is no text, or holds half a character."""
    value = _plain(value)
    if not isinstance(value, str):
        raise MusicotError(f"{name} is {shown(value)}; pass text, a str")
    value = str.__str__(value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MusicotError(
            f"{name} holds {value[error.start]!r}, which is half a character and no text; pass "
            "text that was decoded as UTF-8"
        ) from None
    return value


def path_of(name: str, value: Any) -> Path:
    """The value as a Path; MusicotError for what no file can be called."""
    try:
        place = os.fspath(value)
        if isinstance(place, str) and b"\0" not in os.fsencode(place):
            return Path(place)
    except (TypeError, UnicodeEncodeError):
        pass
    raise MusicotError(f"{name} is {shown(value)}; pass the name of a file, a str or a Path")


def items(value: Any) -> list | None:
    """The elements of a list, a tuple, an array or another iterable; None for one thing alone."""
    if isinstance(value, (str, bytes, bytearray, os.PathLike, Mapping)):
        return None
    try:
        return list(value) if isinstance(value, Iterable) else None
    except TypeError:  # an array without dimensions
        return None


def texts_of(name: str, value: Any) -> list[str]:
    """The texts of a list; a text alone is a list of one. MusicotError for anything else, for none
    and for blank ones.
    """
    found = [value] if isinstance(value, str) else items(value)
    if not found:
        raise MusicotError(f"{name} is {shown(value)}; pass a list of texts, such as ['drums']")
    found = [text(f"one of the {name}", each) for each in found]
    if not all(each.strip() for each in found):
        raise MusicotError(f"{name} holds an empty text; leave it out")
    return found


def shown(value: Any) -> str:
    """A value as a message has it, on one line."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return f"{value:g}"
        except OverflowError:
            return "beyond all numbers"
    return " ".join(reprlib.repr(value).split())[:80]


def bounds(low: float, high: float, whole: bool, unit: str = "") -> str:
    """The numbers that are taken, in words: "1 to 300 s"."""
    what = "a whole number" if whole else "a number"
    unit = f" {unit}" if unit else ""
    if high < math.inf:
        return f"{low:g} to {high:g}{unit}"
    return f"{what} of at least {low:g}{unit}" if low > -math.inf else what


def _plain(value: Any) -> Any:
    """The Python value of a scalar, or of an array of one element."""
    try:
        return value.item()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return value
