"""Several workers over one PostgreSQL, of which one is killed or frozen."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError

from errors import Unavailable
from pipeline.jobs.queue import catalog_url
from pipeline.jobs.recovery import DEAD_AFTER
from storage.catalog.schema import connect, jobs
from tests.conftest import ROOT
from tests.engine import USER, Engine, engine, lines
from tests.postgres import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def reader(data: Path, url: str, name: str) -> "Iterator[subprocess.Popen[bytes]]":
    environment = {
        **os.environ,
        "QUIRE_DATA_DIR": str(data),
        "QUIRE_DATABASE_URL": url,
        "QUIRE_PAGE_PROCESSES": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with (data / f"{name}.log").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.worker", "--reader"],
            cwd=ROOT, env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_dead_readers_had_taken_is_read_by_another(tmp_path: Path) -> None:
    with (
        postgres() as url,
        engine(tmp_path / "data", QUIRE_DATABASE_URL=url, QUIRE_PAGE_PROCESSES="1") as running,
        reader(running.data, url, "killed") as killed,
        reader(running.data, url, "frozen") as frozen,
    ):
        running.eventually(lambda: len(running.jobs.catalog.workers.alive(DEAD_AFTER)) == 3)
        job = running.submit(running.pdf(42, "shared"), strategy="ocr_only")
        for name, process, number in (
            ("killed", killed, signal.SIGKILL), ("frozen", frozen, signal.SIGSTOP),
        ):  # fmt: skip
            running.eventually(lambda name=name: taken(running, name))
            os.kill(process.pid, number)
        catalogue = catalog_url(running.jobs.settings, running.jobs.paths)
        # One that is frozen in the middle of a change: it is ended from the other side.
        with suppress(DBAPIError, Unavailable), connect(catalogue).begin() as change:
            change.execute(update(jobs).where(jobs.c.id == job).values(started_at=0.0))
            done = running.finished(job, USER, 240)
        assert (done["status"], done["stages"]["index"]["done"]) == ("succeeded", 42)
        again = {x["batch"] for x in running.started(job=job, stage="partition")}
        for name in ("killed", "frozen"):
            assert taken(running, name) & again  # what it had taken was read again, here
        history = running.jobs.read_events(USER, job, 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        assert running.health()["ready"]


def taken(running: Engine, name: str) -> set[int]:
    """The batches that this reader has begun."""
    told = lines(running.data / f"{name}.log")
    return {x["batch"] for x in told if x["message"] == "stage started"}
