"""A transfer: what it works with, its row's events and status, whether it is to go on. Knows nothing of what
is moved, or of the engine.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import was_cancelled
from pipeline.ingest.embed import Encoder
from pipeline.jobs.uploads import Admission, Promise
from pipeline.models.gpu import Borrower
from pipeline.processes.pool import Pools
from pipeline.transfers.push_tokens import Lent
from settings import Settings
from storage.catalog.catalog import Catalog, JobRow
from storage.paths import Paths
from storage.stores import Stores

Json = dict[str, Any]
_NOTE_EVERY = 2000  # records


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What all work with; the worker makes it once. `reader` reads archives of unknown origin."""

    paths: Paths
    catalog: Catalog
    stores: Stores
    settings: Settings
    encoder: Callable[[str | None], Encoder]
    borrower: Borrower
    reader: Pools
    lent: Lent
    admission: Admission


@dataclass(frozen=True, slots=True)
class Job:
    """One transfer: its row's events and status."""

    tools: Tools
    spec: Json

    @property
    def user(self) -> str:
        return str(self.spec["user"])

    @property
    def id(self) -> str:
        return str(self.spec["job"])

    @property
    def kind(self) -> str:
        return str(self.spec["kind"])

    @property
    def row(self) -> JobRow:
        return self.tools.catalog.job(self.user, self.id)

    @property
    def work(self) -> Path:
        return self.tools.paths.work(self.user, self.id)

    def promised(self) -> AbstractContextManager[Promise]:
        """Room for what the job writes beside what its owner has."""
        return self.tools.admission.promised(self.user, self.work)

    def note(self, message: str, done: int = 0, total: int = 0, **changes: Any) -> None:
        """A numbered event, and the same in the job's row."""
        catalog, job, stage = self.tools.catalog, self.id, self.kind
        stages = {stage: {"done": done, "total": total}} if total else {}
        body = {"stage": stage, "done": done, "total": total, "message": message}
        body |= {k: v for k, v in changes.items() if k in {"status", "error"}}
        summary = {"message": message, **({"stages": stages} if stages else {})}
        summary |= changes.pop("summary", {})
        summary |= {"error": changes.pop("error")} if "error" in changes else {}
        catalog.append_event(job, {**body, "time": time.time()}, summary=summary, **changes)

    def cancelled(self) -> bool:
        """It was cancelled, or runs again by now."""
        return self.row.gives_up(self.spec["attempt"])

    def raise_if_cancelled(self) -> None:
        if self.cancelled():
            raise was_cancelled()

    def report(self, what: str) -> Callable[[int, int], None]:
        """Counts what was moved: an event now and then, an end when it was cancelled."""
        told = 0

        def count(done: int, total: int) -> None:
            nonlocal told
            if done - told >= _NOTE_EVERY or done == total:
                self.raise_if_cancelled()
                told = done
                self.note(f"{done:,} of {total:,} {what}.", done, total)

        return count
