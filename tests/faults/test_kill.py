"""SIGKILL the worker at moments of a job: it goes on by itself, and nothing is done twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quire_client import Quire
from storage.catalog.catalog import Catalog
from tests.conftest import Running, start_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_job_outlives_its_workers(tmp_path: Path, make_pdf: Callable[..., Path]) -> None:
    app: Running = start_app(tmp_path / "data", QUIRE_PAGE_PROCESSES="1")
    try:
        quire = Quire(app.url)
        jobs = [
            quire.submit(make_pdf(f"{n}.pdf", pages=24 + n), collection="kill")[0] for n in (0, 1)
        ]
        kills = 0
        seen = []
        for event in quire.watch(jobs[0]["id"]):
            seen.append(event["seq"])
            if kills < 2 and event["seq"] >= 2 + 3 * kills and app.ready():
                app.kill_worker()
                kills += 1
        assert kills == 2
        assert seen == list(range(1, len(seen) + 1))
        list(quire.watch(jobs[1]["id"]))
        for job in jobs:
            done = quire.job(job["id"])
            assert done["status"] == "succeeded"
            assert done["stages"]["index"]["done"] == done["source"]["pages"]
        held = {c["title"]: c for c in quire.collections()}["kill"]
        assert held["sources"] == 2
        again = quire.call("retry", job_id=jobs[0]["id"])
        assert list(quire.watch(again["id"]))[-1]["status"] == "succeeded"
        assert {c["title"]: c for c in quire.collections()}["kill"]["records"] == held["records"]
    finally:
        app.stop()
    catalog = Catalog(f"sqlite:///{tmp_path}/data/catalog.sqlite")
    for row in catalog.jobs(None):
        numbers = [e["seq"] for e in catalog.events(row.id)]
        assert numbers == list(range(1, len(numbers) + 1))
