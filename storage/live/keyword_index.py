"""The keyword index of one user: SQLite FTS5, rebuildable from the records at any time.

Words are compared without case, accents and English endings; numbers without the marks between their
thousands; scripts without spaces by each two letters that stand together. bm25 ranks. Knows nothing of
vectors.
"""

import itertools
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

VERSION = 2  # of how words are told apart; an index of another one is made anew
_WORD = re.compile(r"\w+(?:[-./]\w+)*", re.UNICODE)
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_THOUSANDS = re.compile(r"(?<=\d)[,.'\u2019\u00a0\u202f ](?=\d{3}(?!\d))")
_MAX_TERMS = 64
# A word that so many records have says little; it counts where a question has no rarer one.
_COMMON_SHARE, _COMMON_LEAST, _COMMON_MOST = 10, 50, 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    id: str
    text: str
    source: str
    page: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a hit must satisfy; empty means anything. `phrases` stand in it word for word, and nothing
    of `without` does."""

    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    first_page: int | None = None
    last_page: int | None = None
    phrases: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


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
            """
        )
        tables, version = (
            self._db.execute(sql).fetchone()[0]
            for sql in ("SELECT count(*) FROM sqlite_master", "PRAGMA user_version")
        )
        if tables and version != VERSION:
            self._db.close()
            raise sqlite3.DatabaseError("words are told apart otherwise by now")
        self._db.executescript(
            f"""
            PRAGMA user_version={VERSION};
            CREATE TABLE IF NOT EXISTS entries(
                row INTEGER PRIMARY KEY, collection TEXT, id TEXT, source TEXT, page INT, kind TEXT,
                UNIQUE(collection, id));
            CREATE INDEX IF NOT EXISTS by_source ON entries(collection, source);
            CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
                text, tokenize="porter unicode61 remove_diacritics 2");
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

    def sources(self, collection: str) -> set[str]:
        sql = "SELECT DISTINCT source FROM entries WHERE collection=?"
        return {source for (source,) in self._db.execute(sql, (collection,))}

    def upsert(self, collection: str, entries: Iterable[Entry]) -> None:
        with self._db:
            for e in entries:
                self._forget(collection, e.id)
                row = self._db.execute(
                    "INSERT INTO entries(collection, id, source, page, kind) VALUES(?,?,?,?,?)",
                    (collection, e.id, e.source, e.page, e.kind),
                ).lastrowid
                self._db.execute(
                    "INSERT INTO words(rowid, text) VALUES(?,?)", (row, _spaced(e.text))
                )

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
        where = where or Filter()
        terms = _terms(query)
        if not terms:
            return []
        asked = " OR ".join(self._rare(terms))
        required = "".join(f" AND {_phrase(p)}" for p in where.phrases if _terms(p))
        refused = "".join(f" NOT {_phrase(p)}" for p in where.without if _terms(p))
        sql = [
            "SELECT e.id, -bm25(words) FROM words JOIN entries e ON e.row=words.rowid "
            "WHERE words MATCH ? AND e.collection=?"
        ]
        values: list[str | int] = [f"(({asked}){required}){refused}", collection]
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
        sql.append("ORDER BY bm25(words), e.id LIMIT ?")
        values.append(limit)
        return [(i, float(w)) for i, w in self._db.execute(" ".join(sql), values)]

    def allowed(self, collection: str, ids: Sequence[str], where: Filter) -> set[str]:
        """Those that have every phrase of `where` and nothing of its `without`."""
        left = set(ids)
        for phrases, keeps in ((where.phrases, True), (where.without, False)):
            for phrase in filter(_terms, phrases):
                found = self._with_phrase(collection, sorted(left), phrase)
                left = found if keeps else left - found
        return left

    def _with_phrase(self, collection: str, ids: Sequence[str], phrase: str) -> set[str]:
        sql = (
            "SELECT e.id FROM words JOIN entries e ON e.row=words.rowid WHERE words MATCH ? "
            f"AND e.collection=? AND e.id IN ({','.join('?' * len(ids))})"
        )
        return {i for (i,) in self._db.execute(sql, [_phrase(phrase), collection, *ids])}

    def _rare(self, terms: Sequence[str]) -> Sequence[str]:
        """Those that not every tenth record has, else all."""
        (entries,) = self._db.execute("SELECT max(row) FROM entries").fetchone()
        most = min(_COMMON_MOST, max(_COMMON_LEAST, (entries or 0) // _COMMON_SHARE))
        count = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        found = [(t, self._db.execute(count, (t, most + 1)).fetchone()[0]) for t in terms]
        return [t for t, n in found if 0 < n <= most] or terms

    def _forget(self, collection: str, identity: str) -> None:
        found = self._db.execute(
            "SELECT row FROM entries WHERE collection=? AND id=?", (collection, identity)
        ).fetchone()
        if found:
            self._db.execute("DELETE FROM words WHERE rowid=?", found)
            self._db.execute("DELETE FROM entries WHERE row=?", found)


def _spaced(text: str) -> str:
    """The text as it is looked through: what has no spaces as its pairs of letters."""
    return _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0]))} ", _plain(text))


def _plain(text: str) -> str:
    return _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).replace("\0", " "))


def _pairs(run: str) -> list[str]:
    """abc: ab bc c, so that a letter alone is the beginning of one of them wherever it stands."""
    return [run[i : i + 2] for i in range(len(run))]


def _terms(query: str) -> list[str]:
    """FTS5 expressions for the words of a text: what is joined by a mark counts once more as a whole, and
    two words that follow each other as the one that they are in a file's name."""
    found: list[str] = []
    pairs: list[str] = []
    for run in re.split(f"({_UNSPACED.pattern})", _plain(query)):
        if _UNSPACED.fullmatch(run):
            found += [f'"{p}"' for p in _pairs(run)[:-1]] or [f'"{run}"*']
        else:
            words = _WORD.findall(run)
            pairs += [f'"{a}{b}"' for a, b in itertools.pairwise(words) if (a + b).isalnum()]
            for word in words:
                parts = re.findall(r"\w+", word)
                found += [f'"{p}"' for p in ([word, *parts] if len(parts) > 1 else parts)]
    return list(dict.fromkeys(found + pairs))[:_MAX_TERMS]


def words_of(filename: str) -> str:
    """Of a file's name, without its ending."""
    return " ".join(re.findall(r"[^\W_]+", filename.rpartition(".")[0] or filename))


def _phrase(text: str) -> str:
    """These words one after another."""
    spaced = _UNSPACED.sub(lambda run: f" {' '.join(_pairs(run[0])[:-1] or run[0])} ", _plain(text))
    return '"' + " ".join(re.findall(r"\w+", spaced)) + '"'


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
