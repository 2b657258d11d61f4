"""Jobs that lost their workflow are taken up again; jobs of an earlier version go on."""

import hashlib
import json
import sqlite3
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.jobs.notify import sealed
from pipeline.jobs.queue import NOTIFY_WORKFLOW, QUEUE_JOBS, Engine
from pipeline.jobs.recovery import KEEP_JOBS
from settings import Settings
from storage.catalog.catalog import ACTIVE, Catalog
from storage.paths import Paths
from tests.engine import USER, engine, make_pdf
from tests.mailbox import mailbox

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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


@pytest.mark.parametrize("version", ["ingest-1", "ingest-2"])
def test_a_job_database_of_an_earlier_version_goes_on(tmp_path: Path, version: str) -> None:
    """As a killed worker of that version left it, with a job in its middle and one behind it. They
    cannot be replayed: they are put aside, and the jobs taken up with what their batches left. What
    ended long ago is deleted meanwhile, the file gets smaller, and a mail that was not sent is."""
    data, paths = tmp_path / "data", Paths(tmp_path / "data")
    names = {}
    for name, pages in (("running", 40), ("queued", 3)):
        made = make_pdf(tmp_path / f"{name}.pdf", pages, name)
        sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
        names[f"{{{made.name}}}"] = sha256
        kept = paths.source(USER, sha256)
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.rename(kept)
    with zipfile.ZipFile(Path(__file__).parent / "recorded" / f"{version}.zip") as recorded:
        recorded.extractall(data, [n for n in recorded.namelist() if n.startswith("users/")])
        for name in ("jobs", "catalog"):
            told = recorded.read(f"{name}.sql").decode()
            for mark, sha256 in names.items():
                told = told.replace(mark, sha256)
            with sqlite3.connect(data / f"{name}.sqlite") as database:
                database.executescript(told)
    catalog = Catalog(f"sqlite:///{data}/catalog.sqlite")
    waiting = [row.id for row in catalog.jobs(USER, ACTIVE)]
    assert len(waiting) == 2
    ended = time.time() - KEEP_JOBS - 60
    with sqlite3.connect(data / "jobs.sqlite") as database:
        database.execute(
            "UPDATE workflow_status SET completed_at = ? WHERE completed_at IS NOT NULL",
            [int(1000 * ended)],
        )
        database.execute(
            "INSERT INTO workflow_status (workflow_uuid, status, name, completed_at)"
            " VALUES ('old~1', 'SUCCESS', 'ingest_v1', ?)",
            [int(1000 * ended)],
        )
    old = replace(catalog.job(USER, waiting[0]), id="old", status="succeeded", finished_at=ended)
    assert catalog.put_job(old)
    with sqlite3.connect(data / "catalog.sqlite") as database:
        many = [("old", n, json.dumps({"message": "x" * 4000})) for n in range(1, 2001)]
        database.executemany("INSERT INTO events VALUES (?, ?, ?)", many)
    work = paths.work(USER, "old")
    work.mkdir(parents=True)
    assert catalog.put_job(replace(old, id="told", finished_at=time.time()))
    with mailbox() as (inbox, mail_url):
        asked = {"QUIRE_SECRET": "s", "QUIRE_MAIL_URL": mail_url}
        settings = Settings.from_env({"QUIRE_DATA_DIR": str(data), **asked})
        spec = {
            **old.spec, "job": "told", "attempt": 1, "first_seq": 0, "notify": sealed(settings.secret, "ada@example.org"),
        }  # fmt: skip
        paths.run.mkdir()
        (paths.run / "ready").touch()  # the database is there
        Engine(settings, paths).start(
            spec, NOTIFY_WORKFLOW, QUEUE_JOBS, "told~1/notify.0", spec,
            {"status": "succeeded", "message": "Done.", "pages_failed": []}, 0, app_version=version,
        )  # fmt: skip
        with engine(data, **asked) as running:
            for job in waiting:
                done = running.finished(job)
                assert done["status"] == "succeeded", running.log()[-3000:]
                history = running.jobs.read_events(USER, job, 0)[0]
                assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
                assert "The job was taken up again." in [e["message"] for e in history]
            running.eventually(lambda: _pages(data) < 500)
            assert {row.id for row in catalog.jobs(USER)} == {*waiting, "told"}
            running.until("told", lambda j: j["notified"])
            assert [m["To"] for m in inbox.mails] == ["ada@example.org"]
            assert not work.exists()
            with sqlite3.connect(data / "jobs.sqlite") as database:
                left = database.execute(
                    "SELECT count(*) FROM workflow_status WHERE workflow_uuid = 'old~1'"
                    " OR application_version = ? AND status IN ('PENDING', 'ENQUEUED', 'DELAYED')",
                    [version],
                ).fetchone()
            assert left == (0,)


def _pages(data: Path) -> int:
    with sqlite3.connect(data / "catalog.sqlite", timeout=30) as database:
        return int(database.execute("PRAGMA page_count").fetchone()[0])


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


def test_a_worker_whose_watchdog_dies_is_ended_and_started_again(tmp_path: Path) -> None:
    """Its table is taken away under it: the next pass breaks, and health is red until a new worker
    has made it again. The job in its middle goes on."""
    with engine(tmp_path / "data") as running:
        job = running.submit(running.pdf(30, "scan"), strategy="ocr_only")
        running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0))
        first = (running.data / "run" / "ready").read_text()
        with sqlite3.connect(running.data / "catalog.sqlite", timeout=30) as database:
            database.execute("ALTER TABLE workers RENAME TO taken")
        running.eventually(lambda: "the worker ended with" in running.log())
        assert running.finished(job)["status"] == "succeeded"
        running.eventually(lambda: running.health()["ready"])
        assert (running.data / "run" / "ready").read_text() != first
