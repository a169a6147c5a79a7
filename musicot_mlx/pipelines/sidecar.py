"""The settings beside a song: where they are written, and where they are looked for.

song.wav has song.json where nobody else has that name, else song.wav.json. Whose a song.json is
follows from the format it tells: one of format "mp3" belongs to song.mp3, and what tells no format
of audio (a package.json, a plan) is no song's. So two songs never share settings, a pair that is
renamed or moved together stays one, and no file of another program is touched.
"""

import os
from pathlib import Path
from typing import Any

from musicot_mlx.atomic import followed
from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json

_ENDING = ".json"
WHOLE_NAME = "whole_name"  # told by settings called song.wav.json: song.wav.wav may have that name


def sidecar_to_write(path: Path, format: str, *, overwrite: bool) -> Path:
    """Where the settings of the song `path` go, which is of this format; they must say WHOLE_NAME
    where `has_whole_name`.

    overwrite: the song's own are replaced, else none. Raises MusicotError where both names are
    taken by other files.
    """
    path = followed(path)
    plain, own = _names(path)
    candidates = [plain, own] if path.suffix == f".{format}" else [own]
    if overwrite:
        theirs = [each for each in (own, plain) if _is_of(each, path, format)]
        if theirs:
            return theirs[0]
    for each in candidates:
        if not os.path.lexists(each):
            return each
    raise MusicotError(
        f"the settings of {path} would be written over {candidates[-1]}; give the song another name"
    )


def has_whole_name(sidecar: Path, path: Path) -> bool:
    """Whether settings are called song.wav.json, and not song.json."""
    return sidecar.name == path.name + _ENDING


def sidecar_of(path: str | Path) -> Path | None:
    """The settings of a song that is there; None where there are none. A link to a song has that
    song's.
    """
    path = Path(path)
    for place in dict.fromkeys((path, followed(path))):
        plain, own = _names(place)
        for each in (own, plain):
            if _is_of(each, place, place.suffix[1:]):
                return each
    return None


def places_of(path: str | Path) -> list[Path]:
    """Where the settings of a song may be, whether or not they are there and are its own."""
    path = Path(path)
    places = dict.fromkeys((path, followed(path)))
    return [each for place in places for each in reversed(_names(place))]


def expected_sidecar(path: str | Path) -> Path:
    """sidecar_of, or the name that it would have: for a message that it is not there."""
    return sidecar_of(path) or Path(path).with_suffix(_ENDING)


def _names(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(_ENDING), path.with_name(path.name + _ENDING)


def _is_of(sidecar: Path, path: Path, format: str) -> bool:
    """Whether a file holds the settings of the song `path`."""
    try:
        found: Any = read_json(sidecar)
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict) or "duration" not in found or "model" not in found:
        return False
    if has_whole_name(sidecar, path):
        return bool(found.get(WHOLE_NAME))
    # songs of earlier versions told no format
    named = found.get("format", format) == format and path.suffix == f".{format}"
    return named and not found.get(WHOLE_NAME)
