"""What happens, told to whoever listens: server-sent events that can be taken up again.

Events stand in one log of fixed length, and each listener has only a place in it, so however many
listen, and however slowly, memory stays flat. Who was away too long is told to look anew (reset).
"""

import asyncio
import itertools
import json
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

KEPT = 4096  # events; ten a second at most for each song in the making
LARGEST = 16 << 20  # letters of all that is kept: a song that was asked for at length is an event
PING = 15.0  # seconds of silence after which a line is sent that keeps the connection


@dataclass(frozen=True)
class Event:
    """One event: its place in the log, its name, what it tells as JSON, and the song it is of."""

    number: int
    name: str
    data: str
    song: str | None = None


class Events:
    """The log of one run of the server. `publish` may be called in any thread."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)  # an id of an earlier run is known by it
        self._log: deque[Event] = deque()
        self._last = self._size = 0
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self.closed = False

    def publish(self, name: str, data: Any, song: str | None = None) -> None:
        """Tell what happened to all who listen."""
        written = self.text(data)
        with self._lock:
            self._last += 1
            self._log.append(Event(self._last, name, written, song))
            self._size += len(written)
            while len(self._log) > KEPT or (self._size > LARGEST and len(self._log) > 1):
                self._size -= len(self._log.popleft().data)
        self._wake()

    def text(self, data: Any) -> str:
        """What an event tells, as it is sent."""
        return json.dumps(data, separators=(",", ":"))

    def close(self) -> None:
        """End all listening: the server stops."""
        self.closed = True
        self._wake()

    async def follow(
        self, after: str | None = None, song: str | None = None
    ) -> AsyncIterator[Event | None]:
        """Events from now on, or from the one with the id `after` on; of one song, or all. None is
        a silence of PING seconds. A "reset" is an event that says that some are missing.
        """
        awake, loop = asyncio.Event(), asyncio.get_running_loop()
        place = self._place(after)
        if place is None:
            place = self._last
            yield Event(place, "reset", "{}")
        self._waiting[awake] = loop
        try:
            while not self.closed:
                awake.clear()
                new, missed = self._since(place)
                if missed:
                    yield Event(new[0].number - 1, "reset", "{}")
                for event in new:
                    place = event.number
                    if song in (None, event.song):
                        yield event
                if not new:
                    try:
                        await asyncio.wait_for(awake.wait(), PING)
                    except TimeoutError:
                        yield None
        finally:
            self._waiting.pop(awake, None)

    def more(self, event: Event | None, song: str) -> bool:
        """Whether something has happened to a song since an event."""
        return event is not None and any(e.song == song for e in self._since(event.number)[0])

    def id_of(self, event: Event) -> str:
        """What a listener names to go on after an event."""
        return f"{self._run}-{event.number}"

    def written(self, event: Event | None) -> bytes:
        """An event as it is sent."""
        if event is None:
            return b": ping\n\n"
        return f"id: {self.id_of(event)}\nevent: {event.name}\ndata: {event.data}\n\n".encode()

    def _place(self, after: str | None) -> int | None:
        """The number of the event with an id; None where it is not known."""
        run, _, number = (after or "").partition("-")
        if run != self._run or not number.isdecimal() or len(number) > 18:
            return None
        first = self._log[0].number if self._log else self._last + 1
        return int(number) if first - 1 <= int(number) <= self._last else None

    def _since(self, place: int) -> tuple[list[Event], bool]:
        """The events after a place, and whether some between were dropped."""
        with self._lock:
            if place >= self._last:
                return [], False
            first = self._log[0].number
            new = list(itertools.islice(self._log, max(0, place + 1 - first), None))
        return new, first > place + 1

    def _wake(self) -> None:
        for awake, loop in list(self._waiting.items()):
            with suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(awake.set)
