"""The command line: app.py dispatches, flags.py says what an option is, a file a command."""

import sys
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed run, 2 bad input, 130 Ctrl-C."""
    try:
        from musicot_mlx.cli import app

        return app.main(argv)
    except KeyboardInterrupt:  # as early as while the command is read
        print("musicot: interrupted", file=sys.stderr)
        return 130


def __getattr__(name: str) -> Any:
    if name != "COMMANDS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from musicot_mlx.cli.app import COMMANDS

    return COMMANDS
