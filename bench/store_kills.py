"""SIGKILL at any moment of changes and saves: `python -m bench.store_kills [--random 200] [--aimed 50]`.

A process changes a user's store and saves it, as jobs do, until it is killed: at a random moment, or
within 8 ms after Chroma began to write an index file. Then two stores are looked at: one made from
the remotes alone, which must be the last saved generation, and the one on the disk that was left,
which must hold every acknowledged change too. Each is compared record by record (id, document,
metadata, vector) with what was done, and its ten nearest with an exact search.
"""

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench.records import difference, made, recall, scratch
from errors import QuireError
from storage.catalog.catalog import Catalog
from storage.generations.compose import Wish
from storage.live.chroma import Record, VectorStore
from storage.live.workspace import Space
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.stores import Stores, open_stores

USER = "a" * 32
DIMENSION = 64
MOST = 700  # records, so that a rebuild takes less than a second
AIM = 0.008  # seconds after an index file has changed
PATIENCE = 300.0
ROUNDS = 10  # kills of one directory before a new one
State = Mapping[str, Record]
Spawn = multiprocessing.get_context("forkserver")


def change(state: State, number: int) -> tuple[list[Record], list[str]]:
    """What the change of that number puts or deletes, on top of `state`."""
    rng = np.random.default_rng(number)
    known = list(state)
    if len(known) > MOST:
        return [], [known[i] for i in rng.permutation(len(known))[:200]]
    if known and rng.random() < 0.15:
        return [], [known[i] for i in rng.permutation(len(known))[:15]]
    ids = [f"{number:08d}-{n}" for n in range(int(rng.integers(5, 120)))]
    if known and rng.random() < 0.2:
        ids = [known[i] for i in rng.permutation(len(known))[:20]]
    return made(ids, rng, dimension=DIMENSION, letters=80), []


def after(state: State, number: int) -> State:
    puts, deletes = change(state, number)
    gone = set(deletes)
    return {i: r for i, r in state.items() if i not in gone} | {r.id: r for r in puts}


@contextmanager
def opened(root: Path, remotes: Path) -> Iterator[tuple[Stores, Space]]:
    root.mkdir(parents=True, exist_ok=True)
    catalog = Catalog(f"sqlite:///{root}/catalog.sqlite")
    stores = open_stores(
        Paths(root), catalog, LocalRemote(remotes / "primary"),
        LocalRemote(remotes / "mirror", "mirror"), patience=PATIENCE,
    )  # fmt: skip
    try:
        stores.replication.adopt(USER)
        held = catalog.create_collection(USER, "papers")
        yield stores, Space(collection=held.id, title="papers", model="m", dimension=DIMENSION)
    finally:
        stores.workspaces.close()
        catalog.close()


def work(root: Path, remotes: Path, state: State, number: int, told: Connection) -> None:
    """Changes one after another until somebody kills this process; `told` says where it is."""
    rng = random.Random(number)
    with opened(root, remotes) as (stores, space):
        threading.Thread(target=stores.committer.run, daemon=True).start()
        with stores.workspaces.open(USER):
            told.send(("opened", number))
        while True:
            told.send(("begun", number))
            puts, deletes = change(state, number)
            with stores.workspaces.open(USER) as workspace:
                workspace.upsert(space, puts)
                workspace.delete(space.collection, deletes)
            told.send(("done", number))
            state = after(state, number)
            if rng.random() < 0.25:
                stores.committer.save(USER)
                told.send(("saved", number))
            if rng.random() < 0.07 and (copy := stores.workspaces.copy(USER)):
                stores.replication.save(USER, Wish(copy=copy))
                told.send(("saved", number))
            number += 1


@dataclass(slots=True)
class Result:
    """`generations`: the most of one disk; `broken`: kills that left a Chroma directory that
    cannot be read; `recall`: the worst store's."""

    kills: int = 0
    changes: int = 0
    generations: int = 0
    broken: int = 0
    recall: float = 1.0
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Machine:
    """A disk that outlives its processes. `states` are what was done on it, by the number of the
    last change, from the one that is surely saved on."""

    root: Path
    number: int
    states: dict[int, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.states[self.number - 1] = {}

    @property
    def remotes(self) -> Path:
        return self.root / "remotes"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def round(self, rng: random.Random, result: Result, *, aimed: bool) -> None:
        """One process, killed, and what is left of it."""
        saved, done = min(self.states), max(self.states)
        state = self.states[done]
        heard = self._killed(state, rng, aimed=aimed)
        last = {word: number for word, number in heard}
        for number in range(self.number, last.get("begun", self.number - 1) + 1):
            self.states[number] = state = after(state, number)
        self.number = max(self.number, max(self.states) + 1)
        saved, done = last.get("saved", saved), last.get("done", done)
        result.kills += 1
        result.changes += sum(word == "done" for word, _ in heard)
        result.broken += broken(Paths(self.data).chroma(USER))
        with tempfile.TemporaryDirectory(dir=self.root) as fresh:
            saved = self._look("the remotes", Path(fresh) / "data", saved, rng, result)
        done = self._look("the disk", self.data, done, rng, result)
        self.states = {n: s for n, s in self.states.items() if saved <= n <= done}
        if rng.random() < 0.5:  # the next process restores, and may be killed while it does
            Paths(self.data).clean(USER).unlink(missing_ok=True)

    def _killed(self, state: State, rng: random.Random, *, aimed: bool) -> list[tuple[str, int]]:
        """What the process told before it died."""
        ours, theirs = Spawn.Pipe(duplex=False)
        process = Spawn.Process(
            target=work, args=(self.data, self.remotes, state, self.number, theirs)
        )
        process.start()
        theirs.close()
        heard: list[tuple[str, int]] = []
        try:
            for _ in range(1 if aimed else rng.randrange(60)):
                heard.append(ours.recv())
            if aimed:
                index_changed(Paths(self.data).chroma(USER))
                time.sleep(rng.uniform(0, AIM))
            else:
                time.sleep(rng.uniform(0, 0.08))
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        with suppress(EOFError):
            while True:
                heard.append(ours.recv())
        return heard

    def _look(self, where: str, data: Path, least: int, rng: random.Random, result: Result) -> int:
        """Which state, `least` or a later one, the store there holds; a violation when none."""
        wanted = [n for n in sorted(self.states, reverse=True) if n >= least]
        try:
            with (
                opened(data, self.remotes) as (stores, space),
                stores.workspaces.open(USER) as workspace,
            ):
                base = stores.replication.base(USER)
                result.generations = max(result.generations, base.generation if base else 0)
                for number in wanted:
                    state = self.states[number]
                    why = difference(workspace, space.collection, state)
                    if why is None:
                        queries = np.random.default_rng(rng.randrange(1 << 30))
                        share = recall(workspace, space.collection, state, queries)
                        result.recall = min(result.recall, share)
                        return number
        except QuireError as problem:
            why = f"{problem.code}: {problem}"
        result.violations.append(f"{where}: {why} (of changes {wanted[-1]} to {wanted[0]})")
        return wanted[0]


def index_changed(folder: Path) -> None:
    """Returns as soon as a file of the vector index there is written again."""

    def seen() -> dict[Path, tuple[int, int]]:
        found = {}
        for path in (*folder.glob("*/*.bin"), *folder.glob("*/*.pickle")):
            with suppress(FileNotFoundError):
                status = path.stat()
                found[path] = (status.st_mtime_ns, status.st_size)
        return found

    limit, before = time.monotonic() + PATIENCE, seen()
    while time.monotonic() < limit:
        now = seen()
        if any(before.get(p, now[p] if p.suffix == ".bin" else None) != now[p] for p in now):
            return
        before |= now
        time.sleep(0.0005)
    raise TimeoutError("no index file was written")


def broken(folder: Path) -> bool:
    """Chroma cannot read that directory any more. Asked in a process of its own, which may crash:
    what is left there is never opened by the product."""
    asked = Spawn.Process(target=_read_all, args=(folder,))
    asked.start()
    asked.join()
    return asked.exitcode != 0


def _read_all(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))  # a torn index may ask for more
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    store = VectorStore(folder)
    for collection in store.collections():
        store.get(collection, vectors=True)
    store.close()


def campaign(
    kills: int, *, aimed: bool, seed: int = 1, tell: Callable[[Result], None] = lambda _: None
) -> Result:
    """So many kills, on a new disk after every tenth; `tell` is given what there is after each."""
    Spawn.set_forkserver_preload(["bench.records", "storage.stores", "chromadb"])
    rng, result = random.Random(seed), Result()
    for disk in range((kills + ROUNDS - 1) // ROUNDS):
        with scratch("kills") as root:
            machine = Machine(Path(root), 1_000_000 * seed + 10_000 * disk)
            for _ in range(min(ROUNDS, kills - result.kills)):
                machine.round(rng, result, aimed=aimed)
                tell(result)
    return result


def line(name: str, found: Result) -> str:
    return (
        f"{name:8s} {found.kills:6d} {found.changes:8d} {found.generations:12d} {found.broken:11d}"
        f" {found.recall:10.3f} {len(found.violations):11d}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--aimed", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("kind      kills  changes  generations broken left  recall@10  violations", flush=True)
    failed = False
    for name, kills in (("random", asked.random), ("aimed", asked.aimed)):

        def tell(so_far: Result, name: str = name, kills: int = kills) -> None:
            if so_far.kills % 25 == 0 or so_far.kills == kills:
                print(line(name, so_far), flush=True)

        found = campaign(kills, aimed=name == "aimed", seed=asked.seed, tell=tell)
        for text in found.violations:
            print(f"  {text}")
        failed |= bool(found.violations) or found.recall < 0.99
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
