"""Somebody else's Chroma directory: every record, or why not.

Opening one writes to it, and a torn one can take the process down or fill the disk. So `records` is
for a page process and an unpacked archive; `read` opens a copy in a process of its own
(`python -m storage.live.foreign_chroma FROM TO`).
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from errors import Corrupt, InputError
from storage.live import closed_copy, segments
from storage.live.build_chroma import record_of
from storage.live.chroma import BATCH, Record, VectorStore, unreadable
from storage.live.record_metadata import checked
from storage.live.segments import Row

_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some records of a collection, and the model that the collection says it was made with."""

    collection: str
    model: str | None
    records: list[Record]


def records(directory: Path) -> Iterator[Batch]:
    """Every record of every collection with its vector, counted. Corrupt when it cannot be read
    whole. What they say is not checked; call it where a crash of the native reader harms nobody else, on
    a copy: it is changed."""
    closed_copy.check(directory)
    try:
        store = VectorStore(directory)
        for collection in store.collections():
            model, ids = store.model(collection), store.ids(collection)
            found = 0
            for start in range(0, len(ids), BATCH):
                batch = store.get(collection, ids=ids[start : start + BATCH], vectors=True)
                found += len(batch)
                yield Batch(collection=collection, model=model, records=batch)
            if found != store.count(collection):
                raise _damaged()
        store.close()
    except unreadable() as problem:
        raise _damaged() from problem


def read(directory: Path) -> Iterator[Row]:
    """Every record of every collection. InputError when it is no Chroma directory, Corrupt when it
    cannot be read whole; nothing of it is changed."""
    database = directory / "chroma.sqlite3"
    if not database.is_file() or database.is_symlink():
        raise InputError(
            "not_chroma",
            "This is not a Chroma directory: there is no chroma.sqlite3.",
            "Name the folder that PersistentClient was given.",
        )
    with tempfile.TemporaryDirectory() as work:
        copy, out = Path(work) / "chroma", Path(work) / "rows.parquet"
        try:
            closed_copy.copy(directory, copy)
            subprocess.run(
                [sys.executable, "-m", "storage.live.foreign_chroma", str(copy), str(out)],
                cwd=Path(__file__).resolve().parents[2],
                env={"LANG": "C.UTF-8"},  # nothing of ours is for it
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as problem:
            raise _damaged() from problem
        for row in segments.decode(out):
            yield replace(row, metadata=dict(checked(record_of(row)).metadata))


def _damaged() -> Corrupt:
    return Corrupt(
        "chroma_damaged",
        "The Chroma directory is damaged, or of another version.",
        "Open it with the Chroma that made it, and export it again.",
    )


def dump(directory: Path, out: Path) -> None:
    """In the process of its own: all of them as a segment."""
    rows = (
        Row(
            op="put",
            collection=batch.collection,
            id=r.id,
            document=r.document,
            metadata={**r.metadata, **({"model": batch.model} if batch.model else {})},
            embedding=r.embedding,
        )
        for batch in records(directory)
        for r in batch.records
    )
    out.write_bytes(segments.encode(rows))


if __name__ == "__main__":
    dump(Path(sys.argv[1]), Path(sys.argv[2]))
