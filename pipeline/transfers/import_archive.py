"""An exported archive, read and checked in a page process: what is wrong in it harms nobody else.

Leaves `rows/*.parquet` in our own form and answers with what is in it. Knows nothing of jobs.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import Corrupt, InputError
from pipeline.search import hit
from pipeline.transfers import unzip
from storage.live import foreign_chroma, parquet_shards
from storage.live.chroma import Record

_SHA = re.compile(r"[0-9a-f]{64}")
_PICTURE = re.compile(r"([0-9a-f]{32,64})\.(jpg|jpeg|png|webp)")


def take_in(zipped: Path, folder: Path, most_bytes: int) -> dict[str, Any]:
    """`{title, model, dimension, records, sources, figures}` of an archive unpacked to `folder`."""
    names = unzip.unpack(zipped, folder / "in", most_bytes)
    inside = folder / "in"
    facts = _facts(inside / "quire.json")
    shards = sorted((inside / "data").glob("*.parquet"))
    if not shards and "chroma/chroma.sqlite3" not in names:
        raise _wrong("there are neither data/*.parquet nor a chroma directory in it")
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    batches = (
        (b for s in shards for b in parquet_shards.read(s))
        if shards
        else _chroma(inside / "chroma")
    )
    count = _Counted()
    parquet_shards.write(folder / "rows", count.through(batches))
    if not count.records:
        raise _wrong("there is no record in it")
    return {
        **facts,
        "dimension": count.dimension,
        "records": count.records,
        "sources": [s for s in facts["sources"] if s["sha256"] in count.sources],
        "files": _files(inside / "sources", _SHA, ".pdf"),
        "figures": _files(inside / "figures", _PICTURE, ""),
    }


class _Counted:
    """What went by: how many records, of which dimension, from which sources; ids are unique."""

    def __init__(self) -> None:
        self.records = 0
        self.dimension = 0
        self.sources: set[str] = set()
        self._ids: set[bytes] = set()

    def through(self, batches: Iterator[list[Record]]) -> Iterator[list[Record]]:
        for batch in batches:
            for record in batch:
                self.dimension = self.dimension or len(record.embedding)
                if len(record.embedding) != self.dimension:
                    raise _wrong("its vectors have different lengths")
                self._ids.add(hashlib.blake2b(record.id.encode(), digest_size=16).digest())
                _checked(record)
                self.sources.add(str(record.metadata.get("source_id", "")))
            self.records += len(batch)
            if self.records > parquet_shards.MAX_RECORDS:
                raise _wrong(f"it has more than {parquet_shards.MAX_RECORDS:,} records")
            if len(self._ids) != self.records:
                raise _wrong("an id is in it twice")
            yield batch


def _checked(record: Record) -> None:
    """A hit can be made of it, as search and the keyword index will."""
    page = record.metadata.get("page", 0)
    try:
        json.dumps(hit(record, 0.0, {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise _wrong("a record's metadata is not as Quire writes it") from problem
    if not isinstance(page, int) or not 0 <= page < 1 << 31:
        raise _wrong("a record's page is not a number")


def _chroma(directory: Path) -> Iterator[list[Record]]:
    collections = set()
    try:
        for batch in foreign_chroma.records(directory):
            collections.add(batch.collection)
            if len(collections) > 1:
                raise _wrong("there is more than one collection in its Chroma directory")
            yield batch.records
    except Corrupt as problem:
        raise _wrong("its Chroma directory cannot be opened") from problem


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            "title": str(found["title"])[:200],
            "model": str(found["model"])[:200],
            "sources": [
                {
                    "sha256": str(s["sha256"]),
                    "filename": str(s["filename"])[:300],
                    "pages": max(0, min(int(s["pages"]), 100_000)),
                    "bytes": max(0, int(s["bytes"])),
                }
                for s in found["sources"][:10_000]
                if _SHA.fullmatch(str(s["sha256"]))
            ],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise _wrong("quire.json is missing or not as Quire writes it") from problem


def _files(folder: Path, name: re.Pattern[str], ending: str) -> list[str]:
    """Names whose content has the hash that the name says; any other file is left out."""
    kept = []
    for path in sorted(folder.glob(f"*{ending}")):
        found = name.fullmatch(path.name.removesuffix(ending) if ending else path.name)
        if found:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest.startswith(found[0].split(".")[0]):
                kept.append(path.name)
    return kept


def _wrong(why: str) -> InputError:
    return InputError(
        "import_unreadable",
        f"The archive cannot be imported: {why}.",
        "Export the collection again, and import that file as it is.",
    )
