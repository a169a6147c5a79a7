"""Methods that take options say so: in their signature, which a notebook completes, and in `help`.

The options are those of a family's dataclass; its fields hold all that is said here.
"""

import inspect
import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import Field
from typing import Any, TypeVar

from musicot_mlx.pipelines.given import LARGEST_SEED, bounds
from musicot_mlx.pipelines.options import Options

Method = TypeVar("Method", bound=Callable[..., Any])
_SPELLED = {str: "text", int: "whole number", float: "number", bool: "True or False"}


def documented(
    options: type[Options], among: Iterable[str] | None = None
) -> Callable[[Method], Method]:
    """A method that takes **options: they stand in its signature, and below its docstring.

    among: the names of those that it takes, all if None.
    """
    taken = {name: each for name, each in options.about().items() if among is None or name in among}

    def decorate(method: Method) -> Method:
        signature = inspect.signature(method)
        plain = [
            each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD
        ]
        keywords = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type
            )
            for name, each in taken.items()
        ]
        method.__signature__ = signature.replace(parameters=[*plain, *keywords])
        rows = "\n".join(_told(options, each) for each in taken.values())
        method.__doc__ = f"{inspect.getdoc(method)}\n\nOptions, None being the default:\n\n{rows}"
        return method

    return decorate


def meaning(each: Field) -> str:
    """What an option is, what it takes and within which bounds, on one line."""
    about = each.metadata
    kind, low, high = about["kind"], about["low"], about["high"]
    takes = ", ".join(about["choices"]) or about["takes"] or _SPELLED.get(kind, "a file")
    high = math.inf if high >= LARGEST_SEED else high
    if kind in (int, float) and (low, high) != (-math.inf, math.inf):
        takes = bounds(low, high, kind is int, about["unit"]).replace("a whole", "whole")
    also = ", or a list" if about["several"] else ""
    off = ", or False" if about["off"] else ""
    return f"{about['help']} [{takes}{also}{off}]"


def other_names(options: type[Options], name: str) -> list[str]:
    """What an option may be called beside its name."""
    return [alias for alias, field in options.aliases().items() if field == name != alias]


def _told(options: type[Options], each: Field) -> str:
    also = "".join(f", {name}" for name in other_names(options, each.name))
    text = textwrap.fill(meaning(each), 88, initial_indent="    ", subsequent_indent="    ")
    return f"{each.name}{also}\n{text}"
