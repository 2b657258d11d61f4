"""The tables of the catalogue, and how its database is opened.

Both processes open it: SQLite in WAL mode on one machine, Postgres on several.
"""

from typing import Any

from sqlalchemy import (
    Column,
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
from sqlalchemy.exc import OperationalError

from errors import Unavailable

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
deliveries = Table(
    "deliveries",
    _meta,
    Column("id", String(96), primary_key=True),
    Column("job", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("at", Float, nullable=False),
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


FROZEN_FOR = 10.0  # seconds


def connect(url: str, tables: MetaData = _meta) -> Engine:
    """An engine whose tables are there; SQLite in WAL mode."""
    arguments = {"timeout": 30} if url.startswith("sqlite") else {}
    engine = create_engine(url, connect_args=arguments, pool_pre_ping=True)
    sqlite = engine.dialect.name == "sqlite"
    event.listen(engine, "connect", _configure_sqlite if sqlite else _configure_postgres)
    try:
        tables.create_all(engine)
    except OperationalError as problem:
        if "already exists" not in str(problem):  # two processes created the tables at once
            raise Unavailable(
                "catalog_unavailable", "The catalogue cannot be opened.", "Try again shortly."
            ) from problem
    return engine


def _configure_postgres(connection: Any, _record: Any) -> None:
    """A process that is frozen in the middle of a change keeps its rows locked for so long only."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = {int(1000 * FROZEN_FOR)}")
    connection.commit()


def _configure_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
