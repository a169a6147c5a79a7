"""What strangers send: refused early, in one sentence, and nothing is left behind."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import socket
import struct
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile

from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.files import Files
from musicot_mlx.studio.settings import Settings
from musicot_mlx.studio.store import Store
from musicot_mlx.studio.uploads import AT_ONCE, Uploads
from tests.support.studio import Server, serving


def _raw(server: Server, text: str) -> bytes:
    """What the server answers to these very bytes."""
    place = urlsplit(server.address)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode("latin-1"))
        return _all(connection)


def _all(connection: socket.socket) -> bytes:
    """What comes until the other end closes."""
    answer = b""
    while block := connection.recv(1 << 16):
        answer += block
    return answer


def _files(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if not path.name.startswith("studio.db")}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:80"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost@evil.example"}, 403),
        ({"host": "192.168.1.5"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:8760"}, 200),
        ({"host": "[::1]:8760"}, 200),
        ({}, 200),
    ],
)  # fmt: skip
def test_only_its_own_page_is_answered(
    server: Server, headers: dict[str, str], status: int
) -> None:
    found = server.get("/models", headers=headers)
    assert found.status_code == status
    if status == 403:
        server.error(found, 403)
    own = {"origin": server.address.rstrip("/")}
    assert server.get("/models", headers=own).status_code == 200


def test_two_hosts_are_none(server: Server) -> None:
    host = urlsplit(server.address).netloc
    two = f"GET /v1/models HTTP/1.1\nHost: {host}\nHost: evil.example\nConnection: close\n\n"
    assert b" 400 " in _raw(server, two).split(b"\r\n")[0]
    for lengths in ("Content-Length: 1\nContent-Length: 2", "Content-Length: +1",
                    "Transfer-Encoding: xchunked", "Content-Length : 1"):  # fmt: skip
        smuggled = f"POST /v1/plans HTTP/1.1\nHost: {host}\n{lengths}\nConnection: close\n\n{{}}"
        assert b" 400 " in _raw(server, smuggled).split(b"\r\n")[0], lengths
    both = "Content-Length: 4\nTransfer-Encoding: chunked\nConnection: close\n\n0\n\n"
    inner = f"GET /v1/models HTTP/1.1\nHost: {host}\n\n"
    answer = _raw(server, f"POST /v1/plans HTTP/1.1\nHost: {host}\n{both}{inner}")
    assert answer.count(b"HTTP/1.1 ") == 1 and b" 422 " in answer.split(b"\r\n")[0]
    none = "GET /v1/models HTTP/1.0\n\n"
    assert b" 403 " in _raw(server, none).split(b"\r\n")[0]


def test_every_answer_forbids_what_pages_elsewhere_would_do(server: Server) -> None:
    for path in ("/docs", "/openapi.json", "/v1/models", "/nothing", "/static/docs.js"):
        headers = server.client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers and "server" not in headers
    assert server.get("/models").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static//etc/passwd",
        "/static/..\\server.py",
        "/v1/uploads/..%2f..%2fstudio.db/audio",
        "/v1/songs/../../studio.db",
        "/v1/library/..%2f..%2fstudio.db/audio",
        "/v1/models/..%2f..%2fetc/vocabulary",
        "/../../etc/passwd",
        "/%00",
    ],
)
def test_paths_lead_nowhere(server: Server, path: str) -> None:
    host = urlsplit(server.address).netloc
    answer = _raw(server, f"GET {path} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"404", b"501"), answer
    assert b"root:" not in answer and b"SQLite" not in answer and b"import " not in answer


def test_bodies_are_json_and_small(server: Server) -> None:
    post = server.client.post
    server.error(post("/v1/plans", content=b"{"), 422)  # no content type, so no JSON
    json_type = {"content-type": "application/json"}
    server.error(post("/v1/plans", content=b"{", headers=json_type), 400)
    server.error(post("/v1/plans", content=b"[" * 100_000, headers=json_type), 400)
    server.error(post("/v1/plans", content=b'"text"', headers=json_type), 422)
    server.error(post("/v1/plans", content=b'{"prompt": "\xff"}', headers=json_type), 400)
    server.error(post("/v1/plans", content=b'{"prompt": "\\ud800"}', headers=json_type), 422)
    server.error(post("/v1/songs", content=b'{"options": {"bpm": NaN}}', headers=json_type), 422)
    server.error(post("/v1/songs", content=b'{"seed": 1e400}', headers=json_type), 422)
    for letters in ("x" * 4_000_000, ["x" * 10_001]):  # the model would be busy with it for minutes
        long = {
            "prompt": "x",
            "options": {"lyrics" if isinstance(letters, str) else "tags": letters},
        }
        assert "at most 10000 letters" in server.error(post("/v1/plans", json=long), 422)
    form = {"content-type": "application/x-www-form-urlencoded"}
    server.error(post("/v1/plans", content=b"prompt=x", headers=form), 422)
    zipped = {**json_type, "content-encoding": "gzip"}
    server.error(post("/v1/plans", content=b"\x1f\x8b", headers=zipped), 415)
    host = urlsplit(server.address).netloc
    head = f"POST /v1/plans HTTP/1.1\nHost: {host}\nContent-Type: application/json\n"
    assert b" 413 " in _raw(server, f"{head}Content-Length: {9 << 20}\n\n").split(b"\r\n")[0]
    assert b" 400 " in _raw(server, f"{head}Content-Length: x\n\n").split(b"\r\n")[0]

    def endless() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(200):
            yield b"x" * (1 << 16)

    try:
        server.error(post("/v1/plans", content=endless(), headers=json_type), 413)
    except httpx.TransportError:  # it is closed while there is more to send
        pass
    not_this = server.client.put("/v1/plans")
    server.error(not_this, 405)
    assert not_this.headers["allow"] == "GET, HEAD, POST"
    server.error(server.get("/nothing"), 404)


def test_a_token_lets_in(tiny_model: Path, tmp_path: Path) -> None:
    options = ["--host", "0.0.0.0", "--token", "open sesame", "--allow-host", "studio.lan"]
    with serving(tmp_path / "data", "--model", str(tiny_model), *options) as server:
        assert server.address.endswith("/?token=open%20sesame")
        place = urlsplit(server.address)
        client = server.client
        client.base_url = f"http://127.0.0.1:{place.port}"
        server.error(server.get("/models"), 401)
        server.error(server.get("/models", headers={"authorization": "Bearer no"}), 401)
        server.error(server.get("/models", headers={"cookie": b"musicot=n\xf6"}), 401)
        bearer = {"authorization": "Bearer open sesame"}
        assert server.get("/models", headers=bearer).status_code == 200
        for host, status in [("studio.lan", 200), ("192.168.7.7:80", 200), ("evil.com", 403)]:
            assert server.get("/models", headers={**bearer, "host": host}).status_code == status
        server.error(client.get("/", params={"token": "no"}), 401)
        entered = client.get("/", params={"token": "open sesame"})
        assert entered.status_code == 303 and "open sesame" not in entered.headers["location"]
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
        assert server.get("/models").status_code == 200  # the client keeps the cookie


# --- files ----------------------------------------------------------------------------------------


def _upload(server: Server, content: bytes, name: str = "a.wav") -> httpx.Response:
    return server.client.post("/v1/uploads", params={"name": name}, content=content)


def _wav(seconds: float, rate: int = 8000, channels: int = 1) -> bytes:
    tone = np.sin(np.arange(int(seconds * rate)) * 0.3)[:, None].repeat(channels, axis=1)
    target = io.BytesIO()
    soundfile.write(target, 0.3 * tone, rate, format="WAV")
    return target.getvalue()


def test_a_file_is_taken_and_used(server: Server) -> None:
    found = _upload(server, _wav(12), "../../etc/my beat.wav")
    assert found.status_code == 201, found.text
    upload = found.json()
    assert upload["name"] == "my beat.wav" and upload["duration"] == 12
    assert len(upload["peaks"]) == 240
    audio = server.get(f"/uploads/{upload['id']}/audio", headers={"range": "bytes=0-3"})
    assert audio.status_code == 206 and audio.content == b"fLaC"
    source = {"upload": upload["id"], "start": 2}
    plan = server.plan(duration=20)["id"]
    edited = server.edit(plan, "replace", segments=[1], source=source).json()["segments"][1]
    assert edited["label"] == "my beat.wav at 2 s"
    assert edited["origin"]["source"] == {"upload": upload["id"]}
    borrowed = server.plan(duration=10, reference=[{"upload": upload["id"]}])
    assert borrowed["segments"][0]["origin"]["name"] == "my beat.wav"
    heard = server.post("/plans", {"from_audio": {"upload": upload["id"]}})
    assert heard.json()["duration"] == 12
    assert str(server.folder) not in server.get(f"/plans/{heard.json()['id']}/file").text
    long = {"from_audio": {"upload": upload["id"]}, "options": {"duration": 40}}
    told = server.error(server.post("/plans", long), 422)
    assert told == "my beat.wav lasts 12 s, less than the 40 s asked for."
    late = {"upload": upload["id"], "start": 60}
    server.error(server.edit(plan, "replace", segments=[0], source=late), 422)
    assert server.client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    server.error(server.edit(plan, "replace", segments=[1], source=source), 404)


def _header_of_hours() -> bytes:
    """A FLAC of a few kilobytes that holds an hour and more of silence."""
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(40):
            file.write(np.zeros(8000 * 100, np.int16))
    return target.getvalue()


def _lying_wav() -> bytes:
    """A WAV whose header promises four gigabytes."""
    whole = bytearray(_wav(0.5))
    whole[4:8] = whole[40:44] = struct.pack("<I", 0xFFFFFFF0)
    return bytes(whole)


def _many_channels() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((1000, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(2000 * 1000))
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"", "a.wav"),
        (b"no audio at all", "a.wav"),
        (os.urandom(5000), "a.mp3"),
        (_wav(1)[:60], "a.wav"),
        (_header_of_hours(), "a.flac"),
        (b"PK\x03\x04" + bytes(5000), "a.zip"),
        (b"#EXTM3U\nhttp://127.0.0.1/\n", "a.m4a"),
        (b"#EXTM3U\n/etc/passwd\n", "a.mp4"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(200), "a.wav"),
        (_wav(0.05), "a.wav"),
    ],
    ids=["empty", "text", "noise", "cut", "hours", "zip", "list", "files", "header", "short"],
)
def test_what_is_no_audio_is_refused(server: Server, content: bytes, name: str) -> None:
    before = _files(server.folder)
    server.error(_upload(server, content, name), 422)
    assert _files(server.folder) == before


@pytest.mark.parametrize("content", [_lying_wav(), _many_channels()], ids=["lying", "channels"])
def test_strange_audio_is_read_or_refused(server: Server, content: bytes) -> None:
    found = _upload(server, content)
    if found.status_code != 201:
        server.error(found, 422)
    else:
        assert found.json()["channels"] <= 2 and found.json()["duration"] < 60


def test_a_file_that_is_too_large_is_refused_before_it_has_come(server: Server) -> None:
    """Two gigabytes are told of, and sent without telling: both end at three megabytes."""
    place, before = urlsplit(server.address), _files(server.folder)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.putrequest("POST", "/v1/uploads?name=a.wav")
    connection.putheader("Content-Length", str(2 << 30))
    connection.endheaders()
    connection.send(b"RIFF")
    answer = connection.getresponse()
    assert answer.status == 413 and "3 MB" in json.load(answer)["error"]["message"]
    connection.close()

    sent, block = 0, b"10000\r\n" + bytes(0x10000) + b"\r\n"
    head = "POST /v1/uploads?name=a.wav HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=30) as sender:
        sender.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            while sent < 2 << 30:
                sender.sendall(block)
                sent += 0x10000
        except OSError:
            pass
    assert sent < 64 << 20  # what the system holds between the two ends
    assert _files(server.folder) == before
    assert server.get("/models").status_code == 200


def test_an_answer_that_has_begun_outlives_no_endless_body(server: Server) -> None:
    """A body that comes with a GET is counted as well, and that it is too long is no fault."""
    place = urlsplit(server.address)
    head = b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    block = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=30) as sender:
        sender.sendall(head)
        with contextlib.suppress(OSError):
            for _ in range(64):
                sender.sendall(block)
            pytest.fail("64 MB were taken")
    assert server.get("/models").status_code == 200 and server.complaints() == ""


def test_a_file_that_breaks_off_leaves_nothing(server: Server) -> None:
    """Nor does it count as a fault of the server: nothing is said of it."""
    place, before = urlsplit(server.address), _files(server.folder)
    for path, content in [("/v1/uploads?name=a.wav", b"RIFF"), ("/v1/plans", b'{"prompt": ')]:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection((place.hostname, place.port), timeout=30) as sender:
            sender.sendall(f"{head}Content-Length: 99999\r\n\r\n".encode() + content)
            if path.startswith("/v1/uploads"):
                server.wait(lambda: _files(server.folder) != before)
    server.wait(lambda: _files(server.folder) == before)
    assert server.get("/models").status_code == 200
    assert server.complaints() == ""


def test_who_asks_nothing_or_slowly_takes_no_place(tiny_model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from musicot_mlx.cli import main; "
        "from musicot_mlx.studio import connection, security; "
        "connection.SLOWEST_HEAD = security.SLOWEST_BODY = 0.3; sys.exit(main(sys.argv[1:]))"
    )
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
    given = ["--model", str(tiny_model)]
    with serving(tmp_path / "data", *given, python=("-c", code)) as server:
        place = urlsplit(server.address)
        assert server.get("/models").status_code == 200
        for asked in (head[:40], head + b"\r\n" + head[:40]):  # the first request, or the second
            with socket.create_connection((place.hostname, place.port), timeout=10) as idle:
                idle.sendall(asked)
                answer = _all(idle)  # and then it is ended
                assert answer.count(b"HTTP/1.1 200") == asked.count(b"\r\n\r\n")
        with socket.create_connection((place.hostname, place.port), timeout=10) as idle:
            post = head.replace(b"GET /v1/models", b"POST /v1/plans")
            idle.sendall(post + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            assert b" 408 " in _all(idle).split(b"\r\n")[0]
        assert server.get("/models").status_code == 200  # on the connection that has asked before


def test_a_file_has_its_time_and_its_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = Files(tmp_path, store, lambda found: (tmp_path, found))
    files.clean()
    uploads = Uploads(Settings(tmp_path, decode_seconds=0.0), store, files)

    async def chunks() -> AsyncIterator[bytes]:
        yield _wav(1)

    with pytest.raises(Refused, match="took longer than 0 s to read"):
        asyncio.run(uploads.take(chunks(), "a.wav", None))
    assert not list(files.uploads.iterdir()) and not list(files.temporary.iterdir())

    async def crowd() -> None:
        come = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            await come.wait()
            yield b"no audio"

        waiting = [asyncio.create_task(uploads.take(slow(), "a", None)) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="try again") as refused:
            await uploads.take(chunks(), "a.wav", None)
        assert refused.value.status == 429
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(crowd())
    assert not list(files.temporary.iterdir())
    store.close()
