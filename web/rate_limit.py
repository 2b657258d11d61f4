"""How often, how many at once, and from where: limits that callers share, bounded in memory.

A visitor is known by a cookie, of which one address may have any number; so visitors are limited
together with all others at their address (an IPv6 /64 counts as one). Knows nothing of what is asked.
"""

import asyncio
import contextlib
import ipaddress
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from errors import Refused, Unavailable


class Share(NamedTuple):
    """Who has a part of what there is: a person, or all visitors at one address."""

    key: str
    visitor: bool


def network(address: str) -> str:
    """What counts as one address: IPv4 as it is, also written in IPv6; the first half of IPv6."""
    try:
        found = ipaddress.ip_address(address.strip().strip("[]").split("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
        found = found.ipv4_mapped
    return str(found)


@dataclass(slots=True)
class Buckets:
    """Each key may ask `burst` times at once and then `rate` times a second."""

    rate: float
    burst: float
    size: int = 4096
    _left: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._left)

    def wait(self, key: str, now: float | None = None) -> float:
        """0 when it may go on, else the seconds after which it may."""
        now = time.monotonic() if now is None else now
        with self._lock:
            left, before = self._left.pop(key, (self.burst, now))
            left = min(self.burst, left + (now - before) * self.rate)
            allowed = left >= 1
            self._left[key] = (left - 1 if allowed else left, now)
            while len(self._left) > self.size:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate

    def give(self, key: str) -> None:
        """What was taken for that key did not cost anything."""
        with self._lock:
            if key in self._left:
                left, before = self._left[key]
                self._left[key] = (min(self.burst, left + 1), before)


def too_many(wait: float = 1.0) -> Refused:
    return Refused("too_many_requests", "Too many requests.", f"Wait {wait:.0f} s.", wait=wait)


@dataclass(slots=True)
class AtOnce:
    """Requests in progress: so many of each visitors' share, of all visitors together, of each person."""

    each: int
    visitors: int
    person: int
    _open: "Counter[Share]" = field(default_factory=Counter)
    _visitors: int = 0

    @contextmanager
    def one(self, share: Share) -> Iterator[None]:
        """In one thread only: that of the event loop."""
        full = share.visitor and self._visitors >= self.visitors
        if full or self._open[share] >= (self.each if share.visitor else self.person):
            raise too_many(5.0)
        self._open[share] += 1
        self._visitors += share.visitor
        try:
            yield
        finally:
            self._visitors -= share.visitor
            self._open[share] -= 1
            if not self._open[share]:
                del self._open[share]


@dataclass(slots=True)
class Turns:
    """Work in progress: so much of each visitors' share, of all visitors together, and of each person.
    What is more waits for its turn; what would wait behind `most` of its share, or behind `crowd`
    visitors, is refused."""

    each: int
    visitors: int
    person: int
    most: int
    crowd: int
    seconds: float = 60.0
    _turns: "weakref.WeakValueDictionary[Share, asyncio.Semaphore]" = field(
        default_factory=weakref.WeakValueDictionary
    )
    _waiting: "Counter[Share]" = field(default_factory=Counter)
    _all: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._all = asyncio.Semaphore(self.visitors)

    @asynccontextmanager
    async def turn(self, share: Share) -> AsyncIterator[None]:
        crowd = sum(n for one, n in self._waiting.items() if one.visitor) if share.visitor else 0
        if self._waiting[share] >= self.most or crowd >= self.crowd:
            raise too_many(5.0)
        size = self.each if share.visitor else self.person
        own = self._turns.setdefault(share, asyncio.Semaphore(size))
        self._waiting[share] += 1
        async with contextlib.AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self.seconds):
                    await held.enter_async_context(own)
                    if share.visitor:
                        await held.enter_async_context(self._all)
            except TimeoutError as problem:
                raise too_many(5.0) from problem
            finally:
                self._waiting[share] -= 1
                if not self._waiting[share]:
                    del self._waiting[share]
            yield


@dataclass(slots=True)
class Breaker:
    """Asks for something outside: so many at once, and none for a while after `failures` in a row."""

    at_once: int
    failures: int
    rest: float
    away: Callable[[], Unavailable]
    _asking: int = 0
    _failed: int = 0
    _until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Raises `away()` at once where there is no use in asking; an Unavailable within counts."""
        with self._lock:
            if self._asking >= self.at_once or time.monotonic() < self._until:
                raise self.away()
            if self._failed >= self.failures:  # one goes first
                self._until = time.monotonic() + self.rest
            self._asking += 1
        failed = False
        try:
            yield
        except Unavailable:
            failed = True
            raise
        finally:
            with self._lock:
                self._asking -= 1
                self._failed = self._failed + 1 if failed else 0
                broken = self._failed >= self.failures
                self._until = time.monotonic() + self.rest if broken else 0.0
