"""Texts that people bring: captions, prompts, lyrics, JSON and YAML from any editor.

UTF-8 is read, and UTF-16 and UTF-32 where a byte-order mark says so, or where the bytes of UTF-16
can be nothing else. Any other encoding would have to be guessed, and a wrong guess is a caption
nobody wrote: it is refused by its file's name.
"""

import codecs
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError

MARK = "\ufeff"  # a byte-order mark that was decoded; means nothing in a text
_MARKED = (  # the longer ones first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKS = re.compile(f"^{MARK}+", re.MULTILINE)  # files that were joined have one at each start
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that hardly a text has


def read_text(path: str | Path) -> str:
    """A text file, its line ends as \\n, without the byte-order marks that lines begin with.

    Raises OSError where it can't be read, MusicotError where it is no text in a known encoding.
    """
    return decoded(Path(path).read_bytes(), os.fspath(path))


def read_json(path: str | Path, **options: Any) -> Any:
    """What a JSON file holds; options are those of json.loads.

    Raises OSError where it can't be read, ValueError where it is no JSON or nested without end.
    """
    try:
        return json.loads(read_text(path), **options)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def decoded(data: bytes, where: str) -> str:
    """Bytes as text, as read_text has it; `where` names them in the error."""
    encoding = next((name for mark, name in _MARKED if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        fault = "it holds NUL" if "\0" in text else None
    except UnicodeDecodeError as error:
        text, fault = "", f"byte 0x{data[error.start]:02x} at {error.start}"
    if encoding == "utf-8" and _CONTROL.search(data):
        found = _unmarked_utf16(data)
        text, fault = (text, fault) if found is None else (found, None)
    if fault:
        raise MusicotError(f"{where} is not UTF-8 text ({fault}); save it as UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _MARKS.sub("", text)


def lines_of(text: str) -> list[str]:
    """The lines of a text, by \\n alone: U+2028 and its like stand within JSON and captions."""
    return text.split("\n")


def one_line(text: str) -> str:
    """A text on one line: white space of any kind is one space, byte-order marks are nothing."""
    return " ".join(text.replace(MARK, "").split())


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a mark: every other byte, the high one, is of a few values; None for others.

    Two bytes in three texts of one script share their high byte, in UTF-8 none do; what was read
    the wrong way round mostly holds characters that don't exist.
    """
    low, high = set(data[::2]), set(data[1::2])
    encoding = "utf-16-le"
    if len(low) < len(high) or low == {0}:
        low, high, encoding = high, low, "utf-16-be"
    if len(data) % 2 or (high != {0} and 2 * len(high) > len(low)):
        return None
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    strange = any(unicodedata.category(character) in ("Cn", "Co") for character in set(text))
    return None if strange or "\0" in text else text
