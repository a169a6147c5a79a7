"""How routes answer: JSON in ASCII, audio as it is made, events as they happen."""

import asyncio
import json
import os
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.responses import FileResponse, JSONResponse
from starlette.staticfiles import NotModifiedResponse
from starlette.types import Message, Receive, Scope, Send

from musicot_mlx.studio.bodies import Error
from musicot_mlx.studio.errors import Refused, not_found
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


class FileAnswer(FileResponse):
    """A file, whole or a part of it, or that it is the one that the client has; a part that it has
    not is refused as all else is.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                size = self.headers["content-length"]
                raise Refused(
                    message["status"],
                    f"there is no such range; the file has {size} bytes, and a part of it is asked "
                    "for as bytes=0-99",
                    headers={"content-range": f"bytes */{size}"},
                )
            await send(message)

        self.stat_result = _stat(self.path)
        self.set_stat_headers(self.stat_result)
        try:
            if _has(Headers(scope=scope), self.headers["etag"]):
                await NotModifiedResponse(self.headers)(scope, receive, send)
                if self.background is not None:
                    await self.background()
                return
            await super().__call__(scope, receive, sent)
        except Refused:
            if self.background is not None:  # else what was written for this answer would stay
                await self.background()
            raise


def _stat(path: Any) -> os.stat_result:
    """Of a file that can be read; Refused (404) for any other, before an answer has begun."""
    if os.path.isfile(path):
        try:
            with open(path, "rb") as file:
                return os.fstat(file.fileno())
        except OSError:
            raise Refused(404, "the studio may not read that file") from None
    raise Refused(404, "the file is gone from the disk of the studio")


def _has(asked: Headers, etag: str) -> bool:
    """Whether a client has the file of an ETag."""
    known = asked.get("if-none-match", "").split(",")
    return bool({"*", etag} & {each.strip().removeprefix("W/") for each in known})


def download(name: str) -> dict[str, str]:
    """The header by which a browser saves an answer as a file of that name."""
    return {"content-disposition": f"attachment; filename*=utf-8''{quote(name)}"}


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
