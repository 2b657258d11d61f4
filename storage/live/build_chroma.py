"""A Chroma directory made from rows: written, counted, closed. Whoever asks renames it into place.

Knows nothing of where the rows come from.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from errors import Corrupt
from storage.live.chroma import Record, VectorStore
from storage.live.segments import Row

State = Mapping[str, Mapping[str, Row]]


def build(directory: Path, state: State, titles: Mapping[str, str]) -> None:
    """Write every row of `state` (by collection, by id) as a fresh store in `directory`, which is
    not there yet. A collection's model is read off its rows' metadata (`model`, `dimension` by the
    vectors' length); Corrupt when its counts do not fit."""
    store = VectorStore(directory)
    try:
        for collection, rows in state.items():
            if not rows:
                continue
            store.add(collection, _ensured(store, collection, list(rows.values()), titles))
            if store.count(collection) != len(rows):
                raise Corrupt(
                    "rebuild_incomplete",
                    "The rebuilt store does not hold every record.",
                    "Restore again; if it stays, report the version.",
                )
    finally:
        store.close()


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
        store.upsert(collection, _ensured(store, collection, listed, titles))


def _ensured(
    store: VectorStore, collection: str, rows: Sequence[Row], titles: Mapping[str, str]
) -> list[Record]:
    """The rows as records, and their collection made for them."""
    store.ensure(
        collection,
        model=str((rows[0].metadata or {}).get("model", "")),
        dimension=len(rows[0].embedding),
        title=titles.get(collection, collection),
    )
    return [record_of(r) for r in rows]


def record_of(row: Row) -> Record:
    return Record(
        id=row.id, document=row.document, embedding=row.embedding, metadata=row.metadata or {}
    )
