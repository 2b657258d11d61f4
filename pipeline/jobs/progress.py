"""Where a job stands: what its row says in the public interface, its place in line, how long still.

Computed from rows; what is asked over and over is remembered for a moment. Of the engine it knows
whether it takes jobs.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.jobs.queue import Engine, starting, turn
from storage.catalog.catalog import ACTIVE, FINISHED, Catalog, JobRow

_TAKEN_TOGETHER = 4
_PUNCTUAL = 5.0  # seconds
_LINE_SECONDS = 0.5
_PACE_SECONDS = 10.0
_FIRST_PACE = 3.0  # chunks, vectors and the save cost about twice what reading does


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What of the same user's stands before a job: queued ones, all unfinished ones, and the seconds
    of work left in these by their probes."""

    queued: int = 0
    jobs: int = 0
    work: float = 0.0

    def behind(self, row: JobRow) -> "_Ahead":
        queued = self.queued + (row.status == "queued")
        return _Ahead(queued, self.jobs + 1, self.work + _left(row))


@dataclass(slots=True)
class _Line:
    """A user's unfinished jobs in their order, as of `looked`; `end` is what a new one meets."""

    looked: float = -1e9
    places: dict[str, _Ahead] = field(default_factory=dict)
    end: _Ahead = _Ahead()

    def join(self, rows: Iterable[JobRow]) -> None:
        for row in rows:
            self.places[row.id] = self.end
            self.end = self.end.behind(row)


@dataclass(slots=True, kw_only=True)
class Standing:
    """`most` is how many jobs one user may have."""

    catalog: Catalog
    engine: Engine
    most: int
    _lines: dict[str, _Line] = field(default_factory=dict)
    _paced: tuple[float, float] = (-1e9, 1.0)

    def shown(self, row: JobRow) -> dict[str, Any]:
        """A job as the public interface shows it."""
        summary = row.summary
        stages = summary.get("stages", {})
        queued = row.status == "queued"
        before = self._before(row) if queued else _Ahead()
        return {
            "id": row.id,
            "kind": summary.get("kind", "ingest"),
            "status": row.status,
            "collection": row.collection,
            "source": {
                "id": row.sha256 or None,
                "filename": row.filename,
                "sha256": row.sha256 or None,
                "pages": summary.get("pages"),
                **summary.get("probe", {}),
            },
            "stages": stages,
            "position": before.queued + 1 if queued else None,
            "waits_for": self._waits_for(row, before),
            "retry_at": None if _late(row) else summary.get("retry_at"),
            "eta_seconds": self._eta(row, before),
            "epoch": summary.get("epoch", 0),
            "message": _told(row) if row.status == "waiting" else summary.get("message"),
            "created_at": row.created_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "saved_generation": summary.get("saved_generation"),
            "error": summary.get("error"),
            "pages_failed": summary.get("pages_failed", []),
            "gpu_seconds": summary.get("gpu_seconds", 0.0),
            "notified": summary.get("notified"),
            "result": summary.get("result"),
            "target": next(
                (row.spec[n] for n in ("dataset", "format", "model") if n in row.spec), None
            ),
            "strategy": row.spec.get("strategy"),
            "dismissed": bool(summary.get("dismissed")),
        }

    def _before(self, row: JobRow) -> _Ahead:
        """Users take turns, so nobody else's jobs stand in the way for long."""
        now = time.monotonic()
        line = self._lines.get(row.user)
        if line is None or now - line.looked > _LINE_SECONDS:
            line = self._lines[row.user] = _Line(now)
            unfinished = self.catalog.jobs(row.user, ACTIVE, self.most)
            line.join(sorted(unfinished, key=_turn))
        return line.places.get(row.id, line.end)

    def _waits_for(self, row: JobRow, before: _Ahead) -> str | None:
        if row.status == "waiting":
            return _told(row)
        if row.status != "queued":
            return None
        if not self.engine.ready():
            return starting(self.engine.paths)
        if before.jobs >= _TAKEN_TOGETHER:
            return f"{before.jobs} of your jobs are before this one."
        return "It is taken up next."

    def _eta(self, row: JobRow, before: _Ahead) -> float | None:
        """Seconds. From this job's own rate once some pages are indexed; before that from the
        probe, at the pace of the jobs that ended last."""
        if row.status in FINISHED or row.status == "waiting":
            return None
        pages = int(row.summary.get("pages") or 0)
        done = int(row.summary.get("stages", {}).get("index", {}).get("done", 0))
        spent = time.time() - (row.started_at or time.time())
        if row.status == "running" and done and pages:
            return round(spent / done * (pages - done), 1)
        if not pages:
            return None
        work = before.behind(row).work * self._pace()
        return round(max(1.0, work - (spent if row.status == "running" else 0.0)), 1)

    def _pace(self) -> float:
        """How many times the probe's estimate the jobs that ended last have taken."""
        now = time.monotonic()
        if now - self._paced[0] > _PACE_SECONDS:
            ended = self.catalog.jobs(None, ("succeeded", "partial"), 10)
            told = sum(float(r.summary.get("estimate") or 0) for r in ended)
            took = sum((r.finished_at or 0) - (r.started_at or 0) for r in ended)
            self._paced = now, (took / told if told else _FIRST_PACE)
        return self._paced[1]

    def joined(self, row: JobRow) -> None:
        """A new job is the last one in its user's line."""
        if row.user in self._lines:
            self._lines[row.user].join([row])


def came(row: JobRow) -> float:
    """When it came, or came again."""
    return float(row.summary.get("came") or row.created_at)


def _turn(row: JobRow) -> tuple[bool, int, float]:
    """What is at work, then the others as the queues have them."""
    work = float(row.summary.get("estimate") or 0.0)
    return row.status == "queued", turn(came(row), work), row.created_at


def _late(row: JobRow) -> bool:
    """The time that was told is over."""
    return time.time() > float(row.summary.get("retry_at") or math.inf) + _PUNCTUAL


def _told(row: JobRow) -> str:
    """Why it waits, and until when; true also for whoever reads it later."""
    summary = row.summary
    reason, at = summary.get("waits_for"), summary.get("retry_at")
    if not reason or not at:
        return str(summary.get("message"))
    if _late(row):
        return f"{reason} It is tried again as soon as there is room."
    return f"{reason} Trying again at {time.strftime('%H:%M:%S', time.gmtime(at))} UTC."


def _left(row: JobRow) -> float:
    """Seconds of work that a job still needs, by its probe."""
    pages = int(row.summary.get("pages") or 0)
    done = int(row.summary.get("stages", {}).get("index", {}).get("done", 0))
    share = (pages - done) / pages if pages else 1.0
    return float(row.summary.get("estimate") or 0.0) * share
