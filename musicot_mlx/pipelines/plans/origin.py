"""Where the thoughts of a plan came from, and which of its segments are guests in the song.

A guest was put in from outside: set to words, heard in another recording, taken from a plan of
another prompt. It is asked for what it is itself, and not for what the song is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """Where a thought came from: drawn by the LM for a prompt, or for words of its own; heard in an
    audio file, `start` seconds into it; between two others. What is not known is None.
    """

    kind: str  # "drawn", "words", "audio", "morph", "unknown"
    words: str | None = None
    file: str | None = None
    start: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        if self.kind == "audio":
            name = Path(self.file).name if self.file else self.words or "audio"
            return name if self.start is None else f"{name} at {self.start:g} s"
        return self.words or self.kind

    @property
    def text(self) -> str | None:
        """The words that it was drawn for, None for audio."""
        return self.words if self.kind in ("words", "drawn") else None

    @property
    def part(self) -> str:
        """What guests from one source have in common."""
        return f"{self.kind}: {self.file or self.text or ''}"


def guests(
    origins: Sequence[Origin], prompt: str | None, history: Sequence[Mapping[str, Any]]
) -> list[Origin | None]:
    """The origin of each segment that is a guest in a song of this prompt, None for its own.

    Audio is a guest where an edit brought it; a plan that was heard in a recording is the song's.
    """
    brought = {edit.get("by") for edit in history if edit.get("edit") in ("replace", "insert")}

    def is_guest(origin: Origin) -> bool:
        if origin.kind == "audio":
            return (origin.file or "audio") in brought
        return origin.kind == "words" or (origin.kind == "drawn" and origin.words != prompt)

    return [origin if is_guest(origin) else None for origin in origins]
