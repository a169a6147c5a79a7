"""How routes answer: JSON in ASCII, audio as it is made, events as they happen."""

import asyncio
import json
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from starlette.responses import JSONResponse

from musicot_mlx.studio.bodies import Error
from musicot_mlx.studio.errors import not_found
from musicot_mlx.studio.live import Live, wav_header
from musicot_mlx.studio.security import Broken
from musicot_mlx.studio.studio import Studio

PAUSE = 0.04  # seconds between two looks at a song that is being made
_BLOCK = 1 << 16  # bytes
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Error}, "5XX": {"model": Error}}


class Answer(JSONResponse):
    """JSON in ASCII: half a character, which no UTF-8 can hold, is told as it came."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")


def _studio(request: Request) -> Studio:
    return request.app.state.studio


Use = Annotated[Studio, Depends(_studio)]


def checked_id(kind: str, given: str) -> str:
    """An id of a path; Refused (404) for what can be none."""
    letter = kind[0]
    rest = given.removeprefix(f"{letter}_")
    if rest == given or len(rest) != 16 or not set(rest) <= set("0123456789abcdef"):
        raise not_found(kind)
    return given


async def as_made(live: Live, file: BinaryIO, frames: int, *, wav: bool) -> AsyncIterator[bytes]:
    """The samples of a song from its beginning, as they are made and come to stand in a file.
    frames: how many are expected, for the header of a WAV. Breaks off where the song fails.
    """
    with file:
        if wav:
            yield wav_header(live.sample_rate, live.channels, frames)
        while True:
            ended = live.ended.is_set()
            while block := file.read(_BLOCK):
                yield block
            if ended:
                break
            await asyncio.sleep(PAUSE)
    if live.failed:
        raise Broken


def samples_of(path: Path) -> Iterator[bytes]:
    """The 16-bit samples of a WAV."""
    with wave.open(str(path), "rb") as file:
        while block := file.readframes(_BLOCK):
            yield block
