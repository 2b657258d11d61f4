"""Jobs that lost their workflow are taken up again; jobs of an earlier version go on."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.engine import USER, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_job_whose_workflows_are_gone_is_taken_up_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with engine(data) as running:
        job = running.submit(running.pdf(80, "lost"))
        running.until(job, lambda j: j["stages"].get("partition", {}).get("done", 0) > 2)
    for name in ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"):
        (data / name).unlink(missing_ok=True)
    with engine(data) as running:
        done = running.finished(job)
        assert done["status"] == "succeeded"
        history = running.jobs.read_events(USER, job, 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        assert "The job was taken up again." in [e["message"] for e in history]


def test_a_job_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its workflow is of a version that this one cannot replay: it is put aside."""
    data = tmp_path / "data"
    with engine(data) as running:
        job = running.submit(running.pdf(80, "older"))
        running.until(job, lambda j: j["stages"].get("partition", {}).get("done", 0) > 2)
    with sqlite3.connect(data / "jobs.sqlite") as database:
        database.execute("UPDATE workflow_status SET application_version = 'ingest-1'")
    with engine(data) as running:
        assert running.finished(job)["status"] == "succeeded"
        with sqlite3.connect(data / "jobs.sqlite") as database:
            left = database.execute(
                "SELECT count(*) FROM workflow_status WHERE application_version = 'ingest-1'"
                " AND status IN ('PENDING', 'ENQUEUED', 'DELAYED')"
            ).fetchone()
        assert left == (0,)


def test_a_workflow_that_runs_nowhere_is_resumed(tmp_path: Path) -> None:
    """As a full disk leaves it: its row says that it runs here, its thread is gone."""
    data = tmp_path / "data"
    with engine(data) as running:
        job = running.submit(running.pdf(3, "first"))
        running.finished(job)
        with sqlite3.connect(data / "jobs.sqlite", timeout=30) as database:
            database.execute(
                "UPDATE workflow_status SET status = 'PENDING', output = NULL, completed_at = NULL"
                " WHERE workflow_uuid = ?",
                [f"{job}~1"],
            )
        with sqlite3.connect(data / "catalog.sqlite", timeout=30) as database:
            summary = json.loads(database.execute("SELECT summary FROM jobs").fetchone()[0])
            database.execute(
                "UPDATE jobs SET status = 'running', summary = ?",
                [json.dumps({**summary, "saved_generation": None})],
            )
        done = running.finished(job)
        assert done["status"] == "succeeded"
