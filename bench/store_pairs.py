"""Two instances write one user through real servers: `python -m bench.store_pairs [--rounds 40]`.

Two machines with their own disk, catalogue and Chroma, one dataset on the tests' Hub and one bucket
on moto, each by its real client. Both change records of their own, the same records and their
collections, and save at the same moment, while the Hub refuses some commits and lands others without
an answer. After each save that was acknowledged the newest generation holds all that this instance
wrote, and in the end the dataset alone, the bucket alone and both machines hold all of both.
"""

import argparse
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tests.hub.environment  # noqa: F401
from bench.records import scratch
from errors import QuireError
from storage.generations import reader
from storage.live import segments
from storage.remotes.hub import connect
from storage.remotes.remote import Remote
from tests.contracts.stores import bucket, dataset, keys, moto
from tests.house import USER, House, record
from tests.hub.faults import Fault
from tests.hub.server import Hub

FAULTS: tuple[dict[str, Any], ...] = (
    {"status": 409},
    {"status": 412},
    {"status": 500, "after": True},
    {"status": 504, "after": True},
    {"drop": True, "after": True},
    {"drop": True},
)


@dataclass(slots=True)
class Result:
    """`refused`: saves that failed and were made good later; `conflicts`: commits that were
    answered with 409 or 412, because the other instance was first or by a fault."""

    saves: int = 0
    refused: int = 0
    conflicts: int = 0
    faults: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Writer:
    """One instance. `own` are the records that only it writes, `shared` its last word on the
    others; `titles` the collections that it made."""

    name: str
    house: House
    rng: random.Random
    own: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    titles: set[str] = field(default_factory=set)

    def change(self, number: int) -> None:
        words = f"{self.name} {number}"
        mine = [f"{self.name}-{self.rng.randrange(12)}" for _ in range(3)]
        both = f"both-{self.rng.randrange(4)}"
        gone = [i for i in sorted(self.own) if i not in mine and self.rng.random() < 0.1]
        with self.house.workspaces.open(USER) as workspace:
            put = [replace(record(number), id=i, document=words) for i in {*mine, both}]
            workspace.upsert(self.house.space(), put)
            workspace.delete(self.house.space().collection, gone)
        self.own |= dict.fromkeys(mine, words)
        self.own = {i: d for i, d in self.own.items() if i not in gone}
        self.shared[both] = words
        if self.rng.random() < 0.2:
            self.titles.add(words)
            self.house.catalog.create_collection(USER, words)

    def held(self, documents: dict[str, str]) -> bool:
        """Whether all of its own is there, and nothing that it deleted."""
        return {i: d for i, d in documents.items() if i.startswith(self.name)} == self.own


def stored(remote: Remote) -> dict[str, str]:
    """Documents of the newest generation of one remote, by id."""
    found = reader.read(remote, USER)
    files = found.manifest.segments if found else ()
    rows = [r for f in files for r in segments.decode(reader.content([remote], USER, f))]
    return {i: r.document for c in segments.fold(rows).values() for i, r in c.items()}


def live(house: House) -> dict[str, str]:
    with house.workspaces.open(USER) as workspace:
        return {r.id: r.document for c in workspace.collections() for r in workspace.get(c)}


def campaign(rounds: int, *, seed: int = 1, tell: Callable[[Result], None] = lambda _: None) -> Result:  # fmt: skip
    """`tell` is given what there is after each round of the first instance."""
    result, rng = Result(), random.Random(seed)
    with scratch("pairs") as root, keys(), moto() as url, Hub() as hub:
        mirror, primary = bucket(url), dataset(hub)
        primary.check()
        again = replace(connect(primary.repo, "hf_write", hub.url), sleep=primary.sleep)
        writers = [
            Writer(
                name, House(Path(root) / name, primary=p, mirror=mirror), random.Random(n + seed)
            )
            for n, (name, p) in enumerate((("one", primary), ("two", again)))
        ]
        writers[0].change(0)
        writers[0].house.replication.save(USER)
        writers[1].house.replication.adopt(USER)
        together = threading.Barrier(2)

        def write(writer: Writer) -> None:
            for number in range(1, rounds + 1):
                writer.change(number)
                if writer is writers[0] and rng.random() < 0.4:
                    hub.faults = [Fault("POST", "/commit/", **rng.choice(FAULTS))]
                    result.faults += 1
                together.wait(300)
                try:
                    writer.house.replication.save(USER)
                    result.saves += 1
                    if number % 4 == 0 and not writer.held(
                        stored(writer.house.replication.primary)
                    ):
                        result.violations.append(f"{writer.name} {number}: a saved write is gone")
                except QuireError as problem:
                    result.refused += 1
                    if problem.permanent:
                        result.violations.append(f"{problem.code}: {problem}")
                if writer is writers[0]:
                    tell(result)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(write, writers))
        hub.faults = []
        result.conflicts = sum(s.status in {409, 412} and "/commit/" in s.path for s in hub.log)
        for writer in (*writers, writers[0]):
            writer.house.replication.save(USER)
        everywhere = [stored(primary), stored(mirror), *(live(w.house) for w in writers)]
        result.violations += judged(writers, everywhere)
        for writer in writers:
            writer.house.close()
    return result


def judged(writers: list[Writer], everywhere: list[dict[str, str]]) -> list[str]:
    found = []
    for place, documents in zip(
        ("the dataset", "the bucket", "one", "two"), everywhere, strict=True
    ):
        found += [f"{place}: not all of {w.name}" for w in writers if not w.held(documents)]
        for identity in {*writers[0].shared, *writers[1].shared}:
            if documents.get(identity) not in {w.shared.get(identity) for w in writers}:
                found.append(f"{place}: {identity} is nobody's last word")
        if documents != everywhere[0]:
            found.append(f"{place} differs from the dataset")
    titles = writers[0].titles | writers[1].titles
    for writer in writers:
        there = {c.title for c in writer.house.catalog.collections(USER)}
        found += [f"{writer.name}: no collection {t}" for t in sorted(titles - there)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found = campaign(asked.rounds, seed=asked.seed)
    print(" saves  refused  conflicts  faults  violations")
    print(
        f"{found.saves:6d} {found.refused:8d} {found.conflicts:10d} {found.faults:7d}"
        f" {len(found.violations):11d}"
    )
    for text in sorted(set(found.violations)):
        print(f"  {text}")
    return int(bool(found.violations))


if __name__ == "__main__":
    sys.exit(main())
