"""What happens, as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from musicot_mlx.studio.answers import Use, checked_id
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.events import Event
from musicot_mlx.studio.store import WAITING
from musicot_mlx.studio.studio import Studio

router = APIRouter(tags=["events"])
STREAM = {200: {"content": {"text/event-stream": {}}}}
After = Annotated[str | None, Query(max_length=60, alias="last_event_id")]
Resumed = Annotated[str | None, Header(max_length=60, alias="Last-Event-ID")]


@router.get("/events", responses=STREAM, response_class=Response)
async def events(studio: Use, resumed: Resumed = None, after: After = None) -> Response:
    """All that happens, from now on or from an event on."""

    async def sent() -> AsyncIterator[bytes]:
        async for event in studio.events.follow(resumed or after):
            yield studio.events.written(event)

    return _stream(sent())


@router.get("/songs/{song}/events", responses=STREAM, response_class=Response)
async def events_of_song(
    song: str, studio: Use, resumed: Resumed = None, after: After = None
) -> Response:
    """What happens to one song, until it has finished and was heard."""
    studio.store.song(checked_id("song", song))
    return _stream(_of_song(studio, song, resumed or after))


async def _of_song(studio: Studio, song: str, after: str | None) -> AsyncIterator[bytes]:
    async for event in studio.events.follow(after, song):
        if event is not None and event.name == "reset":  # how it is now, instead
            try:
                now = studio.queue.document(studio.store.song(song))
            except Refused:
                return
            event = Event(event.number, "song", studio.events.text(now), song)
        yield studio.events.written(event)
        if event is not None and event.name == "deleted":
            return
        over = studio.queue.live(song) is None and _finished(studio, song)
        if over and not studio.events.more(event, song):
            return


def _finished(studio: Studio, song: str) -> bool:
    try:
        return studio.store.song(song).status not in WAITING
    except Refused:
        return True


def _stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
