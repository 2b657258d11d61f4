"""A job at one of its stages: what it works with, where its artifacts are, whether it is to go on.

Knows nothing of what a stage does, or of DBOS.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import was_cancelled
from pipeline.ingest import checkpoints
from pipeline.ingest.embed import Encoder
from pipeline.jobs.notify import Notifier
from pipeline.jobs.uploads import Admission
from pipeline.models.gpu import GPU_WAIT, Ask, Borrower, Spent
from pipeline.options import PartitionOptions
from pipeline.pdf.hi_res import Detector, Region
from pipeline.processes.pool import Pool, Pools
from settings import Settings
from storage.catalog.catalog import Catalog, JobRow
from storage.paths import Paths
from storage.stores import Stores

Json = dict[str, Any]
_CANCEL_LOOKS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the stages work with; the worker makes it once."""

    settings: Settings
    paths: Paths
    catalog: Catalog
    pool: Pools
    stores: Stores
    notifier: Notifier
    encoder: Callable[[str | None], Encoder]
    borrower: Borrower
    detector: Callable[[], Detector]
    admission: Admission


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's artifacts are."""

    tools: Tools
    spec: Json

    def grow(self, size: int = 0) -> None:
        """That many bytes come to what the job's owner has; Refused when there is no room."""
        self.tools.admission.grow(self.spec["user"], size)

    @property
    def options(self) -> PartitionOptions:
        settings = self.tools.settings
        return PartitionOptions.of(self.spec, settings.layout_model, settings.table_model)

    @property
    def elements(self) -> Path:
        spec = self.spec
        return self.tools.paths.elements(spec["user"], spec["sha256"], self.options.version())

    @property
    def pool(self) -> Pool:
        """Page processes that open the files of this job's user, and nobody else's."""
        mine = self.tools.pool.of(visitor="address" in self.spec)
        return mine.within(*self.tools.paths.for_pages(self.spec["user"]))

    @property
    def work(self) -> Path:
        return self.tools.paths.work(self.spec["user"], self.spec["job"])

    @property
    def password(self) -> Path:
        """Written at the submit, gone when the file was read or the attempt is over."""
        return self.work / "password"

    @property
    def chunks(self) -> Path:
        return self.work / f"chunks-{self.spec['attempt']}"

    @property
    def readable(self) -> Path:
        """The decrypted or repaired copy when there is one, else the original."""
        original = self.tools.paths.source(self.spec["user"], self.spec["sha256"])
        return self.copy if self.copy.exists() else original

    @property
    def copy(self) -> Path:
        return self.elements / checkpoints.COPY

    @property
    def ask(self) -> Ask:
        """How this job may borrow a GPU: one that waits for it waits an hour at most."""
        spec = self.spec
        policy = spec.get("gpu", "auto")
        until = 0.0
        if policy == "wait":
            until = (self.row.started_at or self.row.created_at) + GPU_WAIT

        def tell(message: str) -> None:
            if not self.cancelled()():
                self.tools.catalog.update_job(spec["job"], summary={"message": message})

        return Ask(user=spec["user"], job=spec["job"], policy=policy, until=until, tell=tell)

    def detector(self, spent: Spent) -> Callable[[], Detector]:
        """The layout models, borrowed or here; what was decided goes into `spent`."""
        return lambda: _BorrowingDetector(self, spent)

    @property
    def row(self) -> JobRow:
        return self.tools.catalog.job(self.spec["user"], self.spec["job"])

    @property
    def is_latest(self) -> bool:
        """No later attempt of the job was begun."""
        return bool(self.row.attempt == self.spec["attempt"])

    def raise_if_cancelled(self) -> None:
        """Cancelled when the job was cancelled, or runs again by now."""
        if self.cancelled()():
            raise was_cancelled()

    def cancelled(self) -> Callable[[], bool]:
        """Whether the job was cancelled, or runs again by now; looks at most twice a second."""
        looked, answer = 0.0, False

        def look() -> bool:
            nonlocal looked, answer
            now = time.monotonic()
            if now - looked > _CANCEL_LOOKS:
                looked, answer = now, self.row.gives_up(self.spec["attempt"])
            return answer

        return look


@dataclass(frozen=True, slots=True)
class _BorrowingDetector:
    place: Place
    spent: Spent

    def detect(self, pictures: Sequence[Path]) -> list[tuple[Region, ...]]:
        tools = self.place.tools
        models = (tools.settings.layout_model, tools.settings.table_model)
        return self.spent.add(
            tools.borrower.detect(self.place.ask, pictures, models, tools.detector)
        )
