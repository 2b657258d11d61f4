"""The worker's interface, seen from the app process: named calls, JSON both ways, over a socket.

The socket is local and authenticated with a key file. A worker that is away is Unavailable, never
a hang. Knows neither Chroma nor models; the calls themselves are `library.py`'s.
"""

import contextlib
import hashlib
import json
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from errors import Unavailable, unpacked
from pipeline.jobs.queue import starting
from storage.paths import Paths

_TIMEOUT = 60.0


def address(paths: Paths) -> str:
    """An abstract socket name for this data directory: no file to go stale."""
    seen = hashlib.sha256(str(paths.root.resolve()).encode()).hexdigest()[:24]
    return f"\0quire-{seen}"


def key(paths: Paths) -> bytes:
    """The key both sides prove to each other, made once."""
    path = paths.run / "authkey"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f"authkey.{secrets.token_hex(4)}")
        made.touch(mode=0o600)
        made.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(made)
        made.unlink()
    return path.read_bytes()


@dataclass(slots=True)
class Link:
    """Any number of threads may call; connections are kept and reused."""

    paths: Paths
    _idle: "queue.LifoQueue[Connection]" = field(default_factory=queue.LifoQueue)

    def call(self, name: str, user: str, /, within: float | None = None, **arguments: Any) -> Any:
        """The worker's answer, or its error; a connection that a restart broke is made anew. An
        answer that takes longer than `within` seconds is not waited for."""
        body = json.dumps({"call": name, "user": user, "arguments": arguments}).encode()
        for last in (False, True):
            connection = self._take()
            try:
                connection.send_bytes(body)
                if not connection.poll(within or _TIMEOUT):
                    connection.close()
                    raise _away("The worker does not answer.")
                answer = json.loads(connection.recv_bytes())
            except (OSError, EOFError) as problem:
                connection.close()
                if last:
                    raise _away("The worker stopped.") from problem
                self._drain()
                continue
            self._idle.put(connection)
            return _unpacked(answer)
        raise AssertionError("unreachable")

    def _take(self) -> Connection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        try:
            return Client(address(self.paths), "AF_UNIX", authkey=key(self.paths))
        except (OSError, EOFError, AuthenticationError) as problem:
            raise _away(starting(self.paths)) from problem

    def _drain(self) -> None:
        while not self._idle.empty():
            with contextlib.suppress(queue.Empty):
                self._idle.get_nowait().close()


def _away(message: str) -> Unavailable:
    return Unavailable("worker_unavailable", message, "Try again in a few seconds.")


def _unpacked(answer: dict[str, Any]) -> Any:
    if "error" not in answer:
        return answer["ok"]
    raise unpacked(answer["error"])


def accept(listener: Listener, serve: Callable[[Connection], None]) -> None:
    """Until the process ends: each proven connection in a thread of its own."""
    while True:
        try:
            connection = listener.accept()
        except (AuthenticationError, ConnectionError, EOFError):
            continue
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def wait(paths: Paths, seconds: float) -> bool:
    """Whether the worker was ready within that time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if (paths.run / "ready").exists():
            return True
        time.sleep(0.1)
    return False
