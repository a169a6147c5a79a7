"""The library: songs found by how they sound."""

import mimetypes
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, FileAnswer, Use
from musicot_mlx.studio.errors import Refused

router = APIRouter(prefix="/library", tags=["library"])
AUDIO = {200: {"content": {"audio/*": {}}}, 206: {"content": {"audio/*": {}}}}
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/search", responses={200: {"model": bodies.Found}})
def search(body: bodies.Search, studio: Use) -> Answer:
    """The songs nearest to words, or to audio."""
    if (body.words is None) == (body.like is None):
        raise Refused(422, "search for words or for what is like audio, one of the two")
    like = None if body.like is None else studio.files.located(body.like)[0]
    filters = body.model_dump(include={"key", "tempo", "tags", "licence"}, exclude_none=True)
    return Answer({"found": studio.finds.search(body.words, like, body.limit, **filters)})


@router.get("/stats", responses={200: {"model": dict[str, Any]}})
def stats(studio: Use) -> Answer:
    """What the library holds."""
    return Answer(studio.finds.stats())


@router.get("/{song}/similar", responses={200: {"model": bodies.Found}})
def similar(song: str, studio: Use, limit: Limit = 20) -> Answer:
    """The songs nearest to one of the library."""
    return Answer({"found": studio.finds.similar(song, limit)})


@router.get("/{song}/audio", responses=AUDIO, response_class=Response)
def audio(song: str, studio: Use) -> Response:
    """A song of the library."""
    path, name = studio.finds.located(song)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if not kind.startswith("audio/"):
        kind = "application/octet-stream"
    headers = {"cache-control": "private, no-cache"}
    return FileAnswer(path, media_type=kind, headers=headers)
