"""How often many users are saved: `python -m bench.store_pace [--users 50] [--minutes 60]`.

An hour on a clock of its own, through the product's committer, live stores and Hub client, into the
tests' Hub. Each user's job writes records every half minute; it ends, is to be saved at once, and
after some minutes the next one comes; half of the users pause long enough to be published. Counted
are the commits that the Hub has made, their files, and how long an end had to wait for its save.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import tests.hub.environment  # noqa: F401
from bench.records import scratch
from storage.catalog.catalog import JobRow, SourceRow
from storage.generations.compose import Wish
from storage.generations.reader import digest
from storage.live.workspace import Space
from storage.paths import user_key
from tests.contracts.stores import dataset
from tests.house import House, record
from tests.hub.server import Hub

MOST_AT_ONCE = 10  # beyond one a minute
COMMIT_TAKES = 2.0  # seconds on the clock of the simulation
BATCH_EVERY = 30.0
BATCHES = 3


@dataclass(slots=True)
class Result:
    """`commits` within the hour, `files` of each; `waits` of jobs that ended, in seconds; `after`
    the commits that the shutdown made."""

    commits: int = 0
    after: int = 0
    files: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    published: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class User:
    """One person's jobs: `number` is the running one, `batch` its next batch."""

    key: str
    rng: random.Random
    at: float
    number: int = 0
    batch: int = 0
    waiting: "Future[int] | None" = None
    ended: float = 0.0

    def act(self, house: House, now: float) -> None:
        if now < self.at:
            return
        if self.batch == 0:
            self._begin(house)
        space = self._space(house)
        with house.workspaces.open(self.key) as workspace:
            ids = [self.number * 10 + self.batch * 3 + n for n in range(3)]
            workspace.upsert(space, [record(n) for n in ids])
        self.batch += 1
        self.at = now + BATCH_EVERY
        if self.batch == BATCHES:
            self._end(house)
            self.waiting, self.ended = house.committer.ask(self.key, Wish()), now
            self.number, self.batch = self.number + 1, 0
            self.at = now + self.rng.choice((30, 60, 200, 300))

    def settle(self, now: float, result: Result) -> None:
        if self.waiting is not None and self.waiting.done():
            self.waiting.result()
            result.waits.append(now - self.ended)
            self.waiting = None

    def _space(self, house: House) -> Space:
        made = house.catalog.create_collection(self.key, "papers")
        return Space(collection=made.id, title="papers", model="m", dimension=3)

    def _content(self) -> bytes:
        return f"%PDF {self.key} {self.number}".encode()

    def _begin(self, house: House) -> None:
        """As a submitted document: its original and its job, which is saved soon."""
        content = self._content()
        source = house.paths.source(self.key, digest(content))
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        house.catalog.put_job(self._job(house, content, "running"))
        house.committer.touch(self.key)

    def _end(self, house: House) -> None:
        """Its elements are there, its source is in the list."""
        content, space = self._content(), self._space(house)
        folder = house.paths.elements(self.key, digest(content), "v1")
        folder.mkdir(parents=True)
        (folder / "00001-00009.jsonl").write_bytes(content)
        house.catalog.put_source(
            self.key,
            SourceRow(
                collection=space.collection, sha256=digest(content), filename="f", bytes=1, pages=1,
                version="v1", created_at=1.0,
            ),
        )  # fmt: skip
        house.catalog.update_job(f"{self.key[:8]}-{self.number}", status="succeeded")

    def _job(self, house: House, content: bytes, status: str) -> JobRow:
        return JobRow(
            id=f"{self.key[:8]}-{self.number}", user=self.key,
            collection=self._space(house).collection, sha256=digest(content), filename="f",
            status=status, spec={}, summary={}, created_at=float(self.number), started_at=None,
            finished_at=None,
        )  # fmt: skip


def campaign(users: int, minutes: int, *, tell: Callable[[Result], None] = lambda _: None) -> Result:  # fmt: skip
    """`tell` is given what there is after each simulated minute."""
    result, rng = Result(), random.Random(1)
    with scratch("pace") as root, Hub() as hub:
        primary = dataset(hub)
        primary.check()
        house = House(Path(root) / "data", primary=replace(primary))
        commits = hub.repos[primary.repo].commits
        before = len(commits)
        now = house.committer.schedule.now
        house.committer.clock = lambda: now
        end = now + 60 * minutes
        people = [
            User(user_key(b"secret", str(n)), random.Random(n), now + rng.uniform(0, 240))
            for n in range(users)
        ]
        told = now
        while now < end:
            for person in people:
                person.act(house, now)
            now += COMMIT_TAKES if house.committer.step() else 1.0
            for person in people:
                person.settle(now, result)
            if now >= told + 60:
                told, result.commits = now, len(commits) - before
                tell(result)
        result.commits = len(commits) - before
        house.committer.close()
        result.after = len(commits) - before - result.commits
        for old, new in zip(commits[before - 1 :], commits[before:], strict=False):
            result.files.append(sum(old.tree.get(p) != e for p, e in new.tree.items()))
        result.published = sum("/chroma/" in p for p in commits[-1].tree) and sum(
            house.replication.status(p.key).published_generation is not None for p in people
        )
        left = sum(house.replication.status(p.key).unsaved for p in people)
        house.close()
    if result.commits > minutes + MOST_AT_ONCE:
        result.violations.append(f"{result.commits} commits")
    if left:
        result.violations.append(f"{left} changes are left unsaved")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--minutes", type=int, default=60)
    asked = parser.parse_args()
    print("commits   jobs ended and saved", flush=True)

    def tell(found: Result) -> None:
        print(f"{found.commits:7d} {len(found.waits):6d}", flush=True)

    found = campaign(asked.users, asked.minutes, tell=tell)
    print(f"{found.commits} commits, {found.after} more at the end")
    print(f"files of one: {statistics.median(found.files):.0f} median, {max(found.files)} most")
    print(f"an end waits: {statistics.median(found.waits):.0f} s median, {max(found.waits):.0f} most")  # fmt: skip
    print(f"published: {found.published} of {asked.users} users")
    for text in sorted(set(found.violations)):
        print(f"  {text}")
    return int(bool(found.violations))


if __name__ == "__main__":
    sys.exit(main())
