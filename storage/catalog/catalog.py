"""Users' collections, sources, jobs and deliveries as rows.

What a caller may ask takes the user key first and sees that user's rows only; what the worker asks by
a job's id, or of everybody, does not. Each user has a mark: which manifest the rows go on from, and how
many changes no generation holds yet. A collection or source that was deleted leaves a tombstone: a row
that is only missing was lost. Knows nothing of vectors, PDFs or DBOS.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from errors import InputError, NotFound
from storage.catalog import schema, sqlite_file
from storage.catalog.heartbeats import Workers
from storage.names import JobId, is_one, line

ACTIVE = ("queued", "running", "waiting")
IMPORTED = "imported"  # the version of a source that may have neither original nor elements
FINISHED = ("succeeded", "partial", "failed", "cancelled")
STATUSES = (*ACTIVE, *FINISHED)
_LONGEST_TITLE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    id: str
    title: str
    model: str | None
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    collection: str
    sha256: str
    filename: str
    bytes: int
    pages: int
    version: str
    created_at: float

    def shown(self) -> dict[str, Any]:
        """As the public interface has it."""
        return {
            "id": self.sha256,
            "filename": self.filename,
            "pages": self.pages,
            "bytes": self.bytes,
            "created_at": self.created_at,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    id: str
    user: str
    collection: str
    sha256: str
    filename: str
    status: str
    spec: dict[str, Any]
    summary: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def kind(self) -> str:
        """`ingest`, or what is done to a collection."""
        return str(self.summary.get("kind", "ingest"))

    @property
    def attempt(self) -> int:
        return int(self.summary.get("attempt", 1))

    def gives_up(self, attempt: int) -> bool:
        """That attempt is to end: the job was cancelled, or runs again by now."""
        return self.status == "cancelled" or self.attempt != attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a user's rows go on from: `sha256` of the manifest of that `generation` (None: no store was
    asked yet). `changes` have been made in all, `saved` of them are in a confirmed generation."""

    generation: int = 0
    sha256: str | None = None
    changes: int = 0
    saved: int = 0


def tombstone(collection: str, sha256: str = "") -> str:
    """The key of what is left of a deleted collection, or of a source in one."""
    return hashlib.sha256(f"{collection}/{sha256}".encode()).hexdigest()[:32]


class Catalog:
    """The rows behind one database URL; a lock is waited for so many seconds."""

    def __init__(self, url: str, patience: float = schema.PATIENCE, *, alone: bool = False) -> None:
        """`alone`: nobody else has the database open, and what of it is damaged may be set aside."""
        self.patience = patience
        self._sqlite = url.startswith("sqlite")
        self._file = Path(url.removeprefix("sqlite:///")) if "sqlite:///" in url else None
        if alone and self._file:
            sqlite_file.set_aside(self._file)
        self._engine = schema.connect(url, patience=patience)
        self.workers = Workers(self._engine)

    def close(self) -> None:
        """What SQLite keeps beside its file is in it then, unless another process has it open."""
        self._engine.dispose()
        if self._file and self._file.exists():
            sqlite_file.checkpoint(self._file)

    # What the rows go on from

    def mark(self, user: str) -> Mark:
        with self._engine.connect() as db:
            row = db.execute(select(schema.marks).where(schema.marks.c.user == user)).mappings()
            found = row.first()
        return Mark(**{k: found[k] for k in Mark.__slots__}) if found else Mark()

    def set_mark(self, user: str, generation: int, sha256: str, saved: int | None = None) -> None:
        """The rows go on from that manifest; the first `saved` changes are in it."""
        values: dict[str, Any] = {"generation": generation, "sha256": sha256}
        values |= {} if saved is None else {"saved": saved}
        with self._engine.begin() as db:
            schema.upsert(db, schema.marks, {"user": user}, values, changes=0, saved=saved or 0)

    def marked(self) -> list[str]:
        """Users of whom something was once saved, or changed."""
        with self._engine.connect() as db:
            return [str(row.user) for row in db.execute(select(schema.marks.c.user))]

    def unsaved(self) -> list[str]:
        """Users with changes that no generation holds yet."""
        query = select(schema.marks.c.user).where(schema.marks.c.changes > schema.marks.c.saved)
        with self._engine.connect() as db:
            return [str(row.user) for row in db.execute(query)]

    def tombstones(self, user: str) -> dict[str, float]:
        """When what has these keys was deleted, oldest first."""
        query = select(schema.tombstones).where(schema.tombstones.c.user == user)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(schema.tombstones.c.at))
            return {str(row.key): float(row.at) for row in rows}

    def bury(self, user: str, gone: Mapping[str, float]) -> None:
        """These keys were deleted, at these times."""
        known = self.tombstones(user)
        fresh = {key: at for key, at in gone.items() if at > known.get(key, 0.0)}
        if fresh:
            with self._engine.begin() as db:
                for key, at in fresh.items():
                    self._bury(db, user, key, at)

    def _bury(self, db: Connection, user: str, key: str, at: float) -> None:
        schema.upsert(db, schema.tombstones, {"user": user, "key": key}, {"at": at})

    @contextmanager
    def _changing(self, user: str) -> Iterator[Connection]:
        """A transaction that changes what a generation of that user says."""
        with self._engine.begin() as db:
            self._count(db, user)
            yield db

    def _count(self, db: Connection, user: str) -> None:
        more = {"changes": schema.marks.c.changes + 1}
        schema.upsert(db, schema.marks, {"user": user}, more, generation=0, changes=1, saved=0)

    # Collections

    def collections(self, user: str) -> list[Collection]:
        query = select(schema.collections).where(schema.collections.c.user == user)
        with self._engine.connect() as db:
            return [
                _collection(r) for r in db.execute(query.order_by(schema.collections.c.created_at))
            ]

    def find_collection(self, user: str, reference: str) -> Collection:
        """By id or by title; NotFound otherwise."""
        reference = _title(reference)
        query = select(schema.collections).where(
            schema.collections.c.user == user,
            (schema.collections.c.id == reference) | (schema.collections.c.title == reference),
        )
        with self._engine.connect() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(
                "collection_not_found", "There is no such collection.", "See /collections."
            )
        return _collection(row)

    def held_collection(self, user: str, reference: str) -> Collection | None:
        """As `find_collection`; None for a `default` that nobody has filled yet."""
        try:
            return self.find_collection(user, reference)
        except NotFound:
            if reference == "default":
                return None
            raise

    def shelf(self, user: str) -> list[dict[str, Any]]:
        """The collections as the public interface has them, but for their number of records."""
        held: dict[str, list[SourceRow]] = {}
        for source in self.sources(user):
            held.setdefault(source.collection, []).append(source)
        return [
            {
                "id": c.id,
                "title": c.title,
                "sources": len(held.get(c.id, ())),
                "pages": sum(s.pages for s in held.get(c.id, ())),
                "bytes": sum(s.bytes for s in held.get(c.id, ())),
                "model": c.model,
                "created_at": c.created_at,
            }
            for c in self.collections(user)
        ]

    def create_collection(self, user: str, title: str) -> Collection:
        """The collection of that title, made when it is not there yet."""
        title = self._no_id(user, _title(title))
        made = Collection(
            id=f"c-{secrets.token_hex(8)}", title=title, model=None, created_at=time.time()
        )
        try:
            with self._changing(user) as db:
                db.execute(insert(schema.titles).values(user=user, title=title, collection=made.id))
                db.execute(
                    insert(schema.collections).values(
                        id=made.id, user=user, title=title, created_at=made.created_at
                    )
                )
        except IntegrityError:
            return self.find_collection(user, title)
        return made

    def collection_for(self, user: str, reference: str) -> Collection:
        """The collection of that id or title; a new one of that title when there is none."""
        try:
            return self.find_collection(user, reference)
        except NotFound:
            return self.create_collection(user, reference)

    def restore_collection(self, user: str, collection: Collection) -> None:
        """Put back a collection that a manifest names; its title gets a number when a newer
        collection has taken it."""
        known = {c.id: c.title for c in self.collections(user)}
        if collection.id in known:
            return
        title = free_title(collection.title, known.values())
        with self._changing(user) as db:
            db.execute(
                delete(schema.titles).where(
                    schema.titles.c.user == user, schema.titles.c.title == title
                )
            )
            db.execute(
                insert(schema.collections).values(
                    id=collection.id,
                    user=user,
                    title=title,
                    model=collection.model,
                    created_at=collection.created_at,
                )
            )
            db.execute(
                insert(schema.titles).values(user=user, title=title, collection=collection.id)
            )

    def _no_id(self, user: str, title: str) -> str:
        """The title; InputError when it is the id of a collection, which goes by either."""
        if any(c.id == title for c in self.collections(user)):
            raise _title_taken()
        return title

    def rename_collection(self, user: str, collection: str, title: str) -> Collection:
        title = self._no_id(user, _title(title))
        try:
            with self._changing(user) as db:
                db.execute(
                    update(schema.titles)
                    .where(schema.titles.c.user == user, schema.titles.c.collection == collection)
                    .values(title=title)
                )
                db.execute(
                    update(schema.collections)
                    .where(schema.collections.c.user == user, schema.collections.c.id == collection)
                    .values(title=title)
                )
        except IntegrityError as problem:
            raise _title_taken() from problem
        return self.find_collection(user, collection)

    def set_model(
        self, user: str, collection: str, model: str, *, unless_set: bool = False
    ) -> None:
        mine = (schema.collections.c.user == user) & (schema.collections.c.id == collection)
        if unless_set:
            mine &= schema.collections.c.model.is_(None)
        with self._engine.begin() as db:
            if db.execute(update(schema.collections).where(mine).values(model=model)).rowcount:
                self._count(db, user)

    def drop_collection(self, user: str, collection: str, *, deleted: bool = True) -> None:
        """With its sources. Not `deleted`: another instance did that, and the rows follow."""
        with self._changing(user) as db:
            if deleted:
                mine = (schema.collections.c.user == user) & (schema.collections.c.id == collection)
                made = db.execute(select(schema.collections.c.created_at).where(mine)).scalar()
                self._bury(db, user, tombstone(collection), max(time.time(), float(made or 0.0)))
            for table in (schema.titles, schema.sources):
                db.execute(
                    delete(table).where(table.c.user == user, table.c.collection == collection)
                )
            db.execute(
                delete(schema.collections).where(
                    schema.collections.c.user == user, schema.collections.c.id == collection
                )
            )

    # Sources

    def put_source(self, user: str, source: SourceRow) -> None:
        values = {name: getattr(source, name) for name in source.__slots__}
        key = and_(
            schema.sources.c.user == user,
            schema.sources.c.collection == source.collection,
            schema.sources.c.sha256 == source.sha256,
        )
        buried = and_(
            schema.tombstones.c.user == user,
            schema.tombstones.c.key == tombstone(source.collection, source.sha256),
        )
        with self._changing(user) as db:
            at = db.execute(select(schema.tombstones.c.at).where(buried)).scalar()
            if at is not None:  # it came again after it was deleted, also when the clock went back
                values["created_at"] = max(source.created_at, float(at) + 0.001)
            if db.execute(update(schema.sources).where(key).values(**values)).rowcount == 0:
                db.execute(insert(schema.sources).values(user=user, **values))

    def sources(
        self, user: str, collection: str | None = None, *, sha256: str | None = None
    ) -> list[SourceRow]:
        query = select(schema.sources).where(schema.sources.c.user == user)
        if collection is not None:
            query = query.where(schema.sources.c.collection == collection)
        if sha256 is not None:
            query = query.where(schema.sources.c.sha256 == sha256)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(schema.sources.c.created_at)).mappings()
            return [SourceRow(**{k: r[k] for k in SourceRow.__slots__}) for r in rows]

    def drop_source(self, user: str, collection: str, sha256: str, *, deleted: bool = True) -> None:
        """Not `deleted`: another instance did that, and the rows follow."""
        key = and_(
            schema.sources.c.user == user,
            schema.sources.c.collection == collection,
            schema.sources.c.sha256 == sha256,
        )
        with self._changing(user) as db:
            if deleted:
                made = db.execute(select(schema.sources.c.created_at).where(key)).scalar()
                at = max(time.time(), float(made or 0.0))
                self._bury(db, user, tombstone(collection, sha256), at)
            db.execute(delete(schema.sources).where(key))

    def forget_user(self, user: str, before: float | None = None) -> None:
        """Every row of theirs; those only that were made `before` a time when it is given."""
        old = float("inf") if before is None else before
        jobs = (schema.jobs.c.user == user) & (schema.jobs.c.created_at < old)
        named = select(schema.jobs.c.id).where(jobs)
        mine = (schema.collections.c.user == user) & (schema.collections.c.created_at < old)
        collections = select(schema.collections.c.id).where(mine)
        with self._engine.begin() as db:
            for table in (schema.events, schema.deliveries):
                db.execute(delete(table).where(table.c.job.in_(named)))
            db.execute(delete(schema.jobs).where(jobs))
            for table in (schema.titles, schema.sources):
                db.execute(
                    delete(table).where(table.c.user == user, table.c.collection.in_(collections))
                )
            db.execute(delete(schema.collections).where(mine))
            for table in (schema.marks, schema.tombstones) if before is None else ():
                db.execute(delete(table).where(table.c.user == user))

    # Jobs

    def put_job(self, job: JobRow) -> bool:
        """Insert; False when that id is already there."""
        values = _job_values(job)
        try:
            with self._changing(job.user) as db:
                db.execute(insert(schema.jobs).values(**values))
        except IntegrityError:
            return False
        return True

    def job(self, user: str, job_id: str) -> JobRow:
        query = select(schema.jobs).where(schema.jobs.c.user == user, schema.jobs.c.id == job_id)
        with self._engine.connect() as db:
            row = db.execute(query).first() if is_one(JobId, job_id) else None
        if row is None:
            raise NotFound("job_not_found", "There is no such job.", "See /jobs for yours.")
        return _job(row)

    def runs(self, user: str, stem: str) -> list[JobRow]:
        """The job of that id and its re-runs (`-r2`, `-r3`…), oldest first."""
        query = select(schema.jobs).where(
            schema.jobs.c.user == user,
            (schema.jobs.c.id == stem) | schema.jobs.c.id.like(f"{stem}-r%"),
        )
        with self._engine.connect() as db:
            return [_job(r) for r in db.execute(query.order_by(schema.jobs.c.created_at))]

    def jobs(
        self,
        user: str | None,
        statuses: Iterable[str] | None = None,
        limit: int = 50,
        *,
        collection: str | None = None,
        sha256: str | None = None,
    ) -> list[JobRow]:
        """Newest first."""
        query = select(schema.jobs)
        if collection is not None:
            query = query.where(schema.jobs.c.collection == collection)
        if sha256 is not None:
            query = query.where(schema.jobs.c.sha256 == sha256)
        if user is not None:
            query = query.where(schema.jobs.c.user == user)
        if statuses is not None:
            query = query.where(schema.jobs.c.status.in_(list(statuses)))
        with self._engine.connect() as db:
            return [
                _job(r)
                for r in db.execute(query.order_by(schema.jobs.c.created_at.desc()).limit(limit))
            ]

    def cancelled(self, user: str, collection: str) -> set[str]:
        """The files whose newest job there was cancelled: not all of their pages are indexed."""
        jobs = schema.jobs.c
        query = select(jobs.sha256, jobs.status).where(
            jobs.user == user, jobs.collection == collection
        )
        with self._engine.connect() as db:
            newest = {r.sha256: r.status for r in db.execute(query.order_by(jobs.created_at))}
        return {sha256 for sha256, status in newest.items() if status == "cancelled"}

    def recent_jobs(self, users: Iterable[str], since: float) -> list[JobRow]:
        """These users' jobs that are not finished, or were finished after that time."""
        query = select(schema.jobs).where(
            schema.jobs.c.user.in_(list(users)),
            schema.jobs.c.status.not_in(FINISHED) | (schema.jobs.c.finished_at > since),
        )
        with self._engine.connect() as db:
            return [_job(r) for r in db.execute(query.order_by(schema.jobs.c.created_at))]

    def unfinished_users(self) -> list[str]:
        """Whose jobs are not done, also when their last save stands."""
        query = select(schema.jobs).where(schema.jobs.c.status.in_(ACTIVE))
        with self._engine.connect() as db:
            rows = map(_job, db.execute(query))
            return sorted({row.user for row in rows if not row.summary.get("outcome")})

    def count_jobs(self, user: str, statuses: Iterable[str] | None = None) -> int:
        query = select(func.count()).select_from(schema.jobs).where(schema.jobs.c.user == user)
        if statuses is not None:
            query = query.where(schema.jobs.c.status.in_(list(statuses)))
        with self._engine.connect() as db:
            return int(db.execute(query).scalar_one())

    def is_visitor(self, user: str) -> bool:
        """Whether that user has not signed in."""
        query = select(schema.visitors.c.user).where(schema.visitors.c.user == user)
        with self._engine.connect() as db:
            return db.execute(query).first() is not None

    def visitors(self, beside: str | None = None) -> list[str]:
        """All of them; `beside`: that one and those at the same address."""
        at = schema.visitor_addresses.c
        query = select(schema.visitors.c.user)
        if beside is not None:
            query = select(at.user).where(at.address == self.visitor_address(beside))
        with self._engine.connect() as db:
            found = {str(row.user) for row in db.execute(query)}
        return sorted(found | ({beside} if beside else set()))

    def visitor_address(self, user: str) -> str | None:
        """What stands for where that visitor was last; None of everybody else."""
        at = schema.visitor_addresses.c
        with self._engine.connect() as db:
            row = db.execute(select(at.address).where(at.user == user)).first()
        return str(row.address) if row else None

    def update_job(self, job_id: str, *, status: str | None = None, **changes: Any) -> None:
        """Set columns; keys of `summary` are merged into what is there. A final status stays
        unless `status` is `queued` (a retry)."""
        with self._engine.begin() as db:
            self._change(db, self._locked(db, job_id), status, changes)

    def record(
        self, job_id: str, attempt: int, seq: int, body: Mapping[str, Any], **changes: Any
    ) -> None:
        """An event and what it changes, in one transaction, unless its attempt is over: the job
        was cancelled or runs again. The same number again changes nothing."""
        with self._engine.begin() as db:
            row = self._locked(db, job_id)
            if row is None or row.status == "cancelled":
                return
            if json.loads(row.summary).get("attempt", 1) != attempt:
                return
            there = select(schema.events.c.seq).where(
                schema.events.c.job == job_id, schema.events.c.seq == seq
            )
            if db.execute(there).first() is None:
                db.execute(insert(schema.events).values(job=job_id, seq=seq, body=json.dumps(body)))
            self._change(db, row, changes.pop("status", None), changes)

    def _locked(self, db: Connection, job_id: str) -> Any:
        """The job's row, held until the transaction ends: SQLite takes its lock with a write."""
        if self._sqlite:
            db.execute(update(schema.jobs).where(schema.jobs.c.id == job_id).values(id=job_id))
        return db.execute(
            select(schema.jobs).where(schema.jobs.c.id == job_id).with_for_update()
        ).first()

    def _change(
        self, db: Connection, row: Any, status: str | None, changes: Mapping[str, Any]
    ) -> None:
        if row is None:
            return
        values, known = dict(changes), json.loads(row.summary)
        summary = {**known, **values.get("summary", {})}
        if "summary" in values:
            values["summary"] = json.dumps(summary)
        if status and (row.status not in FINISHED or status == "queued"):
            values["status"] = status
        if values:
            db.execute(update(schema.jobs).where(schema.jobs.c.id == row.id).values(**values))
        if _told_anew(row.status, values.get("status", row.status), known, summary):
            self._count(db, row.user)

    # Events: append-only, numbered from 1 without a gap

    def append_event(self, job_id: str, body: Mapping[str, Any], **changes: Any) -> int:
        """The event under the next number, and what it changes in the job, in one transaction."""
        with self._engine.begin() as db:
            self._change(db, self._locked(db, job_id), changes.pop("status", None), changes)
            query = select(func.max(schema.events.c.seq)).where(schema.events.c.job == job_id)
            seq = int(db.execute(query).scalar() or 0) + 1
            db.execute(insert(schema.events).values(job=job_id, seq=seq, body=json.dumps(body)))
        return seq

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        query = (
            select(schema.events)
            .where(schema.events.c.job == job_id, schema.events.c.seq > after)
            .order_by(schema.events.c.seq)
            .limit(limit)
        )
        with self._engine.connect() as db:
            return [{"seq": r.seq, **json.loads(r.body)} for r in db.execute(query)]

    def last_event(self, job_id: str) -> int:
        query = select(func.max(schema.events.c.seq)).where(schema.events.c.job == job_id)
        with self._engine.connect() as db:
            return int(db.execute(query).scalar() or 0)

    # Deliveries

    def claim_delivery(self, delivery: str, job: str) -> bool:
        """True for the one caller that may send it: at most once at a time, and never again
        unless it ended as `waiting`. A sender that died while sending leaves it claimed."""
        values = {"state": "sending", "at": time.time()}
        try:
            with self._engine.begin() as db:
                db.execute(insert(schema.deliveries).values(id=delivery, job=job, **values))
        except IntegrityError:
            waiting = (schema.deliveries.c.id == delivery) & (
                schema.deliveries.c.state == "waiting"
            )
            with self._engine.begin() as db:
                return bool(
                    db.execute(update(schema.deliveries).where(waiting).values(**values)).rowcount
                )
        return True

    def delivery_state(self, delivery: str) -> str:
        """`sending` of a sender that is gone counts as `unanswered`."""
        query = select(schema.deliveries.c.state).where(schema.deliveries.c.id == delivery)
        with self._engine.connect() as db:
            state = str(db.execute(query).scalar_one())
        return "unanswered" if state == "sending" else state

    def end_delivery(self, delivery: str, state: str, reason: str | None = None) -> None:
        with self._engine.begin() as db:
            db.execute(
                update(schema.deliveries)
                .where(schema.deliveries.c.id == delivery)
                .values(state=state, reason=reason, at=time.time())
            )

    # Housekeeping

    def totals(self) -> dict[str, int]:
        """How many jobs of everybody there are, by status."""
        query = select(schema.jobs.c.status, func.count()).group_by(schema.jobs.c.status)
        with self._engine.connect() as db:
            return {status: int(count) for status, count in db.execute(query)}

    def forget_jobs(self, before: float, limit: int = 500) -> list[JobRow]:
        """Jobs that ended before that time are deleted with their events and deliveries."""
        query = select(schema.jobs).where(
            schema.jobs.c.finished_at < before, schema.jobs.c.status.in_(FINISHED)
        )
        with self._engine.begin() as db:
            rows = [_job(r) for r in db.execute(query.limit(limit))]
            ids = [r.id for r in rows]
            for table, column in (
                (schema.events, schema.events.c.job),
                (schema.deliveries, schema.deliveries.c.job),
                (schema.jobs, schema.jobs.c.id),
            ):
                db.execute(delete(table).where(column.in_(ids)))
        return rows

    def vacuum(self) -> None:
        """Give back space when more than a quarter of the file is free; Postgres does so itself."""
        if not self._sqlite:
            return
        with self._engine.connect() as db:
            raw = db.execution_options(isolation_level="AUTOCOMMIT")
            free, all_ = (
                int(raw.exec_driver_sql(f"PRAGMA {name}").scalar_one())
                for name in ("freelist_count", "page_count")
            )
            if free * 4 > all_ and free > 1000:
                raw.exec_driver_sql("VACUUM")


def _title(text: object) -> str:
    title = line(text, _LONGEST_TITLE + 1)
    if not any(c.isprintable() and c != " " for c in title):
        raise InputError("title_empty", "A collection needs a name.", "Type at least one letter.")
    if len(title) > _LONGEST_TITLE:
        raise InputError(
            "title_too_long",
            "The name of a collection is too long.",
            f"Use {_LONGEST_TITLE} letters.",
        )
    return title


def _collection(row: Any) -> Collection:
    return Collection(id=row.id, title=row.title, model=row.model, created_at=row.created_at)


def _title_taken() -> InputError:
    return InputError("title_taken", "Another collection has that name.", "Choose another name.")


def free_title(title: str, taken: Container[str]) -> str:
    """The title, with a number when another collection has it."""
    free, number = title, 1
    while free in taken:
        number += 1
        free = f"{title} ({number})"
    return free


def _told_anew(old: str, new: str, known: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether a generation says something else of the job now. It says of one that runs or waits
    that it is queued, and how it ends once its last save began."""
    if any(known.get(name) != summary.get(name) for name in ("version", "outcome", "dismissed")):
        return True
    outcome = summary.get("outcome") or {}
    return old != new and (new in FINISHED or old in FINISHED) and outcome.get("status") != new


def _job_values(job: JobRow) -> Mapping[str, Any]:
    values = {name: getattr(job, name) for name in job.__slots__}
    return {**values, "spec": json.dumps(job.spec), "summary": json.dumps(job.summary)}


def _job(row: Any) -> JobRow:
    values = {name: getattr(row, name) for name in JobRow.__slots__}
    return JobRow(**{**values, "spec": json.loads(row.spec), "summary": json.loads(row.summary)})
