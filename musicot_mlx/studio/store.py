"""Plans with all their versions, songs and the queue, uploads: one SQLite file, one server's.

What is committed here is what has happened. A song is in the queue because its row says so, and it
is done once its files have their names and its row says that; a server that is killed in between
finds the row as it was and makes the song once more, under the same name.
"""

import fcntl
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from musicot_mlx.atomic import explain
from musicot_mlx.errors import DiskFull, MusicotError, RunError
from musicot_mlx.studio.errors import Refused, not_found

VERSION = 1
_TABLES = """
CREATE TABLE plans (
  id TEXT PRIMARY KEY, model TEXT NOT NULL, adapters TEXT NOT NULL, options TEXT NOT NULL,
  at INTEGER NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE versions (
  plan TEXT NOT NULL REFERENCES plans(id) ON DELETE CASCADE, number INTEGER NOT NULL,
  parent INTEGER, value TEXT NOT NULL, locked TEXT NOT NULL, edit TEXT, PRIMARY KEY (plan, number));
CREATE TABLE songs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, status TEXT NOT NULL,
  grouped TEXT NOT NULL, asked TEXT, plan TEXT, created TEXT NOT NULL, body TEXT NOT NULL,
  plan_file TEXT, peaks BLOB);
CREATE INDEX songs_by_status ON songs(status);
CREATE INDEX songs_by_asked ON songs(asked);
CREATE INDEX songs_by_plan ON songs(plan);
CREATE TABLE uploads (id TEXT PRIMARY KEY, created TEXT NOT NULL, body TEXT NOT NULL);
"""
WAITING = ("queued", "running")


@dataclass(frozen=True)
class Version:
    """A plan as it was after one edit. value: the plan as JSON; locked: by segment; edit: what was
    asked for, None for a plan that was drawn. at: which version is the current one; previous: the
    value before, for what changed.
    """

    plan: str
    number: int
    parent: int | None
    value: dict[str, Any]
    locked: list[bool]
    edit: dict[str, Any] | None
    model: str
    adapters: list[dict[str, Any]]
    options: dict[str, Any]
    at: int
    versions: int
    can_redo: bool
    created: str
    updated: str
    previous: dict[str, Any] | None


@dataclass(frozen=True)
class SongRow:
    """A song as it is kept. number: of its order in time; body: what the API tells of it."""

    number: int
    id: str
    status: str
    group: str
    created: str
    body: dict[str, Any]


def now() -> str:
    """The time as the API tells it, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id(kind: str) -> str:
    """An id nobody can guess: "s_0f3a..."."""
    return f"{kind}_{secrets.token_hex(8)}"


class Store:
    """The file of one data folder, and the lock that keeps a second server from it. Its methods may
    be called in any thread and take a millisecond or two.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = open(folder / "lock", "w")  # noqa: SIM115
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MusicotError(
                f"another musicot studio uses {folder}; stop it, or pass another --data-dir"
            ) from None
        except OSError as error:
            raise explain(error, folder) from error
        try:
            self._db = sqlite3.connect(
                folder / "studio.db", check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate(folder)
        except sqlite3.DatabaseError as error:
            raise MusicotError(f"{folder / 'studio.db'} can't be used: {error}") from error

    def close(self) -> None:
        """Write what is left to write, and let another server in."""
        with self._lock:
            self._db.close()
            self._held.close()

    # --- plans ------------------------------------------------------------------------------------

    def add_plan(
        self,
        model: str,
        adapters: Sequence[dict[str, Any]],
        options: dict[str, Any],
        value: dict[str, Any],
    ) -> Version:
        """A new plan; its first version."""
        plan, time = new_id("p"), now()
        with self._writing() as db:
            row = (plan, model, _text(list(adapters)), _text(options), 1, time, time)
            db.execute("INSERT INTO plans VALUES (?,?,?,?,?,?,?)", row)
            self._insert_version(plan, 1, None, value, [False] * _segments(value), None)
        return self.plan(plan)

    def add_version(
        self, before: Version, value: dict[str, Any], locked: list[bool], edit: dict[str, Any]
    ) -> Version:
        """The plan after an edit of its current version. Raises Refused (409) where it is current
        no more.
        """
        with self._writing() as db:
            found = self._current(before.plan)
            if found != before.number:
                raise moved_on(found)
            query = "SELECT max(number) FROM versions WHERE plan=?"
            number = db.execute(query, (before.plan,)).fetchone()[0] + 1
            self._insert_version(before.plan, number, before.number, value, locked, edit)
            self._point(before.plan, number)
        return self.plan(before.plan)

    def plan(self, plan: str, number: int | None = None) -> Version:
        """A plan, its current version or another one; Refused (404) where there is none."""
        query = (
            "SELECT v.number, v.parent, v.value, v.locked, v.edit, p.model, p.adapters, p.options,"
            " p.at, p.created, p.updated, (SELECT count(*) FROM versions WHERE plan=p.id),"
            " EXISTS (SELECT 1 FROM versions WHERE plan=p.id AND parent=v.number),"
            " (SELECT value FROM versions WHERE plan=p.id AND number=v.parent)"
            " FROM plans p JOIN versions v ON v.plan=p.id AND v.number=ifnull(?, p.at)"
            " WHERE p.id=?"
        )
        row = self._one(query, (number, plan))
        if row is None:
            self._current(plan)  # raises where the whole plan is gone
            raise not_found("version of the plan")
        number, parent, value, locked, edit, model, adapters, options, at, *rest = row
        created, updated, versions, redo, previous = rest
        return Version(
            plan=plan,
            number=number,
            parent=parent,
            value=json.loads(value),
            locked=json.loads(locked),
            edit=json.loads(edit) if edit else None,
            model=model,
            adapters=json.loads(adapters),
            options=json.loads(options),
            at=at,
            versions=versions,
            can_redo=bool(redo),
            created=created,
            updated=updated,
            previous=json.loads(previous) if previous else None,
        )

    def undo(self, plan: str) -> Version:
        """Make the version before the current one."""
        with self._writing() as db:
            query = "SELECT parent FROM versions WHERE plan=? AND number=?"
            parent = db.execute(query, (plan, self._current(plan))).fetchone()[0]
            if parent is None:
                raise Refused(409, "there is nothing to undo: this is the plan as it was drawn")
            self._point(plan, parent)
        return self.plan(plan)

    def redo(self, plan: str) -> Version:
        """Make the edit again that was undone last."""
        with self._writing() as db:
            query = "SELECT max(number) FROM versions WHERE plan=? AND parent=?"
            number = db.execute(query, (plan, self._current(plan))).fetchone()[0]
            if number is None:
                raise Refused(409, "there is nothing to redo")
            self._point(plan, number)
        return self.plan(plan)

    def plans(self, limit: int) -> list[Version]:
        """The newest plans."""
        rows = self._all("SELECT id FROM plans ORDER BY updated DESC LIMIT ?", (limit,))
        return [self.plan(plan) for (plan,) in rows]

    def delete_plan(self, plan: str) -> None:
        """Forget a plan with its versions."""
        with self._writing() as db:
            if not db.execute("DELETE FROM plans WHERE id=?", (plan,)).rowcount:
                raise not_found("plan")

    def _current(self, plan: str) -> int:
        row = self._one("SELECT at FROM plans WHERE id=?", (plan,))
        if row is None:
            raise not_found("plan")
        return row[0]

    def _point(self, plan: str, number: int) -> None:
        self._db.execute("UPDATE plans SET at=?, updated=? WHERE id=?", (number, now(), plan))

    def _insert_version(
        self,
        plan: str,
        number: int,
        parent: int | None,
        value: dict[str, Any],
        locked: list[bool],
        edit: dict[str, Any] | None,
    ) -> None:
        row = (plan, number, parent, _text(value), _text(locked), edit and _text(edit))
        self._db.execute("INSERT INTO versions VALUES (?,?,?,?,?,?)", row)

    # --- songs ------------------------------------------------------------------------------------

    def add_songs(
        self,
        bodies: Sequence[dict[str, Any]],
        plan_file: dict[str, Any] | None = None,
        *,
        asked: str | None = None,
        room: int,
    ) -> tuple[list[SongRow], bool]:
        """Queue songs, all or none; whether they are new. plan_file: the plan of all of them, as it
        is now. asked: the key of a request, which gets the same songs when it comes again. Raises
        Refused (429) where more than `room` would wait.
        """
        with self._writing() as db:
            if asked is not None:
                rows = self._songs("WHERE asked=? ORDER BY number", (asked,))
                if rows:
                    return rows, False
            waiting = db.execute("SELECT count(*) FROM songs WHERE status='queued'").fetchone()[0]
            if waiting + len(bodies) > room:
                raise Refused(429, f"the queue is full: {waiting} of {room} songs wait already")
            group, time, ids = new_id("g"), now(), []
            value = plan_file and _text(plan_file)
            for body in bodies:
                ids.append(new_id("s"))
                plan = (body["plan"] or {}).get("id")
                row = (ids[-1], group, asked, plan, time, _text(body), value)
                db.execute(
                    "INSERT INTO songs (id, status, grouped, asked, plan, created, body, plan_file)"
                    " VALUES (?,'queued',?,?,?,?,?,?)",
                    row,
                )
            return [self.song(each) for each in ids], True

    def song(self, song: str) -> SongRow:
        """A song; Refused (404) where there is none."""
        rows = self._songs("WHERE id=?", (song,))
        if not rows:
            raise not_found("song")
        return rows[0]

    def songs(
        self,
        *,
        limit: int,
        before: int | None = None,
        since: str | None = None,
        status: str | None = None,
        group: str | None = None,
        plan: str | None = None,
    ) -> list[SongRow]:
        """The newest songs, of these alone: older than number `before`, not older than the time
        `since`, of a status, group or plan.
        """
        asked = {"number<": before, "created>=": since, "status=": status, "grouped=": group}
        asked["plan="] = plan
        given = {name: value for name, value in asked.items() if value is not None}
        where = " AND ".join(f"{name}?" for name in given) or "1"
        return self._songs(f"WHERE {where} ORDER BY number DESC LIMIT ?", (*given.values(), limit))

    def queue(self) -> list[str]:
        """The songs that are made and wait, in their order."""
        query = "SELECT id FROM songs WHERE status IN ('queued','running')"
        return [song for (song,) in self._all(f"{query} ORDER BY status DESC, number")]

    def next(self) -> SongRow | None:
        """The song whose turn it is, from now on a running one; None where none waits."""
        with self._writing() as db:
            rows = self._songs("WHERE status='queued' ORDER BY number LIMIT 1", ())
            if not rows:
                return None
            tries = rows[0].body.get("tries", 0) + 1
            body = {**rows[0].body, "tries": tries, "started": now()}
            query = "UPDATE songs SET status='running', body=? WHERE id=?"
            db.execute(query, (_text(body), rows[0].id))
        return self.song(rows[0].id)

    def update_song(
        self,
        song: str,
        *,
        status: str | None = None,
        only: Sequence[str] = (),
        plan_file: dict[str, Any] | None = None,
        peaks: bytes | None = None,
        **changes: Any,
    ) -> SongRow:
        """The song with some of its body changed, and its status. only: the statuses in which that
        is done; in others nothing is. Refused (404) where it was deleted.
        """
        with self._writing() as db:
            row = self.song(song)
            if only and row.status not in only:
                return row
            body = {**row.body, **changes}
            plan = (body["plan"] or {}).get("id")
            db.execute(
                "UPDATE songs SET status=ifnull(?, status), plan=?, body=?,"
                " plan_file=ifnull(?, plan_file), peaks=ifnull(?, peaks) WHERE id=?",
                (status, plan, _text(body), plan_file and _text(plan_file), peaks, song),
            )
        return self.song(song)

    def plan_file(self, song: str) -> dict[str, Any] | None:
        """The plan that a song was made from, as JSON."""
        row = self._one("SELECT plan_file FROM songs WHERE id=?", (song,))
        return json.loads(row[0]) if row and row[0] else None

    def peaks(self, song: str) -> bytes:
        """The waveform of a finished song as levels, a byte each."""
        row = self._one("SELECT peaks FROM songs WHERE id=?", (song,))
        return row[0] if row and row[0] else b""

    def delete_song(self, song: str) -> None:
        """Forget a song."""
        with self._writing() as db:
            if not db.execute("DELETE FROM songs WHERE id=?", (song,)).rowcount:
                raise not_found("song")

    def song_ids(self) -> set[str]:
        """All songs."""
        return {song for (song,) in self._all("SELECT id FROM songs")}

    def _songs(self, where: str, given: tuple) -> list[SongRow]:
        query = f"SELECT number, id, status, grouped, created, body FROM songs {where}"
        return [SongRow(*row[:5], json.loads(row[5])) for row in self._all(query, given)]

    # --- uploads ----------------------------------------------------------------------------------

    def add_upload(self, upload: str, body: dict[str, Any]) -> None:
        """Remember a file that was taken and decoded."""
        with self._writing() as db:
            db.execute("INSERT INTO uploads VALUES (?,?,?)", (upload, now(), _text(body)))

    def upload(self, upload: str) -> dict[str, Any]:
        """What is known of a file; Refused (404) where there is none."""
        row = self._one("SELECT body, created FROM uploads WHERE id=?", (upload,))
        if row is None:
            raise not_found("upload")
        return {"id": upload, **json.loads(row[0]), "created": row[1]}

    def uploads(self, limit: int) -> list[dict[str, Any]]:
        """The newest files."""
        rows = self._all("SELECT id FROM uploads ORDER BY created DESC LIMIT ?", (limit,))
        return [self.upload(upload) for (upload,) in rows]

    def upload_ids(self) -> set[str]:
        """All files."""
        return {upload for (upload,) in self._all("SELECT id FROM uploads")}

    def delete_upload(self, upload: str) -> None:
        """Forget a file."""
        with self._writing() as db:
            if not db.execute("DELETE FROM uploads WHERE id=?", (upload,)).rowcount:
                raise not_found("upload")

    # --- SQLite -----------------------------------------------------------------------------------

    def _migrate(self, folder: Path) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found > VERSION:
            raise MusicotError(f"{folder} was used by a newer musicot; update this one")
        if found < VERSION:
            self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={VERSION}; COMMIT;")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing; those within it are a part of it."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
                    kind = DiskFull if full else RunError
                    raise kind(f"what the studio keeps can't be written: {error}") from error
                raise

    def _one(self, query: str, given: tuple = ()) -> tuple | None:
        with self._lock:
            return self._db.execute(query, given).fetchone()

    def _all(self, query: str, given: tuple = ()) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, given).fetchall()


def moved_on(number: int) -> Refused:
    """Another edit came first."""
    return Refused(409, f"the plan has changed meanwhile, it is at version {number}; look again")


def _segments(value: dict[str, Any]) -> int:
    return len(value["codes"][0]) if value["codes"] else 0


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
