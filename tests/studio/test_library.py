"""The library over HTTP: songs that were made are found, and finds go into plans."""

from pathlib import Path

import pytest

from tests.support.studio import Server, serving

pytest.importorskip("lancedb")


def test_songs_made_are_found_and_used(tiny_model: Path, tmp_path: Path) -> None:
    library = str(tmp_path / "library")
    with serving(tmp_path / "data", "--model", str(tiny_model), "--library", library) as server:
        assert server.get("/models").json()["library"]
        assert server.post("/library/search", {"words": "piano"}).json() == {"found": []}
        songs = server.ask(prompt="piano at 100 BPM", seeds=[1, 2], options={"duration": 12})
        for song in songs:
            server.finished(song["id"])
        server.wait(lambda: server.get("/library/stats").json()["songs"] == 2)
        found = server.post("/library/search", {"words": "piano", "limit": 5}).json()["found"]
        assert {each["song"] for each in found} == {song["id"] for song in songs}
        assert found[0]["title"] == "piano at 100 BPM" and "path" not in found[0]
        like = {"like": {"song": songs[0]["id"]}, "limit": 1}
        assert server.post("/library/search", like).json()["found"][0]["id"] == songs[0]["id"]
        similar = server.get(f"/library/{songs[0]['id']}/similar").json()["found"]
        assert [each["id"] for each in similar] == [songs[1]["id"]]
        audio = server.get(f"/library/{songs[0]['id']}/audio", headers={"range": "bytes=0-3"})
        assert audio.status_code == 206 and audio.content == b"RIFF"
        plan = server.plan(duration=20)["id"]
        source = {"library": found[0]["id"], "start": found[0]["start"]}
        edited = server.edit(plan, "replace", segments=[1], source=source).json()
        assert edited["segments"][1]["origin"]["source"] == {"library": found[0]["id"]}
        assert library not in server.get(f"/plans/{plan}/file").text
        server.error(server.get("/library/nobody/audio"), 404)
        server.error(server.get("/library/nobody/similar"), 404)
        server.error(server.post("/library/search", {}), 422)
        server.error(server.post("/library/search", {"words": "x", "key": "H"}), 422)
        server.client.delete(f"/v1/songs/{songs[0]['id']}")
        assert server.get("/library/stats").json()["songs"] == 1
        assert library not in server.get("/library/stats").text


def test_without_a_library_the_rest_is_whole(server: Server) -> None:
    assert not server.get("/models").json()["library"]
    assert "--no-library" in server.error(server.get("/library/stats"), 501)
