"""Where a job stands: what its row says in the public interface, its place in line, how long still.

Computed from rows; what is asked over and over is remembered for a moment. Of the engine it knows
whether it takes jobs.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine import Engine, starting
from storage.catalog import ACTIVE, FINISHED, Catalog, JobRow

_TAKEN_TOGETHER = 4
_LINE_SECONDS = 0.5
_PACE_SECONDS = 10.0
_FIRST_PACE = 3.0  # chunks, vectors and the save cost about twice what reading does


@dataclass(slots=True, kw_only=True)
class Standing:
    """`most` is how many jobs one user may have."""

    catalog: Catalog
    engine: Engine
    most: int
    _lines: dict[str, tuple[float, list[JobRow]]] = field(default_factory=dict)
    _paced: tuple[float, float] = (-1e9, 1.0)

    def shown(self, row: JobRow) -> dict[str, Any]:
        """A job as the public interface shows it."""
        summary = row.summary
        stages = summary.get("stages", {})
        queued = row.status == "queued"
        before = self._before(row) if queued else []
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
            "position": sum(r.status == "queued" for r in before) + 1 if queued else None,
            "waits_for": self._waits_for(row, before),
            "retry_at": summary.get("retry_at"),
            "eta_seconds": self._eta(row, before),
            "epoch": summary.get("epoch", 0),
            "message": summary.get("message"),
            "created_at": row.created_at,
            "started_at": row.started_at,
            "finished_at": row.finished_at,
            "saved_generation": summary.get("saved_generation"),
            "error": summary.get("error"),
            "pages_failed": summary.get("pages_failed", []),
            "notified": summary.get("notified"),
            "result": summary.get("result"),
            "target": next(
                (row.spec[n] for n in ("dataset", "format", "model") if n in row.spec), None
            ),
            "strategy": row.spec.get("strategy"),
            "dismissed": bool(summary.get("dismissed")),
        }

    def _before(self, row: JobRow) -> list[JobRow]:
        """The same user's unfinished jobs that were there before. Users take turns, so nobody
        else's stand in the way for long."""
        now = time.monotonic()
        looked, known = self._lines.get(row.user, (0.0, []))
        if now - looked > _LINE_SECONDS:
            known = self.catalog.jobs(row.user, ACTIVE, self.most)
            self._lines[row.user] = now, known
        return [r for r in known if r.created_at < row.created_at]

    def _waits_for(self, row: JobRow, before: list[JobRow]) -> str | None:
        if row.status == "waiting":
            return str(row.summary.get("message"))
        if row.status != "queued":
            return None
        if not self.engine.ready():
            return starting(self.engine.paths)
        if len(before) >= _TAKEN_TOGETHER:
            return f"{len(before)} of your jobs are before this one."
        return "It is taken up next."

    def _eta(self, row: JobRow, before: list[JobRow]) -> float | None:
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
        work = sum(_left(r, self._pace()) for r in (*before, row))
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

    def joined(self, user: str) -> None:
        """That user's line is longer by one: it is looked at anew."""
        self._lines.pop(user, None)


def _left(row: JobRow, pace: float) -> float:
    """Seconds that a job of the same user still needs, by the probe's estimate."""
    pages = int(row.summary.get("pages") or 0)
    done = int(row.summary.get("stages", {}).get("index", {}).get("done", 0))
    share = (pages - done) / pages if pages else 1.0
    return float(row.summary.get("estimate") or 0.0) * pace * share
