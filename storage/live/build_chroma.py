"""A Chroma directory made from rows, and compared with rows.

Written, counted, closed: whoever asks renames it into place. Knows nothing of where the rows come from.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import Corrupt
from storage.live.chroma import BATCH, Record, VectorStore
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


def differences(store: VectorStore, state: State) -> Iterator[Row]:
    """The rows that make `state` what the store holds; none when it holds exactly that. Vectors are
    compared by direction, as Chroma keeps them."""
    for collection in sorted({*state, *store.collections()}):
        wanted = state.get(collection, {})
        missing = set(wanted)
        for record in every(store, collection) if store.has(collection) else ():
            missing.discard(record.id)
            row = wanted.get(record.id)
            if row is None or not _same(row, record):
                yield put_row(collection, record)
        yield from (Row(op="delete", collection=collection, id=i) for i in sorted(missing))


def every(store: VectorStore, collection: str) -> Iterator[Record]:
    """All records with their vectors."""
    ids = store.ids(collection)
    for start in range(0, len(ids), BATCH):
        yield from store.get(collection, ids=ids[start : start + BATCH], vectors=True)


def _same(row: Row, record: Record) -> bool:
    return (
        row.document == record.document
        and _plain(row.metadata) == _plain(record.metadata)
        and len(row.embedding) == len(record.embedding)
        and bool(np.allclose(_direction(row), _direction(record), atol=1e-5))
    )


def _plain(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """As Chroma gives it back: without what is None or no number, long numbers as floats."""
    return {
        k: float(v) if type(v) is int and abs(v) >= 1 << 63 else v
        for k, v in (metadata or {}).items()
        if v is not None and v == v
    }


def _direction(of: Row | Record) -> Any:
    vector = np.asarray(of.embedding, dtype=np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-30)


def put_row(collection: str, record: Record) -> Row:
    return Row(
        op="put",
        collection=collection,
        id=record.id,
        document=record.document,
        metadata=record.metadata,
        embedding=record.embedding,
    )


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
