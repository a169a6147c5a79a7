"""Plans: drawn, looked at, edited, undone."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, Use, checked_id, download
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.store import Version, moved_on
from musicot_mlx.studio.studio import Studio
from musicot_mlx.studio.wishes import checked_options

router = APIRouter(tags=["plans"])
Anchors = Annotated[
    str | None, Query(max_length=4000, description="words to read the plan by, commas between")
]
ONE = {200: {"model": bodies.PlanDocument}}


@router.post("/plans", status_code=201, responses={201: {"model": bodies.PlanDocument}})
def draw(body: bodies.NewPlan, studio: Use, anchors: Anchors = None) -> Answer:
    """Draw a plan from a prompt or references, hear it in audio, or go on with that of a song."""
    from musicot_mlx.studio.plans import asked_anchors, document, drawn, outside

    about, words, told = studio.engine.model(body.model), asked_anchors(anchors), []
    if not about.plans:
        message = f"a {about.family.title} model makes no plans; ask for a song"
        raise Refused(422, message, param="model")
    options = checked_options(about, body.options)
    for name in options:
        if not about.options[name].metadata["planning"]:
            raise Refused(422, f"{name} is not of the plan but of its song",
                          param=f"options.{name}")  # fmt: skip

    def job() -> dict[str, Any]:
        adapters = [each.model_dump() for each in body.adapters]
        model, names = studio.engine.loaded(about.name, adapters), studio.files.names()
        plan = drawn(studio.engine, body, options, names)
        stored = studio.store.add_plan(about.name, adapters, options, outside(plan, names))
        return document(stored, model, words, warnings=told)

    if body.song is not None:
        return _of_song(studio, body, words)
    return Answer(studio.engine.run(job, told=told), status_code=201)


def _of_song(studio: Studio, body: bodies.NewPlan, words: list[str] | None) -> Answer:
    """The plan that a song was made from, as a new one."""
    song = studio.store.song(checked_id("song", body.song))
    value = studio.store.plan_file(song.id)
    if body.prompt or body.options or body.from_audio or body.seed is not None or value is None:
        why = "has none yet" if value is None else "is taken as it is; leave out all else"
        raise Refused(422, f"the plan of the song {why}", param="song")
    options = {"duration": value["duration"]}
    stored = studio.store.add_plan(song.body["model"], song.body["adapters"], options, value)
    return _document(studio, stored, words, status=201)


@router.get("/plans", responses={200: {"model": bodies.Plans}})
def list_plans(studio: Use, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Answer:
    """The plans that were changed last."""
    lines = [
        {
            "id": each.plan,
            "version": each.number,
            "prompt": each.value["prompt"],
            "model": each.model,
            "duration": each.value["duration"],
            "created": each.created,
            "updated": each.updated,
        }
        for each in studio.store.plans(limit)
    ]
    return Answer({"plans": lines})


@router.get("/plans/{plan}", responses=ONE)
def show(
    plan: str,
    studio: Use,
    anchors: Anchors = None,
    version: Annotated[int | None, Query(ge=1, le=2**31)] = None,
) -> Answer:
    """A plan at its current version, or another one."""
    from musicot_mlx.studio.plans import asked_anchors

    words = asked_anchors(anchors)
    return _document(studio, studio.store.plan(checked_id("plan", plan), version), words)


@router.post("/plans/{plan}/edits", responses=ONE)
def edit(plan: str, body: bodies.AnyEdit, studio: Use, anchors: Anchors = None) -> Answer:
    """Change a plan, or look at what it would be."""
    from musicot_mlx.studio.plans import Editor, asked_anchors, document

    words, told = asked_anchors(anchors), []
    before = studio.store.plan(checked_id("plan", plan))
    if body.version not in (None, before.number):
        raise moved_on(before.number)
    record = body.model_dump(exclude_none=True, exclude_defaults=True, exclude={"version"})
    record.pop("preview", None)

    def job() -> dict[str, Any]:
        model = studio.engine.loaded(before.model, before.adapters)
        editor = Editor(before, model, studio.store, studio.files)
        made = editor.make(body)
        value = editor.names.outside(made.plan.to_dict())
        if body.preview:
            shown = replace(
                before, value=value, locked=made.locked, edit=record, previous=before.value
            )
            return document(shown, model, words, warnings=told, preview=True)
        after = studio.store.add_version(before, value, made.locked, record)
        return document(after, model, words, warnings=told)

    found = studio.engine.run(job, told=told)
    if not body.preview:
        _changed(studio, found)
    return Answer(found)


@router.post("/plans/{plan}/undo", responses=ONE)
def undo(plan: str, studio: Use, anchors: Anchors = None) -> Answer:
    """Go back by one edit; 409 where there is none."""
    return _moved(studio, studio.store.undo(checked_id("plan", plan)), anchors)


@router.post("/plans/{plan}/redo", responses=ONE)
def redo(plan: str, studio: Use, anchors: Anchors = None) -> Answer:
    """Make the edit again that was undone; 409 where there is none."""
    return _moved(studio, studio.store.redo(checked_id("plan", plan)), anchors)


@router.get("/plans/{plan}/file", responses={200: {"model": dict[str, Any]}})
def file(plan: str, studio: Use) -> Answer:
    """The plan file, for `musicot generate --plan`."""
    value = studio.store.plan(checked_id("plan", plan)).value
    return Answer(value, headers=download(f"{plan}.plan.json"))


@router.delete("/plans/{plan}", status_code=204, response_class=Response)
def delete(plan: str, studio: Use) -> Response:
    """Forget a plan; songs that were made from it stay."""
    studio.store.delete_plan(checked_id("plan", plan))
    return Response(status_code=204)


def _document(
    studio: Studio, version: Version, words: list[str] | None, *, status: int = 200
) -> Answer:
    from musicot_mlx.studio.plans import document

    def job() -> dict[str, Any]:
        model = studio.engine.loaded(version.model, version.adapters)
        return document(version, model, words)

    return Answer(studio.engine.run(job), status_code=status)


def _moved(studio: Studio, version: Version, anchors: str | None) -> Answer:
    """The answer to undo and redo, which others are told of."""
    from musicot_mlx.studio.plans import asked_anchors

    _changed(studio, {"id": version.plan, "version": version.number})
    return _document(studio, version, asked_anchors(anchors))


def _changed(studio: Studio, found: dict[str, Any]) -> None:
    studio.events.publish("plan", {"plan": found["id"], "version": found["version"]})
