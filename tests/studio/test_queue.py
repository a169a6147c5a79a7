"""A server that is killed in the middle: nothing is lost, nothing doubled, nothing half-written."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile

from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.studio.events import Events
from musicot_mlx.studio.files import Files
from musicot_mlx.studio.queue import ASKED, Queue, new_body
from musicot_mlx.studio.settings import Settings
from musicot_mlx.studio.store import Store
from tests.support.studio import serving
from tests.support.studio_page import until


def test_a_killed_server_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "data", ["--model", str(tiny_model)]
    with serving(folder, *model) as server:
        plan = server.plan("piano", duration=20)["id"]
        server.edit(plan, "lock", segments=[0])
        first = server.finished(server.ask(plan=plan)[0]["id"])
        songs = server.ask(prompt="drums", seeds=[1, 2, 3], options={"duration": 20})
        server.running(songs[0]["id"])
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    strays = [folder / "songs" / ".s_00000000000000aa.7-x.part.wav", folder / "songs" / "mine.wav"]
    for stray in strays:
        stray.write_bytes(b"RIFF")
    with serving(folder, *model) as server:
        assert not strays[0].exists() and strays[1].exists()  # of ours, and of somebody
        assert server.get(f"/plans/{plan}").json()["segments"][0]["locked"]
        assert server.get(f"/songs/{first['id']}").json()["status"] == "done"
        listed = server.get("/songs").json()["songs"]
        assert sorted(song["id"] for song in listed) == sorted(
            [first["id"], *(song["id"] for song in songs)]
        )
        for song in songs:
            assert server.finished(song["id"])["status"] == "done"
        # the last one is done before what it was made from is put away
        server.wait(lambda: not list((folder / "songs").glob("*.live")))
        whole = sorted(path.name for path in (folder / "songs").glob("s_*"))
        ids = sorted(song["id"] for song in listed)
        assert whole == sorted(f"{song}.{kind}" for song in ids for kind in ("wav", "json"))
        for song in ids:
            info = soundfile.info(folder / "songs" / f"{song}.wav")
            assert info.duration == server.get(f"/songs/{song}").json()["duration"]


def test_a_stopped_server_gives_its_song_back(tiny_model: Path, tmp_path: Path) -> None:
    folder, model = tmp_path / "data", ["--model", str(tiny_model)]
    with serving(folder, *model) as server:
        (song,) = server.ask(prompt="drums", options={"duration": 300})
        server.running(song["id"])
    with serving(folder, *model) as server:
        found = server.get(f"/songs/{song['id']}").json()
        assert found["status"] in ("queued", "running")
        server.post(f"/songs/{song['id']}/cancel")


def test_a_full_disk_holds_the_queue_up_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicot_mlx.studio.queue.RETRY", 0.02)
    store = Store(tmp_path)

    def full(yes: bool) -> None:
        store._db.execute(f"PRAGMA query_only={yes:d}")

    def gone(name: str) -> None:
        full(True)  # that the song has failed can't be written either
        raise MusicotError(f"there is no model {name}")

    engine = SimpleNamespace(settings=Settings(tmp_path), model=gone)
    queue = Queue(store, Files(tmp_path, store, lambda id: (tmp_path, id)), engine, Events())
    asked = dict.fromkeys(ASKED) | {"title": "song", "duration": 10.0}
    bodies = [new_body(**{**asked, "model": model}) for model in "ab"]
    songs = [each["id"] for each in queue.add(bodies)[0]]
    full(True)
    queue.start()
    time.sleep(0.1)
    assert store.song(songs[0]).status == "queued"
    full(False)
    for song, model in zip(songs, "ab", strict=True):
        until(lambda song=song: store.song(song).status == "running", "its turn", 5)
        time.sleep(0.1)
        assert store.song(song).status == "running"
        full(False)
        until(lambda song=song: store.song(song).status != "running", "its end", 5)
        assert store.song(song).body["error"] == f"there is no model {model}"
    full(True)
    queue.files.song(songs[0]).write_bytes(b"RIFF")
    monkeypatch.setattr(
        queue.files, "remove_song", lambda song: (Files.remove_song(queue.files, song), full(False))
    )
    queue.delete(songs[0])
    assert not queue.files.song(songs[0]).exists() and songs[0] not in store.song_ids()
    queue.stop()
    store.close()


def test_one_server_a_folder_and_one_a_port(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    with serving(folder, "--model", str(tiny_model)) as server:
        port = server.address.rstrip("/").rpartition(":")[2]

        def refused(*options: str) -> str:
            assert main(["serve", *options]) == 2
            line = capsys.readouterr().err
            assert line.count("\n") == 1, line
            return line

        assert "another musicot studio" in refused("--port", "0", "--data-dir", str(folder))
        other = ["--data-dir", str(tmp_path / "other")]
        other_file = tmp_path / "file"
        for file in (other_file, tmp_path / "held" / "songs"):
            file.parent.mkdir(exist_ok=True)
            file.write_text("")
        assert "pass another --port" in refused("--port", port, *other)
        assert "a token is needed" in refused("--port", "0", "--host", "0.0.0.0", *other)
        for place in (other_file, tmp_path / "held"):  # the folder, and one within it
            assert "it is no folder" in refused("--port", "0", "--data-dir", str(place))
        assert "no model folder" in refused("--port", "0", "--model", "./nothing", *other)


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from musicot_mlx.studio import server

    monkeypatch.setattr(server, "NEEDED", ("fastapi", "a_package_that_nobody_has"))
    for command in ("studio", "serve"):
        assert main([command]) == 2
        line = capsys.readouterr().err
        assert "a_package_that_nobody_has: pip install" in line and line.count("\n") == 1
