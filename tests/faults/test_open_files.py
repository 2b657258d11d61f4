"""A worker that may open few files refuses with a code; jobs wait, and go on when it may open more."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine import USER, Engine, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def few(running: Engine, more: int) -> Iterator[None]:
    """The worker may have that many more open than it has."""
    worker = int((running.data / "run" / "ready").read_text(encoding="ascii"))
    before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    most = len(list(Path(f"/proc/{worker}/fd").iterdir())) + more
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, before[1]))
    yield
    resource.prlimit(worker, resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("more", [0, 8])
def test_a_job_waits_for_open_files(tmp_path: Path, more: int) -> None:
    with engine(tmp_path / "data") as running:
        with few(running, more):
            job = running.submit(running.pdf(3, "waits"))
            running.until(job, lambda j: j["status"] == "waiting")
            assert running.jobs.job(USER, job)["error"] is None
        told = running.jobs.read_events(USER, job, 0)[0]
        assert {e["code"] for e in told if "code" in e} == {"too_many_open_files"}
        running.jobs.cancel(USER, job)
        running.jobs.retry(USER, job)
        assert running.finished(job)["status"] == "succeeded"
        assert len([x for x in running.log().splitlines() if "worker started" in x]) == 1
