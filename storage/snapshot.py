"""A Chroma directory made from rows: built aside, counted, closed, then renamed into place.

The live cache after a crash, the `chroma` export and the published copy are all this. It never
copies a directory that is open: Chroma's own files are torn while they are written.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from errors import Corrupt
from storage.chroma import Record, VectorStore
from storage.segments import Row

State = Mapping[str, Mapping[str, Row]]


def build(directory: Path, state: State, titles: Mapping[str, str]) -> int:
    """Write every row of `state` (by collection, by id) as a fresh store; returns the records.

    `directory` is replaced by one rename once its counts fit; a collection's model is read off
    its rows' metadata (`model`, `dimension` by the vectors' length).
    """
    aside = directory.with_name(f"{directory.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    store = VectorStore(aside)
    total = 0
    try:
        for collection, rows in state.items():
            _put(store, collection, list(rows.values()), titles)
            if rows and store.count(collection) != len(rows):
                raise Corrupt(
                    "rebuild_incomplete",
                    "The rebuilt store does not hold every record.",
                    "Restore again; if it stays, report the version.",
                )
            total += len(rows)
    finally:
        store.close()
    shutil.rmtree(directory, ignore_errors=True)
    aside.replace(directory)
    return total


def apply(store: VectorStore, rows: Iterable[Row], titles: Mapping[str, str]) -> None:
    """Change a store as condensed rows say: drops first, each id once."""
    puts: dict[str, list[Row]] = {}
    deletes: dict[str, list[str]] = {}
    for row in rows:
        if row.op == "drop":
            store.drop(row.collection)
        elif row.op == "delete":
            deletes.setdefault(row.collection, []).append(row.id)
        else:
            puts.setdefault(row.collection, []).append(row)
    for collection, ids in deletes.items():
        if store.has(collection):
            store.delete(collection, ids)
    for collection, listed in puts.items():
        _put(store, collection, listed, titles)


def _put(store: VectorStore, collection: str, rows: list[Row], titles: Mapping[str, str]) -> None:
    if not rows:
        return
    store.ensure(
        collection,
        model=str((rows[0].metadata or {}).get("model", "")),
        dimension=len(rows[0].embedding),
        title=titles.get(collection, collection),
    )
    store.upsert(
        collection,
        [
            Record(id=r.id, document=r.document, embedding=r.embedding, metadata=r.metadata or {})
            for r in rows
        ],
    )
