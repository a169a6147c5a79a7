"""What goes wrong, in words a user can act on."""


class MusicotError(ValueError):
    """Bad input: says what was wrong, what was expected and how to fix it. The CLI exits with 2."""

    exit_code = 2


class RunError(MusicotError):
    """The input was fine, the run failed (full disk, silent render, no network). Exits with 1."""

    exit_code = 1


class MusicotWarning(UserWarning):
    """What was left out though it was asked for. The CLI prints it as one line and goes on."""
