"""`python bench/engine.py`: what the job engine costs beside the work itself: submits per second, an
idle worker's share of a core, and how two users share it."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil

from bench.kills import make_pdf
from pipeline.jobs import Jobs, Request, catalog_url
from pipeline.link import wait
from pipeline.partition import BATCH, FIRST_BATCH, PartitionOptions
from settings import Settings
from storage.catalog import FINISHED, Catalog
from storage.paths import Paths

ADA, BOB = "a" * 32, "b" * 32


def submit(jobs: Jobs, folder: Path, user: str, name: str, batches: int) -> str:
    pages = FIRST_BATCH + BATCH * (batches - 1)
    pdf = make_pdf(folder / f"{name}.pdf", pages, name)
    options = PartitionOptions(strategy="fast")
    return str(jobs.submit(user, Request(path=pdf, filename=pdf.name, partition=options))["id"])


def spent(jobs: Jobs, user: str, job: str) -> float:
    """Seconds from the submit to the end."""
    while True:
        found = jobs.job(user, job)
        if found["status"] in FINISHED:
            return float(found["finished_at"] - found["created_at"])
        time.sleep(0.2)


def idle(pid: int, seconds: float = 20) -> float:
    """Percent of a core, the supervisor's included."""
    both = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    before = [sum(p.cpu_times()[:2]) for p in both]
    time.sleep(seconds)
    after = [sum(p.cpu_times()[:2]) for p in both]
    return 100 * sum(a - b for a, b in zip(after, before, strict=True)) / seconds


def enqueued(jobs: Jobs, folder: Path, count: int = 300) -> tuple[float, float]:
    """Whole submits of one-page files per second of wall and of CPU."""
    files = [make_pdf(folder / f"e{n}.pdf", 1, f"e{n}") for n in range(count)]
    began, cpu = time.monotonic(), time.process_time()
    for file in files:
        jobs.submit(ADA, Request(path=file, filename=file.name))
    return count / (time.monotonic() - began), count / (time.process_time() - cpu)


def row(name: str, value: Any) -> None:
    print(f"{name:44s} {value}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        environment = {**os.environ, "QUIRE_DATA_DIR": str(data), "HF_HUB_OFFLINE": "1"}
        with (data / "worker.log").open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "pipeline.worker", "--supervise"],
                cwd=ROOT, env=environment, stdout=out, stderr=out,
            )  # fmt: skip
        settings, paths = Settings.from_env(environment), Paths(data)
        jobs = Jobs(settings, paths, Catalog(catalog_url(settings, paths)))
        try:
            wait(paths, 120)
            spent(jobs, ADA, submit(jobs, data, ADA, "warm", 1))
            row("idle, % of a core", f"{idle(worker.pid):.1f}")
            alone = spent(jobs, ADA, submit(jobs, data, ADA, "alone", 4))
            row("a job of 4 batches alone, s", f"{alone:.1f}")
            mine = [submit(jobs, data, ADA, f"a{n}", 4) for n in range(20)]
            others = [submit(jobs, data, BOB, f"b{n}", 4) for n in range(20)]
            ends = [spent(jobs, BOB, j) for j in others]
            row("of 2 × 20 jobs, the second user's first, s", f"{min(ends):.1f}")
            row("of 2 × 20 jobs, the last, s", max(*ends, *(spent(jobs, ADA, j) for j in mine)))
            big = submit(jobs, data, ADA, "big", 80)
            small = spent(jobs, BOB, submit(jobs, data, BOB, "small", 6))
            large = spent(jobs, ADA, big)
            row("6 batches beside 80 of another user", f"{small:.1f} of {large:.1f} s")
            wall, cpu = enqueued(jobs, data)
            row("submits per second, per CPU-second", f"{wall:.0f}, {cpu:.0f}")
        finally:
            worker.terminate()
            worker.wait(20)


if __name__ == "__main__":
    main()
