"""Folders of songs into a library: what has not changed is not read, what is read is heard once.

One thread looks at the next files and reads them while this one embeds: decoding, tempo and key
take nearly as long as CLAP. Songs are written in batches, each one commit: a crash costs a batch.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.audio.files import audio_files
from musicot_mlx.errors import MusicotError
from musicot_mlx.library.ear import Ear, Signal, read_signal
from musicot_mlx.library.facts import Told, content_of, retold, told
from musicot_mlx.library.filters import among
from musicot_mlx.library.store import Store
from musicot_mlx.pipelines.sidecar import places_of

BATCH = 16  # songs of a commit
AHEAD = 2  # songs that wait, read, for their turn
ID = 24  # letters of a content's hash


@dataclass(frozen=True)
class Added:
    """What became of the files of a folder: how many songs are new, heard anew because the file
    changed, told anew (moved, other settings, another licence), and as they were; what was skipped,
    and why.
    """

    new: int = 0
    renewed: int = 0
    moved: int = 0
    unchanged: int = 0
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def total(self) -> int:
        """Files that are songs of the library now."""
        return self.new + self.renewed + self.moved + self.unchanged


@dataclass(frozen=True)
class Looked:
    """A file that was looked at; signal and facts only where its content is new."""

    path: Path
    content: str
    size: int
    mtime: int
    signal: Signal | None = None
    facts: Told | None = None


class Known:
    """The songs of a library by path and by content, as they were and as they become."""

    def __init__(self, songs: Iterable[Mapping[str, Any]]) -> None:
        self.by_path: dict[str, Mapping[str, Any]] = {}
        self.by_content: dict[str, Mapping[str, Any]] = {}
        for song in songs:
            self.put(song)

    def put(self, song: Mapping[str, Any]) -> None:
        self.by_path[song["path"]] = self.by_content[song["content"]] = song


class Batch:
    """Songs that are written together: rows of new ones, and rows that get other facts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._begin()

    def _begin(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._replaced: set[str] = set()
        self._changes: dict[str, tuple[Looked, str | None]] = {}

    def __len__(self) -> int:
        return len(self._replaced)

    def add(self, rows: list[dict[str, Any]], *, instead_of: str | None = None) -> None:
        """A song that was heard, and the one whose place it takes."""
        self._rows += rows
        self._replaced |= {rows[0]["song"], instead_of or rows[0]["song"]}

    def drop(self, song: str) -> None:
        """A song whose file holds another one now."""
        self._replaced.add(song)

    def change(
        self, song: str, looked: Looked, licence: str | None, *, instead_of: str | None = None
    ) -> None:
        """A song that is there and was looked at anew, and the one whose place it takes."""
        self._changes[song] = looked, licence
        self._replaced |= {song, instead_of or song}

    def write(self) -> None:
        """All of it in one commit."""
        rows, changes, replaced = self._rows, self._changes, self._replaced
        self._begin()
        if not rows and not changes:
            self._store.delete(replaced)
            return
        with self._store.writing():
            if rows:
                self._store.begin(len(rows[0]["vector"]))
            kept = self._store.rows(among("song", changes)) if changes else []
            firsts = {row["song"]: row for row in kept if not row["number"]}
            facts = {song: _facts(firsts[song], *changes[song]) for song in firsts}
            for row in kept:
                sidecar = None if row["number"] else facts[row["song"]]["sidecar"]
                rows.append({**row, **facts[row["song"]], "sidecar": sidecar})
            self._store.write(rows, instead_of=replaced)


def add_folder(
    store: Store,
    ear: Ear,
    folder: Path,
    *,
    licence: str | None,
    progress: Callable[[int, int], None] | None,
) -> Added:
    """Library.add_folder, on an open store."""
    files, skipped = audio_files(folder), []
    known, batch, became = Known(store.songs() if store.begun else ()), Batch(store), Counter()
    looks = _ahead(files, lambda file: _look(file, known, licence))
    try:
        with closing(looks):
            for done, (file, found) in enumerate(looks):
                if progress:
                    progress(done, len(files))
                try:
                    became[_take(file, found, known, batch, ear, licence)] += 1
                except (MusicotError, ValueError) as error:
                    skipped.append((str(file), _why(error, file)))
                if len(batch) >= BATCH:
                    batch.write()
    finally:
        batch.write()  # after Ctrl-C, too: these songs were heard
    if progress:
        progress(len(files), len(files))
    return Added(**became, skipped=tuple(skipped))


def look_at_new(path: Path, **said: str | None) -> Looked:
    """A file as one that nothing is known of; `said` are title, prompt and licence. Raises
    MusicotError as read_signal does.
    """
    size, mtime = _stat(path)
    return Looked(path, content_of(path), size, mtime, read_signal(path), told(path, **said))


def rows_of(song: str, looked: Looked, ear: Ear) -> list[dict[str, Any]]:
    """The rows of a song that was read, one a window, under the id `song`."""
    heard, facts, signal = ear.hear(looked.signal), looked.facts, looked.signal
    whole = {
        "song": song,
        "space": ear.space,
        "model": ear.name,
        "path": named(looked.path),
        "content": looked.content,
        "size": looked.size,
        "mtime": looked.mtime,
        "duration": signal.duration,
        "tempo": signal.tempo,
        "key": signal.key,
        "tags": list(dict.fromkeys([*facts.tags, *(n for names in heard.families for n in names)])),
        "title": facts.title,
        "prompt": facts.prompt,
        "licence": facts.licence,
    }
    rows = []
    for number, (vector, families) in enumerate(zip(heard.vectors, heard.families, strict=True)):
        start = number * heard.seconds
        window = {
            "number": number,
            "start": start,
            "seconds": min(heard.seconds, signal.duration - start),
            "heard": list(families),
            "vector": vector,
            "sidecar": None if number else facts.sidecar,
        }
        rows.append(whole | window)
    return rows


def named(path: Path) -> str:
    """A path as the library keeps it; MusicotError for a name that is no text."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MusicotError("its name is no UTF-8 text; rename it") from None
    return name


def _ahead(
    files: Sequence[Path], look: Callable[[Path], Looked | None]
) -> Iterator[tuple[Path, Looked | MusicotError | None]]:
    """Each file as `look` finds it, in order, some of them looked at beforehand by a thread."""
    pool, waiting = ThreadPoolExecutor(1, "library"), deque()
    try:
        for file in files:
            waiting.append((file, pool.submit(_looked, look, file)))
            if len(waiting) > AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for file, future in waiting:
            yield file, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _looked(look: Callable[[Path], Looked | None], file: Path) -> Looked | MusicotError | None:
    """What `look` finds, or what is wrong with the file, whatever that is: the rest goes on."""
    try:
        return look(file)
    except MusicotError as error:
        return error
    except Exception as error:  # a decoder that fails on one file of ten thousand
        return MusicotError(f"{type(error).__name__}: {error}")


def _look(file: Path, known: Known, licence: str | None) -> Looked | None:
    """What has to be done about a file; None for nothing."""
    size, mtime = _stat(file)
    before = known.by_path.get(named(file))
    if before and (before["size"], before["mtime"]) == (size, mtime):
        as_it_was = licence in (None, before["licence"])
        return None if as_it_was else Looked(file, before["content"], size, mtime)
    content = content_of(file)
    if content in known.by_content:
        return Looked(file, content, size, mtime)
    signal = read_signal(file)
    return Looked(file, content, size, mtime, signal, told(file, licence=licence))


def _take(
    file: Path,
    found: Looked | MusicotError | None,
    known: Known,
    batch: Batch,
    ear: Ear,
    licence: str | None,
) -> str:
    """Put a file that was looked at into the batch; what became of it."""
    if isinstance(found, MusicotError):
        raise found
    if found is None:
        return "unchanged"
    before = known.by_path.get(str(file))
    gone = before["song"] if before and before["content"] != found.content else None
    same = known.by_content.get(found.content)
    if same is not None and same["path"] != str(file) and os.path.exists(same["path"]):
        if gone:
            batch.drop(gone)
        return "unchanged"  # a copy of a song that is there
    if same is not None:
        batch.change(same["song"], found, licence, instead_of=gone)
        known.put({**same, "path": str(file)})
        return "moved"
    own = before is not None and before["song"] != before["content"][:ID]  # an id that was given
    rows = rows_of(before["song"] if own else found.content[:ID], found, ear)
    batch.add(rows, instead_of=gone)
    known.put(rows[0])
    return "renewed" if before else "new"


def _facts(row: Mapping[str, Any], looked: Looked, licence: str | None) -> dict[str, Any]:
    """What is to be told of a song, a row, now that it was looked at anew."""
    found = {"path": named(looked.path), "size": looked.size, "mtime": looked.mtime}
    return found | retold(looked.path, row, licence)


def _stat(path: Path) -> tuple[int, int]:
    """Bytes and time of change in nanoseconds of a song and what may be its settings: the sum, and
    the latest. MusicotError where there is no such file.
    """
    try:
        found = [path.stat()]
    except OSError as error:
        raise MusicotError(f"can't read {path} ({error.strerror})") from error
    for each in places_of(path):
        with suppress(OSError):
            found.append(each.stat())
    return sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)


def _why(error: Exception, file: Path) -> str:
    """What is wrong with a file, without its name, on one line."""
    line = " ".join(str(error).split())
    return line.removeprefix(f"audio file {file} ").replace(f"{file} ", "it ")
