"""The tables of the catalogue, and how its database is opened.

Both processes open it: SQLite in WAL mode on one machine, Postgres on several. A SQLite file that is
damaged is set aside, not opened: what it held comes from the stores again.
"""

import functools
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from sqlite3 import SQLITE_BUSY, SQLITE_LOCKED
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
    create_engine,
    event,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DatabaseError, DisconnectionError, OperationalError, TimeoutError
from sqlalchemy.pool import PoolProxiedConnection, QueuePool

from errors import Corrupt, Unavailable
from storage.scarce import scarce

_meta = MetaData()
collections = Table(
    "collections",
    _meta,
    Column("id", String(64), primary_key=True),
    Column("user", String(32), primary_key=True),
    Column("title", String(400), nullable=False),
    Column("model", String(200)),
    Column("created_at", Float, nullable=False),
)
titles = Table(
    "titles",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("title", String(400), primary_key=True),
    Column("collection", String(64), nullable=False),
)
sources = Table(
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
jobs = Table(
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
marks = Table(
    "marks",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("sha256", String(64)),
    Column("changes", Integer, nullable=False),
    Column("saved", Integer, nullable=False),
)
tombstones = Table(
    "tombstones",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("key", String(32), primary_key=True),
    Column("at", Float, nullable=False),
)
deliveries = Table(
    "deliveries",
    _meta,
    Column("id", String(96), primary_key=True),
    Column("job", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("at", Float, nullable=False),
)
visitors = Table(
    "visitors",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("seen_at", Float, nullable=False, index=True),
)
visitor_addresses = Table(  # whose limits a visitor shares: a key, never the address itself
    "visitor_addresses",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("address", String(32), nullable=False, index=True),
)
workers = Table(
    "workers",
    _meta,
    Column("id", String(200), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("beat", Float, nullable=False),
)
events = Table(
    "events",
    _meta,
    Column("job", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)


def upsert(
    db: Connection, table: Table, key: Mapping[str, str], values: Mapping[str, Any], **first: Any
) -> None:
    """The row of that key has these values; one that is new has the `first` ones instead."""
    made = (sqlite if db.dialect.name == "sqlite" else postgresql).insert(table)
    db.execute(
        made.values({**key, **values, **first}).on_conflict_do_update(
            index_elements=list(table.primary_key), set_=dict(values)
        )
    )


FROZEN_FOR = 10.0  # seconds
PATIENCE = 30.0  # of jobs; a call of a person has less


def connect(url: str, *others: MetaData, patience: float = PATIENCE) -> Engine:
    """An engine whose tables are there, these and `others`; SQLite in WAL mode. See `patient`."""
    engine = patient(url, patience)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    if engine.dialect.name == "sqlite" and engine.url.database:
        event.listen(engine, "checkout", functools.partial(_same_file, Path(engine.url.database)))
    for tables in (_meta, *others):
        _create(engine, tables)
    return engine


def _create(engine: Engine, tables: MetaData) -> None:
    try:
        tables.create_all(engine)
    except (sqlite3.DatabaseError, DatabaseError) as problem:
        if not isinstance(problem, sqlite3.OperationalError | OperationalError):
            raise Corrupt(
                "catalog_damaged",
                "The catalogue is damaged.",
                "Stop Quire and start it again: what was saved comes from the stores.",
            ) from problem
        if "already exists" not in str(problem):  # two processes created the tables at once
            raise Unavailable(
                "catalog_unavailable", "The catalogue cannot be opened.", "Try again shortly."
            ) from problem


def _same_file(path: Path, _connection: Any, record: Any, _proxy: Any) -> None:
    """A connection to a file that was set aside or removed is not used again."""
    now = path.stat().st_ino if path.exists() else None
    if record.info.setdefault("inode", now) != now:
        raise DisconnectionError


def patient(url: str, seconds: float, *, immediate: bool = False) -> Engine:
    """An engine that waits so long for a lock, a place in its pool or a server, and then says so by
    Unavailable. `immediate`: SQLite's lock is taken where a change begins, and keys are kept."""
    sqlite = url.startswith("sqlite")
    within = {"timeout": seconds} if sqlite else {"connect_timeout": max(2, int(seconds))}
    engine = create_engine(
        url, connect_args=within, poolclass=_Pool, pool_timeout=seconds, pool_pre_ping=True
    )
    if sqlite and immediate:
        event.listen(engine, "connect", _immediate)
    if not sqlite:
        event.listen(engine, "connect", functools.partial(_configure_postgres, seconds))
    event.listen(engine, "handle_error", _say_busy)
    return engine


class _Pool(QueuePool):
    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except TimeoutError as problem:
            raise _busy() from problem


def _say_busy(context: ExceptionContext) -> None:
    """What SQLite and Postgres say when somebody else holds a lock, the server is away, or the machine has
    too little of something."""
    problem = context.original_exception
    sqlite = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    state = getattr(problem, "sqlstate", None) or ""
    database = context.engine.url.database if context.engine and sqlite else None
    found = scarce(problem, Path(database).parent) if database else None
    if found:
        raise found from problem
    unconnected = context.connection is None and context.dialect.name != "sqlite"
    if (
        sqlite in {SQLITE_BUSY, SQLITE_LOCKED}
        or state[:2] in {"08", "53", "57"}
        or state == "55P03"
        or context.is_disconnect
        or (unconnected and isinstance(context.sqlalchemy_exception, OperationalError))
    ):
        raise _busy() from problem


def _busy() -> Unavailable:
    return Unavailable(
        "database_busy",
        "The database is busy or cannot be reached.",  # by SQLite's words DBOS tries for ever
        "Try again in a few seconds.",
        retry_after=5.0,
    )


def _configure_postgres(seconds: float, connection: Any, _record: Any) -> None:
    """A process that is frozen in the middle of a change keeps its rows locked for so long only."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = {int(1000 * FROZEN_FOR)}")
        cursor.execute(f"SET lock_timeout = {int(1000 * seconds)}")
        cursor.execute(f"SET statement_timeout = {int(2000 * seconds)}")
    connection.commit()


def _immediate(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"
    connection.execute("PRAGMA foreign_keys=ON")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
