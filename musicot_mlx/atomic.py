"""Files appear whole or not at all: written under a temporary name, then renamed.

A process that is killed outright leaves its temporary files. Their names tell the machine and the
process, so that the next one that writes into the folder can tell them from those of a process that
lives, and removes them.
"""

import errno
import json
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from musicot_mlx.errors import DiskFull, MusicotError, RunError

UNTOUCHED = 60.0  # seconds after which a file of no process is left for good
_OURS = re.compile(r"\..*\.(?P<node>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.part(\.\w+)*")
_swept: set[str] = set()  # folders that were looked through, each once a process


def explain(error: OSError, path: Path) -> MusicotError:
    """The operating system's complaint about `path` as one line with a way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no space left while writing {path}; free some disk space and try again")
    if error.errno == errno.EFBIG:
        return RunError(f"{path} grew beyond the file size allowed here; choose another place")
    if error.errno == errno.ELOOP:
        return MusicotError(f"can't write {path}: it is a link that leads to itself")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        if path.parent.is_dir() and not path.is_dir():
            return MusicotError(f"can't write into {path}: it is no folder")
        return MusicotError(f"can't write {path}: {path.parent} is no folder")
    if error.errno == errno.ENAMETOOLONG:
        return MusicotError(f"can't write {path.name[:40]}...: the name is too long")
    if error.errno == errno.EISDIR:
        return MusicotError(f"{path} is a folder; name a file in it")
    if error.errno == errno.ENOENT:
        return MusicotError(f"can't write {path}: the folder {path.parent} doesn't exist")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MusicotError(f"can't write {path}: permission denied; choose another place")
    return RunError(f"can't write {path}: {error.strerror or error}")


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, same suffix; it becomes `path` at the end.

    A link is followed, and folders that are missing are made. Whatever ends the block early (an
    error, Ctrl-C) removes the temporary file and the folders, and leaves an older `path` as it was.
    replace: whether a file that is there by the end is replaced; MusicotError where it is not.
    Raises DiskFull where it is full.
    """
    path, made = followed(path), []
    _remove_left(path.parent)
    # a name that nobody has, which several threads may ask for
    unique = f"{_node()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.stem[:40]}.{unique}.part{path.suffix}")
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, "")
        require_file(path)
        made = _make_folders(path.parent)
        yield temporary
        if replace:
            temporary.replace(path)
        else:
            _publish(temporary, path)
        made = []
    except OSError as error:
        raise explain(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # someone else's file is in it by now
                folder.rmdir()


def _remove_left(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left half-written in a folder."""
    place = os.path.abspath(folder)
    if place in _swept:
        return
    _swept.add(place)
    with suppress(OSError):
        for name in os.listdir(place):
            ours, path = _OURS.fullmatch(name), os.path.join(place, name)
            if ours is None or ours["node"] != _node() or _lives(int(ours["pid"])):
                continue
            if time.time() - os.lstat(path).st_mtime > UNTOUCHED:
                os.unlink(path)


def _node() -> str:
    """This machine, by its name, in eight letters."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _lives(pid: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def followed(path: str | Path) -> Path:
    """Where a path leads that is a link; else the path as it is. MusicotError where it leads to
    itself.
    """
    path = Path(path)
    end = Path(os.path.realpath(path)) if path.is_symlink() else path
    if end.is_symlink():
        raise explain(OSError(errno.ELOOP, ""), path)
    return end


def require_free(path: str | Path) -> None:
    """Raise MusicotError where there is a file of that name."""
    if os.path.lexists(followed(path)):
        raise MusicotError(
            f"{path} is there already; name another file, or ask to replace it (--overwrite)"
        )


def require_no_folder(path: str | Path) -> None:
    """Raise MusicotError where a file is to be written and a folder is there."""
    if followed(path).is_dir():
        raise explain(OSError(errno.EISDIR, ""), Path(path))


def require_file(path: str | Path) -> None:
    """Raise MusicotError where something is there that is neither a file nor a folder: what would
    take its place, by its new name, would be the end of /dev/null.
    """
    there = followed(path)
    if there.exists() and not there.is_file() and not there.is_dir():
        raise MusicotError(f"{path} is no file but a device or a pipe; name a file")


def _publish(temporary: Path, path: Path) -> None:
    """Give a file its name unless that is taken, even if only since we looked."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        require_free(path)
    except OSError:  # a file system without hard links
        require_free(path)
        temporary.replace(path)


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; which were made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write JSON that people can read, whole or not at all."""
    write_text(path, json_text(value, sort_keys=sort_keys))


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """JSON that people can read: lists of numbers stand on one line."""
    text = json.dumps(value, indent=1, sort_keys=sort_keys, allow_nan=False)
    # a line break within text is escaped in JSON, so these are all between items
    inner = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s*\]")
    return inner.sub(lambda match: "[" + re.sub(r",\n\s+", ", ", match[1]) + "]", text) + "\n"
