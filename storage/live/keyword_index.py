"""The keyword index of one user: SQLite FTS5, rebuildable from the records at any time.

Two tables over the same rows: words (bm25 over unicode words, accents folded) and trigrams for
scripts without spaces. Knows nothing of vectors.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_WORD = re.compile(r"\w+", re.UNICODE)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")
_MAX_TERMS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    id: str
    text: str
    source: str
    page: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a hit must satisfy; empty means anything."""

    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    first_page: int | None = None
    last_page: int | None = None


class Fulltext:
    """One open index; use from one thread at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._db = sqlite3.connect(path, check_same_thread=False, timeout=30)
        self._db.executescript(
            """
            PRAGMA journal_mode=WAL;
            PRAGMA synchronous=NORMAL;
            PRAGMA wal_autocheckpoint=256; -- pages: a megabyte, which counts for its owner
            CREATE TABLE IF NOT EXISTS entries(
                row INTEGER PRIMARY KEY, collection TEXT, id TEXT, source TEXT, page INT, kind TEXT,
                UNIQUE(collection, id));
            CREATE INDEX IF NOT EXISTS by_source ON entries(collection, source);
            CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
                text, tokenize="unicode61 remove_diacritics 2");
            CREATE VIRTUAL TABLE IF NOT EXISTS grams USING fts5(text, tokenize="trigram");
            """
        )

    def close(self) -> None:
        self._db.close()

    def check(self, wanted: Mapping[str, set[str]]) -> None:
        """sqlite3.DatabaseError unless the file that is there now has exactly these ids."""
        with closing(sqlite3.connect(self._path, timeout=30)) as there:
            found: dict[str, set[str]] = {}
            for collection, identity in there.execute("SELECT collection, id FROM entries"):
                found.setdefault(collection, set()).add(identity)
        if found != wanted:
            raise sqlite3.DatabaseError("other entries than the records")

    def upsert(self, collection: str, entries: Iterable[Entry]) -> None:
        with self._db:
            for e in entries:
                self._forget(collection, e.id)
                row = self._db.execute(
                    "INSERT INTO entries(collection, id, source, page, kind) VALUES(?,?,?,?,?)",
                    (collection, e.id, e.source, e.page, e.kind),
                ).lastrowid
                self._db.execute("INSERT INTO words(rowid, text) VALUES(?,?)", (row, e.text))
                if _UNSPACED.search(e.text):
                    self._db.execute("INSERT INTO grams(rowid, text) VALUES(?,?)", (row, e.text))

    def delete(self, collection: str, ids: Iterable[str]) -> None:
        with self._db:
            for identity in ids:
                self._forget(collection, identity)

    def drop(self, collection: str) -> None:
        found = self._db.execute("SELECT id FROM entries WHERE collection=?", (collection,))
        self.delete(collection, [i for (i,) in found.fetchall()])

    def search(
        self, collection: str, query: str, *, limit: int, where: Filter | None = None
    ) -> list[tuple[str, float]]:
        """Ids with their bm25 weight (higher is better); any text is a valid query."""
        terms = list(dict.fromkeys(_WORD.findall(query.lower())))[:_MAX_TERMS]
        if not terms:
            return []
        if _UNSPACED.search(query):
            grams = [t for t in terms if len(t) >= 3]
            return self._match("grams", grams, collection, limit, where or Filter())
        return self._match("words", terms, collection, limit, where or Filter())

    def _match(
        self, table: str, terms: Sequence[str], collection: str, limit: int, where: Filter
    ) -> list[tuple[str, float]]:
        if not terms:
            return []
        sql = [
            f"SELECT e.id, -bm25({table}) FROM {table} JOIN entries e ON e.row={table}.rowid "
            f"WHERE {table} MATCH ? AND e.collection=?"
        ]
        values: list[str | int] = [" OR ".join(f'"{t}"' for t in terms), collection]
        for column, wanted in (("source", where.sources), ("kind", where.kinds)):
            if wanted:
                sql.append(f"AND e.{column} IN ({','.join('?' * len(wanted))})")
                values.extend(wanted)
        if where.first_page is not None:
            sql.append("AND e.page>=?")
            values.append(where.first_page)
        if where.last_page is not None:
            sql.append("AND e.page<=?")
            values.append(where.last_page)
        sql.append(f"ORDER BY bm25({table}), e.id LIMIT ?")
        values.append(limit)
        return [(i, float(w)) for i, w in self._db.execute(" ".join(sql), values)]

    def _forget(self, collection: str, identity: str) -> None:
        found = self._db.execute(
            "SELECT row FROM entries WHERE collection=? AND id=?", (collection, identity)
        ).fetchone()
        if found:
            for table in ("words", "grams"):
                self._db.execute(f"DELETE FROM {table} WHERE rowid=?", found)
            self._db.execute("DELETE FROM entries WHERE row=?", found)


def built(path: Path, entries: Mapping[str, Iterable[Entry]]) -> Fulltext:
    """The index anew, of these entries by collection."""
    for leftover in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        leftover.unlink(missing_ok=True)
    words = Fulltext(path)
    for collection, listed in entries.items():
        words.upsert(collection, listed)
    return words


def tells_damage(problem: sqlite3.DatabaseError) -> bool:
    """Not what the machine has too little of, nor somebody else's lock."""
    passing = {
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
    }  # fmt: skip
    return getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in passing
