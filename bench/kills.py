"""`python bench/kills.py [--kills N] [--jobs N] [--batches N]`: SIGKILL the worker at random moments
of concurrent jobs, and print what that cost. `tests/faults` runs a small one.

Counts come from the log: every stage says when it starts, and with which batch.
"""

import argparse
import asyncio
import random
import sqlite3
import sys
import tempfile
import time
from calendar import timegm
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.jobs.service import Jobs
from tests.engine import USER, engine, lines, pages_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """`started` counts (stage, job, batch) starts; the delays are seconds from a kill to the first
    batch that starts after it, and from the new process's start to that batch."""

    statuses: list[str]
    started: Counter[str]
    kills: int
    after_kill: list[float]
    after_start: list[float]
    integrity: list[str]
    gaps: int
    seconds: float


def seconds(line: dict[str, Any]) -> float:
    stamp = line["time"].rstrip("Z")
    whole, _, part = stamp.partition(".")
    return timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(part) / 1000


@dataclass(slots=True)
class Watcher:
    """Leaves after some events and comes back with the last number it saw."""

    jobs: Jobs
    job: str
    chance: random.Random
    seen: list[int] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            after = self.seen[-1] if self.seen else 0
            patience = self.chance.randint(3, 30)
            final = False
            async for event in self.jobs.watch(USER, self.job, after):
                if event["seq"] > after:
                    self.seen.append(event["seq"])
                    after = event["seq"]
                final = event["stage"] == "end"
                patience -= 1
                if not patience and not final:
                    break
            if final:
                return


def integrity(data: Path) -> str:
    answers = set()
    for name in ("jobs.sqlite", "catalog.sqlite"):
        with sqlite3.connect(data / name, timeout=30) as database:
            answers.add(database.execute("PRAGMA integrity_check").fetchone()[0])
    return ",".join(sorted(answers))


async def campaign(
    data: Path,
    *,
    jobs: int,
    batches: int,
    kills: int,
    watchers: int,
    seed: int,
    every: tuple[float, float] = (1.0, 12.0),
    **extra: str,
) -> Result:
    chance = random.Random(seed)
    log = data / "worker.log"
    began = time.monotonic()
    with engine(data, **extra) as running:
        seam = running.jobs
        made = []
        for number in range(jobs):
            made.append(running.submit(running.pdf(pages_of(batches), f"book {number}")))
        tasks = []
        following = []
        for number in range(watchers):
            watcher = Watcher(seam, made[number % jobs], chance)
            following.append(watcher)
            tasks.append(asyncio.create_task(watcher.follow()))
        killed: list[float] = []
        checks: list[str] = []
        while any(seam.job(USER, j)["status"] in {"queued", "running", "waiting"} for j in made):
            await asyncio.sleep(chance.uniform(*every) if len(killed) < kills else 1.0)
            if len(killed) < kills:
                running.kill_worker()
                killed.append(time.time())
                checks.append(await asyncio.to_thread(integrity, data))
        await asyncio.gather(*tasks)
        statuses = [seam.job(USER, j)["status"] for j in made]
        spent = time.monotonic() - began
    told = lines(log)
    begins = [x for x in told if x["message"] == "stage started" and x["stage"] in STAGES]
    starts = [seconds(x) for x in told if x["message"] == "worker started"]
    after_kill, after_start = [], []
    for kill, following_kill in zip(killed, [*killed[1:], float("inf")], strict=True):
        first = next((t for x in begins if (t := seconds(x)) > kill), None)
        if first is not None and first < following_kill:
            after_kill.append(first - kill)
            after_start.append(first - max(s for s in starts if s <= first))
    numbers = [w.seen == list(range(1, len(w.seen) + 1)) for w in following]
    return Result(
        statuses=statuses,
        started=Counter(x["stage"] for x in begins),
        kills=len(killed),
        after_kill=after_kill,
        after_start=after_start,
        integrity=checks,
        gaps=numbers.count(False),
        seconds=spent,
    )


STAGES = ("partition", "index")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(
            campaign(
                Path(folder) / "data",
                jobs=asked.jobs,
                batches=asked.batches,
                kills=asked.kills,
                watchers=3,
                seed=asked.seed,
            )
        )
    bound = asked.jobs * asked.batches
    middle = sorted(found.after_kill)
    rows = [
        ("jobs", ", ".join(f"{n} {s}" for s, n in Counter(found.statuses).items())),
        ("kills", str(found.kills)),
        (
            "partition batches started",
            f"{found.started['partition']} (≤ {bound + 2 * found.kills})",
        ),
        ("index batches started", f"{found.started['index']} (≤ {bound + found.kills})"),
        ("watchers with a gap", str(found.gaps)),
        ("integrity", ", ".join(f"{n} {s}" for s, n in Counter(found.integrity).items())),
        ("kill → first batch, s", _spread(middle)),
        ("process start → first batch, s", _spread(sorted(found.after_start))),
        ("all done in, s", f"{found.seconds:.0f}"),
    ]
    for name, value in rows:
        print(f"{name:34s} {value}")
    return 0


def _spread(values: list[float]) -> str:
    if not values:
        return "none"
    return f"median {values[len(values) // 2]:.1f}, worst {values[-1]:.1f} of {len(values)}"


if __name__ == "__main__":
    sys.exit(main())
