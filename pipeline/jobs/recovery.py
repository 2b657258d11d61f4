"""What keeps jobs from being lost: one pass every few seconds in the worker, over rows and workflows.

* a job that is not finished and has no workflow is taken up again: after an upgrade, a broken
  workflow, a restored catalogue
* a workflow whose thread died here (a full disk) is resumed
* jobs whose records a damaged disk has lost are indexed again
* a worker on another machine that gave no sign of life is dead, and its workflows are resumed
* the queues are looked at often while there are jobs, and seldom while there are none
* what is old is deleted, and mails that an earlier version had still to send are sent

Each pass ends with this worker's own sign of life, so that a pass that hangs or dies shows in `/readyz`.
Knows nothing of stages.
"""

import contextlib
import datetime
import logging
import shutil
import threading
import time
from dataclasses import dataclass, field

from dbos import DBOS

from errors import QuireError, Unavailable
from pipeline.jobs import queues
from pipeline.jobs.queue import (
    APPLICATION_VERSION,
    NOTIFY_WORKFLOW,
    QUEUE_AGAIN,
    STAGE_WORKFLOW,
    TRANSFER_WORKFLOW,
    UNFINISHED,
    WORKFLOW,
    run_id,
)
from pipeline.jobs.service import Jobs
from storage import disk_reserve
from storage.catalog.catalog import ACTIVE, JobRow
from storage.live import journal
from storage.stores import Stores

log = logging.getLogger(__name__)
PASS = 2.5
DEAD_AFTER = 15.0
KEEP_WORKFLOWS = 7 * 86400.0
KEEP_JOBS = 90 * 86400.0
_TAKEN_UP_AT_MOST = 3
_ANEW = 1000  # beyond any turn: the names of an earlier run's children are taken
_TELL = {
    WORKFLOW,
    STAGE_WORKFLOW,
    NOTIFY_WORKFLOW,
    TRANSFER_WORKFLOW,
}  # they say in `here` that they run


@dataclass(slots=True)
class Upkeep:
    """`here` are the ids of the workflows that run in this process. A worker whose `role` is
    not `main` gives signs of life and no more."""

    jobs: Jobs
    executor: str
    here: set[str]
    role: str
    stores: Stores
    _suspects: set[str] = field(default_factory=set)
    _busy: bool | None = None
    _cleaned: float = 0.0
    _passed: float = field(default_factory=time.monotonic)
    _asks_at: float = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Until the worker stops. An error ends the worker, which is started again; as long as no
        pass succeeds, `/readyz` is red."""
        while not stopping.wait(PASS):
            try:
                self.once()
            except Unavailable as problem:  # of what the machine has too little: it passes
                log.warning("a pass was left out: %s", problem, extra={"code": problem.code})

    def once(self) -> None:
        if self.role == "main":
            disk_reserve.tend(self.jobs.paths)
            unfinished = self.jobs.catalog.jobs(None, ACTIVE, 10_000)
            self._look(busy=bool(unfinished))
            suspects = self._orphans(unfinished) | self._stuck()
            for name in suspects & self._suspects:  # seen twice: not in the middle of something
                self._revive(name)
            self._suspects = suspects
            self._index_again()
            self._hold_lease()
            if time.time() - self._cleaned > 3600:
                self._tell_again()
                self._clean()
                self._cleaned = time.time()
        self.jobs.catalog.workers.beat(self.executor, self.role)
        self._passed = time.monotonic()

    def silent(self) -> float:
        """Seconds since the last pass that succeeded."""
        return time.monotonic() - self._passed

    def _index_again(self) -> None:
        """Of whom a damaged disk has lost changes before they were saved: what their jobs have read is
        still there, and is indexed again."""
        paths = self.jobs.paths
        for user, since in journal.losses(paths).items():
            held = {(s.collection, s.sha256) for s in self.jobs.catalog.sources(user)}
            for row in self.jobs.catalog.jobs(user, (*ACTIVE, "succeeded", "partial"), 10_000):
                late = row.status in ACTIVE or (
                    (row.finished_at or 0) * 1e9 >= since and (row.collection, row.sha256) in held
                )
                if late and row.kind == "ingest" and row.sha256:
                    self.jobs.engine.stop(row.id)
                    self.jobs.again(row, "What a damaged disk had lost is indexed again.", {})
            if journal.lost_since(paths, user) == since:  # else more was noted meanwhile
                paths.lost(user).unlink(missing_ok=True)

    def _hold_lease(self) -> None:
        """Twice in a term the stores are asked who runs the jobs: a worker that came while they were
        away waits, and one that another container has overtaken ends, also when it saves nothing."""
        replication = self.stores.replication
        lease = replication.lease
        if lease is None or time.monotonic() < self._asks_at:
            return
        self._asks_at = time.monotonic() + lease.seconds / 2
        with contextlib.suppress(QuireError):
            if lease.taken:
                lease.lost = lease.lost or lease.overtaken(replication.primary)
            else:
                lease.lost = replication.take() is not None

    def _look(self, *, busy: bool) -> None:
        if busy != self._busy:
            queues.look(busy=busy)
            self._busy = busy

    def _orphans(self, rows: list[JobRow]) -> set[str]:
        """Unfinished jobs without a workflow that this version can run."""
        if not rows:
            return set()
        found = DBOS.list_workflows(
            name=[WORKFLOW, TRANSFER_WORKFLOW],
            status=list(UNFINISHED),
            app_version=APPLICATION_VERSION,
            load_input=False,
            load_output=False,
        )
        running = {one.workflow_id.split(".")[0] for one in found}
        return {f"job {r.user} {r.id}" for r in rows if run_id(r.id, r.attempt) not in running}

    def _stuck(self) -> set[str]:
        """Workflows that are said to run in this process and do not, or in one that is dead."""
        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        elsewhere = self.jobs.catalog.workers.alive(DEAD_AFTER) - {self.executor}
        return {
            f"run {w.workflow_id}"
            for w in found
            if w.executor_id not in elsewhere
            and (
                w.name in _TELL and w.workflow_id not in self.here or w.executor_id != self.executor
            )
        }

    def _revive(self, suspect: str) -> None:
        kind, name = suspect.split(" ", 1)
        log.warning("taken up again", extra={"job": name.split(" ")[-1]})
        if kind == "run":
            found = DBOS.get_workflow_status(name)
            if found is not None and found.status == "PENDING":
                DBOS.resume_workflow(name, queue_name=found.queue_name or QUEUE_AGAIN)
            return
        user, job = name.split(" ")
        row = self.jobs.catalog.job(user, job)
        if row.status in ACTIVE:
            self._again(row)

    def _again(self, row: JobRow) -> None:
        times = int(row.summary.get("taken_up", 0)) + 1
        if times > _TAKEN_UP_AT_MOST:
            self.jobs.give_up(row)
            return
        self.jobs.engine.stop(row.id)
        self.jobs.catalog.update_job(row.id, summary={"taken_up": times})
        self.jobs.again(row, "The job was taken up again.", row.summary.get("again", {}))

    def _tell_again(self) -> None:
        """Mails that a worker of an earlier version had still to send. Whoever has claimed a
        delivery keeps it, so that none goes out twice."""
        left = DBOS.list_workflows(name=NOTIFY_WORKFLOW, status=list(UNFINISHED), load_output=False)
        for one in left:
            if one.app_version == APPLICATION_VERSION or one.input is None:
                continue
            spec, result, tries = one.input["args"]
            self.jobs.engine.stop(spec["job"])
            told = {**spec, "turn": int(spec.get("turn", 0)) + _ANEW}
            name = f"{run_id(spec['job'], spec['attempt'], told['turn'])}/notify.{tries}"
            self.jobs.engine.start(spec, NOTIFY_WORKFLOW, QUEUE_AGAIN, name, told, result, tries)

    def _clean(self) -> None:
        """Workflows that nothing can need any more, and jobs that ended long ago. An unfinished job
        may still wait for what its batches said before a Space was asleep for weeks."""
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=KEEP_WORKFLOWS)
        old = DBOS.list_workflows(
            completed_before=before.isoformat(), limit=5000, load_input=False, load_output=False
        )
        unfinished = {row.id for row in self.jobs.catalog.jobs(None, ACTIVE, 10_000)}
        gone = [w.workflow_id for w in old if w.workflow_id.split("~")[0] not in unfinished]
        if gone:
            DBOS.delete_workflows(gone)
        for row in self.jobs.catalog.forget_jobs(time.time() - KEEP_JOBS):
            shutil.rmtree(self.jobs.paths.work(row.user, row.id), ignore_errors=True)
        self.jobs.catalog.workers.bury(86400.0)
        self.jobs.catalog.vacuum()
