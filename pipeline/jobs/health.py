"""Whether the worker lives, and Prometheus' counts. Knows nobody's names."""

import shutil
from typing import Any

from pipeline.jobs.service import Jobs
from storage.catalog.catalog import ACTIVE, FINISHED

SILENT = 60.0


def health(jobs: Jobs) -> dict[str, Any]:
    """`ready` is false as well while the worker's upkeep gives no sign of life."""
    silent = jobs.catalog.workers.silence("main")
    alive = silent is not None and silent < SILENT
    return {"ready": jobs.ready() and alive, "silent_seconds": silent}


def metrics(jobs: Jobs) -> str:
    """In Prometheus' text format."""
    totals, now = jobs.catalog.totals(), health(jobs)
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
