"""The rows of a library in LanceDB: in a folder, on an object store or on a server, by the URI.

One table, a row a window of a song, each with all that is told of its song: so a search filters and
ranks in one query, and a batch of songs is one commit. A reader sees the last commit, whatever a
writer does meanwhile; a writer that is killed leaves the table as it was before its batch.

Every song that is added alone is a fragment of its own, which readers open one by one, so the
fragments are joined every JOIN_EVERY commits. An index pays from INDEX_FROM windows on
(benchmarks/library.py): IVF of whole vectors, which is exact within the lists that it looks at (up
to some 80,000 windows these are all, and behind PROBES of them as many as the finds take), and is
made in a second where product quantisation takes minutes.
"""

import errno
import os
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import explain
from musicot_mlx.audio.headers import tell
from musicot_mlx.errors import DiskFull, MusicotError, RunError
from musicot_mlx.library.filters import among

TABLE = "windows"
JOIN_EVERY = 32  # commits between two joins of small fragments
INDEX_FROM = 20_000  # windows; fewer are compared one by one
OLD = timedelta(seconds=60)  # age of versions that are dropped: no query takes as long
PROBES = 20  # lists of the index that are looked at, and more where these hold too little
FACTS = (
    "song", "path", "content", "size", "mtime", "duration", "tempo", "key", "tags", "title",
    "prompt", "licence", "space", "model",
)  # fmt: skip


def default_place() -> str | Path:
    """MUSICOT_LIBRARY, or the platform's place for what users keep."""
    if chosen := os.environ.get("MUSICOT_LIBRARY"):
        return chosen
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "musicot" / "library"
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "musicot" / "library"


def lance() -> tuple[Any, Any]:
    """The modules lancedb and pyarrow; MusicotError with the way to get them."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are for its developers
    try:
        import lancedb
        import pyarrow
    except ImportError as error:
        raise MusicotError(
            f"the library needs {error.name or 'lancedb'}: pip install '.[library]' in a checkout, "
            "or pip install lancedb"
        ) from error
    return lancedb, pyarrow


class Store:
    """Windows of songs at a URI: a folder, s3://, gs:// or az://, memory://, or db:// for a server.

    options are those of lancedb.connect: storage_options, api_key, region. Raises MusicotError
    where LanceDB is missing or the place can't be used.
    """

    def __init__(self, uri: str | Path, **options: Any) -> None:
        lance()
        self.uri, self._options = str(uri), options
        if not self.uri.strip():  # which would be the folder one is in
            raise MusicotError("the library has no name; pass a folder or an address")
        self.remote = self.uri.startswith("db://")
        self.folder = None if "://" in self.uri else Path(self.uri).expanduser()
        if self.folder is None:
            self._database  # noqa: B018  (an address that can't be one is told of now)
        elif self.folder.exists() and not self.folder.is_dir():
            raise MusicotError(f"the library {self.uri} can't be opened: it is no folder")
        self._own, self._depth = threading.RLock(), 0

    @cached_property
    def _database(self) -> Any:
        """The connection, which makes the folder: so it is opened where there is one, or to write.
        Each query asks whether another process has written meanwhile.
        """
        where = self.uri if self.folder is None else self.folder
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            return lance()[0].connect(
                where, read_consistency_interval=timedelta(0), **self._options
            )
        except OSError as error:
            raise explain(error, Path(error.filename or self.uri)) from error
        except ValueError as error:
            raise MusicotError(f"the library {self.uri} can't be opened: {_line(error)}") from error

    @cached_property
    def table(self) -> Any:
        """The table; MusicotError where nothing was added yet."""
        if not self._there():
            raise MusicotError(f"the library {self.uri} is empty; musicot library add FOLDER")
        with _told(self.uri, "read"):
            found = self._database.open_table(TABLE)
            missing = [name for name in _schema(1).names if name not in found.schema.names]
        if missing:
            raise MusicotError(
                f"the library {self.uri} was made by another musicot, whose songs have no "
                f"{missing[0]}; add them to a new one, or take the musicot that it was made by"
            )
        return found

    @property
    def begun(self) -> bool:
        """Whether there is a table."""
        return "table" in self.__dict__ or self._there()

    def _there(self) -> bool:
        """Whether the place has a table; looking makes no folder."""
        if self.folder is not None and not self.folder.is_dir():
            return False
        with _told(self.uri, "read"):
            return TABLE in self._database.list_tables().tables

    def begin(self, dim: int) -> None:
        """Make the table for vectors of `dim` numbers where there is none, or none with a row."""
        mode = "create"
        if self.begun:
            if self.table.schema.field("vector").type.list_size == dim or self.table.count_rows():
                return
            mode = "overwrite"
        with _told(self.uri):
            made = self._database.create_table(TABLE, schema=_schema(dim), mode=mode)
        self.__dict__["table"] = made

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time: a thread of this process, and for a folder a process of this
        machine; others wait.
        """
        with self._own:
            self._depth += 1
            try:
                if self._depth > 1 or self.folder is None:
                    yield
                    return
                self._database  # noqa: B018  (makes the folder)
                with _locked(self.folder / ".lock"):
                    yield
            finally:
                self._depth -= 1

    def write(self, rows: Sequence[dict[str, Any]], *, instead_of: Collection[str] = ()) -> None:
        """Add rows, and in the same commit drop the windows of songs `instead_of` which they
        replace.
        """
        _, arrow = lance()
        found = arrow.Table.from_pylist(list(rows), schema=self.table.schema)
        before = self.table.version
        with _told(self.uri):
            if instead_of:
                (
                    self.table.merge_insert(["song", "number"])
                    .when_matched_update_all()
                    .when_not_matched_insert_all()
                    .when_not_matched_by_source_delete(among("song", instead_of))
                    .execute(found)
                )
            else:
                self.table.add(found)
        if self.table.version // JOIN_EVERY != before // JOIN_EVERY:
            self.tidy()

    def delete(self, songs: Collection[str]) -> None:
        """Drop all windows of songs."""
        if songs:
            with _told(self.uri):
                self.table.delete(among("song", songs))

    def tidy(self) -> None:
        """Join small fragments, drop old versions, bring the index up to date or make one; a server
        does all that by itself.
        """
        with _told(self.uri):
            if not self.remote:
                self.table.optimize(cleanup_older_than=OLD)
            if not self.indexed and self.table.count_rows() >= INDEX_FROM:
                self.index()

    @property
    def indexed(self) -> bool:
        with _told(self.uri, "read"):
            return any("vector" in each.columns for each in self.table.list_indices())

    def count(self, where: str | None = None) -> int:
        """How many windows."""
        with _told(self.uri, "read"):
            return self.table.count_rows(where)

    def index(self) -> None:
        """Make the index of all vectors anew, and one of the songs that windows belong to."""
        from lancedb.index import BTree, IvfFlat

        self.table.create_index("vector", config=IvfFlat(distance_type="cosine"), replace=True)
        self.table.create_index("song", config=BTree(), replace=True)

    def nearest(
        self, vector: np.ndarray, *, limit: int, where: str | None = None, exact: bool = False
    ) -> list[dict[str, Any]]:
        """Song and start in seconds of the windows nearest to a vector (dim,) by cosine, nearest
        first; exact: compared one by one even where there is an index.
        """
        query = self.table.search(vector.astype(np.float32), vector_column_name="vector")
        query = query.distance_type("cosine").limit(limit)
        query = query.minimum_nprobes(PROBES).maximum_nprobes(0)  # 0: as many as there are
        query = query.select(["song", "start", "_distance"])
        if exact:
            query = query.bypass_vector_index()
        with _told(self.uri, "read"):
            return (query.where(where) if where else query).to_list()

    def windows(
        self, where: str | None, *, most: int | None = None
    ) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """Of windows, in the order of songs and time: song, start and length in seconds, vector
        (windows, dim); `most` of them, as they are stored, song by song.
        """
        found = self._rows(["song", "start", "seconds", "vector"], where, most)
        found = found.sort_by([("song", "ascending"), ("start", "ascending")])
        flat = found["vector"].combine_chunks().flatten().to_numpy()
        return (
            found["song"].to_pylist(),
            found["start"].to_numpy(),
            found["seconds"].to_numpy(),
            flat.reshape(len(found), -1),
        )

    def songs(
        self, where: str | None = None, *, columns: Sequence[str] = FACTS
    ) -> list[dict[str, Any]]:
        """The facts of songs, one row each."""
        where = "number = 0" if where is None else f"number = 0 AND ({where})"
        return self._rows(columns, where).to_pylist()

    def first(self, columns: Sequence[str]) -> dict[str, Any] | None:
        """Of any window these columns; None where there is none."""
        with _told(self.uri, "read"):
            found = self.table.search().select(list(columns)).limit(1).to_list()
        return found[0] if found else None

    def rows(self, where: str) -> list[dict[str, Any]]:
        """Whole rows, to be written again with other facts."""
        return self._rows(self.table.schema.names, where).to_pylist()

    def _rows(self, columns: Sequence[str], where: str | None, most: int | None = None) -> Any:
        query = self.table.search().select(list(columns))
        query = query if most is None else query.limit(most)
        with _told(self.uri, "read"):
            return (query.where(where) if where else query).to_arrow()


def _schema(dim: int) -> Any:
    _, arrow = lance()
    text, texts = arrow.string(), arrow.list_(arrow.string())
    return arrow.schema(
        [
            ("song", text),  # id
            ("number", arrow.int32()),  # of the window in its song
            ("start", arrow.float32()),  # seconds
            ("seconds", arrow.float32()),  # of the window; the last is as short as it comes
            ("heard", texts),  # families of instruments in the window
            ("vector", arrow.list_(arrow.float32(), dim)),  # of unit length
            ("space", text),  # that the vector lives in
            ("model", text),  # whose CLAP made it
            ("path", text),
            ("content", text),  # SHA-256 of the file
            ("size", arrow.int64()),  # bytes, its settings with it
            ("mtime", arrow.int64()),  # nanoseconds, the later of both
            ("duration", arrow.float32()),  # seconds
            ("tempo", arrow.float32()),  # BPM, null where nothing repeats
            ("key", text),
            ("tags", texts),
            ("title", text),
            ("prompt", text),
            ("licence", text),
            ("sidecar", text),  # JSON, with the first window alone
        ]
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a folder; one that another process holds is waited for."""
    import fcntl  # not on Windows, where MLX does not run either

    try:
        lock = path.open("w")
    except OSError as error:
        raise explain(error, path) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another process writes to the library {path.parent}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _told(uri: str, what: str = "written") -> Iterator[None]:
    """What LanceDB complains of, as one line: a server that does not answer, a full disk, files
    that are gone or broken.
    """
    try:
        yield
    except MusicotError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        kind = DiskFull if os.strerror(errno.ENOSPC) in str(error) else RunError
        raise kind(f"the library {uri} can't be {what}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """The first line of what is wrong, as far as people read it."""
    line = str(error).strip().partition("\n")[0] or repr(error)
    return line if len(line) <= 200 else f"{line[:199]}…"
