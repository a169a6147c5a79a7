"""Files appear whole or not at all: written under a temporary name, then renamed."""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError, RunError


def explain(error: OSError, path: Path) -> MusicotError:
    """The operating system's complaint about `path` as one line with a way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"no space left while writing {path}; free some disk space and try again")
    if error.errno == errno.EFBIG:
        return RunError(f"{path} grew beyond the file size allowed here; choose another place")
    if error.errno == errno.EISDIR:
        return MusicotError(f"{path} is a folder; name a file in it")
    if error.errno == errno.ENOENT:
        return MusicotError(f"can't write {path}: the folder {path.parent} doesn't exist")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MusicotError(f"can't write {path}: permission denied; choose another place")
    return RunError(f"can't write {path}: {error.strerror or error}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, same suffix; rename it to `path` at the end.

    Whatever ends the block early (an error, Ctrl-C) removes the temporary file and leaves an older
    `path` as it was. Raises MusicotError for a missing folder and RunError for a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise explain(OSError(errno.EISDIR, ""), path)
    if not path.parent.is_dir():
        raise explain(OSError(errno.ENOENT, ""), path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


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
