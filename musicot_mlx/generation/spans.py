"""Which part of a song a network sees at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Steps start..stop-1 of a song: its segments, its frames or its latents."""

    start: int
    stop: int
