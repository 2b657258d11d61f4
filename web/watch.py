"""One reader per watched job, any number of watchers. Snapshots, not deltas: a watcher that comes
back needs no replay. Knows nothing of HTTP.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from errors import QuireError
from pipeline.jobs import Jobs
from storage.catalog import FINISHED

_POLL = 0.3
_QUIET = 5.0


@dataclass(slots=True)
class _Reader:
    task: asyncio.Task[None] | None = None
    watchers: int = 0
    version: int = 0
    snapshot: dict[str, Any] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Hub:
    jobs: Jobs
    _readers: dict[tuple[str, str], _Reader] = field(default_factory=dict)
    _closing: bool = False

    async def watch(self, user: str, job_id: str) -> AsyncIterator[dict[str, Any] | None]:
        """The job each time it changes, until it is finished; None when there is no news."""
        key = (user, job_id)
        reader = self._readers.setdefault(key, _Reader())
        reader.watchers += 1
        if reader.task is None:
            reader.task = asyncio.create_task(self._read(key, reader))
        seen = 0
        try:
            while not self._closing:
                changed = reader.changed
                if reader.version != seen:
                    seen = reader.version
                    yield reader.snapshot
                    if reader.snapshot["status"] in FINISHED:
                        return
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), _QUIET)
                except TimeoutError:
                    yield None
        finally:
            reader.watchers -= 1
            if reader.watchers == 0:
                reader.task.cancel()
                self._readers.pop(key, None)

    async def many(self, user: str, ids: list[str]) -> AsyncIterator[dict[str, Any] | None]:
        """Several jobs on one stream; ends when all are finished."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=256)
        left = len(ids)

        async def pump(job_id: str) -> None:
            nonlocal left
            try:
                async for snapshot in self.watch(user, job_id):
                    await queue.put(snapshot)
            finally:
                left -= 1
                await queue.put(None)

        pumps = [asyncio.create_task(pump(job_id)) for job_id in ids]
        try:
            while left or not queue.empty():
                yield await queue.get()
        finally:
            for task in pumps:
                task.cancel()

    def close(self) -> None:
        """Wake and end every watcher."""
        self._closing = True
        for reader in self._readers.values():
            reader.changed.set()

    async def _read(self, key: tuple[str, str], reader: _Reader) -> None:
        before = ""
        while True:
            try:
                snapshot = await asyncio.to_thread(self.jobs.job, *key)
            except QuireError as problem:
                snapshot = {"id": key[1], "status": "failed", "error": problem.as_dict()}
            now = json.dumps(snapshot, sort_keys=True)
            if now != before:
                before, reader.snapshot = now, snapshot
                reader.version += 1
                reader.changed.set()
                reader.changed = asyncio.Event()
                if snapshot["status"] in FINISHED:
                    return
            await asyncio.sleep(_POLL)
