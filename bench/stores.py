"""How large a save is, and how long a restore takes: `python -m bench.stores [--chunks 20000]`.

Vectors and texts are made up (384 numbers, 900 characters); remotes are directories. The vectors lie
around 200 topics, as those of real documents do; `--noise` has them in every direction, which costs
an index twice the time.
"""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from storage.catalog.catalog import Catalog
from storage.generations.compose import Wish
from storage.live.chroma import Record
from storage.live.workspace import Space
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.stores import Stores, open_stores

USER = "a" * 32
WORDS = [f"word{n}" for n in range(4000)]
TOPICS = np.random.default_rng(0).normal(size=(200, 384))


def made(count: int, seed: int, spread: float = 1.0) -> list[Record]:
    """`spread`: how far from its topic a vector lies, in each direction."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    found = []
    for n in range(count):
        vector = TOPICS[noise.integers(len(TOPICS))] + spread * noise.normal(size=384)
        found.append(
            Record(
                id=f"{seed:04d}-{n:06d}",
                document=" ".join(rng.choices(WORDS, k=120)),
                embedding=(vector / np.linalg.norm(vector)).astype(np.float32).data,
                metadata={
                    "model": "m", "page": n % 200, "source_id": "s" * 64, "element_type": "Text",
                    "filename": "report.pdf", "chunk": n,
                },
            )
        )  # fmt: skip
    return found


def opened(root: Path) -> Stores:
    root.mkdir(exist_ok=True)
    catalog = Catalog(f"sqlite:///{root}/catalog.sqlite")
    return open_stores(
        Paths(root), catalog, LocalRemote(root.parent / "primary"),
        LocalRemote(root.parent / "mirror", "mirror"), patience=3600,
    )  # fmt: skip


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def timed_restore(top: Path, label: str) -> None:
    shutil.rmtree(top / "data")
    stores = opened(top / "data")
    began, spent = time.perf_counter(), time.process_time()
    with stores.workspaces.open(USER) as workspace:
        records = workspace.records_now()
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    print(f"{label:50s} {records} records {wall:6.1f} s wall {cpu:6.1f} s CPU", flush=True)
    stores.workspaces.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--noise", action="store_true")
    options = parser.parse_args()
    count, spread = options.chunks, 100.0 if options.noise else 1.0
    top = Path(tempfile.mkdtemp(prefix="quire-stores-"))
    try:
        stores = opened(top / "data")
        space = Space(collection="c-bench", title="b", model="m", dimension=384)
        for part in range(count // 500):
            with stores.workspaces.open(USER) as workspace:
                workspace.upsert(space, made(500, part, spread))
        stores.replication.save(USER)
        before = size(top / "primary"), size(top / "mirror")
        with stores.workspaces.open(USER) as workspace:
            workspace.upsert(space, made(500, 9999, spread))
        stores.replication.save(USER)
        for name, old in zip(("primary", "mirror"), before, strict=True):
            print(f"+500 chunks, {name:37s} {(size(top / name) - old) / 1e6:.3f} MB", flush=True)
        stores.workspaces.close()
        timed_restore(top, "restore from segments")
        stores = opened(top / "data")
        copy = stores.workspaces.copy(USER)
        stores.replication.save(USER, Wish(copy=copy))
        stores.workspaces.close()
        timed_restore(top, "restore from the published directory")
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
