"""A connection between two processes of this machine: whole messages, each side proven, never a wait
without an end.

Both sides prove that they hold the same key before anything else is read; a peer that is frozen, half
started or no peer at all costs the other one seconds. Knows nothing of what the messages say.
"""

import errno
import hmac
import logging
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

log = logging.getLogger(__name__)
GREETING = 5.0  # seconds until both sides are proven
_MESSAGE = 30.0  # seconds to send one, or for the rest of one that has begun
_LONGEST = 256 << 20  # bytes
_PROOF = 32


class Channel:
    """One end. Raises OSError (a timeout too) and EOFError; after either it is of no more use."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def __enter__(self) -> "Channel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._end.close()

    def send(self, body: bytes, within: float = _MESSAGE) -> None:
        self._end.settimeout(within)
        self._end.sendall(struct.pack("!I", len(body)) + body)

    def receive(self, within: float | None = None, most: int = _LONGEST) -> bytes:
        """The next message, whole within so many seconds; None: it may begin whenever it likes."""
        until = time.monotonic() + within if within is not None else None
        head = self._some(4, until)
        until = until or time.monotonic() + _MESSAGE
        head += self._exactly(4 - len(head), until)
        (length,) = struct.unpack("!I", head)
        if length > most:
            raise OSError("the message is too long")
        return self._exactly(length, until)

    def quiet(self) -> bool:
        """Nothing has come, not even its end: an idle channel that is still good."""
        poll = select.poll()  # select.select knows no descriptor above 1023
        poll.register(self._end, select.POLLIN)
        return not poll.poll(0)

    def _exactly(self, count: int, until: float) -> bytes:
        parts: list[bytes] = []
        while count:
            parts.append(self._some(count, until))
            count -= len(parts[-1])
        return b"".join(parts)

    def _some(self, most: int, until: float | None) -> bytes:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("the message did not end")
        self._end.settimeout(left)
        found = self._end.recv(min(most, 1 << 20))
        if not found:
            raise EOFError
        return found


def dial(address: str, key: bytes, within: float = GREETING) -> Channel:
    """A proven channel to whoever listens there; OSError or EOFError when nobody does in that time."""
    end = socket.socket(socket.AF_UNIX)
    channel = Channel(end)
    try:
        _connect(end, address, time.monotonic() + within)
        ours = secrets.token_bytes(_PROOF)
        channel.send(ours, within)
        theirs = channel.receive(within, 2 * _PROOF)
        _prove(key, b"listens", ours, theirs[:_PROOF], theirs[_PROOF:])
        channel.send(_proof(key, b"dials", ours, theirs[:_PROOF]), within)
        channel.receive(within, 0)  # taken
    except (OSError, EOFError):
        channel.close()
        raise
    return channel


def _connect(end: socket.socket, address: str, until: float) -> None:
    end.setblocking(False)
    while True:
        try:
            end.connect(address)
            return
        except BlockingIOError as problem:  # as many as it lets wait are waiting
            if time.monotonic() > until:
                raise TimeoutError("nobody takes the connection") from problem
            time.sleep(0.02)


def listen(address: str, backlog: int = 64) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(backlog)
    return listener


def accept(listener: socket.socket, key: bytes, serve: Callable[[Channel], None]) -> None:
    """Until the listener is shut down: each channel in a thread of its own, served once it is proven."""

    def answer(end: socket.socket) -> None:
        with Channel(end) as channel:
            try:
                _greet(channel, key)
            except (OSError, EOFError):
                return
            serve(channel)

    while True:
        try:
            end, _ = listener.accept()
        except OSError as problem:
            if problem.errno in {errno.EINVAL, errno.EBADF}:
                return
            log.warning("a connection cannot be taken: %s", problem)  # no descriptor is left
            time.sleep(0.1)
            continue
        try:
            threading.Thread(target=answer, args=(end,), daemon=True).start()
        except RuntimeError as problem:  # no thread is left
            log.warning("a connection cannot be served: %s", problem)
            end.close()


def _greet(channel: Channel, key: bytes) -> None:
    theirs = channel.receive(GREETING, _PROOF)
    ours = secrets.token_bytes(_PROOF)
    channel.send(ours + _proof(key, b"listens", theirs, ours), GREETING)
    _prove(key, b"dials", theirs, ours, channel.receive(GREETING, _PROOF))
    channel.send(b"", GREETING)


def _proof(key: bytes, role: bytes, *said: bytes) -> bytes:
    return hmac.digest(key, role + b"".join(said), "sha256")


def _prove(key: bytes, role: bytes, dialled: bytes, listened: bytes, proof: bytes) -> None:
    whole = len(dialled) == len(listened) == _PROOF
    if not whole or not hmac.compare_digest(_proof(key, role, dialled, listened), proof):
        raise PermissionError("the other side does not hold the key")
