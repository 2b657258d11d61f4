"""The engine seam: submit, watch, status, cancel, retry, list. Nothing above it knows DBOS.

Both processes hold one. A job is a row of the catalogue, its history a numbered list of events, its
execution a workflow in the worker process. Knows nothing of PDFs beyond the cheap upload checks.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from errors import InputError, QuireError, Refused, Unavailable
from pipeline.ingest.chunk import ChunkOptions
from pipeline.jobs import uploads
from pipeline.jobs.notify import sealed
from pipeline.jobs.progress import Standing, came
from pipeline.jobs.queue import (
    NO_BATCH,
    QUEUE_AGAIN,
    QUEUE_INDEX,
    QUEUE_NEW,
    QUEUE_SMALL,
    STAGE_WORKFLOW,
    TRANSFER_WORKFLOW,
    WORKFLOW,
    Engine,
    run_id,
    turn,
)
from pipeline.jobs.uploads import Admission, Promise, write_private
from pipeline.models import gpu as borrow
from pipeline.options import PartitionOptions
from pipeline.pdf.probe import check_upload, digest
from settings import Settings
from storage.catalog.catalog import ACTIVE, FINISHED, STATUSES, Catalog, JobRow
from storage.generations import base
from storage.names import file_name, number
from storage.paths import Paths
from storage.scarce import scarce

log = logging.getLogger(__name__)
EXPORTS = ("parquet", "chroma", "json", "markdown")
_POLL = 0.4
_KEEP_ALIVE = 15.0
LISTED = 1000  # jobs of one user that are told at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One file of a submit; `path` is the upload and is moved into the user's sources."""

    path: Path
    filename: str
    collection: str = "default"
    partition: PartitionOptions = field(default_factory=PartitionOptions)
    chunk: ChunkOptions = field(default_factory=ChunkOptions)
    gpu: str = "auto"
    notify: str | None = None
    password: str | None = None


@dataclass(slots=True)
class Jobs:
    """All jobs of all users; every public method takes the caller's user key first."""

    settings: Settings
    paths: Paths
    catalog: Catalog
    engine: Engine = field(init=False)
    _admission: Admission = field(init=False)
    _standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.settings, self.paths, self.catalog.patience)
        self._admission = Admission(self.settings, self.paths, self.catalog)
        self._standing = Standing(
            catalog=self.catalog, engine=self.engine, most=self.settings.max_jobs
        )

    def submit(self, user: str, request: Request, *, address: str | None = None) -> dict[str, Any]:
        """Check, store, enqueue: a job at once. `address` is the part that a visitor has of what
        there is for visitors. A file that is refused is a failed job with its
        reason; the same file with the same options is the job there was, marked `duplicate`."""
        request = replace(
            request,
            filename=file_name(request.filename),
            chunk=request.chunk.checked(),
        )
        collection = self.catalog.collection_for(user, request.collection)
        try:
            request.partition.checked()
            borrow.checked(request.gpu)
            check_upload(request.path, max_mb=self.settings.max_file_mb)
            self.engine.connected()
            self._admission.admit(user, request.path)
        except QuireError as problem:
            if not problem.permanent:
                raise
            return self._refused(user, collection.id, request, problem)
        sha256, size = digest(request.path)
        spec = {
            "user": user,
            "collection": collection.id,
            "sha256": sha256,
            "bytes": size,
            "filename": request.filename,
            "strategy": request.partition.strategy,
            "languages": list(request.partition.languages),
            "chunk": asdict(request.chunk),
            "gpu": request.gpu,
            "locked": request.password is not None,
            "notify": sealed(self.settings.secret, request.notify) if request.notify else None,
            **_at(address),
        }
        stem = _job_id(user, spec)
        runs = self.catalog.runs(user, stem)
        original = self.paths.source(user, sha256)
        if runs and self._stands(user, runs[-1]):
            if original.exists():  # perhaps damaged
                uploads.keep(request.path, original)
            self._admission.discard(request.path)
            return {
                **self._standing.shown(runs[-1]),
                "duplicate": True,
                "message": "This file was submitted before; this is that job.",
            }
        job_id = f"{stem}-r{len(runs) + 1}" if runs else stem
        uploads.keep(request.path, original)
        self._admission.discard(request.path)
        if request.password:
            write_private(self.paths.work(user, job_id) / "password", request.password)
        row = JobRow(
            id=job_id,
            user=user,
            collection=collection.id,
            sha256=sha256,
            filename=request.filename,
            status="queued",
            spec=spec,
            summary={"kind": "ingest", "attempt": 1},
            created_at=time.time(),
            started_at=None,
            finished_at=None,
        )
        if self.catalog.put_job(row):
            self._standing.joined(row)
            self._enqueue(row, 1, {})
        return self._standing.shown(self.catalog.job(user, job_id))

    def transfer(
        self,
        user: str,
        kind: str,
        spec: dict[str, Any],
        archive: Path | None = None,
        *,
        address: str | None = None,
    ) -> dict[str, Any]:
        """What is done to a whole collection (see pipeline/transfers/workflow.py) as a job; the same that has
        not ended yet is that job. `archive` is the upload of an import and is moved."""
        for row in self.catalog.jobs(user, ACTIVE, LISTED):
            if archive is None and row.kind == kind and spec.items() <= row.spec.items():
                return self._standing.shown(row)
        job_id = f"t{secrets.token_hex(11)}"
        row = JobRow(
            id=job_id,
            user=user,
            collection=str(spec.get("collection", "")),
            sha256="",
            filename=str(spec.get("title", "")),
            status="queued",
            spec={**spec, "user": user, "job": job_id, "kind": kind, **_at(address)},
            summary={"kind": kind, "attempt": 1},
            created_at=time.time(),
            started_at=None,
            finished_at=None,
        )
        self.engine.connected()
        if archive is not None:
            target = self.paths.work(user, job_id) / "archive.zip"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(archive, target)
            self._admission.discard(archive)
        self.catalog.put_job(row)
        self._enqueue(row, 1, {})
        return self._standing.shown(row)

    async def watch(self, user: str, job_id: str, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Events after that number, those to come too; the last one carries the final status.
        Every 15 s without news the newest one is given again, so that a dead caller is noticed."""
        if after > self.catalog.last_event(job_id) and self.job(user, job_id)["epoch"]:
            after = 0  # that number is from before a restore: the whole history again
        latest: dict[str, Any] = {}
        silent = time.monotonic()
        while True:
            events, job = await asyncio.to_thread(self.read_events, user, job_id, after)
            for event in events:
                latest, after, silent = event, event["seq"], time.monotonic()
                yield event
            if job["status"] in FINISHED and not events:
                if latest.get("status") != job["status"]:
                    yield {
                        "seq": after,
                        "stage": "end",
                        "status": job["status"],
                        "message": f"The job is {job['status']}.",
                        "error": job["error"],
                        "time": time.time(),
                    }
                return
            if time.monotonic() - silent > _KEEP_ALIVE:
                silent = time.monotonic()
                yield latest or {"seq": after, "stage": "queued", "status": job["status"]}
            if not events:
                await asyncio.sleep(_POLL)

    def read_events(
        self, user: str, job_id: str, after: int
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What is there now: events after that number, and the job."""
        row = self.catalog.job(user, job_id)  # first: its end is then among the events
        return self.catalog.events(job_id, max(0, after)), self._standing.shown(row)

    def job(self, user: str, job_id: str) -> dict[str, Any]:
        return self._standing.shown(self.catalog.job(user, job_id))

    def list_jobs(
        self,
        user: str,
        status: str | None = None,
        limit: int = 50,
        *,
        collection: str | None = None,
    ) -> list[dict[str, Any]]:
        """Newest first; of one collection when its id is given."""
        if status is not None and status not in STATUSES:
            raise InputError(
                "status_unknown", "There is no such status.", f"Use one of: {', '.join(STATUSES)}."
            )
        statuses = None if status is None else [status]
        most = min(number(limit, 1 << 31, 1), LISTED)
        rows = self.catalog.jobs(user, statuses, most, collection=collection)
        return [self._standing.shown(row) for row in rows]

    def recent(self, users: list[str], since: float) -> dict[str, list[dict[str, Any]]]:
        """By user: the jobs that are not finished, or were finished after that time."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.catalog.recent_jobs(users, since):
            found.setdefault(row.user, []).append(self._standing.shown(row))
        return found

    def cancel(self, user: str, job_id: str, *, keep: bool = True) -> dict[str, Any]:
        """Nothing new starts. What is indexed stays, or is removed when `keep` is false. A finished
        job is returned as it is."""
        row = self.catalog.job(user, job_id)
        kind, kept = row.kind, row.summary.get("kept", keep)
        if row.status not in FINISHED:
            self.engine.connected()
            kept = keep
            left = f"; what was indexed {'stays' if keep else 'is removed'}"
            self._note(
                job_id,
                f"The job was cancelled{left if kind in {'ingest', 'import'} else ''}.",
                "cancelled",
                finished_at=time.time(),
                summary={"error": None, "retry_at": None, "outcome": None, "kept": keep},
            )
        elif row.status != "cancelled":
            return self._standing.shown(row)
        self.engine.stop(row.id)
        self._after_cancel(row, kind, kept=kept)
        return self.job(user, job_id)

    def _after_cancel(self, row: JobRow, kind: str, *, kept: bool) -> None:
        """Once, however often it is asked for: what is indexed is listed, or goes; so does what an export
        or a push had written, and the token that was lent for it."""
        if kind == "ingest":
            self._start_stage(row, "keep" if kept else "undo")
        elif kind != "import" or not kept:
            attempt = row.attempt
            name, body = f"undo-{run_id(row.id, attempt)}", self._body(row, attempt, {})
            self.engine.start(row.spec, TRANSFER_WORKFLOW, QUEUE_AGAIN, name, body)

    def _start_stage(self, row: JobRow, name: str) -> None:
        """One stage by itself, after the job's own workflow."""
        attempt = row.attempt
        beside, body = f"{name}-{run_id(row.id, attempt)}", self._body(row, attempt, {})
        self.engine.start(row.spec, STAGE_WORKFLOW, QUEUE_INDEX, beside, name, body, NO_BATCH, {})

    def dismiss(self, user: str, job_id: str) -> dict[str, Any]:
        """Take a job that failed or was cancelled out of the list, with all that it left; a retry that
        is fast enough brings it back. An export, with its file, a push or import may go once it has
        ended; a document stays."""
        row = self.catalog.job(user, job_id)
        documents = row.kind == "ingest"
        if row.status not in ({"failed", "cancelled"} if documents else FINISHED):
            raise Refused("job_not_over", "Only what failed can be taken off.", "Cancel it first.")
        self.catalog.update_job(job_id, summary={"dismissed": True})
        if documents and "sha256" in row.spec:
            self._start_stage(row, "discard")
        elif row.kind == "export" and "name" in row.summary.get("result", {}):
            self.paths.export(user, row.summary["result"]["name"]).unlink(missing_ok=True)
        return self.job(user, job_id)

    def retry(
        self,
        user: str,
        job_id: str,
        pages: list[int] | None = None,
        strategy: str | None = None,
    ) -> dict[str, Any]:
        """Run again: from the checkpoints that are there, or only `pages` with `strategy`."""
        row = self.catalog.job(user, job_id)
        if row.status not in FINISHED:
            raise Refused("job_running", "The job is not finished.", "Cancel it or wait.")
        if row.kind != "ingest":
            return self._transfer_again(row)
        if "sha256" not in row.spec:
            raise Refused("job_refused", "The file was refused and not kept.", "Submit it again.")
        total = int(row.summary.get("pages", 0))
        again: dict[str, Any] = {}
        if (pages is not None or strategy) and not total:
            raise Refused(
                "pages_unknown", "Its pages are not known yet.", "Retry the job as it was."
            )
        if strategy:
            PartitionOptions(strategy=strategy).checked()
        if pages is not None:
            if not pages or not all(type(p) is int and 1 <= p <= total for p in pages):
                raise InputError(
                    "pages_range", "A page number is out of range.", f"Use 1 to {total}."
                )
            again = {"pages": sorted(set(pages)), "strategy": strategy or "auto"}
        elif strategy:
            again = {"pages": list(range(1, total + 1)), "strategy": strategy}
        elif row.summary.get("pages_failed"):
            again = {"pages": row.summary["pages_failed"], "strategy": row.spec["strategy"]}
        self.again(row, "The job was put in the queue again.", again)
        return self.job(user, job_id)

    def hurry(self, user: str, job_id: str) -> dict[str, Any]:
        """What it waited for is there: an export, push or import goes on now."""
        row = self.catalog.job(user, job_id)
        return self._transfer_again(row) if row.status == "waiting" else self._standing.shown(row)

    def usage(self, user: str) -> dict[str, int]:
        """Bytes of all that user has on this disk, and how many there may be."""
        return self._admission.usage(user)

    def scarce(self, problem: Exception) -> QuireError | None:
        """What it comes from, where the machine has too little of it."""
        return scarce(problem, self.paths.root)

    def promised(self, user: str, folder: Path) -> AbstractContextManager[Promise]:
        """Room for what is written into that folder of the user's."""
        return self._admission.promised(user, folder)

    def active(self, user: str) -> int:
        """How many of that user's jobs are not finished."""
        return self.catalog.count_jobs(user, ACTIVE)

    def again(self, row: JobRow, message: str, again: dict[str, Any]) -> None:
        """A new attempt of that job; what its checkpoints hold is not done twice."""
        self.engine.connected()
        attempt = row.attempt + 1
        self._note(
            row.id,
            message,
            "queued",
            started_at=None,
            finished_at=None,
            summary={
                "attempt": attempt,
                "error": None,
                "retry_at": None,
                "again": again,
                "came": time.time(),
                "outcome": None,
                "dismissed": False,
            },
        )
        self._enqueue(self.catalog.job(row.user, row.id), attempt, again)

    def give_up(self, row: JobRow) -> None:
        """A job that broke each time it was taken up: it fails, and can be retried."""
        problem = QuireError(
            "internal",
            "Something unexpected happened.",
            "Retry the job; if it stays, report the time and the version.",
        )
        self.engine.stop(row.id)
        self._note(
            row.id,
            str(problem),
            "failed",
            problem.as_dict(),
            finished_at=time.time(),
            summary={"error": problem.as_dict(), "taken_up": 0},
        )

    def proved(self, user: str) -> bool:
        """Whether that user's rows go on from what is known here of the stores; else the worker is to
        be asked before they are used or changed."""
        return base.proved(self.paths, self.catalog, user)

    def close(self) -> None:
        """What SQLite keeps beside its files is in them then."""
        self.engine.close()
        self.catalog.close()

    def ready(self) -> bool:
        """The worker has opened its database and takes jobs."""
        return self.engine.ready()

    # Inside

    def _transfer_again(self, row: JobRow) -> dict[str, Any]:
        archive = self.paths.work(row.user, row.id) / "archive.zip"
        if row.kind == "import" and not archive.exists():
            raise Refused("job_refused", "The archive was not kept.", "Import it again.")
        self.again(row, "The job was put in the queue again.", {})
        return self.job(row.user, row.id)

    def _stands(self, user: str, row: JobRow) -> bool:
        """Whether that job runs, or what it made is still there."""
        if row.status not in FINISHED:
            return True
        made = row.status in {"succeeded", "partial"}
        held = (s.sha256 for s in self.catalog.sources(user, row.collection))
        return made and row.sha256 in held

    def _enqueue(self, row: JobRow, attempt: int, again: dict[str, Any]) -> None:
        """A document is looked at first. When the engine cannot be told now, the row stands, and upkeep
        takes it up."""
        body, name = self._body(row, attempt, again), run_id(row.id, attempt)
        document = row.kind == "ingest"
        workflow, queue = (WORKFLOW, QUEUE_NEW) if document else (TRANSFER_WORKFLOW, QUEUE_SMALL)
        try:
            self.engine.start(row.spec, workflow, queue, name, body, priority=turn(body["came"]))
        except Unavailable as problem:
            log.warning("not enqueued yet", extra={"job": row.id, "code": problem.code})

    def _body(self, row: JobRow, attempt: int, again: dict[str, Any]) -> dict[str, Any]:
        return {
            **row.spec,
            "job": row.id,
            "attempt": attempt,
            "epoch": row.summary.get("epoch", 0),
            "gpu_seconds": row.summary.get("gpu_seconds", 0.0),
            "first_seq": self.catalog.last_event(row.id),
            "again": again,
            "came": came(row),
            "new": True,
        }

    def _refused(
        self, user: str, collection: str, request: Request, problem: QuireError
    ) -> dict[str, Any]:
        self._admission.discard(request.path)
        now = time.time()
        seen = f"{user}|{request.filename}|{now}"
        job_id = f"x{hashlib.sha256(seen.encode(errors='replace')).hexdigest()[:23]}"
        self.catalog.put_job(
            JobRow(
                id=job_id,
                user=user,
                collection=collection,
                sha256="",
                filename=request.filename,
                status="failed",
                spec={},
                summary={"kind": "ingest", "error": problem.as_dict()},
                created_at=now,
                started_at=now,
                finished_at=now,
            )
        )
        self._note(job_id, str(problem), "failed", problem.as_dict())
        return self.job(user, job_id)

    def _note(
        self,
        job_id: str,
        message: str,
        status: str,
        error: dict[str, str] | None = None,
        *,
        summary: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        self.catalog.append_event(
            job_id,
            {
                "stage": "queue" if status == "queued" else "end",
                "status": status,
                "message": message,
                "error": error,
                "time": time.time(),
            },
            status=status,
            summary={**(summary or {}), "message": message},
            **changes,
        )


def _at(address: str | None) -> dict[str, Any]:
    return {"address": address} if address else {}


def _job_id(user: str, spec: dict[str, Any]) -> str:
    same = {k: spec[k] for k in ("collection", "sha256", "strategy", "languages", "chunk")}
    seen = json.dumps([user, same], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()[:24]
