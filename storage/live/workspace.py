"""A user's live store: Chroma and keyword index behind one lock, and a journal before both.

Every change is first a Parquet file in `pending/`, then applied; so a killed process loses nothing
that was acknowledged, and a save only has to ship those files. Knows nothing of other users' stores.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from errors import NotFound
from storage.live import journal, segments
from storage.live.chroma import BATCH, Near, Record, VectorStore, chroma_version, next_of
from storage.live.keyword_index import Entry, Filter, Fulltext
from storage.live.segments import Row
from storage.paths import Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a collection is made for."""

    collection: str
    title: str
    model: str
    dimension: int


class Workspace:
    """One user's open store; every method holds its lock.

    A collection can be made anew for another model while it is asked and changed: `prepare` fills an
    index beside it, a change of a record takes it out of there again, `switch` puts it in its place.
    An index that is being made never outlives the open store.
    """

    def __init__(self, paths: Paths, user: str, after: str, changed: Callable[[str], None]) -> None:
        self._paths = paths
        self._user = user
        self._last = after
        self._changed = changed
        self._lock = threading.RLock()
        self._changes: Counter[str] = Counter()  # by collection, so that a switch misses none
        self._next: set[str] = set()  # collections that are being made anew
        self._vectors = VectorStore(paths.chroma(user))
        self._words = Fulltext(paths.fulltext(user))
        self.records_now()
        paths.clean(user).unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            for collection in tuple(self._next):
                self.abandon(collection)
            self._vectors.close()
            self._words.close()
            self._paths.clean(self._user).write_text(chroma_version(), encoding="ascii")

    def upsert(self, space: Space, records: Sequence[Record]) -> None:
        """Journal, then both indexes; the same records again change nothing. Of several with one id
        the last counts."""
        records = list({r.id: r for r in records}.values())
        if not records:
            return
        with self._lock:
            self._vectors.ensure(
                space.collection, model=space.model, dimension=space.dimension, title=space.title
            )
            self._journal(segments.encode(put_row(space.collection, r) for r in records))
            self._vectors.upsert(space.collection, records)
            self._words.upsert(space.collection, map(entry_of, records))
            self._changed_records(space.collection, [r.id for r in records])
            self.records += len(records)

    def delete(self, collection: str, ids: Sequence[str]) -> int:
        ids = list(dict.fromkeys(ids))
        with self._lock:
            if ids:
                rows = (Row(op="delete", collection=collection, id=i) for i in ids)
                self._journal(segments.encode(rows))
                self._vectors.delete(collection, ids)
                self._words.delete(collection, ids)
                self._changed_records(collection, ids)
            return len(ids)

    def delete_where(self, collection: str, where: Mapping[str, Any]) -> int:
        """How many records of that collection fitted and are gone."""
        with self._lock:
            if not self._vectors.has(collection):
                return 0
            return self.delete(collection, self._vectors.ids(collection, where))

    def drop(self, collection: str) -> int:
        with self._lock:
            count = self.count(collection)
            self._journal(segments.encode([Row(op="drop", collection=collection, id="")]))
            self._vectors.drop(collection)
            self._words.drop(collection)
            self._changes[collection] += 1
            self.abandon(collection)
            return count

    def model(self, collection: str) -> str | None:
        """What its vectors were made with; None where there are none yet."""
        with self._lock:
            return self._vectors.model(collection) if self._vectors.has(collection) else None

    def fits(self, space: Space) -> bool:
        """Whether it is that model's, with vectors of that length."""
        with self._lock:
            there = self._vectors.has(space.collection)
            wanted = (space.model, space.dimension)
            return there and self._vectors.made_with(space.collection) == wanted

    # Another model

    @property
    def preparing(self) -> bool:
        return bool(self._next)

    def prepare(self, space: Space, vectors: Mapping[str, Sequence[float]]) -> None:
        """Vectors of the new model by the ids of records, as these are now, into the new index."""
        with self._lock:
            held = self.get(space.collection, ids=list(vectors)) if vectors else []
            made = next_of(space.collection)
            self._next.add(space.collection)
            self._vectors.ensure(
                made, model=space.model, dimension=space.dimension, title=space.title
            )
            self._vectors.upsert(
                made,
                [
                    replace(
                        r, embedding=vectors[r.id], metadata={**r.metadata, "model": space.model}
                    )
                    for r in held
                ],
            )

    def unprepared(self, collection: str) -> list[str]:
        """Ids of the records that the new index lacks."""
        with self._lock:
            if not self._vectors.has(collection):
                return []
            made = collection in self._next
            there = set(self._vectors.ids(next_of(collection))) if made else set()
            return [i for i in self._vectors.ids(collection) if i not in there]

    def switch(self, collection: str) -> bool:
        """The new index takes its place, in one file of the journal; False while it lacks a record
        or when one was changed meanwhile. What takes long is done before anybody has to wait."""
        with self._lock:
            seen = self._changes[collection]
            if collection not in self._next or self.unprepared(collection):
                return False
        content = segments.encode_parts(self._rows_of_next(collection))
        with self._lock:
            if collection not in self._next or self._changes[collection] != seen:
                return False
            self._journal(content)
            self._vectors.replace(collection)
            self._next.discard(collection)
            return True

    def _rows_of_next(self, collection: str) -> Iterator[list[Row]]:
        yield [Row(op="drop", collection=collection, id="")]
        with self._lock:
            ids = self._vectors.ids(next_of(collection))
        for start in range(0, len(ids), BATCH):
            with self._lock:
                held = self._vectors.get(
                    next_of(collection), ids=ids[start : start + BATCH], vectors=True
                )
            yield [put_row(collection, r) for r in held]

    def abandon(self, collection: str) -> None:
        """The old index stays what it is."""
        with self._lock:
            if collection in self._next:
                self._vectors.drop(next_of(collection))
                self._next.discard(collection)

    def _changed_records(self, collection: str, ids: Sequence[str]) -> None:
        self._changes[collection] += 1
        if collection in self._next:
            self._vectors.delete(next_of(collection), ids)

    def query(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        limit: int,
        where: Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> list[Near]:
        """Conflict when the collection is another model's by now."""
        with self._lock:
            try:
                return self._vectors.query(
                    collection, vector, limit=limit, where=where, model=model
                )
            except NotFound:
                return []

    def keyword(
        self, collection: str, query: str, *, limit: int, where: Filter | None = None
    ) -> list[tuple[str, float]]:
        with self._lock:
            return self._words.search(collection, query, limit=limit, where=where)

    def get(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        vectors: bool = False,
    ) -> list[Record]:
        with self._lock:
            try:
                return self._vectors.get(collection, ids=ids, where=where, vectors=vectors)
            except NotFound:
                return []

    def collections(self) -> list[str]:
        with self._lock:
            return self._vectors.collections()

    def records_now(self) -> int:
        """All of them, counted; `records` is a bound that only grows while the store is open."""
        with self._lock:
            self.records = sum(map(self._vectors.count, self._vectors.collections()))
            return self.records

    def count(self, collection: str) -> int:
        with self._lock:
            return self._vectors.count(collection) if self._vectors.has(collection) else 0

    def _journal(self, content: bytes) -> None:
        self._last = journal.write(self._paths.pending(self._user), content, self._last)
        self._changed(self._user)


def put_row(collection: str, record: Record) -> Row:
    return Row(
        op="put",
        collection=collection,
        id=record.id,
        document=record.document,
        metadata=record.metadata,
        embedding=record.embedding,
    )


def entry_of(record: Record) -> Entry:
    data = record.metadata
    return Entry(
        id=record.id,
        text=record.document,
        source=str(data.get("source_id", "")),
        page=int(data.get("page", 0)),
        kind=str(data.get("element_type", "")),
    )
