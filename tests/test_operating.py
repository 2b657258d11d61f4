"""What an operator sees: counts, the jobs command, and what a restart would lose."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.jobs.health import metrics
from pipeline.jobs.service import Jobs
from settings import Settings, processors
from storage.catalog.catalog import Catalog, JobRow
from storage.paths import Paths
from tests.conftest import ROOT
from web.api import restart_loses

USER = "0" * 32


def put(catalog: Catalog, name: str, status: str, ended: float | None = None) -> JobRow:
    row = JobRow(
        id=name, user=USER, collection="c", sha256="", filename=f"{name}.pdf", status=status,
        spec={}, summary={"message": f"It is {status}."}, created_at=ended or time.time(),
        started_at=None, finished_at=ended,
    )  # fmt: skip
    assert catalog.put_job(row)
    catalog.append_event(name, {"message": "It is told."})
    return row


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    paths = Paths(tmp_path)
    settings = Settings.from_env({"QUIRE_DATA_DIR": str(tmp_path)})
    return Jobs(settings, paths, Catalog(f"sqlite:///{paths.catalog}"))


def test_metrics_count_jobs_and_tell_of_the_worker(jobs: Jobs) -> None:
    put(jobs.catalog, "one", "queued")
    put(jobs.catalog, "two", "queued")
    put(jobs.catalog, "three", "failed", time.time())
    unheard = {"ready": False, "silent_seconds": None}
    lines = metrics(jobs, unheard).splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert told['quire_jobs{status="queued"}'] == "2"
    assert told['quire_jobs{status="failed"}'] == "1"
    assert told['quire_jobs{status="succeeded"}'] == "0"
    assert told["quire_ready"] == "0"
    assert "quire_worker_silent_seconds" not in told
    disk = shutil.disk_usage(jobs.paths.root).total
    assert 0 < int(told["quire_disk_free_bytes"]) < disk
    assert USER not in metrics(jobs, unheard)
    kinds = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert kinds == {name.split("{")[0] for name in told}
    told = metrics(jobs, {"ready": True, "silent_seconds": 0.5})
    assert "\nquire_ready 1\n" in told
    assert "\nquire_worker_silent_seconds 0.5\n" in told


@pytest.mark.slow
def test_the_jobs_command_lists_the_unfinished_and_with_all_the_rest(jobs: Jobs) -> None:
    put(jobs.catalog, "waits", "queued")
    put(jobs.catalog, "ended", "failed", time.time())
    jobs.catalog.workers.beat("w", "main")

    def told(*more: str) -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "jobs", *more],
            cwd=ROOT,
            env={**os.environ, "QUIRE_DATA_DIR": str(jobs.paths.root)},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split() for line in done.stdout.splitlines()]

    (line, main, reader) = told()
    assert line[:3] == ["waits", USER[:8], "queued"]
    assert line[-3:] == ["It", "is", "queued."]
    assert main[:3] == ["main:", "last", "seen"]
    assert reader == ["reader:", "none"]
    assert {row[0] for row in told("--all")[:2]} == {"waits", "ended"}


@pytest.mark.parametrize(
    ("environment", "unsaved", "active", "everything", "told"),
    [
        ({}, 3, 2, False, "Nothing"),
        ({"SPACE_ID": "ada/quire"}, 0, 2, True, "Everything"),
        ({"SPACE_ID": "a/q", "QUIRE_HUB_DATASET": "a/d", "QUIRE_SECRET": "s"}, 3, 2, False, "saved: 3"),
        ({"SPACE_ID": "a/q", "QUIRE_S3_BUCKET": "b", "QUIRE_SECRET": "s"}, 0, 2, False, "themselves: 2"),
        ({"SPACE_ID": "a/q", "QUIRE_S3_BUCKET": "b", "QUIRE_SECRET": "s"}, 0, 0, False, "Nothing"),
        ({"SPACE_ID": "a/q", "QUIRE_S3_BUCKET": "b", "QUIRE_SECRET": "s"}, None, 0, False, "Not known"),
    ],
)  # fmt: skip
def test_what_a_restart_would_lose_is_said_plainly(
    environment: dict[str, str], unsaved: int | None, active: int, everything: bool, told: str
) -> None:
    loses = restart_loses(Settings.from_env(environment), unsaved, active)
    assert loses["everything"] is everything
    assert told in loses["message"]
    if "SPACE_ID" in environment:
        assert (loses["changes"], loses["jobs"]) == (unsaved, active if everything else 0)


@pytest.mark.parametrize(
    ("told", "most"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "90000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_counts_the_processors_that_it_is_given(
    tmp_path: Path, told: dict[str, str], most: int | None
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in told.items():
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == (most or len(os.sched_getaffinity(0)))
