"""A disk that is full in the middle of a job, and at a start: what is there is read and deleted, jobs
wait, and go on by themselves when there is room."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.kills import integrity
from errors import Unavailable
from tests.engine import USER, Engine, engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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


def test_a_full_disk_is_read_and_deleted_from_and_jobs_wait(disk: Path) -> None:
    with engine(disk) as running:
        with pytest.raises(Unavailable) as caught:
            running.submit(running.pdf(2, "early"))
        assert caught.value.code == "disk_full"  # less is free than is always left alone
        mount(disk, "remount,size=700m")
        for name in ("stays", "goes"):
            running.finished(running.submit(running.pdf(2, name)), seconds=300)
        running.eventually((disk / "run" / "reserve").exists)
        job = running.submit(running.pdf(36, "meets it"), strategy="ocr_only")
        running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0))
        fill(disk / "fill")
        waiting = running.until(job, lambda j: j["status"] == "waiting")
        assert "full" in waiting["waits_for"]
        running.eventually(lambda: not (disk / "run" / "reserve").exists())
        running.eventually(lambda: running.health()["ready"])
        (disk / "fill").unlink()
        running.eventually((disk / "run" / "reserve").exists)
    fill(disk / "fill")
    assert shutil.disk_usage(disk).free == 0
    with engine(disk) as running:  # which starts on it
        search = {"query": "the weather", "mode": "keyword"}
        found = asked(running, "search", **search)
        assert {hit["filename"] for hit in found} >= {"stays.pdf", "goes.pdf"}
        goes = next(hit["source_id"] for hit in found if hit["filename"] == "goes.pdf")
        assert running.link.call("elements", USER, source_id=goes)
        told = running.link.call("delete_source", USER, collection="default", source_id=goes)
        assert told["records"] > 0
        with pytest.raises(Unavailable) as caught:
            running.submit(running.pdf(2, "late"))
        assert caught.value.code == "disk_full"
        (disk / "fill").unlink()
        running.jobs.cancel(USER, job)
        running.jobs.retry(USER, job)
        done = running.finished(job, seconds=300)
        assert (done["status"], done["stages"]["index"]["done"]) == ("succeeded", 36)
        history = running.jobs.read_events(USER, job, 0)[0]
        assert [e["seq"] for e in history] == list(range(1, len(history) + 1))
        running.eventually(lambda: running.health()["ready"])
        assert integrity(disk) == "ok"
        assert "goes.pdf" not in {
            h["filename"] for h in running.link.call("search", USER, **search)
        }


def asked(running: Engine, call: str, **arguments: Any) -> Any:
    """The answer; a store may take longer to be opened than a call waits for it."""
    answers: list[Any] = []

    def answered() -> bool:
        try:
            answers.append(running.link.call(call, USER, **arguments))
        except Unavailable as problem:
            assert problem.code in {"opening", "restoring"}
        return bool(answers)

    running.eventually(answered)
    return answers[0]


def fill(path: Path) -> None:
    """Until nothing more goes onto that disk."""
    size = 1 << 20
    with path.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
