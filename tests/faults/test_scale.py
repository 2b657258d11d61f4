"""Several workers over one PostgreSQL, of which one is killed or frozen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.engine import USER, engine, lines
from tests.postgres import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def reader(data: Path, url: str) -> "Iterator[subprocess.Popen[bytes]]":
    environment = {
        **os.environ,
        "QUIRE_DATA_DIR": str(data),
        "QUIRE_DATABASE_URL": url,
        "QUIRE_PAGE_PROCESSES": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with (data / "reader.log").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.worker", "--reader"],
            cwd=ROOT, env=environment, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_dead_reader_had_taken_is_read_by_another(
    tmp_path: Path, number: signal.Signals
) -> None:
    with (
        postgres() as url,
        engine(tmp_path / "data", QUIRE_DATABASE_URL=url, QUIRE_PAGE_PROCESSES="1") as running,
        reader(running.data, url) as other,
    ):
        job = running.submit(running.pdf(18, "shared"), strategy="ocr_only")
        log = running.data / "reader.log"
        limit = time.monotonic() + 120
        while not any(x["message"] == "stage started" for x in lines(log)):
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)
        os.kill(other.pid, number)
        done = running.finished(job, USER, 240)
        assert done["status"] == "succeeded"
        taken = {x["batch"] for x in lines(log) if x["message"] == "stage started"}
        again = {x["batch"] for x in running.started(job=job, stage="partition")}
        assert taken & again  # what it had taken was read again, here
        history = running.jobs.read_events(USER, job, 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        assert running.jobs.health()["ready"]
