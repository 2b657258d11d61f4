"""One reader of the catalogue for every watched user, any number of watchers. Knows nothing of HTTP.

A message is JSON text with whole jobs, made once and handed to all watchers of that user: a watcher
that comes back needs no replay. Jobs that another device submits are in it too.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.jobs.service import Jobs

_POLL = 0.3
_QUIET = 5.0
_OVERLAP = 30.0  # clocks of several machines may differ by that much


@dataclass(slots=True)
class _Feed:
    """What one user's watchers are told: a message per change, the jobs as last told."""

    watchers: int = 0
    version: int = 0
    jobs: dict[str, dict[str, Any]] | None = None
    messages: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=32))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, now: dict[str, dict[str, Any]]) -> None:
        before = self.jobs or {}
        fresh = [job for i, job in now.items() if _news(before.get(i)) != _news(job)]
        if fresh or self.jobs is None:
            self.version += 1
            self.messages.append((self.version, _message(fresh)))
            self.wake()
        self.jobs = now

    def since(self, seen: int) -> list[str]:
        """The messages after that version; the whole state for who is new or fell behind."""
        missed = [text for version, text in self.messages if version > seen]
        if seen and len(missed) == self.version - seen:
            return missed
        return [_message(list((self.jobs or {}).values()))]

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(slots=True)
class Hub:
    jobs: Jobs
    _feeds: dict[str, _Feed] = field(default_factory=dict)
    _reader: asyncio.Task[None] | None = None
    _closing: bool = False

    async def watch(self, user: str) -> AsyncIterator[str | None]:
        """All unfinished jobs at once, then those that change; None when there is no news."""
        feed = self._feeds.setdefault(user, _Feed())
        feed.watchers += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        reader, seen = self._reader, 0
        try:
            while not self._closing and not reader.done():
                changed = feed.changed
                if feed.version != seen:
                    told, seen = feed.since(seen), feed.version
                    for text in told:
                        yield text
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), _QUIET)
                except TimeoutError:
                    yield None
        finally:
            feed.watchers -= 1
            if feed.watchers == 0:
                self._feeds.pop(user, None)

    def close(self) -> None:
        """Wake and end every watcher."""
        self._closing = True
        for feed in self._feeds.values():
            feed.wake()

    async def _read(self) -> None:
        """Until nobody watches. When it breaks, its watchers end and come back to a new one."""
        since = time.time()
        try:
            while self._feeds and not self._closing:
                began = time.time()
                found = await asyncio.to_thread(
                    self.jobs.recent, list(self._feeds), since - _OVERLAP
                )
                since = began
                for user, feed in self._feeds.items():
                    feed.tell({job["id"]: job for job in found.get(user, ())})
                await asyncio.sleep(_POLL)
        finally:
            for feed in self._feeds.values():
                feed.wake()


def _news(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is worth a message: time that goes by is not."""
    return job and {**job, "eta_seconds": None}


def _message(jobs: list[dict[str, Any]]) -> str:
    return json.dumps({"jobs": jobs})
