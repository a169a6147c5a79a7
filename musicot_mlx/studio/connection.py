"""A connection of HTTP: each request on it has its time, and what has ended is let go of.

uvicorn ends a connection that is silent between two requests, and no other: one whose head comes a
letter a minute, or which never asks, would hold its place for good.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SLOWEST_HEAD = 20.0  # seconds until the head of a request must be there


class Patient(H11Protocol):
    """Ends a connection on which nothing is asked, so that slow ones can't take all places."""

    _ending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.cycle.response_complete:
            self._wait_no_more()

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()  # which may begin with what was asked meanwhile
        if self.cycle is answered:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()  # else it would be held, with all that it was sent, until then
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._wait_no_more()
        if not self.transport.is_closing():
            self._ending = self.loop.call_later(SLOWEST_HEAD, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
