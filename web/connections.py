"""HTTP connections with limits that the server's own protocol lacks: how large a request's head may be,
how long it may take, and how many may be in the middle of one. Knows nothing of what is asked.
"""

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10
MAX_HEADERS = 200
SECONDS = 15.0  # from the first byte of a head, or the connection, to the head's end
MOST_WAITING = 256


class Connection(HttpToolsProtocol):
    """Closed, without a word, when its next head is too large or too slow, or is one of too many."""

    _late: asyncio.TimerHandle | None = None  # while a head is to come
    _head = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._late is None:
            self._expect()
        if self._late is not None:
            self._head += len(data)
        super().data_received(data)
        if self._late is not None and self._head > MAX_HEAD:
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._expect_no_more()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def _expect(self) -> None:
        self._head = 0
        self._late = self.loop.call_later(SECONDS, self.transport.abort)
        if len(self.connections) > MOST_WAITING:
            waiting = [(c._late.when(), c) for c in self._alike() if c._late is not None]
            if len(waiting) > MOST_WAITING:
                min(waiting, key=lambda one: one[0])[1].transport.abort()

    def _alike(self) -> "list[Connection]":
        return [c for c in self.connections if isinstance(c, Connection)]

    def _expect_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def install() -> None:
    """For every server that is made from now on."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
