"""The `.json` beside a song, or a plan file, opened: everything back for the form."""

import contextlib
from typing import Any

from fastapi import APIRouter

from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, Use
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.routes.plans import Anchors
from musicot_mlx.studio.studio import Studio
from musicot_mlx.studio.wishes import reopened

router = APIRouter(tags=["songs"])


@router.post("/sidecars", responses={200: {"model": bodies.Opened}})
def open_sidecar(body: dict[str, Any], studio: Use, anchors: Anchors = None) -> Answer:
    """Everything back from the settings of a song, or from a plan file."""
    from musicot_mlx import Plan
    from musicot_mlx.pipelines.plans.file import FORMAT, plan_within
    from musicot_mlx.studio.plans import asked_anchors, document

    words, told = asked_anchors(anchors), []
    bare = body.get("format") == FORMAT
    models = {model.name: model for model in studio.engine.models()}
    named = body.get("model")
    about = models.get(named if isinstance(named, str) else "") or studio.engine.model(None)
    adapters = _adapters(studio, body.get("adapter_path"))
    options, left_out = reopened(about, {} if bare else body, studio.files.names())
    if named is not None and named != about.name:
        left_out.insert(0, "model")
    inner = plan_within(body)
    value = inner if isinstance(inner, dict) and inner.get("format") == FORMAT else None
    if value is None and (bare or "duration" not in body or "seed" not in body):
        raise Refused(422, "this is neither a plan nor the settings beside a song")

    def job() -> dict[str, Any]:
        model = studio.engine.loaded(about.name, adapters)
        made = Plan.load(value, model).to_dict()
        planning = {"duration": made["duration"]} | about.split(options)[0]
        return document(
            studio.store.add_plan(about.name, adapters, planning, made), model, words, warnings=told
        )

    shown = studio.engine.run(job, told=told) if value is not None and about.plans else None
    seed = body.get("seed")
    known = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63
    prompt = body.get("prompt")
    return Answer(
        {
            "model": about.name,
            "adapters": adapters,
            "prompt": prompt if isinstance(prompt, str) else None,
            "seed": seed if known else 0,
            "options": options,
            "plan": shown,
            "left_out": left_out,
        }
    )


def _adapters(studio: Studio, given: Any) -> list[dict[str, Any]]:
    """The adapters that settings name, as far as they are here."""
    found = []
    for each in given if isinstance(given, list) else []:
        name, _, weight = str(each).rpartition(":")
        with contextlib.suppress(ValueError):  # of a number that is none, or of a weight too large
            if name in studio.settings.adapters:
                found.append(bodies.Adapter(name=name, weight=float(weight)).model_dump())
    return found
