"""What deletions cost beside additions: `python bench/deletes.py [--documents 2500] [--deleted 500]`.

A store of that many documents (8 records of 384 numbers each, an original, a list of two pictures) on
a directory as the remote. Printed are wall and CPU seconds: to save as many documents more as are then
deleted; to delete them one by one, as calls do; to save that; to erase it from the store.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.stores import made
from storage.catalog.catalog import SourceRow
from storage.generations.compose import Wish
from storage.live.workspace import Space
from tests.house import USER, House

RECORDS = 8


def digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def add(house: House, space: Space, first: int, count: int) -> None:
    for number in range(first, first + count):
        sha256 = digest(number)
        found = [
            record.__class__(
                id=f"{number}-{n}",
                document=record.document,
                embedding=record.embedding,
                metadata={**record.metadata, "source_id": sha256},
            )
            for n, record in enumerate(made(RECORDS, number))
        ]
        with house.workspaces.open(USER) as workspace:
            workspace.upsert(space, found)
        house.catalog.put_source(
            USER,
            SourceRow(
                collection=space.collection, sha256=sha256, filename=f"{number}.pdf", bytes=4,
                pages=1, version="v1", created_at=float(number + 1),
            ),
        )  # fmt: skip
        folder = house.paths.elements(USER, sha256, "v1")
        folder.mkdir(parents=True)
        (folder / "batch-00000.jsonl").write_text("{}\n")
        (folder / "batch-00000.crops").write_text(f"{digest(-number - 1)}.jpg\n{digest(-1)}.jpg\n")
        original = house.paths.source(USER, sha256)
        original.parent.mkdir(exist_ok=True)
        original.write_bytes(b"%PDF")


def timed(title: str, act: Callable[[], Any]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    print(f"| {title:<40} | {time.perf_counter() - wall:7.2f} | {time.process_time() - cpu:7.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2500)
    parser.add_argument("--deleted", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder) / "data")
        space = Space(collection=house.space().collection, title="papers", model="m", dimension=384)
        library = house.library
        kept = asked.documents - asked.deleted
        add(house, space, 0, kept)
        house.replication.save(USER)
        add(house, space, kept, asked.deleted)
        print(f"| {'':<40} | wall, s | CPU, s  |")
        timed(f"save {asked.deleted} documents more", lambda: house.replication.save(USER))
        gone = range(kept, asked.documents)
        timed(
            f"delete them beside {kept}, one by one",
            lambda: [library.delete_source(USER, "papers", digest(n)) for n in gone],
        )
        timed("save that", lambda: house.replication.save(USER))
        timed("erase it", lambda: house.replication.save(USER, Wish(erase=True)))
        house.close()


if __name__ == "__main__":
    main()
