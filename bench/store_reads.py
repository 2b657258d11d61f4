"""Reading the mirror while it is written: `python -m bench.store_reads [--reads 1000]`.

One thread changes and saves a user all the time, the primary a directory, the mirror the real S3
code with moto behind it; compaction, published directories and pruning happen as they do. Readers go
to the mirror alone: the newest manifest, then every file that it names. Each read must be a whole
generation, with the rows that this generation was saved with, and never an older one than before.
Only a published directory may be gone when a newer one took its place: a restore then takes the
segments.
"""

import argparse
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.records import made, scratch
from errors import NotFound, QuireError
from storage.generations import reader as generations
from storage.generations.compose import Wish
from storage.generations.manifest import Manifest
from storage.live import journal, segments
from storage.live.build_chroma import put_row
from storage.live.closed_copy import Copy
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Remote
from tests.contracts.stores import bucket, keys, moto
from tests.house import USER, House

READERS = 2


@dataclass(slots=True)
class Result:
    reads: int = 0
    saves: int = 0
    seen: int = 0
    replaced: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Writer:
    """Saves until it is told to stop; `rows` are the ids of each generation."""

    house: House
    rows: dict[int, frozenset[str]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    enough: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.enough.is_set():
            self.step()

    def step(self) -> None:
        number = len(self.rows) + 1
        records = made([f"{number}-{n}" for n in range(4)], self.rng, dimension=8, letters=40)
        rows = [put_row("c", r) for r in records]
        self.held |= {r.id for r in records}
        if len(self.held) > 60:
            gone = sorted(self.held)[:30]
            self.held -= set(gone)
            rows += [segments.Row(op="delete", collection="c", id=i) for i in gone]
        pending = self.house.paths.pending(USER)
        journal.write(pending, segments.encode(rows), self.house.replication.shipped(USER))
        wish = Wish(copy=self._copy()) if number % 5 == 0 else Wish()
        self.rows[self.house.replication.save(USER, wish)] = frozenset(self.held)

    def _copy(self) -> Copy:
        """Bytes in the place of a Chroma directory: nobody opens it here."""
        folder = self.house.paths.copy(USER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chroma.sqlite3").write_bytes(self.rng.bytes(20_000))
        pending = tuple(journal.pending(self.house.paths, USER))
        return Copy(directory=folder, journal=pending, records=0)


def read(mirror: Remote, result: Result) -> tuple[int, frozenset[str]]:
    """The newest generation there and the ids it holds, every byte verified."""
    found = generations.read(mirror, USER)
    if found is None:
        raise NotFound("not_in_store", "The mirror has nothing.")
    new = found.manifest
    rows = [
        row for f in new.segments for row in segments.decode(generations.content([mirror], USER, f))
    ]
    for file in new.files:
        generations.content([mirror], USER, file)
    _published(mirror, new, result)
    return new.generation, frozenset(segments.fold(rows).get("c", {}))


def _published(mirror: Remote, seen: Manifest, result: Result) -> None:
    for file in seen.published.files if seen.published else ():
        try:
            generations.content([mirror], USER, file)
        except NotFound:
            newer = generations.read(mirror, USER)
            if newer is None or newer.manifest.published == seen.published:
                raise
            result.replaced += 1


def campaign(reads: int, tell: Callable[[Result], None] = lambda _: None) -> Result:
    """`tell` is given what there is after each read."""
    result, lock = Result(), threading.Lock()
    seen: list[tuple[int, frozenset[str]]] = []
    with scratch("reads") as root, keys(), moto() as url:
        mirror = bucket(url)
        house = House(
            Path(root) / "data", primary=LocalRemote(Path(root) / "primary"), mirror=mirror
        )
        writer = Writer(house)
        writer.step()

        def reader(count: int) -> None:
            newest = 0
            for _ in range(count):
                try:
                    generation, rows = read(mirror, result)
                    if generation < newest:
                        result.violations.append(f"went back from {newest} to {generation}")
                    newest = generation
                    seen.append((generation, rows))
                except QuireError as problem:
                    result.violations.append(f"{problem.code}: {problem}")
                with lock:
                    result.reads += 1
                    tell(result)

        with ThreadPoolExecutor(READERS + 1) as threads:
            writing = threads.submit(writer.run)
            shares = [len(range(n, reads, READERS)) for n in range(READERS)]
            try:
                list(threads.map(reader, shares))
            finally:
                writer.enough.set()
            writing.result()
        house.close()
    result.saves, result.seen = len(writer.rows), len({g for g, _ in seen})
    for generation, rows in seen:
        if rows != writer.rows.get(generation, frozenset()):
            result.violations.append(f"generation {generation} has other rows")
    return result


def line(found: Result) -> str:
    return (
        f"{found.reads:6d} {found.saves:6d} {found.seen:12d} {found.replaced:9d}"
        f" {len(found.violations):11d}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=1000)
    asked = parser.parse_args()
    found = campaign(asked.reads)
    print(" reads  saves  generations  replaced  violations")
    print(line(found))
    for text in sorted(set(found.violations)):
        print(f"  {text}")
    return int(bool(found.violations))


if __name__ == "__main__":
    sys.exit(main())
