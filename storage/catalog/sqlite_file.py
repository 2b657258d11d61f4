"""A SQLite file as a file: whole or set aside, and with all that is in it at the end.

Knows the catalogue's tables, and nothing of what they say.
"""

import contextlib
import json
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import String, Table

from storage.catalog.schema import collections, events, jobs, marks, sources

log = logging.getLogger(__name__)
_JSON = ("spec", "summary", "body")


def checkpoint(path: Path) -> None:
    """What SQLite keeps beside its file goes into it, as far as nobody reads there."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def set_aside(path: Path) -> None:
    """A SQLite file that is damaged gets another name, with what SQLite keeps beside it, and rows that
    nobody can read go: both come from the stores again. Nobody else may have it open."""
    if not path.exists():
        return
    try:
        with contextlib.closing(
            sqlite3.connect(path, timeout=30, isolation_level=None)
        ) as database:
            if database.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",):
                _drop_unreadable(path, database)
                return
    except sqlite3.OperationalError:
        raise  # locked, or the disk is full: that says nothing of the file
    except sqlite3.DatabaseError:
        pass
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")
    log.error("%s is damaged; it is now %s, and made anew", path, aside.name)
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(aside.with_name(aside.name + end))
            aside.with_name(aside.name + end).touch()


def _drop_unreadable(path: Path, database: sqlite3.Connection) -> None:
    """What is missing then shows as lost: no mark is left that says otherwise."""
    database.text_factory = bytes
    there = {n.decode() for (n,) in database.execute("SELECT name FROM sqlite_master")}
    for table in (collections, sources, jobs, events, marks):
        if table.name not in there:
            continue
        names = [column.name for column in table.columns]
        listed = ", ".join(f'"{name}"' for name in names)
        rows = database.execute(f"SELECT rowid, {listed} FROM {table.name}")
        bad = [r[0] for r in rows if not _readable(table, dict(zip(names, r[1:], strict=True)))]
        for rowid in bad:
            database.execute(f"DELETE FROM {table.name} WHERE rowid = ?", [rowid])
        if bad:
            log.error("%s: %d rows of %s were damaged", path, len(bad), table.name)
            database.execute("UPDATE marks SET sha256 = NULL")


def _readable(table: Table, row: dict[str, Any]) -> bool:
    """Whether the values are of their columns' kinds."""
    for column in table.columns:
        value = row[column.name]
        if value is None:
            fits = bool(column.nullable)
        elif isinstance(column.type, String):
            fits = isinstance(value, bytes) and _utf8(value)
        else:
            fits = isinstance(value, int | float)
        if not fits:
            return False
    try:
        return all(isinstance(json.loads(row[name]), dict) for name in _JSON if name in row)
    except ValueError:
        return False


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def damaged(root: Path) -> list[str]:
    """Names of the database files that were set aside."""
    return sorted(p.name for p in root.glob("*.damaged-*") if p.suffix[-4:] not in {"-wal", "-shm"})
