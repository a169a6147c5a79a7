"""config.json sub-configs to frozen dataclasses and back, strictly."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from musicot_mlx.errors import MusicotError

Config = TypeVar("Config")
Network = TypeVar("Network")


def config_from_dict(cls: type[Config], values: dict[str, Any], *, where: str = "") -> Config:
    """Build the config dataclass `cls` from a JSON object; nested configs are built too.

    Raises MusicotError naming an unknown field (with the nearest known one), a missing field, or a
    value of the wrong kind. `where` is the path inside config.json, for the message.
    """
    where = where or cls.__name__
    if not isinstance(values, dict):
        raise MusicotError(f"config {where}: expected an object, got {_show(values)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(fields)}"
            raise MusicotError(f"config {where}: unknown field {name!r}{hint}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise MusicotError(f"config {where}: missing field {', '.join(missing)}")
    built = {name: _coerce(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except MusicotError:
        raise
    except (ValueError, AssertionError, ArithmeticError) as error:
        raise MusicotError(f"config {where}: {error}") from error


def network_from_dict(
    network: Callable[[Config], Network], cls: type[Config], values: dict[str, Any], *, where: str
) -> Network:
    """The network of a config given as a JSON object. Raises MusicotError as `config_from_dict`
    does, and for sizes that no network has.
    """
    config = config_from_dict(cls, values, where=where)
    try:
        return network(config)
    except MusicotError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise MusicotError(f"config {where}: no network has such sizes ({error})") from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as a JSON object (tuples as lists)."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """The value as its annotation says: JSON has no tuples, and writes 10000.0 as it likes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _coerce(option, value, where)
            except MusicotError as error:
                problem = error
        raise problem
    if origin is typing.Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise MusicotError(f"config {where}: expected one of {choices}, got {_show(value)}")
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else config_from_dict(hint, value, where=where)
    if origin in (list, tuple) or hint in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise MusicotError(f"config {where}: expected a list, got {_show(value)}")
        item = arguments[0] if arguments else Any
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            if len(arguments) != len(value):
                raise MusicotError(
                    f"config {where}: expected {len(arguments)} values, got {len(value)}"
                )
            return tuple(
                _coerce(a, v, f"{where}[{i}]")
                for i, (a, v) in enumerate(zip(arguments, value, strict=True))
            )
        return (origin or hint)(_coerce(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint in (int, float, str, bool):
        if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
            raise MusicotError(f"config {where}: expected {hint.__name__}, got {_show(value)}")
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
