"""Wrappers of any Remote: `Retrying` tries again, `Proved` checks before the first use.

The same promises as what they wrap; not stores themselves.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from errors import Unavailable
from storage.remotes.remote import SMALL, Change, Remote

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Retrying:
    """Tries again after `waits` seconds, or after what the remote asked for when that is longer, but
    begins no try that `within` seconds of the call are over; Conflict and Refused pass through."""

    remote: Remote
    waits: tuple[float, ...] = (1.0, 4.0)
    within: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    @property
    def name(self) -> str:
        return self.remote.name

    def check(self) -> None:
        self._try(self.remote.check)

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        return self._try(lambda: self.remote.read(name, at_most))

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        self._try(lambda: self.remote.fetch(name, to, at_most))

    def names(self, prefix: str) -> Iterator[str]:
        return iter(self._try(lambda: list(self.remote.names(prefix))))

    def commit(self, change: Change) -> None:
        self._try(lambda: self.remote.commit(change))

    def history(self) -> int:
        return self._try(self.remote.history)

    def forget(self, names: frozenset[str]) -> float:
        return self._try(lambda: self.remote.forget(names))

    def _try(self, call: Callable[[], Answer]) -> Answer:
        end = self.clock() + self.within
        for wait in self.waits:
            try:
                return call()
            except Unavailable as problem:
                wait = max(wait, problem.retry_after or 0)
                if self.clock() + wait >= end:
                    raise
                self.sleep(wait)
        return call()


@dataclass(slots=True)
class Proved:
    """Runs `check` before anything else, again until it passes: a remote that is away or unfit at
    start is told at every use instead of stopping the worker."""

    remote: Remote
    _passed: bool = False

    @property
    def name(self) -> str:
        return self.remote.name

    def check(self) -> None:
        if not self._passed:
            self.remote.check()
            self._passed = True

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        self.check()
        return self.remote.read(name, at_most)

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        self.check()
        self.remote.fetch(name, to, at_most)

    def names(self, prefix: str) -> Iterator[str]:
        self.check()
        return self.remote.names(prefix)

    def commit(self, change: Change) -> None:
        self.check()
        self.remote.commit(change)

    def history(self) -> int:
        self.check()
        return self.remote.history()

    def forget(self, names: frozenset[str]) -> float:
        self.check()
        return self.remote.forget(names)
