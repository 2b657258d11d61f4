"""Servers of the tests on 127.0.0.1: an ASGI application in a thread, and a proxy that breaks what
passes through it by the rules of `tests.hub.faults`."""

import asyncio
import http.client
import socket
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.hub.faults import Fault, taken


@dataclass(frozen=True)
class Seen:
    """One request. `status` 0: no answer was given. `received` and `sent` are bytes of bodies."""

    method: str
    path: str
    status: int
    received: int
    sent: int


class Loopback:
    """A port from the start, so that an application can name its own address; then `start`."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def start(self, app: ASGIApp, **options: Any) -> None:
        async def reachable(scope: Scope, receive: Receive, send: Send) -> None:
            scope["hang_up"] = send.__self__.transport.abort  # type: ignore[attr-defined]
            await app(scope, receive, send)

        config = uvicorn.Config(reachable, log_level="critical", lifespan="off", **options)
        self._server = uvicorn.Server(config)
        serving = self._server.serve(sockets=[self._socket])
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)


class Proxy:
    """`with Proxy(url) as proxy: proxy.url`; requests go on byte for byte, signatures hold; the
    headers in `without` are left out."""

    def __init__(self, upstream: str) -> None:
        self.faults: list[Fault] = []
        self.without: frozenset[bytes] = frozenset()
        self.log: list[Seen] = []
        self._upstream = urlsplit(upstream)
        self._loopback = Loopback()
        self.url = f"http://127.0.0.1:{self._loopback.port}"

    def __enter__(self) -> "Proxy":
        self._loopback.start(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._loopback.stop()

    def received(self, since: int = 0) -> int:
        return sum(seen.received for seen in self.log[since:])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body, path = await request.body(), unquote(request.url.path)
        fault = taken(self.faults, request.method, path)
        answer = None
        if fault is None or fault.works_first:
            answer = await asyncio.to_thread(self._passed, request, body)
        if fault:
            answer = fault.broken(answer)
        assert answer is not None
        status = 0 if fault and fault.drop else answer.status_code
        self.log.append(Seen(request.method, path, status, len(body), len(answer.body)))
        await answer(scope, receive, send)

    def _passed(self, request: Request, body: bytes) -> Response:
        upstream = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port)
        query = request.scope["query_string"].decode()
        target = request.scope["raw_path"].decode() + (f"?{query}" if query else "")
        upstream.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.raw:
            if name not in {b"expect", b"connection", b"transfer-encoding"} | self.without:
                upstream.putheader(name.decode(), value)
        upstream.endheaders(body)
        found = upstream.getresponse()
        answer = Response(found.read(), found.status)
        dropped = {"connection", "transfer-encoding", "server", "date"}
        answer.raw_headers = [
            (name.lower().encode(), value.encode("latin-1"))
            for name, value in found.getheaders()
            if name.lower() not in dropped
        ]
        upstream.close()
        return answer
