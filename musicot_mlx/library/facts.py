"""What is told of a song: by its file's tags, by the settings beside it, by whoever adds it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.audio.files import audio_texts
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.sidecar import sidecar_of
from musicot_mlx.texts import one_line, read_json
from musicot_mlx.tokens.tempo import is_tempo
from musicot_mlx.weights.hub import EMBEDDED
from musicot_mlx.weights.published import published


@dataclass(frozen=True)
class Told:
    """What is told of a song; None where nothing is. tags are in small letters."""

    title: str
    prompt: str | None = None
    licence: str | None = None
    tags: tuple[str, ...] = ()
    sidecar: str | None = None


def told(
    path: Path, *, title: str | None = None, prompt: str | None = None, licence: str | None = None
) -> Told:
    """What a song's file and the settings beside it tell, where the caller says nothing else.

    A licence that nobody tells is that of the weights of the model that made the song. Of the
    settings all are kept but the audio tokens, which only the file itself needs.
    """
    return _told(path, audio_texts(path), _settings(path), title, prompt, licence)


def retold(path: Path, row: Mapping[str, Any], licence: str | None = None) -> dict[str, Any]:
    """What is different about a song of the library, a row, that is at `path` now and may have
    other settings beside it. What was said of it when it was added stays, and so do the tags that
    were heard.
    """
    written = audio_texts(path)
    before = json.loads(row["sidecar"]) if row["sidecar"] else {}
    then = _told(Path(row["path"]), written, before)
    now = _told(path, written, _settings(path))
    facts: dict[str, Any] = {
        name: getattr(now, name)
        for name in ("title", "prompt", "licence")
        if row[name] == getattr(then, name)
    }
    heard = [tag for tag in row["tags"] if tag not in then.tags]
    facts |= {"tags": list(dict.fromkeys([*now.tags, *heard])), "sidecar": now.sidecar}
    return facts | ({"licence": licence} if licence else {})


def _told(
    path: Path,
    written: Mapping[str, str],
    settings: dict[str, Any],
    title: str | None = None,
    prompt: str | None = None,
    licence: str | None = None,
) -> Told:
    """What a song's name, the texts of its file, and its settings tell."""
    if licence is None:
        licence = written.get("license") or written.get("copyright")
        licence = licence or settings.get("licence") or _of_weights(settings.get("model"))
    prompt = prompt if prompt is not None else settings.get("prompt")
    title = title or settings.get("title") or written.get("title") or path.stem
    plan = settings.get("plan") or settings.get("made", {}).get("plan") or {}
    tags = [*(plan.get("tags") or settings.get("tags") or ())] if isinstance(plan, dict) else []
    tags += (written.get("genre") or "").replace("/", ",").replace(";", ",").split(",")
    return Told(
        title=one_line(str(title)) or path.stem,
        prompt=one_line(prompt) or None if isinstance(prompt, str) else None,
        licence=one_line(licence) or None if isinstance(licence, str) else None,
        tags=tuple(_tags(tags)),
        sidecar=json.dumps(settings, sort_keys=True) if settings else None,
    )


def content_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; MusicotError where it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MusicotError(f"can't read it ({error.strerror})") from error


def _settings(path: Path) -> dict[str, Any]:
    """The settings beside a song without its audio tokens; empty where there are none."""
    place = sidecar_of(path)
    try:
        settings = read_json(place) if place else {}
    except (OSError, ValueError):
        return {}
    made = settings.get("made")
    if isinstance(made, dict):
        settings["made"] = {name: value for name, value in made.items() if name != "codes"}
    else:
        settings.pop("made", None)
    return settings


def _of_weights(model: Any) -> str | None:
    if model in EMBEDDED:
        return "MIT"
    found = published(model) if isinstance(model, str) else None
    return found.licence if found else None


def _tags(tags: Iterable[Any]) -> Iterable[str]:
    """Each once, in small letters; a tempo is no tag here."""
    small = (one_line(tag).lower() for tag in tags if isinstance(tag, str))
    return dict.fromkeys(tag for tag in small if tag and not is_tempo(tag))
