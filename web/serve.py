"""The page's server: uvicorn on a socket that listens already, waited for as long as it takes.

Gradio's own server must be up within five seconds; on a busy machine it is given up and goes on by itself,
half alive. `Blocks.launch` is still what makes the app (ZeroGPU packs its models there); here it gets another
`start_server`. A start is bounded by its own looks at it, so that a process which is frozen meanwhile goes on.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from gradio import http_server

from errors import Unavailable
from web.connections import Connection

log = logging.getLogger(__name__)
START = 120  # seconds, from the server's start until the page answers
THREADS = 128  # of which 32 may wait for the worker at once, see `Link`
_CLOSE = 5.0


@dataclass(slots=True)
class Server:
    """uvicorn in a thread, on a socket that listens already. `close` and `config` are Gradio's words."""

    port: socket.socket
    local_proxy: bool = True  # its word is taken on where a request comes from; none is on a Space
    server: uvicorn.Server | None = None
    loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread = field(init=False)

    @property
    def config(self) -> Any:
        return self.server and self.server.config

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(
        self, app: Any, server_name: str | None = None, **_: Any
    ) -> tuple[str, int, str, "Server"]:
        """As `gradio.http_server.start_server`: name, port, URL and server, once it has started."""
        host, port = self.port.getsockname()[:2]
        self.server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=Connection,
                log_level="warning",
                proxy_headers=self.local_proxy,
            )
        )
        self._thread = threading.Thread(target=self.server.run, args=([self.port],), daemon=True)
        self._thread.start()
        while not self.server.started:
            self._thread.join(0.02)
            if not self._thread.is_alive():
                raise Unavailable(
                    "start_failed", "The page's server ended while it started.", "See the log."
                )
        named = "localhost" if host in {"0.0.0.0", "::"} else f"[{host}]" if ":" in host else host
        return server_name or host, port, f"http://{named}:{port}/", self

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Of the app that is served: threads for whoever has a turn, also while the worker holds some."""
        current_default_thread_limiter().total_tokens = THREADS
        self.loop = asyncio.get_running_loop()
        yield

    def close(self) -> None:
        if self.server is not None:
            self.server.should_exit = True
            self._thread.join(_CLOSE)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Within it, `launch` starts this server; a `launch` that did not is an error."""
        theirs = http_server.start_server
        http_server.start_server = cast(Any, self.start)
        try:
            with _bounded(START):
                yield
        finally:
            http_server.start_server = theirs
        if self.server is None:
            raise Unavailable("start_failed", "Gradio has started another server.", "Pin Gradio.")


@contextmanager
def _bounded(looks: int) -> Iterator[None]:
    """This process ends with a reason when what is done within has not come to its end by then: nobody
    can break it off."""
    done = threading.Event()

    def watch() -> None:
        for _ in range(looks):
            if done.wait(1.0):
                return
        log.critical("The page did not start within %d seconds.", looks)
        logging.shutdown()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
