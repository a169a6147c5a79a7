"""Plans as files: JSON of a version, held against `plan.schema.json` before any of it is believed.

The schema is JSON Schema (draft 2020-12), so other programs can check plans too. `problem` reads
the part of the standard that the schema uses; its complaints are one line and name the place.
"""

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json

FORMAT, VERSION = "musicot-plan", 4
LARGEST = 32 << 20  # bytes; a plan of 300 s has some 20 kB
_MAKE = "make one with `musicot plan -o plan.json`"


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of plans, as shipped."""
    return json.loads(Path(__file__).with_name("plan.schema.json").read_text(encoding="utf-8"))


def read_plan(path: Path) -> dict[str, Any]:
    """The JSON object of a plan file, or the plan within the .json that stands beside a song.

    Raises MusicotError, one line, for anything else.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise MusicotError(f"{path} is too large to be a plan; {_MAKE}")
        value = read_json(path, parse_constant=_no_constant)
    except OSError as error:
        raise MusicotError(f"can't read the plan {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MusicotError(f"{path} is not JSON, so it is not a plan ({_brief(error)})") from None
    return checked(plan_within(value), str(path))


def plan_within(value: Any) -> Any:
    """The plan of a song's settings, where `value` is such; else `value` itself."""
    if isinstance(value, dict) and "format" in value and value["format"] != FORMAT:
        outcome = value.get("made")
        plan = outcome.get("plan") if isinstance(outcome, dict) else None
        return plan or value.get("plan") or value
    return value


def checked(value: Any, where: str) -> dict[str, Any]:
    """A JSON value that is a plan by the schema; MusicotError otherwise."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise MusicotError(f"{where} is not a plan; {_MAKE}")
    version = value.get("version")
    if isinstance(version, bool) or version not in schema()["properties"]["version"]["enum"]:
        newer = isinstance(version, int) and version > VERSION
        hint = "update musicot to read it" if newer else "the file is damaged"
        raise MusicotError(
            f"{where} is a plan of version {_shown(version)}, expected 1 to {VERSION}; {hint}"
        )
    if wrong := problem(value, schema()):
        raise MusicotError(f"{where} is a damaged plan: {wrong}")
    rows = {len(row) for row in value["codes"]}
    if len(rows) != 1:
        raise MusicotError(f"{where} is a damaged plan: the rows of codes differ in length")
    for name in ("begins", "origins", "controls"):
        empty = name == "controls" and not value.get(name)
        if not empty and len(value.get(name, [None] * max(rows))) != max(rows):
            raise MusicotError(
                f"{where} is a damaged plan: it has {len(value[name])} {name} for {max(rows)} "
                "segments"
            )
    return value


def problem(value: Any, rules: dict[str, Any], place: str = "") -> str | None:
    """What is first found wrong with a JSON value by a schema; None if nothing."""
    name = place or "the plan"
    if "const" in rules and value != rules["const"]:
        return f"{name} must be {rules['const']!r}, got {_shown(value)}"
    if "enum" in rules and (isinstance(value, bool) or value not in rules["enum"]):
        return f"{name} must be one of {', '.join(map(str, rules['enum']))}, got {_shown(value)}"
    if "type" in rules:
        kinds = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
        if not any(_is(value, kind) for kind in kinds):
            return f"{name} must be of type {' or '.join(kinds)}, got {_shown(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < rules.get("minimum", -math.inf):
            return f"{name} must be at least {rules['minimum']}, got {_shown(value)}"
        if value > rules.get("maximum", math.inf):
            return f"{name} must be at most {rules['maximum']}, got {_shown(value)}"
    if isinstance(value, str) and len(value) > rules.get("maxLength", math.inf):
        return f"{name} is longer than {rules['maxLength']} characters"
    if isinstance(value, list):
        if not rules.get("minItems", 0) <= len(value) <= rules.get("maxItems", math.inf):
            return f"{name} has {len(value)} items, expected " + (
                f"{rules.get('minItems', 0)} to {rules.get('maxItems')}"
            )
        parts = ((f"{place}[{i}]", item, rules.get("items", {})) for i, item in enumerate(value))
        return next(_problems(parts), None)
    if isinstance(value, dict):
        known = rules.get("properties", {})
        for key in rules.get("required", ()):
            if key not in value:
                return f"{name} lacks {key!r}"
        if rules.get("additionalProperties", True) is False:
            for key in value:
                if key not in known:
                    return f"{name} has {_shown(key)}, which is unknown here"
        dot = f"{place}." if place else ""
        parts = ((dot + key, value[key], known[key]) for key in known if key in value)
        return next(_problems(parts), None)
    return None


def _problems(parts: Iterator[tuple[str, Any, dict[str, Any]]]) -> Iterator[str]:
    for place, value, rules in parts:
        if wrong := problem(value, rules, place):
            yield wrong


def _is(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a JSON type; numbers must be finite, text must be Unicode."""
    if kind == "null":
        return value is None
    if kind == "string":
        if not isinstance(value, str):
            return False
        try:
            value.encode("utf-8")  # half a surrogate pair could not be written or printed
        except UnicodeEncodeError:
            return False
        return True
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        try:
            finite = math.isfinite(value)
        except OverflowError:  # an integer beyond the range of floats
            return False
        return finite and (kind == "number" or value == int(value))
    return isinstance(value, {"array": list, "object": dict}[kind])


def _shown(value: Any) -> str:
    """A value in at most 40 plain characters, on one line."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    try:
        text = ascii(value)
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    return text if len(text) <= 40 else text[:37] + "..."


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")
