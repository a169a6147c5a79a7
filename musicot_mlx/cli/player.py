"""Playing audio through whatever the system has."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from musicot_mlx.errors import MusicotError

# Player -> its arguments for a file, and the formats it can't play.
_FILE_PLAYERS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "afplay": ([], ("ogg",)),
    "paplay": ([], ("mp3", "m4a")),
    "aplay": (["-q"], ("flac", "mp3", "ogg", "m4a")),
    "ffplay": (["-nodisp", "-autoexit", "-loglevel", "error"], ()),
    "play": (["-q"], ("m4a",)),
}


def find_player(suffix: str = ".wav") -> str | None:
    """The first installed player that can play files of this kind."""
    kind = suffix.lstrip(".").lower()
    for name, (_, unable) in _FILE_PLAYERS.items():
        if kind not in unable and shutil.which(name):
            return name
    return None


def require_player(path: Path) -> str:
    """The player for `path`, or MusicotError before any work is done."""
    player = find_player(path.suffix)
    if player is None:
        raise MusicotError(
            f"no player for {path.suffix} files here; install one of {', '.join(_FILE_PLAYERS)} "
            "or leave out --play"
        )
    return player


def play_file(path: Path) -> None:
    """Play a file to its end."""
    player = require_player(path)
    subprocess.run([player, *_FILE_PLAYERS[player][0], str(path)], check=False)


@contextmanager
def live_player(
    sample_rate: int, channels: int, *, wanted: bool
) -> Iterator[Callable[[bytes], None] | None]:
    """Yield a function that plays 16-bit PCM as it comes, or None where no player reads a pipe."""
    command = _pipe_command(sample_rate, channels) if wanted else None
    if command is None:
        yield None
        return
    player = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def feed(data: bytes) -> None:
        try:
            player.stdin.write(data)
        except BrokenPipeError:
            pass  # the listener closed the player; the file is still being written

    try:
        yield feed
        try:
            player.stdin.close()
        except BrokenPipeError:
            pass
        player.wait()
    finally:
        if player.poll() is None:
            player.terminate()


def _pipe_command(sample_rate: int, channels: int) -> list[str] | None:
    raw = ["-t", "raw", "-r", str(sample_rate), "-c", str(channels)]
    commands = [
        ["ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le"]
        + ["-sample_rate", str(sample_rate), "-ch_layout", "stereo" if channels == 2 else "mono"]
        + ["-i", "-"],
        ["aplay", "-q", "-f", "S16_LE", *raw],
        ["play", "-q", "-b", "16", "-e", "signed-integer", *raw, "-"],
    ]
    return next((command for command in commands if shutil.which(command[0])), None)
