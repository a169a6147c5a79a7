"""A song for a prompt, in the shape of OpenAI's requests: it waits, and hands the audio over."""

import asyncio
import base64
import time
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, Use
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.routes.songs import export, queue_songs
from musicot_mlx.studio.store import WAITING, SongRow
from musicot_mlx.studio.studio import Studio

router = APIRouter(tags=["OpenAI-shaped"])


@router.post("/audio/generations", responses={200: {"model": bodies.Generated}})
async def generate(body: bodies.Generation, request: Request, studio: Use) -> Answer:
    """Make `n` songs of a prompt, with seeds from `seed` on."""
    if body.stream:
        raise Refused(422, "a song is not streamed here; ask for it by POST /v1/songs, whose audio "
                      "comes while it is made", param="stream")  # fmt: skip
    first = 0 if body.seed is None else body.seed
    seeds = [(first + k) % (bodies.LARGEST_SEED + 1) for k in range(body.n)]
    wish = bodies.NewSongs(
        model=body.model, prompt=body.prompt, seeds=seeds, options={"duration": body.duration}
    )
    songs, _ = await asyncio.to_thread(queue_songs, studio, wish)
    try:
        rows = [await _finished(studio, request, song["id"]) for song in songs]
    except _Left:
        for song in songs:
            with suppress(Refused):  # done meanwhile
                await asyncio.to_thread(studio.queue.cancel, song["id"])
        raise
    data = []
    for row in rows:
        told: dict[str, Any] = {"id": row.id, "seed": row.body["seed"]}
        if body.response_format == "url":
            place = f"v1/songs/{row.id}/file?format={body.output_format}"
            told["url"] = f"{request.base_url}{place}"
        else:
            told["b64_json"] = await asyncio.to_thread(_encoded, studio, row, body.output_format)
        data.append(told)
    return Answer({"created": int(time.time()), "model": rows[0].body["model"], "data": data})


class _Left(Refused):
    """Whoever asked has gone."""


async def _finished(studio: Studio, request: Request, song: str) -> SongRow:
    """A song once it is done; RunError's like where it fails."""
    while (row := await asyncio.to_thread(studio.store.song, song)).status in WAITING:
        if await request.is_disconnected():
            raise _Left(499, "nobody waits for the song any more")
        if studio.events.closed:
            raise Refused(503, "the studio is being closed; the song is made when it starts again")
        await asyncio.sleep(0.1)
    if row.status != "done":
        raise Refused(500, row.body["error"] or f"the song was {row.status}")
    return row


def _encoded(studio: Studio, row: SongRow, format: Any) -> str:
    """The audio of a song as base64."""
    answer = export(row.id, studio, format)
    try:
        with open(answer.path, "rb") as file:
            return base64.b64encode(file.read()).decode()
    finally:
        if answer.background is not None:
            answer.background.func(*answer.background.args, **answer.background.kwargs)
