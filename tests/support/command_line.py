"""What the tests of the command line look at."""

import os
from pathlib import Path

import pytest


def names(folder: Path) -> list[str]:
    """Of the files that a command left."""
    return sorted(os.listdir(folder))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a command told on stderr, which must be one line."""
    error = capsys.readouterr().err
    assert error.startswith("musicot: ") and error.count("\n") == 1, error
    return error
