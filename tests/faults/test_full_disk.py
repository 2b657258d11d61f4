"""A disk that is full in the middle of a job: the job waits, and goes on by itself when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.kills import integrity
from pipeline.jobs.recovery import PASS
from tests.engine import USER, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; its worker's log is elsewhere."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=400m")
    (folder / "worker.log").symlink_to(tmp_path / "worker.log")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)


def test_a_job_goes_on_when_the_full_disk_has_room_again(disk: Path) -> None:
    with engine(disk) as running:
        refused = running.jobs.job(USER, running.submit(running.pdf(2, "early")))
        assert refused["error"]["code"] == "disk_full"  # less is free than is always left alone
        mount(disk, "remount,size=600m")
        running.finished(running.submit(running.pdf(2, "before")))
        job = running.submit(running.pdf(40, "meets it"), strategy="ocr_only")
        running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0))
        fill(disk / "fill")
        running.eventually(lambda: (running.health()["silent_seconds"] or 0) > 2 * PASS)
        assert "full" in running.log()
        (disk / "fill").unlink()
        done = running.finished(job)
        assert (done["status"], done["stages"]["index"]["done"]) == ("succeeded", 40)
        history = running.jobs.read_events(USER, job, 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        running.eventually(lambda: running.health()["ready"])
        assert integrity(disk) == "ok"


def fill(path: Path) -> None:
    """Until nothing more goes onto that disk."""
    size = 1 << 20
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
