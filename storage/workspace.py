"""A user's live store: Chroma and keyword index behind one lock, and a journal before both.

Every change is first a Parquet file in `pending/`, then applied; so a killed process loses nothing
that was acknowledged, and a save only has to ship those files. A store that was not closed cleanly
is never opened: it is rebuilt from the saved segments and the journal.
"""

import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import NotFound
from storage import segments, snapshot
from storage.chroma import Near, Record, VectorStore
from storage.fulltext import Entry, Filter, Fulltext
from storage.paths import Paths
from storage.segments import Row

OPEN_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a collection is made for."""

    collection: str
    title: str
    model: str
    dimension: int


class Workspace:
    """One user's open store; every method holds its lock."""

    def __init__(self, paths: Paths, user: str) -> None:
        self._paths = paths
        self._user = user
        self._lock = threading.RLock()
        self._vectors = VectorStore(paths.chroma(user))
        self._words = Fulltext(paths.fulltext(user))
        paths.clean(user).unlink(missing_ok=True)

    def close(self) -> None:
        with self._lock:
            self._vectors.close()
            self._words.close()
            self._paths.clean(self._user).touch()

    def upsert(self, space: Space, records: Sequence[Record]) -> None:
        """Journal, then both indexes; the same records again change nothing."""
        if not records:
            return
        with self._lock:
            self._vectors.ensure(
                space.collection, model=space.model, dimension=space.dimension, title=space.title
            )
            self._journal(
                Row(
                    op="put",
                    collection=space.collection,
                    id=r.id,
                    document=r.document,
                    metadata=r.metadata,
                    embedding=r.embedding,
                )
                for r in records
            )
            self._vectors.upsert(space.collection, records)
            self._words.upsert(space.collection, map(_entry, records))

    def delete(self, collection: str, ids: Sequence[str]) -> int:
        with self._lock:
            if ids:
                self._journal(Row(op="delete", collection=collection, id=i) for i in ids)
                self._vectors.delete(collection, ids)
                self._words.delete(collection, ids)
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
            self._journal([Row(op="drop", collection=collection, id="")])
            self._vectors.drop(collection)
            self._words.drop(collection)
            return count

    def query(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        limit: int,
        where: Mapping[str, Any] | None = None,
    ) -> list[Near]:
        with self._lock:
            try:
                return self._vectors.query(collection, vector, limit=limit, where=where)
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

    def count(self, collection: str) -> int:
        with self._lock:
            return self._vectors.count(collection) if self._vectors.has(collection) else 0

    def _journal(self, rows: Iterator[Row] | Sequence[Row]) -> None:
        write_pending(self._paths.pending(self._user), segments.encode(rows))


def _entry(record: Record) -> Entry:
    data = record.metadata
    return Entry(
        id=record.id,
        text=record.document,
        source=str(data.get("source_id", "")),
        page=int(data.get("page", 0)),
        kind=str(data.get("element_type", "")),
    )


def write_pending(folder: Path, content: bytes) -> Path:
    """A journal file that is whole or not there; names sort by time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns():020d}.parquet"
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return path


def pending(paths: Paths, user: str) -> list[Path]:
    """The journal, oldest first."""
    return sorted(paths.pending(user).glob("*.parquet"))


@dataclass(slots=True)
class Workspaces:
    """Open stores by user, least recently used closed first.

    `saved_rows(user)` gives the rows of the newest valid generation, in order; it raises
    Unavailable while no remote can be asked, and then nothing is opened.
    """

    paths: Paths
    saved_rows: Callable[[str], Iterator[Row]]
    titles: Callable[[str], Mapping[str, str]]
    _open: "OrderedDict[str, Workspace]" = field(default_factory=OrderedDict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _busy: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def open(self, user: str) -> Iterator[Workspace]:
        with self._lock:
            workspace = self._open.get(user)
            if workspace is None:
                self._make_room()
                if not self.paths.clean(user).exists():
                    self._rebuild(user)
                workspace = self._open[user] = Workspace(self.paths, user)
            self._open.move_to_end(user)
            self._busy[user] = self._busy.get(user, 0) + 1
        try:
            yield workspace
        finally:
            with self._lock:
                self._busy[user] -= 1

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def forget(self, user: str) -> None:
        """Close and remove a user's live store; it is rebuilt at the next touch."""
        with self._lock:
            workspace = self._open.pop(user, None)
            if workspace is not None:
                workspace.close()
            self.paths.clean(user).unlink(missing_ok=True)

    def _make_room(self) -> None:
        idle = [u for u in self._open if not self._busy.get(u)]
        for user in idle[: max(0, len(self._open) - OPEN_AT_ONCE + 1)]:
            self._open.pop(user).close()

    def _rebuild(self, user: str) -> None:
        rows = [*self.saved_rows(user)]
        for path in pending(self.paths, user):
            rows.extend(segments.decode(path))
        state = segments.fold(rows)
        chroma, words = self.paths.chroma(user), self.paths.fulltext(user)
        for leftover in (words, Path(f"{words}-wal"), Path(f"{words}-shm")):
            leftover.unlink(missing_ok=True)
        if any(state.values()):
            snapshot.build(chroma, state, self.titles(user))
        else:
            shutil.rmtree(chroma, ignore_errors=True)
        index = Fulltext(words)
        for collection, kept in state.items():
            index.upsert(collection, [_entry(_record(r)) for r in kept.values()])
        index.close()


def _record(row: Row) -> Record:
    return Record(
        id=row.id, document=row.document, embedding=row.embedding, metadata=row.metadata or {}
    )
