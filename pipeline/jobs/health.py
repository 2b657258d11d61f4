"""Whether the worker lives, and Prometheus' counts. Knows nobody's names."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from errors import Unavailable
from pipeline.jobs.service import Jobs
from pipeline.processes.rpc import Link
from storage.catalog.catalog import ACTIVE, FINISHED

SILENT = 60.0  # seconds without a pass of the worker's upkeep
_UNHEARD = 10.0  # seconds without an answer
_PATIENCE = 2.0


@dataclass(slots=True)
class Health:
    """Asks the worker how it is each time that somebody calls `look`; `now` says what it said last, and
    waits for nothing and nobody."""

    link: Link
    clock: Callable[[], float] = time.monotonic
    _heard: tuple[float, float] | None = None  # when, and since when its upkeep was silent

    def look(self) -> None:
        """Takes two seconds at most where the worker does not answer."""
        try:
            silent = self.link.ping(_PATIENCE)["silent_seconds"]
        except Unavailable:
            return
        now = self.clock()
        self._heard = now, now - silent

    def now(self) -> dict[str, Any]:
        """`ready` is false while no worker answers, and while its upkeep gives no sign of life."""
        if self._heard is None:
            return {"ready": False, "silent_seconds": None}
        now = self.clock()
        heard, passed = self._heard
        ready = now - heard < _UNHEARD and now - passed < SILENT
        return {"ready": ready, "silent_seconds": round(now - passed, 1)}


def metrics(jobs: Jobs, now: dict[str, Any]) -> str:
    """In Prometheus' text format; `now` is what Health says."""
    totals = jobs.catalog.totals()
    lines = ["# TYPE quire_jobs gauge"]
    lines += [f'quire_jobs{{status="{s}"}} {totals.get(s, 0)}' for s in (*ACTIVE, *FINISHED)]
    lines += ["# TYPE quire_ready gauge", f"quire_ready {int(now['ready'])}"]
    silent = now["silent_seconds"]
    if silent is not None:
        lines += [
            "# TYPE quire_worker_silent_seconds gauge",
            f"quire_worker_silent_seconds {silent:.1f}",
        ]
    free = shutil.disk_usage(jobs.paths.root).free
    lines += ["# TYPE quire_disk_free_bytes gauge", f"quire_disk_free_bytes {free}"]
    return "\n".join(lines) + "\n"
