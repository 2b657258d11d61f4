"""Users' collections, sources, jobs and deliveries as rows.

Both processes open it: SQLite in WAL mode on one machine, Postgres on several. What a caller may
ask takes the user key first and sees that user's rows only; what the worker asks by a job's id, or of
everybody, does not. Knows nothing of vectors, PDFs or DBOS.
"""

import json
import secrets
import time
import unicodedata
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError

from errors import InputError, NotFound, Unavailable

_meta = MetaData()
_collections = Table(
    "collections",
    _meta,
    Column("id", String(64), primary_key=True),
    Column("user", String(32), primary_key=True),
    Column("title", String(400), nullable=False),
    Column("model", String(200)),
    Column("created_at", Float, nullable=False),
)
_titles = Table(
    "titles",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("title", String(400), primary_key=True),
    Column("collection", String(64), nullable=False),
)
_sources = Table(
    "sources",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("collection", String(64), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("filename", String(1200), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("pages", Integer, nullable=False),
    Column("version", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
)
_jobs = Table(
    "jobs",
    _meta,
    Column("id", String(64), primary_key=True),
    Column("user", String(32), nullable=False, index=True),
    Column("collection", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("filename", String(1200), nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("spec", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("created_at", Float, nullable=False, index=True),
    Column("started_at", Float),
    Column("finished_at", Float),
)
_deliveries = Table(
    "deliveries",
    _meta,
    Column("id", String(96), primary_key=True),
    Column("job", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("at", Float, nullable=False),
)
_workers = Table(
    "workers",
    _meta,
    Column("id", String(200), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("beat", Float, nullable=False),
)
_events = Table(
    "events",
    _meta,
    Column("job", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)

ACTIVE = ("queued", "running", "waiting")
FINISHED = ("succeeded", "partial", "failed", "cancelled")


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


class Catalog:
    """The rows behind one database URL."""

    def __init__(self, url: str) -> None:
        self._sqlite = url.startswith("sqlite")
        self._engine = connect(url, _meta)

    def close(self) -> None:
        self._engine.dispose()

    # Collections

    def collections(self, user: str) -> list[Collection]:
        query = select(_collections).where(_collections.c.user == user)
        with self._engine.connect() as db:
            return [_collection(r) for r in db.execute(query.order_by(_collections.c.created_at))]

    def find_collection(self, user: str, reference: str) -> Collection:
        """By id or by title; NotFound otherwise."""
        reference = _title(reference)
        query = select(_collections).where(
            _collections.c.user == user,
            (_collections.c.id == reference) | (_collections.c.title == reference),
        )
        with self._engine.connect() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound(
                "collection_not_found", "There is no such collection.", "See /collections."
            )
        return _collection(row)

    def create_collection(self, user: str, title: str) -> Collection:
        """The collection of that title, made when it is not there yet."""
        title = _title(title)
        made = Collection(
            id=f"c-{secrets.token_hex(8)}", title=title, model=None, created_at=time.time()
        )
        try:
            with self._engine.begin() as db:
                db.execute(insert(_titles).values(user=user, title=title, collection=made.id))
                db.execute(
                    insert(_collections).values(
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
        with self._engine.begin() as db:
            db.execute(
                insert(_collections).values(
                    id=collection.id,
                    user=user,
                    title=title,
                    model=collection.model,
                    created_at=collection.created_at,
                )
            )
            db.execute(insert(_titles).values(user=user, title=title, collection=collection.id))

    def rename_collection(self, user: str, collection: str, title: str) -> Collection:
        title = _title(title)
        try:
            with self._engine.begin() as db:
                db.execute(
                    update(_titles)
                    .where(_titles.c.user == user, _titles.c.collection == collection)
                    .values(title=title)
                )
                db.execute(
                    update(_collections)
                    .where(_collections.c.user == user, _collections.c.id == collection)
                    .values(title=title)
                )
        except IntegrityError as problem:
            raise InputError(
                "title_taken", "Another collection has that name.", "Choose another name."
            ) from problem
        return self.find_collection(user, collection)

    def set_model(self, user: str, collection: str, model: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                update(_collections)
                .where(_collections.c.user == user, _collections.c.id == collection)
                .values(model=model)
            )

    def drop_collection(self, user: str, collection: str) -> None:
        with self._engine.begin() as db:
            for table in (_titles, _sources):
                db.execute(
                    delete(table).where(table.c.user == user, table.c.collection == collection)
                )
            db.execute(
                delete(_collections).where(
                    _collections.c.user == user, _collections.c.id == collection
                )
            )

    # Sources

    def put_source(self, user: str, source: SourceRow) -> None:
        values = {name: getattr(source, name) for name in source.__slots__}
        key = and_(
            _sources.c.user == user,
            _sources.c.collection == source.collection,
            _sources.c.sha256 == source.sha256,
        )
        with self._engine.begin() as db:
            if db.execute(update(_sources).where(key).values(**values)).rowcount == 0:
                db.execute(insert(_sources).values(user=user, **values))

    def sources(self, user: str, collection: str | None = None) -> list[SourceRow]:
        query = select(_sources).where(_sources.c.user == user)
        if collection is not None:
            query = query.where(_sources.c.collection == collection)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(_sources.c.created_at)).mappings()
            return [SourceRow(**{k: r[k] for k in SourceRow.__slots__}) for r in rows]

    def drop_source(self, user: str, collection: str, sha256: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                delete(_sources).where(
                    _sources.c.user == user,
                    _sources.c.collection == collection,
                    _sources.c.sha256 == sha256,
                )
            )

    def forget_user(self, user: str) -> None:
        """Every row of theirs."""
        jobs = select(_jobs.c.id).where(_jobs.c.user == user)
        with self._engine.begin() as db:
            for table in (_events, _deliveries):
                db.execute(delete(table).where(table.c.job.in_(jobs)))
            for table in (_jobs, _titles, _sources, _collections):
                db.execute(delete(table).where(table.c.user == user))

    # Jobs

    def put_job(self, job: JobRow) -> bool:
        """Insert; False when that id is already there."""
        values = _job_values(job)
        try:
            with self._engine.begin() as db:
                db.execute(insert(_jobs).values(**values))
        except IntegrityError:
            return False
        return True

    def job(self, user: str, job_id: str) -> JobRow:
        query = select(_jobs).where(_jobs.c.user == user, _jobs.c.id == job_id)
        with self._engine.connect() as db:
            row = db.execute(query).first()
        if row is None:
            raise NotFound("job_not_found", "There is no such job.", "See /jobs for yours.")
        return _job(row)

    def runs(self, user: str, stem: str) -> list[JobRow]:
        """The job of that id and its re-runs (`-r2`, `-r3`…), oldest first."""
        query = select(_jobs).where(
            _jobs.c.user == user, (_jobs.c.id == stem) | _jobs.c.id.like(f"{stem}-r%")
        )
        with self._engine.connect() as db:
            return [_job(r) for r in db.execute(query.order_by(_jobs.c.created_at))]

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
        query = select(_jobs)
        if collection is not None:
            query = query.where(_jobs.c.collection == collection)
        if sha256 is not None:
            query = query.where(_jobs.c.sha256 == sha256)
        if user is not None:
            query = query.where(_jobs.c.user == user)
        if statuses is not None:
            query = query.where(_jobs.c.status.in_(list(statuses)))
        with self._engine.connect() as db:
            return [
                _job(r) for r in db.execute(query.order_by(_jobs.c.created_at.desc()).limit(limit))
            ]

    def recent_jobs(self, users: Iterable[str], since: float) -> list[JobRow]:
        """These users' jobs that are not finished, or were finished after that time."""
        query = select(_jobs).where(
            _jobs.c.user.in_(list(users)),
            _jobs.c.status.not_in(FINISHED) | (_jobs.c.finished_at > since),
        )
        with self._engine.connect() as db:
            return [_job(r) for r in db.execute(query.order_by(_jobs.c.created_at))]

    def count_jobs(self, user: str, statuses: Iterable[str] | None = None) -> int:
        query = select(func.count()).select_from(_jobs).where(_jobs.c.user == user)
        if statuses is not None:
            query = query.where(_jobs.c.status.in_(list(statuses)))
        with self._engine.connect() as db:
            return int(db.execute(query).scalar_one())

    def stored_bytes(self, user: str) -> int:
        query = select(func.coalesce(func.sum(_sources.c.bytes), 0)).where(_sources.c.user == user)
        with self._engine.connect() as db:
            return int(db.execute(query).scalar_one())

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
            there = select(_events.c.seq).where(_events.c.job == job_id, _events.c.seq == seq)
            if db.execute(there).first() is None:
                db.execute(insert(_events).values(job=job_id, seq=seq, body=json.dumps(body)))
            self._change(db, row, changes.pop("status", None), changes)

    def _locked(self, db: Connection, job_id: str) -> Any:
        """The job's row, held until the transaction ends: SQLite takes its lock with a write."""
        if self._sqlite:
            db.execute(update(_jobs).where(_jobs.c.id == job_id).values(id=job_id))
        return db.execute(select(_jobs).where(_jobs.c.id == job_id).with_for_update()).first()

    def _change(
        self, db: Connection, row: Any, status: str | None, changes: Mapping[str, Any]
    ) -> None:
        if row is None:
            return
        values = dict(changes)
        if "summary" in values:
            values["summary"] = json.dumps({**json.loads(row.summary), **values["summary"]})
        if status and (row.status not in FINISHED or status == "queued"):
            values["status"] = status
        if values:
            db.execute(update(_jobs).where(_jobs.c.id == row.id).values(**values))

    # Events: append-only, numbered from 1 without a gap

    def append_event(self, job_id: str, body: Mapping[str, Any], **changes: Any) -> int:
        """The event under the next number, and what it changes in the job, in one transaction."""
        with self._engine.begin() as db:
            self._change(db, self._locked(db, job_id), changes.pop("status", None), changes)
            query = select(func.max(_events.c.seq)).where(_events.c.job == job_id)
            seq = int(db.execute(query).scalar() or 0) + 1
            db.execute(insert(_events).values(job=job_id, seq=seq, body=json.dumps(body)))
        return seq

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        query = (
            select(_events)
            .where(_events.c.job == job_id, _events.c.seq > after)
            .order_by(_events.c.seq)
            .limit(limit)
        )
        with self._engine.connect() as db:
            return [{"seq": r.seq, **json.loads(r.body)} for r in db.execute(query)]

    def last_event(self, job_id: str) -> int:
        query = select(func.max(_events.c.seq)).where(_events.c.job == job_id)
        with self._engine.connect() as db:
            return int(db.execute(query).scalar() or 0)

    # Deliveries

    def claim_delivery(self, delivery: str, job: str) -> bool:
        """True for the one caller that may send it: at most once at a time, and never again
        unless it ended as `waiting`. A sender that died while sending leaves it claimed."""
        values = {"state": "sending", "at": time.time()}
        try:
            with self._engine.begin() as db:
                db.execute(insert(_deliveries).values(id=delivery, job=job, **values))
        except IntegrityError:
            waiting = (_deliveries.c.id == delivery) & (_deliveries.c.state == "waiting")
            with self._engine.begin() as db:
                return bool(
                    db.execute(update(_deliveries).where(waiting).values(**values)).rowcount
                )
        return True

    def delivery_state(self, delivery: str) -> str:
        """`sending` of a sender that is gone counts as `unanswered`."""
        query = select(_deliveries.c.state).where(_deliveries.c.id == delivery)
        with self._engine.connect() as db:
            state = str(db.execute(query).scalar_one())
        return "unanswered" if state == "sending" else state

    def end_delivery(self, delivery: str, state: str, reason: str | None = None) -> None:
        with self._engine.begin() as db:
            db.execute(
                update(_deliveries)
                .where(_deliveries.c.id == delivery)
                .values(state=state, reason=reason, at=time.time())
            )

    # Workers: who gave a sign of life, by the database's clock where there are several machines

    def beat(self, worker: str, role: str) -> None:
        with self._engine.begin() as db:
            values = {"role": role, "beat": self._now(db)}
            if not db.execute(
                update(_workers).where(_workers.c.id == worker).values(**values)
            ).rowcount:
                db.execute(insert(_workers).values(id=worker, **values))

    def alive(self, seconds: float) -> set[str]:
        """Workers that gave a sign of life within that time."""
        with self._engine.connect() as db:
            recent = _workers.c.beat >= self._now(db) - seconds
            return {r.id for r in db.execute(select(_workers.c.id).where(recent))}

    def bury(self, seconds: float) -> None:
        """Forget workers that have been silent for that long."""
        with self._engine.begin() as db:
            db.execute(delete(_workers).where(_workers.c.beat < self._now(db) - seconds))

    def silence(self, role: str) -> float | None:
        """Seconds since a worker of that role gave a sign of life; None when none ever did."""
        query = select(func.max(_workers.c.beat)).where(_workers.c.role == role)
        with self._engine.connect() as db:
            last = db.execute(query).scalar()
            return None if last is None else max(0.0, self._now(db) - float(last))

    def _now(self, db: Connection) -> float:
        return time.time() if self._sqlite else float(db.execute(select(_CLOCK)).scalar_one())

    # Housekeeping

    def totals(self) -> dict[str, int]:
        """How many jobs of everybody there are, by status."""
        query = select(_jobs.c.status, func.count()).group_by(_jobs.c.status)
        with self._engine.connect() as db:
            return {status: int(count) for status, count in db.execute(query)}

    def forget_jobs(self, before: float, limit: int = 500) -> list[JobRow]:
        """Jobs that ended before that time are deleted with their events and deliveries."""
        query = select(_jobs).where(_jobs.c.finished_at < before, _jobs.c.status.in_(FINISHED))
        with self._engine.begin() as db:
            rows = [_job(r) for r in db.execute(query.limit(limit))]
            ids = [r.id for r in rows]
            for table, column in (
                (_events, _events.c.job),
                (_deliveries, _deliveries.c.job),
                (_jobs, _jobs.c.id),
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


_CLOCK = func.extract("epoch", func.clock_timestamp())


def connect(url: str, tables: MetaData) -> Engine:
    """An engine whose tables are there; SQLite in WAL mode."""
    arguments = {"timeout": 30} if url.startswith("sqlite") else {}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True)
    if url.startswith("sqlite"):
        event.listen(engine, "connect", _configure_sqlite)
    try:
        tables.create_all(engine)
    except OperationalError as problem:
        if "already exists" not in str(problem):  # two processes created the tables at once
            raise Unavailable(
                "catalog_unavailable", "The catalogue cannot be opened.", "Try again shortly."
            ) from problem
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _title(text: str) -> str:
    title = unicodedata.normalize("NFC", " ".join(str(text).split()))[:200]
    if not title:
        raise InputError("title_empty", "A collection needs a name.", "Type at least one letter.")
    return title


def _collection(row: Any) -> Collection:
    return Collection(id=row.id, title=row.title, model=row.model, created_at=row.created_at)


def free_title(title: str, taken: Container[str]) -> str:
    """The title, with a number when another collection has it."""
    free, number = title, 1
    while free in taken:
        number += 1
        free = f"{title} ({number})"
    return free


def _job_values(job: JobRow) -> Mapping[str, Any]:
    values = {name: getattr(job, name) for name in job.__slots__}
    return {**values, "spec": json.dumps(job.spec), "summary": json.dumps(job.summary)}


def _job(row: Any) -> JobRow:
    values = {name: getattr(row, name) for name in JobRow.__slots__}
    return JobRow(**{**values, "spec": json.loads(row.spec), "summary": json.loads(row.summary)})
