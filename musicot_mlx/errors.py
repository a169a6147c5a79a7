"""What goes wrong, in words a user can act on."""

import difflib
from collections.abc import Iterable


class MusicotError(ValueError):
    """Bad input: says what was wrong, what was expected and how to fix it. The CLI exits with 2.

    option: the option of a call that it is about, where it is about one.
    """

    exit_code = 2

    def __init__(self, *message: object, option: str | None = None) -> None:
        super().__init__(*message)
        self.option = option


class RunError(MusicotError):
    """The input was fine, the run failed (full disk, silent render, no network). Exits with 1."""

    exit_code = 1


class DiskFull(RunError):
    """There is no room left for what is to be written."""


class SilentRender(RunError):
    """A song in which there is nothing to be heard; another seed may give one."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a mistyped one must have meant; None where none is near."""
    small = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), small, n=1, cutoff=0.75)
    return small[near[0]] if near else None


class MusicotWarning(UserWarning):
    """What was left out though it was asked for. The CLI prints it as one line and goes on."""


def first_few(names: Iterable[object], joiner: str = ", ", limit: int = 3) -> str:
    """The first of some names, for an error line: `a, b, c, ...`."""
    names = [str(name) for name in names]
    return joiner.join(names[:limit]) + (f"{joiner}..." if len(names) > limit else "")
