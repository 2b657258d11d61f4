"""What many users cost: `python -m bench.store_users [--users 200] [--chunks 5000] [--cycles 500]`.

One store is made by the product and closed; the other users get copies of its files, with their own
key in the manifest, so that nothing is built twice. Then every user asks once, and after that users
at random, until so many stores were opened and closed: each opening is followed by a search. The
memory (RSS) and the files of this process are read after each. At most sixteen stores are open.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.records import made
from storage.catalog.catalog import Catalog
from storage.generations import manifest as manifests
from storage.live import seal
from storage.live.open_stores import OPEN_AT_ONCE
from storage.live.workspace import Space
from storage.paths import Paths, user_key
from storage.remotes.local import LocalRemote
from storage.stores import Stores, open_stores

MOST_MB, MOST_FILES = 1200, 400
MAY_GROW_MB = 50  # over the cycles, after the sixteen are open: the allocator's noise
MAY_GROW_FILES = 8  # half of what one open store holds: two samples of the same state differ by 2


@dataclass(slots=True)
class Result:
    """`memory` (MB) and `files` after each opening."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def measured(result: Result) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    result.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    result.files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))


def first(stores: Stores, space: Space, user: str, chunks: int, letters: int) -> str:
    """A word that one of its records has."""
    rng = np.random.default_rng(1)
    for start in range(0, chunks, 500):
        ids = [f"{n:06d}" for n in range(start, min(start + 500, chunks))]
        records = made(ids, rng, dimension=space.dimension, letters=letters)
        with stores.workspaces.open(user) as workspace:
            workspace.upsert(space, records)
    stores.replication.save(user)
    stores.workspaces.close()
    return records[0].document.split()[0]


def copied(paths: Paths, user: str, other: str) -> None:
    shutil.copytree(paths.user(user), paths.user(other))
    base = manifests.load(paths.base(user).read_bytes(), user=user)
    paths.base(other).write_bytes(manifests.dump(replace(base, user=other)))
    held = seal.read(paths.clean(other))
    assert held
    seal.write(paths.clean(other), replace(held, base=seal.base(paths, other)))


def campaign(
    users: int,
    chunks: int,
    cycles: int,
    *,
    letters: int = 300,
    dimension: int = 384,
    tell: Callable[[Result], None] = lambda _: None,
) -> Result:
    """`tell` is given what there is after each opening."""
    result, rng = Result(), random.Random(1)
    with tempfile.TemporaryDirectory(prefix="quire-users-") as root:  # gigabytes
        paths = Paths(Path(root) / "data")
        paths.root.mkdir()
        catalog = Catalog(f"sqlite:///{paths.catalog}")
        stores = open_stores(paths, catalog, LocalRemote(Path(root) / "remote"), patience=600)
        everybody = [user_key(b"secret", str(n)) for n in range(users)]
        space = Space(collection="c-many", title="many", model="m", dimension=dimension)
        word = first(stores, space, everybody[0], chunks, letters)
        for other in everybody[1:]:
            copied(paths, everybody[0], other)
        measured(result)
        queries = np.random.default_rng(2).normal(size=(cycles, dimension)).astype(np.float32)
        open_now: list[str] = []
        for number in range(cycles):
            closed = [u for u in everybody if u not in open_now]
            user = everybody[number] if number < users else rng.choice(closed)
            open_now = [*open_now, user][-OPEN_AT_ONCE:]
            with stores.workspaces.open(user) as workspace:
                near = workspace.query(space.collection, queries[number].tolist(), limit=10)
                words = workspace.keyword(space.collection, word, limit=10)
            if len(near) != 10 or not words:
                result.violations.append(f"{len(near)} near and {len(words)} with the word")
            measured(result)
            tell(result)
        stores.workspaces.close()
        measured(result)
    return judged(result, users)


def judged(result: Result, users: int) -> Result:
    memory, files = result.memory[1:-1], result.files[1:-1]
    if max(memory) > MOST_MB or max(files) > MOST_FILES:
        result.violations.append(f"{max(memory):.0f} MB, {max(files)} files at most")
    warm = min(2 * OPEN_AT_ONCE, len(memory) // 2)
    early, late = memory[warm : warm + 50], memory[-50:]
    if max(late) > max(early) + MAY_GROW_MB:
        result.violations.append(f"memory grows from {max(early):.0f} to {max(late):.0f} MB")
    if max(files[-50:]) > max(files[warm : warm + 50]) + MAY_GROW_FILES:
        result.violations.append("files grow")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--cycles", type=int, default=500)
    asked = parser.parse_args()
    print("openings      MB  files", flush=True)

    def tell(found: Result) -> None:
        opened = len(found.memory) - 1
        if opened in {OPEN_AT_ONCE, asked.cycles} or opened % 50 == 0:
            print(f"{opened:8d} {found.memory[-1]:7.0f} {found.files[-1]:6d}", flush=True)

    found = campaign(asked.users, asked.chunks, asked.cycles, tell=tell)
    print(f"  before {found.memory[0]:7.0f} {found.files[0]:6d}")
    print(f"    most {max(found.memory):7.0f} {max(found.files):6d}")
    print(f"  closed {found.memory[-1]:7.0f} {found.files[-1]:6d}")
    for text in sorted(set(found.violations)):
        print(f"  {text}")
    return int(bool(found.violations))


if __name__ == "__main__":
    sys.exit(main())
