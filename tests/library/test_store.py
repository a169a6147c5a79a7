"""The store holds what it told, whoever reads, writes or is killed meanwhile."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.library import Library, library, store
from tests.library.support import BandEar, song
from tests.support import tiny

lancedb = pytest.importorskip("lancedb")
ROOT = Path(__file__).resolve().parents[2]


def _rows(count: int, windows: int = 3, *, seed: int = 0) -> list[dict]:
    """Rows of songs in random directions of eight dimensions."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(count):
        vectors = rng.standard_normal((windows, 8)).astype(np.float32)
        for number, vector in enumerate(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)):
            rows.append(
                {
                    "song": f"{seed}-{i}", "number": number, "start": 10.0 * number,
                    "seconds": 10.0, "heard": [], "vector": vector, "space": "x", "model": "x",
                    "path": f"/music/{i}.wav", "content": f"{seed}-{i}", "size": 1, "mtime": 1,
                    "duration": 30.0, "tags": [], "title": str(i),
                }
            )  # fmt: skip
    return rows


def test_small_adds_do_not_pile_up(tmp_path: Path) -> None:
    made = store.Store(tmp_path)
    made.begin(8)
    for i in range(3 * store.JOIN_EVERY):
        made.write(_rows(1, seed=i))
    fragments = made.table.stats()["fragment_stats"]["num_fragments"]
    assert fragments <= store.JOIN_EVERY
    assert made.table.count_rows() == 9 * store.JOIN_EVERY


def test_the_index_finds_what_comparing_all_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "INDEX_FROM", 900)
    made = store.Store(tmp_path)
    made.begin(8)
    made.write(_rows(290))
    made.tidy()
    assert not made.indexed
    made.write(_rows(100, seed=1))
    made.tidy()
    assert made.indexed
    made.write(_rows(10, seed=2))  # not in the index yet, and found all the same
    vector = np.array(_rows(10, seed=2)[7]["vector"])
    found, exact = (made.nearest(vector, limit=50, exact=exact) for exact in (False, True))
    assert found[0]["song"] == "2-2"
    assert len({r["song"] for r in found} & {r["song"] for r in exact}) > 0.9 * len(
        {r["song"] for r in exact}
    )
    few = made.nearest(vector, limit=50, where="path = '/music/5.wav'")
    assert {row["song"] for row in few} == {"0-5", "1-5", "2-5"} and len(few) == 9


def test_readers_see_whole_songs_while_one_writes(tmp_path: Path) -> None:
    writer, faults, done = Library(tmp_path / "l", BandEar()), [], threading.Event()
    files = [song(tmp_path / f"{i}.wav", "low", "high", "deep", seed=i) for i in range(12)]
    writer.add(files[0])

    def read() -> None:
        reader = Library(tmp_path / "l", BandEar())
        while not done.is_set():
            try:
                stats = reader.stats()
                if stats["windows"] < 3 * stats["songs"] or not reader.search("high"):
                    faults.append(stats)
            except Exception as error:
                faults.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for each in readers:
        each.start()
    for file in files[1:]:
        writer.add(file)
    writer.store.tidy()
    done.set()
    for each in readers:
        each.join()
    assert not faults and writer.stats()["songs"] == 12


ADDS = """
import sys
from pathlib import Path
from musicot_mlx.library import Library
from tests.library.support import BandEar, song
library, folder, i = Library(sys.argv[1], BandEar()), Path(sys.argv[1]).parent, 0
while True:
    library.add(song(folder / f"{i}.wav", "low", "high", seed=i), id=f"s_{i}")
    print(i, flush=True)
    i += 1
"""


def test_a_writer_that_is_killed_loses_nothing_that_it_told(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ADDS, tmp_path / "l"],
        stdout=subprocess.PIPE, cwd=ROOT, env=tiny.environment(), text=True,
    )  # fmt: skip
    told = [int(child.stdout.readline()) for _ in range(10)]
    os.kill(child.pid, signal.SIGKILL)
    told += [int(line) for line in child.stdout.read().split()]
    child.wait()
    left = Library(tmp_path / "l", BandEar())
    ids = {each["song"] for each in left.store.songs()}
    assert ids >= {f"s_{i}" for i in told} and len(ids) <= len(told) + 1
    assert left.stats()["windows"] == 2 * len(ids)
    left.add(song(tmp_path / "more.wav", "deep"))
    assert left.stats()["songs"] == len(ids) + 1


def test_another_process_waits_for_its_turn(tmp_path: Path) -> None:
    import fcntl

    made, began = store.Store(tmp_path), threading.Event()
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def write() -> None:
            with made.writing():
                began.set()

        thread = threading.Thread(target=write)
        with pytest.warns(UserWarning, match="another process writes"):
            thread.start()
            assert not began.wait(0.2)
            fcntl.flock(held, fcntl.LOCK_UN)
            thread.join()
    assert began.is_set()


def test_any_place_that_lancedb_has(tmp_path: Path) -> None:
    made = Library("memory://", BandEar())
    made.add(song(tmp_path / "a.wav", "high"))
    assert made.search("high")[0].title == "a" and made.store.folder is None
    with pytest.raises(MusicotError, match="can't be opened: api_key is required"):
        Library("db://songs", BandEar())
    remote = Library("db://songs", BandEar(), api_key="none", host_override="http://127.0.0.1:9")
    assert remote.store.remote
    with pytest.raises(RunError, match="the library db://songs can't be read: ") as silent:
        remote.search("high")  # nobody answers there
    assert "\n" not in str(silent.value) and len(str(silent.value)) < 300


def test_a_library_that_is_gone_or_broken_is_one_line(tmp_path: Path) -> None:
    made = Library(tmp_path / "l", BandEar())
    made.add(song(tmp_path / "a.wav", "high"))
    # a column of a newer one is kept, and what is added has none
    made.store.table.add_columns({"of_a_newer_one": "cast(NULL as string)"})
    newer = Library(tmp_path / "l", BandEar())
    newer.add(song(tmp_path / "b.wav", "deep"))
    assert len(newer.search("high")) == 2
    newer.store.table.drop_columns(["of_a_newer_one", "licence"])
    with pytest.raises(MusicotError, match="made by another musicot, whose songs have no licence"):
        Library(tmp_path / "l", BandEar()).search("high")
    for file in (tmp_path / "l" / f"{store.TABLE}.lance" / "data").iterdir():
        file.write_bytes(b"none")
    with pytest.raises(RunError, match="can't be read: "):
        made.search("high")
    shutil.rmtree(tmp_path / "l")
    with pytest.raises(RunError, match="can't be read: "):
        made.search("high")  # one that was open
    with pytest.raises(MusicotError, match="is empty"):
        Library(tmp_path / "l", BandEar()).search("high")


def test_a_server_has_all_that_is_asked_of_a_table() -> None:
    from lancedb.remote.db import RemoteDBConnection
    from lancedb.remote.table import RemoteTable

    text = Path(store.__file__).read_text()
    asked = set(re.findall(r"\.table\s*\.(\w+)", text))
    assert {"add", "merge_insert", "search", "delete", "create_index"} <= asked
    assert asked <= set(dir(RemoteTable))
    asked = set(re.findall(r"\._database\.(\w+)", text))
    assert asked and asked <= set(dir(RemoteDBConnection))


def test_one_file_names_lancedb() -> None:
    naming = {
        path.relative_to(ROOT / "musicot_mlx").as_posix()
        for path in (ROOT / "musicot_mlx").rglob("*.py")
        if "import lancedb" in path.read_text(encoding="utf-8")
    }
    assert naming == {"library/store.py"}


def test_without_lancedb_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(
        MusicotError, match=r"the library needs lancedb: pip install '.\[library\]'"
    ):
        Library(tmp_path)


def test_better_half() -> None:
    assert library.better_half(np.array([0.1, 0.9])) == pytest.approx(0.9)
    assert library.better_half(np.array([0.2, 0.4, 0.6])) == pytest.approx(0.5)
    assert library.better_half(np.array([0.3])) == pytest.approx(0.3)


def test_the_users_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICOT_LIBRARY", "s3://songs/library")
    assert store.default_place() == "s3://songs/library"
    monkeypatch.delenv("MUSICOT_LIBRARY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert store.default_place() == tmp_path / "musicot" / "library"
