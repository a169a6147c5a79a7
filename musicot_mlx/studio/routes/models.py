"""What models there are, and what each can be asked for."""

from typing import Any

from fastapi import APIRouter

from musicot_mlx import __version__
from musicot_mlx.studio import bodies
from musicot_mlx.studio.answers import Answer, Use
from musicot_mlx.studio.errors import Refused

EXPORTS = ("wav", "flac", "mp3", "ogg")
router = APIRouter(tags=["models"])


@router.get("/models", responses={200: {"model": bodies.Models}})
def list_models(studio: Use) -> Answer:
    """The models at hand, and what this server takes."""
    settings, adapters = studio.settings, [{"name": name} for name in studio.settings.adapters]
    found = []
    for model in studio.engine.models():
        loaded = studio.engine.is_loaded(model)
        rate = getattr(loaded, "sample_rate", None)
        about = {"loaded": loaded is not None, "sample_rate": rate, "adapters": adapters}
        found.append(model.described() | about)
    lines = [
        {"id": each["name"], "object": "model", "created": 0, "owned_by": "musicot"}
        for each in found
    ]
    return Answer(
        {
            "object": "list",
            "data": lines,
            "default": found[0]["name"],
            "version": __version__,
            "queue": settings.queue,
            "max_upload_bytes": settings.upload_bytes,
            "longest_upload_seconds": settings.upload_seconds,
            "library": studio.finds.there,
            "export_formats": list(EXPORTS),
            "models": found,
        }
    )


@router.get("/models/{name:path}/vocabulary", responses={200: {"model": dict[str, Any]}})
def vocabulary(name: str, studio: Use) -> Answer:
    """The words that a model knows; 404 where it takes any."""
    about = {model.name: model for model in studio.engine.models()}.get(name)
    if about is None:
        raise Refused(404, "there is no such model here")
    model = studio.engine.run(studio.engine.loaded, about.name)
    if not hasattr(model, "vocabulary"):
        raise Refused(404, f"a {about.family.title} model takes any words")
    return Answer(studio.engine.run(model.vocabulary))
