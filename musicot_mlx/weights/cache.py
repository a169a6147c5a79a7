"""Converted checkpoints kept for the next run: where they are, and who may write them.

One folder a model, one below it a conversion: `facebook--musicgen-small/4c8334b02c6e-float16`. A
conversion appears whole or not at all (weights/checkpoint.py renames it into place), and a lock
beside it lets one process convert while others wait. Deleting any of these folders is safe.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from musicot_mlx.atomic import explain, write_text
from musicot_mlx.errors import RunError

_REFS = "refs"


def cache_root() -> Path:
    """MUSICOT_CACHE, or the platform's place for what can be made again."""
    if chosen := os.environ.get("MUSICOT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "musicot"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "musicot"


def entry(name: str, version: str, dtype: str) -> Path:
    """The folder of one conversion, there or not; name: Hub id or a path with a digest."""
    return _model(name) / f"{version}-{dtype}"


def is_complete(folder: Path) -> bool:
    """Whether a conversion stands there; folders are renamed into place whole."""
    return (folder / "config.json").is_file()


def latest(name: str, revision: str, dtype: str) -> Path | None:
    """The conversion of what a Hub revision was when it was last fetched, or None."""
    ref = _model(name) / _REFS / revision.replace("/", "--")
    if not ref.is_file():
        return None
    folder = entry(name, ref.read_text(encoding="utf-8").strip(), dtype)
    return folder if is_complete(folder) else None


def remember(name: str, revision: str, version: str) -> None:
    """Note which version a Hub revision stood for, so that the next run needs no network."""
    ref = _model(name) / _REFS / revision.replace("/", "--")
    ref.parent.mkdir(parents=True, exist_ok=True)
    write_text(ref, version + "\n")


@contextmanager
def writing(folder: Path, waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock of a conversion; yields False where another process has made it meanwhile.

    waiting is called once if another process holds the lock. What an earlier process left behind
    when it was killed goes first. Raises MusicotError where the cache can't be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = open(folder.with_name(f".{folder.name}.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise explain(error, folder) from error
    with lock:
        _acquire(lock, waiting)
        if is_complete(folder):
            yield False
            return
        for left in folder.parent.glob(f".{folder.name}.*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        yield True


def _acquire(lock: object, waiting: Callable[[], None]) -> None:
    import fcntl  # not on Windows, where MLX does not run either

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waiting()
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems have no locks
        raise RunError(
            f"the cache {cache_root()} can't be locked ({error.strerror}); set MUSICOT_CACHE to a "
            "folder on a local disk"
        ) from error


def entries() -> list[tuple[str, Path, int]]:
    """Name, folder and bytes of each conversion, by name."""
    conversions = []
    for folder in sorted(cache_root().glob("*/*")):
        if is_complete(folder):
            size = sum(file.stat().st_size for file in folder.iterdir())
            name = folder.parent.name.replace("--", "/").replace("+", ":")
            conversions.append((name, folder, size))
    return conversions


def delete(folder: Path) -> None:
    """Remove one conversion, at once for whoever looks for it, and what stood for it by name."""
    gone = folder.with_name(f".{folder.name}.deleted")
    try:
        folder.rename(gone)
        shutil.rmtree(gone)
        folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
        if not any(is_complete(other) for other in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)
    except OSError as error:
        raise explain(error, folder) from error


def _model(name: str) -> Path:
    return cache_root() / name.replace("/", "--").replace(":", "+")
