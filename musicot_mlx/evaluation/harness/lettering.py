"""Letters in pictures: any script that a font of the system has, words in place of what none has,
and colours that can be read on what is behind them.

Matplotlib's own font has Latin, Greek, Cyrillic, Arabic and more, but no CJK and few emoji; what it
lacks it draws as boxes. Fonts with colour bitmaps alone, as of emoji, can't be drawn by it.
"""

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import groupby

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"  # comes with matplotlib
OTHERS = (  # of macOS, Linux and Windows, in the order in which they are tried
    "Hiragino Sans", "Hiragino Sans GB", "PingFang SC", "PingFang HK", "Apple SD Gothic Neo",
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "IPAGothic", "NanumGothic", "Unifont", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Arial Unicode MS", "Noto Emoji", "Symbola", "Apple Symbols",
    "Segoe UI Symbol", "Segoe UI Emoji", "Noto Sans Devanagari", "Kohinoor Devanagari",
    "Noto Sans Thai", "Thonburi", "Noto Sans Bengali", "Noto Sans Tamil",
)  # fmt: skip
SELECTORS = range(0xFE00, 0xFE10)  # say how the sign before them is to look
LEAST_CONTRAST = 4.5  # of text and what is behind it (WCAG 2.2, 1.4.3)


def families(text: str) -> list[str]:
    """Font families that have the letters of a text between them, the usual one first."""
    found, missing = [OWN], {c for c in text if not _has(OWN, c)}
    for name in OTHERS:
        if missing and any(_has(name, c) for c in missing):
            found.append(name)
            missing = {c for c in missing if not _has(name, c)}
    return found


def drawable(text: str) -> str:
    """The text with what no font has put in words: "[2 CJK characters]", "[musical keyboard]"."""
    fonts, pieces = families(text), []
    for kind, run in groupby(text, lambda c: _unknown(c, fonts)):
        letters = "".join(run)
        if kind is None:
            pieces.append(letters)
        elif kind.isupper():  # a script
            plural = "s" if len(letters) > 1 else ""
            pieces.append(f"[{len(letters)} {_script(kind)} character{plural}]")
        elif kind:
            pieces.append(f"[{kind}]" * len(letters))
    return "".join(pieces)


def contrast(first: Sequence[float] | str, second: Sequence[float] | str) -> float:
    """Of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def readable(behind: Sequence[float], *, ink: str, paper: str) -> tuple[float, ...]:
    """The colour of text on `behind`: that colour moved as little towards ink or paper as can be
    read, at least most of the way; black or white where even these can't.
    """
    dark = contrast(behind, "black") < contrast(behind, "white")
    ground, towards = np.array(to_rgb(behind)), np.array(to_rgb(paper if dark else ink))
    for part in (0.72, 0.8, 0.9, 1.0):
        colour = tuple(ground + part * (towards - ground))
        if contrast(colour, behind) >= LEAST_CONTRAST:
            return colour
    return to_rgb("white" if dark else "black")


def _unknown(letter: str, fonts: Sequence[str]) -> str | None:
    """None for a letter that can be drawn; else its script in capitals, its name in small letters
    where it is a sign, and nothing for what is no sign by itself.
    """
    if unicodedata.category(letter) == "Cf" or ord(letter) in SELECTORS:
        return ""
    if letter.isspace() or any(_has(name, letter) for name in fonts):
        return None
    name = unicodedata.name(letter, "unknown character")
    if unicodedata.category(letter)[0] in "LN" and name.isupper():
        return name.split()[0].split("-")[0]
    return name.lower()


def _script(name: str) -> str:
    return name if name == "CJK" else name.capitalize()


@cache
def _letters(family: str) -> frozenset[int]:
    """Code points of a family, none where the system lacks it or it holds bitmaps alone."""
    if family not in {font.name for font in fontManager.ttflist}:
        return frozenset()
    font = FT2Font(findfont(family))
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


def _has(family: str, letter: str) -> bool:
    return ord(letter) in _letters(family)


def _luminance(colour: Sequence[float] | str) -> float:
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
