"""HTTP connections with limits that the server's own protocol lacks: how large a request's head may be,
how long it may take, and how many may be in the middle of one. Knows nothing of what is asked.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 << 10
MAX_HEADERS = 200
SECONDS = 15.0  # from the first byte of a head, or the connection, to the head's end
MOST_WAITING = 256


class Connection(HttpToolsProtocol):
    """Closed, without a word, when its next head is too large or too slow, or is one of too many."""

    _late: asyncio.TimerHandle | None = None  # while a head is to come
    _in_body = False
    _size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late is None and not self._in_body:
            self._expect()
        self._size += 0 if self._in_body else len(data)
        super().data_received(data)
        if not self._in_body and self._late is not None and self._size > MAX_HEAD:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        self._expect_no_more()
        self._in_body = True
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            self.transport.abort()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._expect_no_more()
        if self.cycle is not None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:  # nobody reads the rest
            self._expect()

    def _expect(self) -> None:
        self._size = 0
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
