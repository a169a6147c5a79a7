"""Songs: asked for, followed, heard, taken home."""

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import (
    Answer,
    FileAnswer,
    Use,
    as_made,
    checked_id,
    download,
    samples_of,
)
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.queue import AUTO, new_body
from musicot_mlx.studio.store import WAITING, SongRow
from musicot_mlx.studio.studio import Studio
from musicot_mlx.studio.wishes import checked_options, titled

router = APIRouter(tags=["songs"])
ONE = {200: {"model": bodies.Song}}
AUDIO = {200: {"content": {"audio/wav": {}}}, 206: {"content": {"audio/wav": {}}}}
Format = Literal["wav", "flac", "mp3", "ogg"]
Anchors = Annotated[
    str | None, Query(max_length=4000, description="words to hear the song by, commas between")
]
Status = Literal["queued", "running", "done", "failed", "cancelled"]
PAUSE = 0.05  # seconds between two looks at a song whose turn has not come


@router.post("/songs", status_code=202,
             responses={200: {"model": bodies.Queued}, 202: {"model": bodies.Queued}})  # fmt: skip
def ask(
    body: bodies.NewSongs,
    studio: Use,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Answer:
    """Queue a song, or one a seed; 429 where there is no room for all of them."""
    songs, new = queue_songs(studio, body, asked=idempotency_key)
    return Answer({"group": songs[0]["group"], "songs": songs}, status_code=202 if new else 200)


def queue_songs(
    studio: Studio, body: bodies.NewSongs, *, asked: str | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """The songs of a request, queued, and whether they are new."""
    if body.seed is not None and body.seeds is not None:
        raise Refused(422, "pass seed or seeds, not both", param="seeds")
    value, plan, adapters = None, None, [each.model_dump() for each in body.adapters]
    if body.plan is not None:
        for name in ("model", "adapters", "prompt"):
            if getattr(body, name):
                raise Refused(422, f"{name} is that of the plan; leave it out", param=name)
        version = studio.store.plan(checked_id("plan", body.plan), body.version)
        value, plan = version.value, {"id": version.plan, "version": version.number}
        adapters = version.adapters
    about = studio.engine.model(body.model if plan is None else version.model)
    studio.engine.adapter_path(adapters)
    options = checked_options(about, body.options)
    if value is None:
        prompt, seed = body.prompt, 0
        _require_something(about, prompt, options)
        usual = about.options["duration"].default if "duration" in about.options else None
        duration = options.get("duration", usual)
    else:
        prompt, seed, duration = value["prompt"], value["seed"], value["duration"]
        of_song = about.split(options)[1]
        for name in options:
            if name not in of_song:
                raise Refused(422, f"{name} belongs to planning, and the plan is made",
                              param=f"options.{name}")  # fmt: skip
    if body.keep not in (None, AUTO):
        studio.store.song(checked_id("song", body.keep))
    common = {
        "title": titled(body.title or prompt),
        "model": about.name,
        "adapters": adapters,
        "prompt": prompt,
        "options": options,
        "plan": plan,
        "duration": duration,
        "keep": body.keep if about.plans else None,
    }
    seeds = body.seeds or [seed if body.seed is None else body.seed]
    songs = [new_body(**common, seed=each) for each in seeds]
    return studio.queue.add(songs, plan_file=value, asked=asked)


def _require_something(about: Any, prompt: str | None, options: dict[str, Any]) -> None:
    """Raise Refused where nothing says what the song should be."""
    files = [n for n in options if about.options[n].metadata["kind"] is Path]
    if prompt is not None and not prompt.strip():
        raise Refused(422, "the prompt is empty; describe the music, e.g. 'solo piano, calm'",
                      param="prompt")  # fmt: skip
    if prompt is None and not files:
        raise Refused(422, "nothing to make: give a prompt, a plan, or audio to go by",
                      param="prompt")  # fmt: skip


@router.get("/songs", responses={200: {"model": bodies.Songs}})
def list_songs(
    studio: Use,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    since: Annotated[str | None, Query(max_length=40)] = None,
    status: Status | None = None,
    group: Annotated[str | None, Query(max_length=40)] = None,
) -> Answer:
    """The newest songs."""
    asked = {"limit": limit, "before": before, "since": since, "status": status, "group": group}
    rows, places = studio.store.songs(**asked), studio.store.queue()
    return Answer({"songs": [studio.queue.document(row, places) for row in rows], "queue": places})


@router.get("/songs/{song}", responses=ONE)
def show(song: str, studio: Use, anchors: Anchors = None) -> Answer:
    """A song; with anchors it is heard once more, by these words."""
    from musicot_mlx.studio.plans import asked_anchors

    row, words = studio.store.song(checked_id("song", song)), asked_anchors(anchors)
    document = studio.queue.document(row)
    if words and document["heard"]:
        document["heard"] = studio.engine.run(_heard_by, studio, row, words)
    return Answer(document)


def _heard_by(studio: Studio, row: SongRow, words: list[str]) -> dict[str, Any]:
    from musicot_mlx import Plan
    from musicot_mlx.studio.hearing import heard

    model = studio.engine.loaded(row.body["model"], row.body["adapters"])
    plan = Plan.load(studio.store.plan_file(row.id), model)
    return heard(studio.files.song(row.id), plan, model, words)


@router.patch("/songs/{song}", responses=ONE)
def name(song: str, body: bodies.Titled, studio: Use) -> Answer:
    """Call a song otherwise."""
    row = studio.store.update_song(checked_id("song", song), title=titled(body.title))
    document = studio.queue.document(row)
    studio.events.publish("song", document, row.id)
    return Answer(document)


@router.post("/songs/{song}/cancel", responses=ONE)
def cancel(song: str, studio: Use) -> Answer:
    """Make it no more; 409 where it is finished."""
    return Answer(studio.queue.cancel(checked_id("song", song)))


@router.post("/songs/{song}/again", status_code=202, responses={202: {"model": bodies.Song}})
def again(song: str, studio: Use) -> Answer:
    """Queue it once more, where it failed or was cancelled."""
    return Answer(studio.queue.again(checked_id("song", song)), status_code=202)


@router.delete("/songs/{song}", status_code=204, response_class=Response)
def delete(song: str, studio: Use) -> Response:
    """Forget it and remove its files."""
    studio.queue.delete(checked_id("song", song))
    studio.finds.remove(song)
    return Response(status_code=204)


# --- what it sounds like --------------------------------------------------------------------------


@router.get("/songs/{song}/audio", responses=AUDIO, response_class=Response)
async def audio(
    song: str, request: Request, studio: Use, format: Literal["wav", "pcm"] = "wav"
) -> Response:
    """The song, or what is made of it as it is made."""
    row = await asyncio.to_thread(studio.store.song, checked_id("song", song))
    while row.status in WAITING:
        live = studio.queue.live(song)
        if live is not None and live.peaks is not None and live.made:
            with contextlib.suppress(FileNotFoundError):  # it was finished just now
                return _streamed(live, row, format)
        await asyncio.sleep(PAUSE)
        if await request.is_disconnected() or studio.events.closed:
            return Response(status_code=503)
        row = await asyncio.to_thread(studio.store.song, song)
    path = _done(studio, row)
    headers = {"cache-control": "private, no-cache"}
    if format == "wav":
        return FileAnswer(path, media_type="audio/wav", headers=headers)
    headers |= _pcm_headers(row.body["sample_rate"], row.body["channels"])
    return StreamingResponse(samples_of(path), media_type="audio/l16", headers=headers)


def _streamed(live: Any, row: SongRow, format: str) -> StreamingResponse:
    frames = round((row.body["duration"] or 0) * live.sample_rate) or 2**31
    chunks = as_made(live, live.path.open("rb"), frames, wav=format == "wav")
    kind = "audio/wav" if format == "wav" else "audio/l16"
    headers = _pcm_headers(live.sample_rate, live.channels)
    return StreamingResponse(chunks, media_type=kind, headers={"accept-ranges": "none", **headers})


def _pcm_headers(sample_rate: int, channels: int) -> dict[str, str]:
    return {"x-sample-rate": str(sample_rate), "x-channels": str(channels)}


def _done(studio: Studio, row: SongRow) -> Path:
    """The file of a finished song."""
    if row.status != "done":
        raise Refused(409, f"the song is not finished: {row.status}")
    path = studio.files.song(row.id)
    if not path.is_file():
        raise Refused(404, "the file of that song is gone from the disk")
    return path


@router.get("/songs/{song}/peaks", responses={200: {"model": bodies.Peaks}})
def peaks(song: str, studio: Use) -> Answer:
    """Its waveform so far."""
    row = studio.store.song(checked_id("song", song))
    live = studio.queue.live(song)
    levels = bytes(live.peaks.levels) if live and live.peaks else studio.store.peaks(song)
    seconds = round(live.seconds if live else row.body["made_seconds"], 3)
    return Answer({"per_second": 20, "seconds": seconds, "peaks": list(levels)})


@router.get("/songs/{song}/file", responses=AUDIO, response_class=Response)
def export(song: str, studio: Use, format: Format = "wav") -> Response:
    """The song as a file to keep, with its title in the tags."""
    from musicot_mlx.audio.files import Encoding, read_audio, write_audio

    row = studio.store.song(checked_id("song", song))
    path, body = _done(studio, row), row.body
    name = f"{_safe(body['title'])}.{format}"
    if format == "wav":
        return FileAnswer(path, media_type="audio/wav", filename=name)
    waveform, rate = read_audio(path)
    made = f"{body['prompt'] or ''} (musicot, {body['model']}, seed {body['seed']})".strip()
    target = studio.files.temporary / f"{song}-{secrets.token_hex(4)}.{format}"
    write_audio(target, waveform, rate, encoding=Encoding(title=body["title"], comment=made))
    gone = BackgroundTask(target.unlink, missing_ok=True)
    return FileAnswer(target, media_type=f"audio/{format}", filename=name, background=gone)


@router.get("/songs/{song}/stems/{name}", responses=AUDIO, response_class=Response)
def stem(song: str, name: str, studio: Use) -> Response:
    """One stem, where the song has any."""
    row = studio.store.song(checked_id("song", song))
    raise Refused(404, f"the song has no stem of that name; it has {len(row.body['stems'])}")


@router.get("/songs/{song}/sidecar", responses={200: {"model": dict[str, Any]}})
def sidecar(song: str, studio: Use) -> Answer:
    """The settings that make it again."""
    from musicot_mlx.texts import read_json

    row = studio.store.song(checked_id("song", song))
    settings = read_json(_done(studio, row).with_suffix(".json"))
    return Answer(settings, headers=download(f"{_safe(row.body['title'])}.json"))


@router.get("/songs/{song}/plan", responses={200: {"model": dict[str, Any]}})
def plan(song: str, studio: Use) -> Answer:
    """The plan that it was made from."""
    row = studio.store.song(checked_id("song", song))
    value = studio.store.plan_file(song)
    if value is None:
        raise Refused(404, "the song has no plan")
    return Answer(value, headers=download(f"{_safe(row.body['title'])}.plan.json"))


def _safe(title: str) -> str:
    """A title as the name of a file."""
    words = "".join(letter if letter.isalnum() or letter in " -_" else " " for letter in title)
    return "-".join(words.split())[:60] or "song"
