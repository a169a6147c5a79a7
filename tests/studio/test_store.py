"""What is kept: versions of plans as a tree, a queue that takes all songs of a request or none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from musicot_mlx.errors import DiskFull, MusicotError
from musicot_mlx.studio.errors import Refused, status_of
from musicot_mlx.studio.store import Store


def _value(*codes: int) -> dict[str, Any]:
    return {"codes": [list(codes)], "prompt": "x", "duration": 10.0 * len(codes)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "data")
    yield store
    store.close()


def test_undo_leads_back_and_redo_to_the_newest(store: Store) -> None:
    first = store.add_plan("m", [], {}, _value(1))
    second = store.add_version(first, _value(2), [False], {"edit": "redraw"})
    assert (second.number, second.parent, second.previous) == (2, 1, _value(1))
    with pytest.raises(Refused) as moved:
        store.add_version(first, _value(9), [False], {})
    assert moved.value.status == 409
    assert store.undo(first.plan).number == 1
    third = store.add_version(store.plan(first.plan), _value(3), [True], {"edit": "redraw"})
    assert (third.number, third.parent, third.locked) == (3, 1, [True])
    store.undo(first.plan)
    assert store.redo(first.plan).number == 3
    assert store.plan(first.plan, 2).value == _value(2)  # what was undone is not gone
    store.delete_plan(first.plan)
    with pytest.raises(Refused):
        store.plan(first.plan, 2)


def test_all_songs_of_a_request_or_none(store: Store) -> None:
    body = {"plan": None, "title": "x"}
    rows, new = store.add_songs([body] * 3, asked="a click", room=4)
    assert new and len({row.group for row in rows}) == 1
    with pytest.raises(Refused, match="3 of 4") as full:
        store.add_songs([body] * 2, room=4)
    assert full.value.status == 429 and len(store.queue()) == 3
    assert store.add_songs([body] * 3, asked="a click", room=0) == (rows, False)
    running = store.next()
    assert running.id == rows[0].id and running.status == "running" and running.body["tries"] == 1
    assert store.queue() == [row.id for row in rows]
    done = store.update_song(running.id, status="done", only=("queued",), title="y")
    assert done.status == "running" and done.body["title"] == "x"  # not in that status
    store.update_song(running.id, status="done", only=("running",), peaks=b"\1\2")
    assert store.queue() == [row.id for row in rows[1:]] and store.peaks(running.id) == b"\1\2"
    store.delete_song(running.id)
    with pytest.raises(Refused):
        store.update_song(running.id, title="z")


def test_a_folder_of_another_time_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(MusicotError, match="another musicot studio"):
        Store(tmp_path)
    store._db.execute("PRAGMA user_version=9")
    store.close()
    with pytest.raises(MusicotError, match="newer musicot"):
        Store(tmp_path)
    (tmp_path / "studio.db").write_bytes(b"no database" * 100)
    with pytest.raises(MusicotError, match="can't be used"):
        Store(tmp_path)


def test_a_full_disk_is_told_as_such(store: Store) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFull) as full:
        store.add_plan("m", [], {}, {**_value(1), "prompt": "x" * 100_000})
    assert status_of(full.value) == 507 and not store.plans(5)
    store._db.execute(f"PRAGMA max_page_count={pages + 1000}")
    assert store.add_plan("m", [], {}, _value(1)).number == 1
