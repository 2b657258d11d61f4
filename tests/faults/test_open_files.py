"""A worker that may open few files refuses with a code; jobs wait, and go on when it may open more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine import OTHER, USER, Engine, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@contextmanager
def few(running: Engine, more: int) -> Iterator[None]:
    """The worker may have that many more open than it has."""
    worker = int((running.data / "run" / "ready").read_text(encoding="ascii"))
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    most = len(list(Path(f"/proc/{worker}/fd").iterdir())) + more
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)


def test_a_job_waits_for_open_files(tmp_path: Path) -> None:
    with engine(tmp_path / "data") as running:
        running.finished(running.submit(running.pdf(2, "before"), OTHER), OTHER)  # all is loaded
        with few(running, 3):
            job = running.submit(running.pdf(3, "waits"))
            running.until(job, lambda j: j["status"] == "waiting")
        told = running.jobs.read_events(USER, job, 0)[0]
        assert {e["code"] for e in told if "code" in e} == {"too_many_open_files"}
        running.jobs.cancel(USER, job)
        running.jobs.retry(USER, job)
        assert running.finished(job)["status"] == "succeeded"
        assert len([x for x in running.log().splitlines() if "worker started" in x]) == 1
