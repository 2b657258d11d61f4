"""`python bench/engine.py [PART …] [--pdf FILE]`: what the job engine costs beside the work itself, and
how soon it does what it is told. Parts: idle, shares, submits, list, sleep, cancel, cost, machines."""

import argparse
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil

from pipeline.jobs.service import LISTED, Jobs, Request
from storage.catalog.catalog import FINISHED, JobRow
from tests.engine import OTHER, USER, Engine, engine, lines, make_pdf, pages_of
from tests.postgres import postgres


def submit(running: Engine, user: str, name: str, batches: int) -> str:
    return running.submit(running.pdf(pages_of(batches), name), user)


def spent(jobs: Jobs, user: str, job: str) -> float:
    """Seconds from the submit to the end."""
    while True:
        found = jobs.job(user, job)
        if found["status"] in FINISHED:
            return float(found["finished_at"] - found["created_at"])
        time.sleep(0.2)


def row(name: str, value: Any) -> None:
    print(f"{name:52s} {value}", flush=True)


def at(line: dict[str, Any]) -> float:
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


def idle(running: Engine, seconds: float = 20) -> None:
    spent(running.jobs, USER, submit(running, USER, "warm", 1))
    time.sleep(5)  # upkeep notices that there is nothing left to do
    both = running.whole()
    before = [sum(p.cpu_times()[:2]) for p in both]
    time.sleep(seconds)
    used = sum(sum(p.cpu_times()[:2]) for p in both) - sum(before)
    row("idle, % of a core", f"{100 * used / seconds:.1f} (≤ 6)")


def shares(running: Engine) -> None:
    jobs = running.jobs
    alone = spent(jobs, USER, submit(running, USER, "alone", 4))
    row("a job of 4 batches alone, s", f"{alone:.1f}")
    mine = [submit(running, USER, f"a{n}", 4) for n in range(20)]
    others = [submit(running, OTHER, f"b{n}", 4) for n in range(20)]
    ends = [spent(jobs, OTHER, j) for j in others]
    row("of 2 × 20 jobs, the second user's first, s", f"{min(ends):.1f} (≤ {2 * alone:.1f})")
    row("of 2 × 20 jobs, the last, s", max(*ends, *(spent(jobs, USER, j) for j in mine)))
    big = submit(running, USER, "big", 80)
    small = spent(jobs, OTHER, submit(running, OTHER, "small", 6))
    large = spent(jobs, USER, big)
    row("6 batches beside 80 of another user", f"{small:.1f} of {large:.1f} s (≤ {large / 4:.1f})")


def submits(running: Engine, count: int = 300) -> None:
    """The queue alone, and whole submits of one-page files: hashed, stored, told, queued, while
    the worker begins with them."""
    began, start = time.monotonic(), running.jobs.engine.start
    for n in range(count):
        start(
            {"user": USER}, "ingest_v1", "jobs", f"e{n}~1", {"job": f"e{n}"}, delay_seconds=3600.0
        )
    row("enqueued per second", f"{count / (time.monotonic() - began):.0f} (≥ 300)")
    files = [make_pdf(running.data / f"e{n}.pdf", 1, f"e{n}") for n in range(count)]
    began, cpu = time.monotonic(), time.process_time()
    made = [running.jobs.submit(USER, Request(path=f, filename=f.name)) for f in files]
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    row("submits per second, per CPU-second", f"{count / wall:.0f}, {count / cpu:.0f}")
    for job in made:
        running.jobs.cancel(USER, job["id"])


def told(running: Engine, name: str, status: str, age: float = 0.0) -> None:
    now = time.time() - age
    over = now if status in FINISHED else None
    running.jobs.catalog.put_job(
        JobRow(
            id=name, user=OTHER, collection="c", sha256="0" * 64, filename=f"{name}.pdf",
            status=status, spec={"user": OTHER}, summary={"kind": "ingest", "attempt": 1},
            created_at=now, started_at=now, finished_at=over,
        )
    )  # fmt: skip


def listed(running: Engine, count: int = 10_000) -> None:
    for n in range(count):
        told(running, f"l{n}", "succeeded", age=3600.0)
    for limit in (50, LISTED):
        began = time.monotonic()
        found = running.jobs.list_jobs(OTHER, limit=limit)
        took = 1000 * (time.monotonic() - began)
        row(f"{len(found)} of {count:,} jobs listed, ms", f"{took:.0f}")


def asleep(running: Engine, count: int = 100) -> None:
    """Their continuations wait in the queue, as those of jobs do whose store is away."""
    spent(running.jobs, USER, submit(running, USER, "before", 2))
    worker = psutil.Process(running.process.pid).children()[0]
    time.sleep(10)  # models are loaded by then
    before = worker.memory_info().rss
    for n in range(count):
        told(running, f"s{n}", "waiting")
        spec = {"job": f"s{n}", "user": OTHER, "attempt": 1, "turn": 1, "first_seq": 0}
        running.jobs.engine.start(
            spec, "ingest_v1", "jobs", f"s{n}~1.1", spec, delay_seconds=1200.0
        )
    time.sleep(20)
    grown = (worker.memory_info().rss - before) / (1 << 20)
    row(f"{count} jobs that wait for something, MB", f"{grown:+.1f} (≤ +10)")


def cancel(running: Engine, times: int = 5) -> None:
    """Seconds from the call to the last stage that starts, and to the end of the page processes
    that worked for it."""
    late, dead = [], []
    for n in range(times):
        job = running.submit(running.pdf(60, f"scan {n}"), strategy="ocr_only")
        running.until(job, lambda j: j["stages"].get("index", {}).get("done", 0))
        busy = running.at_work()
        began = time.time()
        running.jobs.cancel(USER, job)
        psutil.wait_procs(busy, timeout=20)
        dead.append(time.time() - began)
        time.sleep(3)
        late.append(max(at(x) for x in running.started(job=job)) - began)
    row("after a cancel: last stage that started, s", f"{max(late):.2f} (≤ 0.5)")
    row("after a cancel: page processes are dead, s", f"{max(dead):.2f} (≤ 2)")


def cost(pdf: Path) -> None:
    """A job of that file: its seconds, and those in which none of its stages was at work."""
    with tempfile.TemporaryDirectory() as folder, engine(Path(folder) / "data") as running:
        spent(running.jobs, USER, submit(running, USER, "warm", 2))
        copy = running.data / pdf.name
        copy.write_bytes(pdf.read_bytes())
        job = running.submit(copy, strategy="auto")
        running.finished(job, seconds=600)
        ended = [x for x in lines(running.data / "worker.log") if x.get("job") == job]
        done = sorted(
            (at(x) - x["seconds"], at(x))
            for x in ended
            if x["message"] == "stage ended" and x["stage"] not in {"notify", "clean"}
        )
        found = running.jobs.job(USER, job)
        over = found["finished_at"]
        busy, reached = 0.0, found["created_at"]
        for begin, end in done:
            if end > reached:
                busy += min(end, over) - max(begin, reached)
                reached = end
        total = over - found["created_at"]
        share = 100 * (total - busy) / total
    row(f"{pdf.name}, s", f"{total:.1f}")
    row("  of these without any stage at work, %", f"{share:.1f} (≤ 5)")


def machines() -> None:
    """Two workers over one PostgreSQL; the one that reads beside the first is killed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres() as url,
        engine(Path(folder) / "data", QUIRE_DATABASE_URL=url, QUIRE_PAGE_PROCESSES="1") as running,
    ):
        took = []
        for n, kill in enumerate((False, True)):
            environment = {
                **os.environ, "QUIRE_DATA_DIR": str(running.data), "QUIRE_DATABASE_URL": url,
                "QUIRE_PAGE_PROCESSES": "1", "HF_HUB_OFFLINE": "1",
            }  # fmt: skip
            with (running.data / f"reader{n}.log").open("wb") as out:
                reader = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.worker", "--reader"],
                    cwd=ROOT, env=environment, stdout=out, stderr=out,
                )  # fmt: skip
            log = running.data / f"reader{n}.log"
            job = running.submit(running.pdf(34, f"shared {n}"), strategy="ocr_only")
            running.eventually(
                lambda log=log: any(x["message"] == "stage started" for x in lines(log))
            )
            if kill:
                reader.send_signal(signal.SIGKILL)
            took.append(spent(running.jobs, USER, job))
            reader.kill()
            reader.wait()
    row("two workers over PostgreSQL, s", f"{took[0]:.1f}")
    row("  one killed, s", f"{took[1]:.1f} (≤ 20 + the work of one)")


PARTS: dict[str, Callable[[Engine], None]] = {
    "idle": idle,
    "shares": shares,
    "submits": submits,
    "list": listed,
    "sleep": asleep,
    "cancel": cancel,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS, "cost", "machines"])
    parser.add_argument("--pdf", type=Path, default=ROOT / "samples" / "report.pdf")
    asked = parser.parse_args()
    for part in asked.parts:
        if part == "cost":
            cost(asked.pdf)
        elif part == "machines":
            machines()
        else:
            with (
                tempfile.TemporaryDirectory() as folder,
                engine(Path(folder) / "data", QUIRE_MAX_JOBS="1000") as running,
            ):
                PARTS[part](running)


if __name__ == "__main__":
    main()
