"""`python bench/engine.py`: what the job engine costs beside the work itself: submits per second, an
idle worker's share of a core, and how two users share it."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil

from pipeline.jobs import Jobs, Request
from storage.catalog import FINISHED
from tests.engine import OTHER, USER, Engine, engine, make_pdf, pages_of


def submit(running: Engine, user: str, name: str, batches: int) -> str:
    return running.submit(running.pdf(pages_of(batches), name), user)


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
        jobs.submit(USER, Request(path=file, filename=file.name))
    return count / (time.monotonic() - began), count / (time.process_time() - cpu)


def row(name: str, value: Any) -> None:
    print(f"{name:44s} {value}", flush=True)


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        engine(Path(folder) / "data") as running,
    ):
        jobs, data = running.jobs, running.data
        spent(jobs, USER, submit(running, USER, "warm", 1))
        row("idle, % of a core", f"{idle(running.process.pid):.1f}")
        alone = spent(jobs, USER, submit(running, USER, "alone", 4))
        row("a job of 4 batches alone, s", f"{alone:.1f}")
        mine = [submit(running, USER, f"a{n}", 4) for n in range(20)]
        others = [submit(running, OTHER, f"b{n}", 4) for n in range(20)]
        ends = [spent(jobs, OTHER, j) for j in others]
        row("of 2 × 20 jobs, the second user's first, s", f"{min(ends):.1f}")
        row("of 2 × 20 jobs, the last, s", max(*ends, *(spent(jobs, USER, j) for j in mine)))
        big = submit(running, USER, "big", 80)
        small = spent(jobs, OTHER, submit(running, OTHER, "small", 6))
        large = spent(jobs, USER, big)
        row("6 batches beside 80 of another user", f"{small:.1f} of {large:.1f} s")
        wall, cpu = enqueued(jobs, data)
        row("submits per second, per CPU-second", f"{wall:.0f}, {cpu:.0f}")


if __name__ == "__main__":
    main()
