"""The options of a request: checked against what its model takes before anything is stored, and
turned into what the pipelines take when the song is made.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from musicot_mlx.errors import MusicotError, nearest
from musicot_mlx.pipelines.options import as_json, checked
from musicot_mlx.studio.bodies import Source
from musicot_mlx.studio.engine import Model
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.files import Names, source_of

_MOST = 64  # values of one option
_LONGEST = 10_000  # letters of a text: a song of ten minutes has fewer
SHORTEST_TITLE = 60  # characters of a prompt that name a song


def checked_options(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are stored: names known to the model, values within bounds, files as sources.
    Raises Refused (422) that names the field.
    """
    found = {}
    for name, value in options.items():
        each, param = model.options.get(name), f"options.{name}"[:100]
        if each is None:
            near = nearest(name, model.options)
            hint = f"did you mean {near}?" if near else "GET /v1/models lists its options"
            title = model.family.title
            raise Refused(422, f"a {title} model has no option {name[:60]!r}; {hint}", param=param)
        if value is None:
            continue
        if isinstance(value, list) and len(value) > _MOST:
            raise Refused(422, f"{name} takes at most {_MOST} values", param=param)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and len(text) > _LONGEST:
                raise Refused(422, f"{name} takes at most {_LONGEST} letters", param=param)
        try:
            if each.metadata["kind"] is Path:
                found[name] = _sources(name, value, each.metadata["several"])
            else:
                found[name] = as_json(checked(each, value))
        except MusicotError as error:
            raise Refused(422, str(error), param=param) from None
    return found


def resolved(model: Model, options: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Stored options as the pipelines take them: sources are files, which `names` remembers."""
    given = {}
    for name, value in options.items():
        about = model.options[name].metadata
        if about["kind"] is Path:
            files = [names.file(Source.model_validate(each)) for each in value]
            value = files if about["several"] else files[0]
        given[name] = value
    return given


def reopened(model: Model, settings: Mapping[str, Any], names: Names) -> tuple[dict, list[str]]:
    """The options that a sidecar tells, and the names of those that can't be had here: files that
    are not, and what is no option of the model.
    """
    found, left_out = {}, []
    for name, each in model.options.items():
        value = settings.get(name)
        if value is None:
            continue
        if each.metadata["kind"] is Path:
            labels = value if isinstance(value, list) else [value]
            value = [source_of(label) if isinstance(label, str) else None for label in labels]
        try:
            found |= checked_options(model, {name: value})
            for source in found[name] if each.metadata["kind"] is Path else ():
                names.file(Source.model_validate(source))
        except MusicotError:
            found.pop(name, None)
            left_out.append(name)
    return found, left_out


def titled(prompt: str | None, label: str = "") -> str:
    """What a song is called where nobody says."""
    text = " ".join((prompt or label or "song").split())
    return text if len(text) <= SHORTEST_TITLE else text[: SHORTEST_TITLE - 1].rstrip() + "…"


def _sources(name: str, value: Any, several: bool) -> list[dict[str, Any]]:
    """The audio sources of an option of files."""
    given = value if isinstance(value, list) else [value]
    if not given or (len(given) > 1 and not several):
        raise MusicotError(f"{name} takes one source" + (" or several" if several else ""))
    found = []
    for each in given:
        try:
            source = Source.model_validate(each)
        except ValidationError:
            source = None
        if source is None or source.words is not None or source.plan is not None or source.start:
            raise MusicotError(
                f'{name} takes audio: {{"upload": id}}, {{"song": id}} or {{"library": id}}'
            )
        found.append(source.model_dump(exclude_none=True, exclude_defaults=True))
    return found
