"""A user's live store: Chroma and keyword index behind one lock, and a journal before both.

Every change is first a Parquet file in `pending/`, then applied; so a killed process loses nothing
that was acknowledged, and a save only has to ship those files. What the index should hold is known
while it is open: it is sealed only when it holds that. Knows nothing of other users' stores.
"""

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from errors import Corrupt, NotFound, QuireError
from storage.live import journal, seal, segments
from storage.live.build_chroma import State, differences, put_row
from storage.live.chroma import (
    BATCH,
    Near,
    Record,
    Sound,
    VectorStore,
    chroma_version,
    index_damaged,
    next_of,
)
from storage.live.keyword_index import Entry, Filter, Fulltext, built, tells_damage, words_of
from storage.live.seal import Seal
from storage.live.segments import Row
from storage.paths import Paths

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
_NAMES = 64  # of journal files, before those that a generation holds by now are left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a collection is made for."""

    collection: str
    title: str
    model: str
    dimension: int


class Workspace:
    """One user's open store; every method holds its lock.

    `held` says which files of the journal it holds on top of a generation, and whether its keyword
    index is to be believed (`words`); `base` is the manifest that it goes on from by now. Corrupt from
    any method says that the index is `damaged`: it is of no use any more and has to be built anew. A
    damaged keyword index is made from the other one at once.

    A collection can be made anew for another model while it is asked and changed: `prepare` fills an
    index beside it, a change of a record takes it out of there again, `switch` puts it in its place.
    An index that is being made never outlives the open store.
    """

    def __init__(
        self,
        paths: Paths,
        user: str,
        held: Seal,
        shipped: Callable[[str], str],
        changed: Callable[[str], None],
    ) -> None:
        self._paths = paths
        self._user = user
        self._shipped = shipped
        self._last = max([shipped(user), *held.journal])
        self._prune_at = _NAMES
        self._changed = changed
        self._lock = threading.RLock()
        self._changes: Counter[str] = Counter()  # by collection, so that a switch misses none
        self._next: set[str] = set()  # collections that are being made anew
        self.base = held.base
        self.damaged = False
        self._closed = False
        self._note_names(list(held.journal))
        paths.clean(user).unlink(missing_ok=True)  # a crash from here on has it built anew
        with ExitStack() as undo, Sound():
            self._vectors = VectorStore(paths.chroma(user))
            undo.callback(self._vectors.close)
            self._file = self._inode()
            self._ids = self._ids_there()  # what it holds, as long as it is open
            self.records = sum(map(len, self._ids.values()))  # a bound that only grows
            self._words = self._words_opened() if held.words else self._words_anew()
            undo.pop_all()

    def close(self) -> None:
        """Sealed, as what goes on from `base`, when it holds what it should."""
        with self._lock:
            with ExitStack() as closing:
                closing.callback(lambda: setattr(self, "_closed", True))
                closing.callback(lambda: self._vectors.close())
                closing.callback(lambda: self._words.close())
                whole = self._whole()
            if whole and self._inode() == self._file:
                names = tuple(self._names)
                seal.write(
                    self._paths.clean(self._user), sealed(self._paths, self._user, self.base, names)
                )
                self._paths.opened(self._user).unlink(missing_ok=True)

    def _whole(self) -> bool:
        if self.damaged:
            return False
        try:
            with self._use():
                for collection in tuple(self._next):
                    self.abandon(collection)
                if self._ids_there() != self._ids:
                    raise index_damaged()
                self._with_words(lambda words: words.check(self._ids))
        except (QuireError, sqlite3.Error) as problem:
            log.warning("a store is not whole: %s", problem, extra={"user": self._user})
            return False
        return True

    def _words_opened(self) -> Fulltext:
        try:
            return Fulltext(self._paths.fulltext(self._user))
        except sqlite3.DatabaseError as problem:
            if not tells_damage(problem):
                raise
            return self._words_anew()

    def _ids_there(self) -> dict[str, set[str]]:
        listed = {c: set(self._vectors.ids(c)) for c in self._vectors.collections()}
        return {c: ids for c, ids in listed.items() if ids}

    def _inode(self) -> int:
        """Of the database behind the open client: another one may have been put in its place."""
        path = self._paths.chroma(self._user) / "chroma.sqlite3"
        return path.stat().st_ino if path.is_file() else 0

    @contextmanager
    def _use(self) -> Iterator[None]:
        """The lock; what shows that the index is damaged is remembered, and Corrupt."""
        with self._lock:
            if self._closed:
                self.damaged = True
                raise index_damaged()
            try:
                with Sound():
                    yield
            except Corrupt:
                self.damaged = True
                raise

    @contextmanager
    def _change(self, content: bytes) -> Iterator[None]:
        """In the journal, then applied. What cannot be applied is in neither: the index, which may
        hold half of it, is built anew."""
        path = self._journal(content)
        applied = False
        try:
            yield
            applied = True
        finally:
            if not applied:
                self.damaged = True
                path.unlink(missing_ok=True)
                self._note_names([n for n in self._names if n != path.name])

    def _with_words(self, work: Callable[[Fulltext], Answer]) -> Answer:
        """On the keyword index, made anew first when it is damaged."""
        try:
            return work(self._words)
        except sqlite3.DatabaseError as problem:
            if not tells_damage(problem):
                raise
            self._words.close()
            self._words = self._words_anew()
            return work(self._words)

    def _words_anew(self) -> Fulltext:
        log.warning("the keyword index is made anew", extra={"user": self._user})
        listed = {c: map(entry_of, self._vectors.every(c)) for c in self._vectors.collections()}
        return built(self._paths.fulltext(self._user), listed)

    def upsert(self, space: Space, records: Sequence[Record]) -> None:
        """Journal, then both indexes; the same records again change nothing. Of several with one id
        the last counts. Each says that its vector is of the space's model, whatever it said."""
        told = {"model": space.model}
        records = list(
            {r.id: replace(r, metadata={**r.metadata, **told}) for r in records}.values()
        )
        if not records:
            return
        ids = [r.id for r in records]
        with self._use():
            self._vectors.ensure(
                space.collection, model=space.model, dimension=space.dimension, title=space.title
            )
            with self._change(segments.encode(put_row(space.collection, r) for r in records)):
                self._vectors.upsert(space.collection, records)
                self._with_words(lambda w: w.upsert(space.collection, map(entry_of, records)))
                self._changed_records(space.collection, ids)
            self._ids.setdefault(space.collection, set()).update(ids)
            self.records += len(records)

    def delete(self, collection: str, ids: Sequence[str]) -> int:
        ids = list(dict.fromkeys(ids))
        with self._use():
            if ids:
                rows = (Row(op="delete", collection=collection, id=i) for i in ids)
                with self._change(segments.encode(rows)):
                    self._vectors.delete(collection, ids)
                    self._with_words(lambda w: w.delete(collection, ids))
                    self._changed_records(collection, ids)
                held = self._ids.get(collection, set())
                held.difference_update(ids)
                self._hold(collection, held)
            return len(ids)

    def delete_where(self, collection: str, where: Mapping[str, Any]) -> int:
        """How many records of that collection fitted and are gone."""
        with self._use():
            return self.delete(collection, sorted(self.ids(collection, where)))

    def drop(self, collection: str) -> int:
        with self._use():
            count = self.count(collection)
            with self._change(segments.encode([Row(op="drop", collection=collection, id="")])):
                self._vectors.drop(collection)
                self._with_words(lambda w: w.drop(collection))
                self._changes[collection] += 1
                self.abandon(collection)
            self._hold(collection, set())
            return count

    def model(self, collection: str) -> str | None:
        """What its vectors were made with; None where there are none yet."""
        with self._use():
            return self._vectors.model(collection) if self._vectors.has(collection) else None

    def fits(self, space: Space) -> bool:
        """Whether it is that model's, with vectors of that length."""
        with self._use():
            there = self._vectors.has(space.collection)
            wanted = (space.model, space.dimension)
            return there and self._vectors.made_with(space.collection) == wanted

    # Another model

    @property
    def preparing(self) -> bool:
        return bool(self._next)

    def prepare(self, space: Space, vectors: Mapping[str, Sequence[float]]) -> None:
        """Vectors of the new model by the ids of records, as these are now, into the new index."""
        with self._use():
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
        with self._use():
            if not self._vectors.has(collection):
                return []
            made = collection in self._next
            there = set(self._vectors.ids(next_of(collection))) if made else set()
            return [i for i in self._vectors.ids(collection) if i not in there]

    def switch(self, collection: str) -> bool:
        """The new index takes its place, in one file of the journal; False while it lacks a record
        or when one was changed meanwhile. What takes long is done before anybody has to wait."""
        with self._use():
            seen = self._changes[collection]
            if collection not in self._next or self.unprepared(collection):
                return False
        content = segments.encode_parts(self._rows_of_next(collection))
        with self._use():
            if collection not in self._next or self._changes[collection] != seen:
                return False
            with self._change(content):
                self._vectors.replace(collection)
            self._next.discard(collection)
            self._hold(collection, set(self._vectors.ids(collection)))
            return True

    def _rows_of_next(self, collection: str) -> Iterator[list[Row]]:
        yield [Row(op="drop", collection=collection, id="")]
        with self._use():
            ids = self._vectors.ids(next_of(collection))
        for start in range(0, len(ids), BATCH):
            with self._use():
                held = self._vectors.get(
                    next_of(collection), ids=ids[start : start + BATCH], vectors=True
                )
            yield [put_row(collection, r) for r in held]

    def abandon(self, collection: str) -> None:
        """The old index stays what it is."""
        with self._use():
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
        with self._use():
            try:
                return self._vectors.query(
                    collection, vector, limit=limit, where=where, model=model
                )
            except NotFound:
                return self._nothing(collection)

    def keyword(
        self, collection: str, query: str, *, limit: int, where: Filter | None = None
    ) -> list[tuple[str, float]]:
        with self._use():
            return self._with_words(lambda w: w.search(collection, query, limit=limit, where=where))

    def sources(self, collection: str) -> set[str]:
        """Ids of the sources that its records are of."""
        with self._use():
            return self._with_words(lambda w: w.sources(collection))

    def allowed(self, collection: str, ids: Sequence[str], where: Filter) -> set[str]:
        """Those of these ids whose words are as `where` asks."""
        with self._use():
            return self._with_words(lambda w: w.allowed(collection, ids, where))

    def get(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        vectors: bool = False,
    ) -> list[Record]:
        with self._use():
            try:
                return self._vectors.get(collection, ids=ids, where=where, vectors=vectors)
            except NotFound:
                return self._nothing(collection)

    def ids(self, collection: str, where: Mapping[str, Any] | None = None) -> set[str]:
        """Of all its records, or of those that fit."""
        with self._use():
            held = self._ids.get(collection, set())
            if not held or not where:
                return set(held)
            try:
                return set(self._vectors.ids(collection, where))
            except NotFound:
                return set(self._nothing(collection))

    @property
    def journal(self) -> tuple[str, ...]:
        """Files of the journal that it holds on top of what is saved, and some that are saved."""
        return tuple(self._names)

    def collections(self) -> list[str]:
        with self._use():
            return self._vectors.collections()

    def records_now(self) -> int:
        """All of them, counted; `records` is a bound that only grows while the store is open."""
        with self._use():
            self.records = sum(map(len, self._ids.values()))
            return self.records

    def count(self, collection: str) -> int:
        with self._use():
            return len(self._ids.get(collection, ()))

    # The journal

    def rejournal(self, saved: State) -> int:
        """How many rows the index holds otherwise than `saved`, which is all that generation and
        journal still have: they are journalled again. Damaged files of the journal are set aside."""
        with self._use():
            rows = list(differences(self._vectors, saved))
            if rows:
                self._journal(segments.encode(rows))
            journal.set_aside(self._paths, self._user)
            there = {p.name for p in journal.pending(self._paths, self._user)}
            self._note_names([n for n in self._names if n in there])
            return len(rows)

    def _journal(self, content: bytes) -> Path:
        folder = self._paths.pending(self._user)
        self._last = journal.write(folder, content, self._last)
        names = [*self._names, self._last]
        if len(names) > self._prune_at:
            shipped = self._shipped(self._user)
            names = [n for n in names if n > shipped]
            self._prune_at = len(names) + _NAMES
        try:
            self._note_names(names)
        except OSError:  # the change is refused, and no save may hold it
            (folder / self._last).unlink()
            raise
        self._changed(self._user)
        return folder / self._last

    def _note_names(self, names: list[str]) -> None:
        seal.write(self._paths.opened(self._user), Seal(journal=tuple(names)))
        self._names = names

    # Inside

    def _hold(self, collection: str, ids: set[str]) -> None:
        self._ids[collection] = ids
        if not ids:
            del self._ids[collection]

    def _nothing(self, collection: str) -> list[Any]:
        """Of a collection that Chroma does not have."""
        if self._ids.get(collection):
            raise index_damaged()
        return []


def sealed(paths: Paths, user: str, base: str, names: tuple[str, ...]) -> Seal:
    """Of a closed store, every byte of it."""
    return Seal(
        base=base,
        journal=names,
        chroma=chroma_version(),
        index=seal.index(paths, user),
        words=seal.words(paths, user),
    )


def bytes_of(records: Sequence[Record]) -> int:
    """About what these take on the disk: in the journal, in Chroma and in the keyword index."""
    return sum(
        32 * len(r.embedding)
        + 8 * len(r.document.encode())
        + 4 * sum(len(str(value)) for value in r.metadata.values())
        for r in records
    )


def entry_of(record: Record) -> Entry:
    data = record.metadata
    return Entry(
        id=record.id,
        text=f"{record.searched}\n{words_of(str(data.get('filename', '')))}",
        source=str(data.get("source_id", "")),
        page=int(data.get("page", 0)),
        kind=str(data.get("element_type", "")),
    )
