"""An exported archive, read and checked in a page process: what is wrong in it harms nobody else.

Leaves `rows/*.parquet` in our own form and answers with what is in it. Knows nothing of jobs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import Corrupt, InputError, Refused
from pipeline.transfers import unzip
from storage.files import is_named_by_content, is_plain
from storage.live import foreign_chroma, parquet_shards
from storage.live.chroma import Record
from storage.live.record_metadata import MAX_DIMENSION, exported, unreadable
from storage.names import CropName, Sha256, file_name, line, number
from storage.scarce import scarce

_MAX_PAGES = 100_000
_MAX_SOURCES = 10_000
FORMAT = 1  # of quire.json and of what lies beside it
_MAX_FACTS = 16 << 20  # bytes of quire.json


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`bytes` are those of the PDF that came with it, 0 when none did."""

    sha256: Sha256
    filename: str
    pages: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What is in an archive: counted and measured, never as it says. `model` is compared, nothing more.
    `bytes` is what it will take: records as decoded, pictures and PDFs as they lie there."""

    title: str
    model: str
    dimension: int
    records: int
    sources: tuple[Source, ...]
    figures: tuple[CropName, ...]
    files: tuple[Sha256, ...]
    bytes: int

    @classmethod
    def of(cls, answer: Mapping[str, Any], folder: Path) -> "Taken":
        """The answer of `take_in` about that folder; InputError when it is none: it comes from a process
        that has read what anybody may have sent."""
        inside = folder / "in"
        try:
            figures = tuple(map(CropName, answer["figures"]))
            files = tuple(map(Sha256, answer["files"]))
            sizes = {s: _size(inside / "sources" / f"{s}.pdf") for s in files}
            return cls(
                title=line(answer["title"], 200),
                model=line(answer["model"], 200),
                dimension=number(answer["dimension"], MAX_DIMENSION, 1),
                records=number(answer["records"], parquet_shards.MAX_RECORDS, 1),
                sources=tuple(_source(s, sizes) for s in answer["sources"]),
                figures=figures,
                files=files,
                bytes=number(answer["decoded"], 1 << 53)
                + sum(sizes.values())
                + sum(_size(inside / "figures" / f) for f in figures),
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise unreadable("it broke its reader") from problem


def take_in(zipped: Path, folder: Path, most_bytes: int) -> dict[str, Any]:
    """An archive unpacked to `folder`, as `Taken.of` understands it: plain values."""
    names = unzip.unpack(zipped, folder / "in", most_bytes)
    inside = folder / "in"
    facts = _facts(inside / "quire.json")
    shards = sorted((inside / "data").glob("*.parquet"))
    if not shards and "chroma/chroma.sqlite3" not in names:
        raise unreadable("there are neither data/*.parquet nor a chroma directory in it")
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    batches = (
        (b for s in shards for b in parquet_shards.read(s, most_bytes))
        if shards
        else _chroma(inside / "chroma")
    )
    count = _Counted(most_bytes)
    parquet_shards.write(folder / "rows", count.through(batches))
    if not count.records:
        raise unreadable("there is no record in it")
    listed = {s["sha256"]: s for s in facts["sources"] if s["sha256"] in count.sources}
    originals = {f"{i}.pdf" for i in count.sources}  # what is nobody's, nobody could delete
    return {
        **facts,
        "dimension": count.dimension,
        "records": count.records,
        "decoded": count.bytes,
        "sources": list((count.sources | listed).values()),
        "files": [n.removesuffix(".pdf") for n in _files(inside / "sources", originals)],
        "figures": _files(inside / "figures", count.pictures),
    }


class _Counted:
    """What went by: how many records, of which dimension, from which sources, with which pictures, and
    how many bytes of text and numbers; ids are unique."""

    def __init__(self, most_bytes: int) -> None:
        self.records = 0
        self.bytes = 0
        self.dimension = 0
        self.sources: dict[str, dict[str, Any]] = {}  # as quire.json lists them
        self.pictures: set[str] = set()
        self._most = most_bytes
        self._ids: set[bytes] = set()

    def through(self, batches: Iterator[list[Record]]) -> Iterator[list[Record]]:
        for batch in batches:
            for record in batch:
                self.dimension = self.dimension or len(record.embedding)
                if len(record.embedding) != self.dimension:
                    raise unreadable("its vectors have different lengths")
                self._ids.add(hashlib.blake2b(record.id.encode(), digest_size=16).digest())
                self._source(record.metadata)
                self.pictures.add(str(record.metadata.get("image", "")))
                self.bytes += _decoded(record)
            self.records += len(batch)
            if self.records > parquet_shards.MAX_RECORDS:
                raise unreadable(f"it has more than {parquet_shards.MAX_RECORDS:,} records")
            if len(self._ids) != self.records:
                raise unreadable("an id is in it twice")
            if self.bytes > self._most:
                raise unreadable("it is too large when unpacked")
            yield batch

    def _source(self, told: Mapping[str, Any]) -> None:
        found = self.sources.setdefault(
            told["source_id"],
            {"sha256": told["source_id"], "filename": told["filename"], "pages": 0},
        )
        last = min(told.get("last_page", told["page"]), _MAX_PAGES)
        found["pages"] = max(found["pages"], last)
        if len(self.sources) > _MAX_SOURCES:
            raise unreadable(f"it has more than {_MAX_SOURCES:,} documents")


def _decoded(record: Record) -> int:
    """Bytes of its text, its metadata and its vector, as segments hold them."""
    said = json.dumps(dict(record.metadata), ensure_ascii=False)
    return len(record.document.encode()) + len(said.encode()) + 4 * len(record.embedding)


def _chroma(directory: Path) -> Iterator[list[Record]]:
    collections = set()
    try:
        for batch in foreign_chroma.records(directory):
            collections.add(batch.collection)
            if len(collections) > 1:
                raise unreadable("there is more than one collection in its Chroma directory")
            yield list(map(exported, batch.records))
    except Corrupt as problem:
        found = scarce(problem, directory)
        raise found or unreadable("its Chroma directory cannot be opened") from problem


def _facts(path: Path) -> dict[str, Any]:
    """`{title, model, sources}` of quire.json; what it says of sizes is not read. Refused when it is of a
    newer format."""
    try:
        if path.stat().st_size > _MAX_FACTS:
            raise unreadable("quire.json is too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        written = number(found["format"], 1 << 31, 1)
        if written > FORMAT:
            raise Refused(
                "import_newer",
                f"A newer version of Quire has made the archive (format {written}, here {FORMAT}).",
                "Update Quire, and import it again.",
            )
        if len(found["sources"]) > _MAX_SOURCES:
            raise unreadable(f"it lists more than {_MAX_SOURCES:,} documents")
        return {
            "title": line(found["title"], 200),
            "model": line(found["model"], 200),
            "sources": [
                {
                    "sha256": Sha256(s["sha256"]),
                    "filename": file_name(s["filename"]),
                    "pages": number(s["pages"], _MAX_PAGES),
                }
                for s in found["sources"]
            ],
        }
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError
    ) as problem:  # fmt: skip
        raise unreadable("quire.json is missing or not as Quire writes it") from problem


def _source(answer: Mapping[str, Any], sizes: Mapping[Sha256, int]) -> Source:
    sha256 = Sha256(answer["sha256"])
    return Source(
        sha256=sha256,
        filename=file_name(answer["filename"]),
        pages=number(answer["pages"], _MAX_PAGES),
        bytes=sizes.get(sha256, 0),
    )


def _size(path: Path) -> int:
    """InputError when no plain file is there."""
    if not is_plain(path):
        raise unreadable("a file that was in it is gone")
    return path.stat().st_size


def _files(folder: Path, wanted: Set[str]) -> list[str]:
    """Those of these names whose content has the hash that the name says; any other file is left out."""
    return [p.name for p in sorted(folder.glob("*")) if p.name in wanted and is_named_by_content(p)]
