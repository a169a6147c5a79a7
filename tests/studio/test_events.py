"""The log of events: taken up again where it was left, and flat however many listen."""

import asyncio
import socket
import struct
from contextlib import aclosing
from urllib.parse import urlsplit

import pytest

from musicot_mlx.studio import events
from musicot_mlx.studio.events import Event, Events
from tests.support import studio as support
from tests.support.studio import Server


async def _take(log: Events, count: int, *given: str | None) -> list[Event]:
    found = []
    async with aclosing(log.follow(*given)) as stream:
        async for event in stream:
            found.append(event)
            if len(found) == count:
                return found
    return found


def test_a_listener_that_goes_is_no_fault(server: Server) -> None:
    """Its connection is reset while what it missed is sent; `serving` looks for complaints."""
    with server.client.stream("GET", "/v1/events") as answer:
        run = next(support.events(answer.iter_lines()))[0].partition("-")[0]
    for song in server.ask(prompt="piano", seeds=[1, 2, 3, 4], options={"duration": 10}):
        server.post(f"/songs/{song['id']}/cancel")
    place = urlsplit(server.address)
    request = f"GET /v1/events?last_event_id={run}-0 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(5):
        with socket.create_connection((place.hostname, place.port)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            listener.sendall(request.encode())
    assert server.get("/models").status_code == 200
    assert server.complaints() == ""


def test_events_are_taken_up_again() -> None:
    async def run() -> None:
        log = Events()
        first = asyncio.create_task(_take(log, 3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.publish("song", {"a": 1}, "s_1")
        await asyncio.to_thread(log.publish, "song", {"a": 2}, "s_2")
        reset, one, two = await asyncio.wait_for(first, 5)
        assert (reset.name, one.data, two.data) == ("reset", '{"a":1}', '{"a":2}')
        assert [e.data for e in await _take(log, 1, log.id_of(one))] == ['{"a":2}']
        assert (await _take(log, 1, log.id_of(reset), "s_2"))[0].data == '{"a":2}'
        assert (
            log.written(two) == f"id: {log.id_of(two)}\nevent: song\ndata: {two.data}\n\n".encode()
        )
        for unknown in ("", "x", "x-1", f"{log.id_of(two)}9", f"{log.id_of(two)}x"):
            assert (await _take(log, 1, unknown))[0].name == "reset"

    asyncio.run(run())


def test_who_was_away_too_long_looks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 4)
    log = Events()
    for number in range(3):
        log.publish("song", number)

    async def run() -> None:
        late = log.follow(log.id_of(Event(1, "", "")))
        assert (await anext(late)).data == "1"  # the second
        assert (await anext(late)).data == "2"
        for number in range(3, 12):
            log.publish("song", number)
        found = [await anext(late) for _ in range(5)]
        assert [event.name for event in found] == ["reset", *["song"] * 4]
        assert [event.data for event in found[1:]] == ["8", "9", "10", "11"]
        assert log._place(log.id_of(found[0])) is not None  # it may be taken up from there
        await late.aclose()
        assert not log._waiting

    asyncio.run(run())


def test_silence_is_told_and_the_end_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING", 0.01)

    async def run() -> None:
        log = Events()
        stream = log.follow()
        await anext(stream)
        assert await anext(stream) is None and log.written(None).startswith(b":")
        log.close()
        assert [event async for event in stream] == []

    asyncio.run(run())


def test_the_log_is_bounded_by_what_events_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LARGEST", 1000)
    log = Events()
    for number in range(20):
        log.publish("song", "x" * 300, "s_1")
        assert sum(len(each.data) for each in log._log) <= 1000, number
    late = log.id_of(Event(1, "", ""))
    log.publish("song", "x" * 5000, "s_1")  # one alone is told whatever it holds
    assert [len(each.data) for each in log._log] == [5002]
    assert asyncio.run(_take(log, 1, late))[0].name == "reset"
