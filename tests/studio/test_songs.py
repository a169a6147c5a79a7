"""Songs over HTTP: queued, heard while they are made, kept in part, cancelled, taken home."""

import io
import wave

import httpx
import numpy as np
import pytest
import soundfile

from musicot_mlx.studio.bodies import Song
from tests.support.studio import Server, events


def test_a_song_from_the_click_to_the_file(server: Server) -> None:
    plan = server.plan("piano", duration=12)
    (song,) = server.ask(plan=plan["id"], seed=3)
    assert song["status"] in ("queued", "running") and song["title"] == "piano"
    streamed = server.get(f"/songs/{song['id']}/audio").content
    done = server.finished(song["id"])
    Song.model_validate(done)
    assert done["status"] == "done" and done["seed"] == 3 and done["error"] is None
    assert done["plan"] == {"id": plan["id"], "version": 1}
    assert done["first_audio_seconds"] <= done["render_seconds"]
    whole = server.get(f"/songs/{song['id']}/audio")
    assert whole.headers["content-type"] == "audio/wav" and whole.headers["accept-ranges"]
    with wave.open(io.BytesIO(whole.content)) as file, wave.open(io.BytesIO(streamed)) as live:
        assert file.getparams() == live.getparams()
        frames = file.readframes(file.getnframes())
        assert frames == live.readframes(live.getnframes())
        assert file.getnframes() == 12 * file.getframerate()
    part = server.get(f"/songs/{song['id']}/audio", headers={"range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == whole.content[100:200]
    for place, asked, status in [
        ("audio", "bytes=5-2", 400),
        ("audio", "bits=0-1", 400),
        ("audio", "bytes=999999999-", 416),
        ("file?format=flac", "bytes=999999999-", 416),
    ]:
        refused = server.get(f"/songs/{song['id']}/{place}", headers={"range": asked})
        assert "a part of it is asked for as bytes=0-99" in server.error(refused, status)
    assert not list((server.folder / "temporary").iterdir())
    raw = server.get(f"/songs/{song['id']}/audio", params={"format": "pcm"})
    assert raw.content == frames and raw.headers["x-channels"] == "2"
    peaks = server.get(f"/songs/{song['id']}/peaks").json()
    assert peaks["seconds"] == 12 and len(peaks["peaks"]) == 240 and max(peaks["peaks"]) <= 255


def test_a_head_tells_what_a_get_would(server: Server) -> None:
    song = server.finished(server.ask(prompt="piano", options={"duration": 3})[0]["id"])["id"]
    live = server.running(server.ask(prompt="piano", options={"duration": 300})[0]["id"])["id"]
    for place in ("audio", "file?format=flac", "sidecar", "audio?format=pcm"):
        got, head = (
            ask(f"/v1/songs/{song}/{place}") for ask in (server.client.get, server.client.head)
        )
        assert head.status_code == 200 and not head.content
        told = {"content-type", "content-length", "accept-ranges", "content-disposition"}
        assert all(head.headers.get(name) == got.headers.get(name) for name in told), place
    for path in (f"/v1/songs/{live}/audio", f"/v1/songs/{live}/events", "/v1/events", "/docs"):
        assert server.client.head(path).status_code == 200  # though a GET would go on and on
    server.post(f"/songs/{live}/cancel")
    path = f"/v1/songs/{song}/audio"
    whole = server.client.get(path)
    part = server.client.head(path, headers={"range": "bytes=0-99"})
    assert part.status_code == 206 and part.headers["content-length"] == "100"
    beyond = server.client.head(path, headers={"range": "bytes=99999999-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    assert server.client.head("/v1/songs/s_0000000000000000/audio").status_code == 404
    only_post = server.client.head("/v1/sidecars")
    assert only_post.status_code == 405 and only_post.headers["allow"] == "POST"
    # what a client has is not sent again
    etag = whole.headers["etag"]
    for known, status in [(etag, 304), (f'"a", W/{etag}', 304), ("*", 304), ('"a"', 200)]:
        again = server.client.get(path, headers={"if-none-match": known})
        assert again.status_code == status and bool(again.content) == (status == 200)
    for known, status in [(etag, 206), ('"a"', 200)]:
        headers = {"if-range": known, "range": "bytes=0-9"}
        assert server.client.get(path, headers=headers).status_code == status
    assert not list((server.folder / "temporary").iterdir())


def test_the_events_of_a_song(server: Server) -> None:
    (song,) = server.ask(prompt="drums", options={"duration": 12})
    with server.client.stream("GET", f"/v1/songs/{song['id']}/events") as stream:
        told = list(events(stream.iter_lines()))
    names = [name for _, name, _ in told]
    assert names[0] == "song" and {"audio", "heard", "progress"} <= set(names)
    made = [data for _, name, data in told if name == "audio"]
    peaks = [level for data in made for level in data["peaks"]]
    assert len(peaks) == 240
    assert sum(data["seconds"] for data in made) == pytest.approx(12, abs=0.01)
    heard = next(data["heard"] for _, name, data in told if name == "heard")
    done = [data for _, name, data in told if name == "song"][-1]
    assert done["status"] == "done" and len(heard["segments"]) == 2
    assert done["plan"] is not None  # a plan was drawn for it, and is there
    assert server.get(f"/plans/{done['plan']['id']}").json()["prompt"] == "drums"
    assert server.song(song["id"])["heard"] == heard
    own = server.get(f"/songs/{song['id']}", params={"anchors": "drums,church organ"}).json()
    assert own["heard"]["anchors"] == ["drums", "church organ"]
    for mine, usual in zip(own["heard"]["segments"], heard["segments"], strict=True):
        assert mine["cosine"] == usual["cosine"] and mine["heard"][0] == usual["heard"][0]
    # from the middle on, what was missed comes again
    middle = told[len(told) // 2]
    headers = {"last-event-id": middle[0]}
    with server.client.stream("GET", f"/v1/songs/{song['id']}/events", headers=headers) as stream:
        assert next(events(stream.iter_lines())) == told[len(told) // 2 + 1]


def test_all_events_begin_with_a_reset(server: Server) -> None:
    with server.client.stream("GET", "/v1/events") as stream:
        told = events(stream.iter_lines())
        assert next(told)[1] == "reset"
        plan = server.plan(duration=10)["id"]
        server.edit(plan, "redraw")
        assert next(told)[1:] == ("plan", {"plan": plan, "version": 2})
    with server.client.stream("GET", "/v1/events?last_event_id=feedbeef-7") as stream:
        assert next(events(stream.iter_lines()))[1] == "reset"


def test_what_comes_before_a_change_is_kept(server: Server) -> None:
    plan = server.plan("piano", duration=20)["id"]
    (first,) = server.ask(plan=plan)
    first = server.finished(first["id"])
    assert first["kept"] is None
    server.edit(plan, "replace", segments=[1], source={"words": "drums"})
    (second,) = server.ask(plan=plan)
    second = server.finished(second["id"])
    assert second["kept"]["song"] == first["id"] and second["kept"]["seconds"] == 10
    assert second["kept"]["saved_seconds"] > 0

    def samples(song: str) -> np.ndarray:
        audio = server.get(f"/songs/{song}/audio").content
        return soundfile.read(io.BytesIO(audio), dtype="int16")[0]

    old, new = samples(first["id"]), samples(second["id"])
    until = 9 * 8000
    assert np.abs(old[:until].astype(int) - new[:until]).max() <= 1
    assert np.abs(old[11 * 8000 :].astype(int) - new[11 * 8000 :]).max() > 100
    # not of another seed, not where nobody wants it, not where the beginning changed
    assert server.finished(server.ask(plan=plan, seed=9)[0]["id"])["kept"] is None
    assert server.finished(server.ask(plan=plan, keep=None)[0]["id"])["kept"] is None
    server.edit(plan, "replace", segments=[0], source={"words": "drums"})
    assert server.finished(server.ask(plan=plan)[0]["id"])["kept"] is None
    failed = server.finished(server.ask(plan=plan, keep=first["id"])[0]["id"])
    assert failed["status"] == "failed" and "nothing" in failed["error"]


def test_several_seeds_wait_in_their_order_and_a_full_queue_refuses(server: Server) -> None:
    songs = server.ask(prompt="drums", seeds=[1, 2, 3], options={"duration": 60})
    assert len({song["group"] for song in songs}) == 1
    assert [song["seed"] for song in songs] == [1, 2, 3]
    server.running(songs[0]["id"])
    places = [server.song(song["id"])["position"] for song in songs]
    assert places == [0, 1, 2]
    full = server.post("/songs", {"prompt": "piano", "seeds": [1, 2, 3]})
    assert "queue is full" in server.error(full, 429) and int(full.headers["retry-after"]) >= 1
    assert len(server.get("/songs", params={"group": songs[0]["group"]}).json()["songs"]) == 3
    for song in reversed(songs):
        assert server.post(f"/songs/{song['id']}/cancel").json()["status"] == "cancelled"
    server.error(server.post(f"/songs/{songs[0]['id']}/cancel"), 409)
    server.error(server.get(f"/songs/{songs[0]['id']}/audio"), 409)


def test_a_cancelled_song_breaks_off_and_leaves_nothing(server: Server) -> None:
    (song,) = server.ask(prompt="drums", options={"duration": 300})
    path = f"/v1/songs/{song['id']}/audio"
    with pytest.raises(Exception, match="(?i)peer closed|incomplete"):
        with server.client.stream("GET", path) as stream:
            for got, _ in enumerate(stream.iter_raw()):
                if not got:
                    server.post(f"/songs/{song['id']}/cancel")
    assert server.song(song["id"])["status"] == "cancelled"
    assert not list((server.folder / "songs").glob(f"*{song['id']}*"))
    (again,) = [server.post(f"/songs/{song['id']}/again").json()]
    assert again["status"] in ("queued", "running") and again["duration"] == 300
    assert server.client.delete(f"/v1/songs/{again['id']}").status_code == 204
    server.error(server.get(f"/songs/{again['id']}"), 404)


def test_a_song_deleted_while_it_is_listened_to_leaves_nothing(server: Server) -> None:
    (song,) = server.ask(prompt="piano", options={"duration": 12})
    server.finished(song["id"])  # and what it holds is only being found out
    assert server.client.delete(f"/v1/songs/{song['id']}").status_code == 204
    (later,) = server.ask(prompt="piano", options={"duration": 2})
    server.finished(later["id"])
    assert not list((server.folder / "songs").glob(f"*{song['id']}*"))


def test_the_same_click_twice_is_one_song(server: Server) -> None:
    body, headers = {"prompt": "piano", "options": {"duration": 2}}, {"idempotency-key": "a click"}
    first = server.post("/songs", body, headers=headers)
    second = server.post("/songs", body, headers=headers)
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["songs"][0]["id"] == second.json()["songs"][0]["id"]


def test_the_best_of_candidates(server: Server) -> None:
    (song,) = server.ask(prompt="piano", options={"duration": 3, "candidates": 2})
    done = server.finished(song["id"])
    assert done["status"] == "done" and len(done["chosen"]["scores"]) == 2
    assert len(server.get(f"/songs/{song['id']}/peaks").json()["peaks"]) == 60


@pytest.mark.parametrize("format", ["wav", "flac", "mp3", "ogg"])
def test_a_song_is_taken_home(server: Server, format: str) -> None:
    songs = server.get("/songs", params={"status": "done", "limit": 1}).json()["songs"]
    song = songs[0] if songs else server.finished(server.ask(prompt="piano")[0]["id"])
    named = server.client.patch(f"/v1/songs/{song['id']}", json={"title": "Ünder / water"})
    assert named.json()["title"] == "Ünder / water"
    settings = server.get(f"/songs/{song['id']}/sidecar").headers["content-disposition"]
    assert settings == "attachment; filename*=utf-8''%C3%9Cnder-water.json"
    if format == "mp3":  # which has no 8 kHz stereo here but by its own rates
        assert server.get(f"/songs/{song['id']}/file", params={"format": format}).status_code == 200
        return
    file = server.get(f"/songs/{song['id']}/file", params={"format": format})
    assert file.status_code == 200 and f".{format}" in file.headers["content-disposition"]
    audio = soundfile.SoundFile(io.BytesIO(file.content))
    assert audio.frames == pytest.approx(song["duration"] * audio.samplerate, rel=0.01)
    if format != "wav":
        assert audio.title == "Ünder / water"


def test_no_path_of_the_server_is_told(server: Server) -> None:
    (song,) = server.ask(prompt="piano", options={"duration": 2})
    server.finished(song["id"])
    again = server.ask(plan=server.song(song["id"])["plan"]["id"])[0]["id"]
    assert server.finished(again)["kept"]
    for path in ("sidecar", "plan", ""):
        assert str(server.folder) not in server.get(f"/songs/{again}/{path}".rstrip("/")).text
    sidecar = server.get(f"/songs/{again}/sidecar").json()
    assert sidecar["keep"] == f"song:{song['id']}/piano" and sidecar["model"] == "tiny"
    opened = server.post("/sidecars", sidecar).json()
    assert opened["model"] == "tiny" and opened["plan"]["prompt"] == "piano"
    assert opened["options"]["duration"] == 2 and opened["left_out"] == []


def test_songs_that_cannot_be(server: Server) -> None:
    plan = server.plan(duration=10)["id"]
    for body, words in [
        ({}, "nothing to make"),
        ({"prompt": " "}, "empty"),
        ({"plan": plan, "prompt": "x"}, "that of the plan"),
        ({"plan": plan, "options": {"duration": 9}}, "belongs to planning"),
        ({"prompt": "x", "seed": 1, "seeds": [2]}, "not both"),
        ({"prompt": "x", "seeds": []}, "seeds"),
        ({"prompt": "x", "options": {"steps": 0}}, "steps is 0"),
        ({"prompt": "x", "options": {"sampler": "best"}}, "sampler"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 1.5}, "seed"),
    ]:
        assert words in server.error(server.post("/songs", body), 422)
    for song in ("s_0000000000000000", "..%2f..%2fetc%2fpasswd", "s_x", "%00"):
        for path in ("", "/audio", "/file", "/sidecar", "/peaks", "/plan", "/events", "/stems/x"):
            server.error(server.get(f"/songs/{song}{path}"), 404)


def test_history_is_told_page_by_page(server: Server) -> None:
    newest = server.get("/songs", params={"limit": 2}).json()["songs"]
    older = server.get("/songs", params={"limit": 2, "before": newest[-1]["number"]}).json()
    assert [song["number"] for song in newest + older["songs"]] == sorted(
        (song["number"] for song in newest + older["songs"]), reverse=True
    )
    assert server.get("/songs", params={"since": "2999-01-01T00:00:00Z"}).json()["songs"] == []
    done = server.get("/songs", params={"status": "done"}).json()["songs"]
    assert {song["status"] for song in done} == {"done"}


def test_openai_shaped(server: Server) -> None:
    body = {"prompt": "piano", "duration": 2, "n": 2, "output_format": "flac", "user": "someone"}
    found = server.post("/audio/generations", body).json()
    assert found["model"] == "tiny" and len(found["data"]) == 2
    import base64

    audio, rate = soundfile.read(io.BytesIO(base64.b64decode(found["data"][1]["b64_json"])))
    assert len(audio) == 2 * rate and found["data"][1]["seed"] == 1
    body = {"prompt": "piano", "duration": 2, "response_format": "url"}
    (told,) = server.post("/audio/generations", body).json()["data"]
    assert server.client.get(told["url"]).status_code == 200
    server.error(server.post("/audio/generations", {"prompt": "", "n": 9}), 422)
    longer = server.post("/audio/generations", {"prompt": "piano", "duration": 601})
    assert "ask for 1 to 300 s" in longer.json()["error"]["message"]  # the model's own
    streamed = server.post("/audio/generations", {"prompt": "x", "stream": True})
    assert "POST /v1/songs" in server.error(streamed, 422)
    body = {"prompt": "x", "duration": 2, "n": 2, "seed": 2**63 - 1, "stream": False}
    found = server.post("/audio/generations", body).json()
    assert [each["seed"] for each in found["data"]] == [2**63 - 1, 0]
    listed = server.get("/models").json()
    assert listed["object"] == "list" and listed["data"][0]["id"] == listed["default"]
    with pytest.raises(httpx.ReadTimeout):  # who goes takes all that was asked for along
        server.post("/audio/generations", {"prompt": "piano", "duration": 300, "n": 3}, timeout=0.5)
    server.wait(lambda: not server.get("/songs").json()["queue"])
