"""A user's live store: Chroma and keyword index behind one lock, and a journal before both.

Every change is first a Parquet file in `pending/`, then applied; so a killed process loses nothing
that was acknowledged, and a save only has to ship those files. A store that was not closed cleanly
is never opened: it is restored from what is saved and the journal. One process at a time has a
user's store open.
"""

import fcntl
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from errors import Corrupt, NotFound, QuireError, Unavailable
from storage import journal, published, segments
from storage.chroma import BATCH, Near, Record, VectorStore, chroma_version, next_of
from storage.fulltext import Entry, Filter, Fulltext
from storage.paths import Paths
from storage.published import Copy
from storage.segments import Row

OPEN_AT_ONCE = 16
LOADED_AT_ONCE = 200_000  # records, at about 2.5 KB of memory each
RESTORES_AT_ONCE = 2


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


@dataclass(slots=True)
class _Slot:
    """One user's place; `opening` is there while nobody may use the store, `lock` while no other
    process may."""

    workspace: Workspace | None = None
    lock: IO[str] | None = None
    opening: "Future[None] | None" = None
    busy: int = 0

    def close(self) -> None:
        """The store, then its lock."""
        workspace, self.workspace = self.workspace, None
        try:
            if workspace is not None:
                workspace.close()
        finally:
            self.release()

    def release(self) -> None:
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.close()


def locked(path: Path) -> IO[str]:
    """That file, held until it is closed or the process ends; Unavailable when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w", encoding="ascii")
    try:
        # Unlike flock: a page process that outlives a killed worker does not go on holding it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.close()
        raise Unavailable(
            "store_in_use",
            f"The live store cannot be locked: another process has it open ({problem.strerror}).",
            "Stop the other one, or give each its own QUIRE_DATA_DIR; it is tried again.",
        ) from problem
    return file


@dataclass(slots=True)
class Workspaces:
    """Open stores by user; the least recently used are closed when they are too many or too large.

    `restore(user)` builds a live store; it raises Unavailable while no remote can be asked, and
    then nothing is opened. Meanwhile, and while it takes longer than `patience` seconds, `open`
    raises Unavailable: other users are not kept waiting, and a job tries again. So it does while
    another process has the store open. `shipped(user)` is the last journal file that a generation holds, `changed(user)` is told of every change.
    """

    paths: Paths
    restore: Callable[[str], None]
    shipped: Callable[[str], str] = lambda _: ""
    changed: Callable[[str], None] = lambda _: None
    patience: float = 3.0
    _slots: "OrderedDict[str, _Slot]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _restores: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(RESTORES_AT_ONCE)
    )

    @contextmanager
    def open(self, user: str) -> Iterator[Workspace]:
        workspace = self._acquire(user)
        try:
            yield workspace
        finally:
            with self._lock:
                self._slots[user].busy -= 1

    def restoring(self, user: str) -> bool:
        with self._lock:
            slot = self._slots.get(user)
            return slot is not None and slot.opening is not None

    def close(self) -> None:
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()

    def forget(self, user: str) -> None:
        """Close a user's live store; it is rebuilt at the next touch."""
        self._exclusively(user, lambda: self.paths.clean(user).unlink(missing_ok=True))

    def discard(self, user: str) -> None:
        """Close and remove a user's live store and journal for good."""

        def remove() -> None:
            self.paths.clean(user).unlink(missing_ok=True)
            for folder in (self.paths.chroma(user), self.paths.pending(user)):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.paths.user(user).glob(f"{self.paths.fulltext(user).name}*"):
                path.unlink()

        self._exclusively(user, remove)

    def copy(self, user: str) -> Copy | None:
        """A copy of the closed live store to publish; None while it is in use."""
        with self.open(user) as workspace:
            if workspace.preparing:
                return None
            records = workspace.records_now()
        target = self.paths.copy(user)
        taken: list[Copy] = []

        def take() -> None:
            held = tuple(journal.pending(self.paths, user))
            try:
                published.copy(self.paths.chroma(user), target)
            except Corrupt:
                self.paths.clean(user).unlink(missing_ok=True)
                raise
            except OSError as problem:
                raise Unavailable(
                    "publish_failed",
                    f"The Chroma directory cannot be copied ({problem.strerror}).",
                    "Free some disk space; it is tried again.",
                ) from problem
            taken.append(Copy(directory=target, journal=held, records=records))

        return taken[0] if self._exclusively(user, take, only_idle=True) else None

    def _exclusively(
        self, user: str, work: Callable[[], object], *, only_idle: bool = False
    ) -> bool:
        """Run with the store closed and nobody able to open it; False when it is in use."""
        done: Future[None] = Future()
        while True:
            with self._lock:
                slot = self._slots.setdefault(user, _Slot())
                waiting = slot.opening
                if waiting is None:
                    if only_idle and slot.busy:
                        return False
                    slot.opening = done
                    workspace, slot.workspace = slot.workspace, None
                    break
            wait([waiting])
        try:
            slot.lock = slot.lock or locked(self.paths.lock(user))
            if workspace is not None:
                workspace.close()
            work()
        finally:
            slot.release()
            with self._lock:
                slot.opening = None
            done.set_result(None)
        return True

    def _acquire(self, user: str) -> Workspace:
        limit = time.monotonic() + self.patience
        while True:
            with self._lock:
                slot = self._slots.setdefault(user, _Slot())
                self._slots.move_to_end(user)
                current = slot.busy or not self.paths.stale(user).exists()
                if slot.opening is None and slot.workspace is not None and current:
                    slot.busy += 1
                    return slot.workspace
                if slot.opening is None:
                    slot.opening = Future()
                    threading.Thread(
                        target=self._ready, args=(user, slot, slot.opening), daemon=True
                    ).start()
                opening = slot.opening
            if not wait([opening], timeout=max(0.0, limit - time.monotonic())).done:
                raise Unavailable(
                    "restoring",
                    "Your collections are being restored from the store.",
                    "Try again in a few seconds; jobs wait by themselves.",
                )
            opening.result()

    def _ready(self, user: str, slot: _Slot, opening: "Future[None]") -> None:
        """Open the user's store, rebuilt first when it is not whole; errors go to who waits."""
        problem: BaseException | None = None
        try:
            slot.lock = slot.lock or locked(self.paths.lock(user))
            if slot.workspace is not None:
                slot.workspace.close()
                slot.workspace = None
            clean, stale = self.paths.clean(user), self.paths.stale(user)
            whole = clean.exists() and clean.read_text(encoding="ascii") == chroma_version()
            if not whole or stale.exists():
                clean.unlink(missing_ok=True)
                with self._restores:
                    self.restore(user)
            slot.workspace = Workspace(self.paths, user, self.shipped(user), self.changed)
        except QuireError as caught:
            problem = caught
        finally:
            if slot.workspace is None:
                slot.release()
            with self._lock:
                slot.opening = None
            if problem is not None:
                opening.set_exception(problem)
            else:
                opening.set_result(None)
        self._make_room(user)

    def _make_room(self, opened: str) -> None:
        while True:
            with self._lock:
                there = {u: s for u, s in self._slots.items() if s.workspace is not None}
                loaded = sum(s.workspace.records for s in there.values() if s.workspace)
                idle = [
                    u
                    for u, s in there.items()
                    if u != opened and not s.busy and not s.opening
                    if s.workspace and not s.workspace.preparing
                ]
            if not idle or (len(there) <= OPEN_AT_ONCE and loaded <= LOADED_AT_ONCE):
                return
            self._exclusively(idle[0], lambda: None, only_idle=True)
