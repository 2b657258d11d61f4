"""The worker's interface, seen from the app process: named calls, JSON both ways, over a channel.

It is local and proven with a key file. A worker that is away, frozen or busy is Unavailable
within a time, never a hang. Knows neither Chroma nor models; the calls themselves are `handlers.py`'s.
"""

import contextlib
import hashlib
import json
import queue
import threading
from dataclasses import dataclass, field
from typing import Any

from errors import Unavailable, unpacked
from pipeline.jobs.queue import starting
from pipeline.processes import channel
from pipeline.processes.channel import Channel
from settings import made_once
from storage.paths import Paths

PING = b"ping"
_TIMEOUT = 60.0


def address(paths: Paths) -> str:
    """An abstract socket name for this data directory: no file to go stale."""
    seen = hashlib.sha256(str(paths.root.resolve()).encode()).hexdigest()[:24]
    return f"\0quire-{seen}"


def key(paths: Paths) -> bytes:
    """The key both sides prove to each other, made once."""
    return made_once(paths.run / "authkey")


@dataclass(slots=True)
class Link:
    """Any number of threads may call, `at_once` of them; the next ones wait `turn` seconds. Connections
    are kept and reused."""

    paths: Paths
    at_once: int = 32
    turn: float = 3.0
    greeting: float = channel.GREETING
    _idle: "queue.LifoQueue[Channel]" = field(default_factory=queue.LifoQueue)
    _places: threading.BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        self._places = threading.BoundedSemaphore(self.at_once)

    def call(self, name: str, user: str, /, within: float | None = None, **arguments: Any) -> Any:
        """The worker's answer, or its error, within so many seconds. It is asked once: what broke in
        the middle may have been done, and is not done again unasked."""
        body = json.dumps({"call": name, "user": user, "arguments": arguments}).encode()
        if not self._places.acquire(timeout=self.turn):
            raise Unavailable(
                "worker_busy",
                "Too much is asked of the worker at once.",
                "Try again shortly.",
                self.turn,
            )
        try:
            return _unpacked(json.loads(self._answer(body, within or _TIMEOUT)))
        finally:
            self._places.release()

    def ping(self, within: float) -> dict[str, float]:
        """How the worker is, whatever else it is asked: how long its upkeep has been silent."""
        return dict(_unpacked(json.loads(self._answer(PING, within))))

    def _answer(self, body: bytes, within: float) -> bytes:
        connection = self._take(within)
        try:
            connection.send(body)
            answer = connection.receive(within)
        except TimeoutError as problem:
            connection.close()
            raise _away("The worker does not answer.") from problem
        except (OSError, EOFError) as problem:
            connection.close()
            raise Unavailable(
                "worker_unavailable",
                "The worker stopped in the middle of it.",
                "See whether it was done, and try again in a few seconds.",
            ) from problem
        self._idle.put(connection)
        return answer

    def _take(self, within: float) -> Channel:
        """An idle connection that is still good, or a new one; those that a restart broke go."""
        with contextlib.suppress(queue.Empty):
            while True:
                idle = self._idle.get_nowait()
                if idle.quiet():
                    return idle
                idle.close()
        try:
            return channel.dial(address(self.paths), key(self.paths), min(within, self.greeting))
        except TimeoutError as problem:
            raise _away("The worker does not answer.") from problem
        except (OSError, EOFError) as problem:
            raise _away(starting(self.paths)) from problem


def _away(message: str) -> Unavailable:
    return Unavailable("worker_unavailable", message, "Try again in a few seconds.")


def _unpacked(answer: dict[str, Any]) -> Any:
    if "error" not in answer:
        return answer["ok"]
    raise unpacked(answer["error"])
