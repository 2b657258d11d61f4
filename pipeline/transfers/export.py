"""A collection to take away: Parquet, a Chroma directory, JSON elements, Markdown; one zip each.

Nothing is held whole: records come in batches, documents one after another, the zip is written as it
goes. What `outgoing.py` asks for; knows nothing of jobs.
"""

import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.pdf import markdown
from pipeline.pdf.elements import FURNITURE, KINDS, coordinates
from pipeline.pdf.page import Box
from pipeline.transfers.import_archive import FORMAT
from storage.catalog.catalog import Collection, SourceRow
from storage.files import opened
from storage.live import parquet_shards
from storage.live.chroma import Record, VectorStore
from storage.names import CropName, is_one

_FACTS = "quire.json"
_CARD = """---
license: other
pretty_name: {pretty}
size_categories:
  - {size}
configs:
  - config_name: default
    data_files:
      - split: train
        path: data/*.parquet
---

# {title}

{count:,} records exported by Quire. Vectors were made with `{model}`, normalised, cosine space; embed
a question with the same model.

```python
from datasets import load_dataset

records = load_dataset("parquet", data_files="data/*.parquet", split="train")
```

Columns: `id`, `document`, `embedding`, `filename`, `page`, `element_type`, and `metadata`, which is
JSON: boxes on the page, table HTML, section titles. `figures/` has the pictures of tables and figures,
`sources/` the PDFs by their sha256. Quire imports the zip as a new collection.
"""
_README = """# {title}

{count:,} records exported by Quire. Vectors were made with `{model}`, normalised, cosine space.

```python
import chromadb

client = chromadb.PersistentClient("chroma")
collection = client.get_collection("{id}", embedding_function=None)
```

Embed your question with the same model. Quire imports the zip as a new collection.
"""
_BOX = {"x0", "y0", "x1", "y1", "w", "h"}
_TOLD = {
    "page": "page_number",
    "languages": "languages",
    "table_html": "text_as_html",
    "image": "image_path",
    "caption": "caption",
}  # of a record, and as an element says it
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A collection as an export reads it: `records` in batches, the elements of one source."""

    collection: Collection
    count: int
    records: Callable[[], Iterator[Sequence[Record]]]
    sources: Sequence[SourceRow]
    elements: Callable[[SourceRow], Sequence[dict[str, Any]]]
    original: Callable[[SourceRow], Path | None]
    crop: Callable[[str], Path | None]


class _Asking(io.FileIO):
    """A file that asks for room before it takes it."""

    def __init__(self, path: Path, more: Callable[[int], None]) -> None:
        super().__init__(path, "w")
        self._more = more

    def write(self, content: Any) -> int:
        self._more(memoryview(content).nbytes)
        return super().write(content)


def export(
    shelf: Shelf,
    kind: str,
    target: Path,
    report: Report,
    more: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the zip `target`; `report(done, total)` counts records, or documents; `more(bytes)` is
    asked before the zip grows, and raises what stands in the way."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_suffix(".tmp")
    with (
        _Asking(aside, more) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        _WRITERS[kind](archive, shelf, report)
    aside.replace(target)


def elements_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What there is to show of an imported document, which came without elements: one for each record, by
    page and from the top, at the place of all its boxes on the page where it begins."""
    made = [(_place(r), r) for r in records]
    made.sort(key=lambda m: (m[1].metadata.get("page", 0), m[0].get("y0", 0), m[1].id))
    return [_element(r, place) for place, r in made]


def _place(record: Record) -> dict[str, float]:
    """The box around its boxes there, and the page's size; empty when it has none."""
    told = json.loads(record.metadata.get("boxes", "[]"))
    boxes = [b for b in told if b.get("page") == record.metadata.get("page") and b.keys() >= _BOX]
    if not boxes:
        return {}
    lower = {k: min(b[k] for b in boxes) for k in ("x0", "y0")}
    return lower | {k: max(b[k] for b in boxes) for k in ("x1", "y1", "w", "h")}


def _element(record: Record, place: dict[str, float]) -> dict[str, Any]:
    told = record.metadata
    types = told.get("element_types") or [told.get("element_type")]
    metadata: dict[str, Any] = {
        name: told[key] for key, name in _TOLD.items() if told.get(key) is not None
    }
    if place:
        box = Box(place["x0"], place["y0"], place["x1"], place["y1"])
        metadata["coordinates"] = coordinates(box, (place["w"], place["h"]))
    shown = len(types) == 1 and types[0] in KINDS - FURNITURE
    return {
        "type": types[0] if shown else "UncategorizedText",
        "element_id": record.id,
        "text": record.document,
        "metadata": metadata,
    }


def _parquet(archive: zipfile.ZipFile, shelf: Shelf, report: Report) -> None:
    pictures: set[CropName] = set()
    with tempfile.TemporaryDirectory(dir=Path(archive.filename or ".").parent) as work:
        for shard in parquet_shards.write(Path(work), _seen(shelf, report, pictures)):
            archive.write(shard, f"data/{shard.name}", zipfile.ZIP_STORED)
    _about(archive, shelf, _CARD, pictures)
    for source in shelf.sources:
        path = shelf.original(source)
        if path is not None:
            _put(archive, path, f"sources/{source.sha256}.pdf")


def _chroma(archive: zipfile.ZipFile, shelf: Shelf, report: Report) -> None:
    pictures: set[CropName] = set()
    with tempfile.TemporaryDirectory(dir=Path(archive.filename or ".").parent) as work:
        store = VectorStore(Path(work))
        try:
            for batch in _seen(shelf, report, pictures):
                store.ensure(
                    shelf.collection.id,
                    model=str(shelf.collection.model),
                    dimension=len(batch[0].embedding),
                    title=shelf.collection.title,
                )
                store.upsert(shelf.collection.id, batch)
        finally:
            store.close()
        for path in sorted(Path(work).rglob("*")):
            if path.is_file():
                archive.write(path, f"chroma/{path.relative_to(work)}")
    _about(archive, shelf, _README, pictures)


def _json(archive: zipfile.ZipFile, shelf: Shelf, report: Report) -> None:
    archive.writestr("README.md", _words(_README.split("```")[0], shelf))
    for i, source in enumerate(shelf.sources):
        found = json.dumps(shelf.elements(source), ensure_ascii=False, indent=1)
        archive.writestr(f"{i:04d}-{_plain(source.filename)}.json", found)
        report(i + 1, len(shelf.sources))


def _markdown(archive: zipfile.ZipFile, shelf: Shelf, report: Report) -> None:
    archive.writestr("README.md", _words(_README.split("```")[0], shelf))
    pictures: set[CropName] = set()

    def figure(name: object) -> str | None:
        if not is_one(CropName, name):
            return None
        pictures.add(CropName(name))
        return f"figures/{name}"

    for i, source in enumerate(shelf.sources):
        written = markdown.document(shelf.elements(source), figure)
        archive.writestr(f"{i:04d}-{_plain(source.filename)}.md", written)
        report(i + 1, len(shelf.sources))
    _pictures(archive, shelf, pictures)


_WRITERS: dict[str, Callable[[zipfile.ZipFile, Shelf, Report], None]] = {
    "parquet": _parquet,
    "chroma": _chroma,
    "json": _json,
    "markdown": _markdown,
}


def _seen(shelf: Shelf, report: Report, pictures: set[CropName]) -> Iterator[Sequence[Record]]:
    """The batches that have anything, counted; the names of their pictures on the side."""
    done = 0
    for batch in shelf.records():
        if batch:
            named = (r.metadata.get("image") for r in batch)
            pictures |= {CropName(n) for n in named if is_one(CropName, n)}
            yield batch
            done += len(batch)
            report(done, max(done, shelf.count))


def _about(archive: zipfile.ZipFile, shelf: Shelf, text: str, pictures: set[CropName]) -> None:
    """What an import needs beside the records, and its words for a reader."""
    archive.writestr("README.md", _words(text, shelf))
    archive.writestr(_FACTS, _facts(shelf))
    _pictures(archive, shelf, pictures)


def _pictures(archive: zipfile.ZipFile, shelf: Shelf, names: set[CropName]) -> None:
    for name in sorted(names):
        path = shelf.crop(name)
        if path is not None:
            _put(archive, path, f"figures/{name}")


def _put(archive: zipfile.ZipFile, path: Path, name: str) -> None:
    """A file of the user's, stored under that name; nothing when no plain file is there."""
    with opened(path) as file:
        if file is None:
            return
        entry = zipfile.ZipInfo(name)
        entry.file_size = path.stat(follow_symlinks=False).st_size
        with archive.open(entry, "w") as target:
            shutil.copyfileobj(file, target)


def _facts(shelf: Shelf) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "title": shelf.collection.title,
            "model": shelf.collection.model,
            "sources": [
                {"sha256": s.sha256, "filename": s.filename, "pages": s.pages, "bytes": s.bytes}
                for s in shelf.sources
            ],
        },
        ensure_ascii=False,
        indent=1,
    )


def _words(text: str, shelf: Shelf) -> str:
    size = "n<1K" if shelf.count < 1000 else "1K<n<10K" if shelf.count < 10_000 else "10K<n<100K"
    return text.format(
        title=markdown.plain(" ".join(shelf.collection.title.split())),
        pretty=json.dumps(shelf.collection.title, ensure_ascii=False),
        count=shelf.count,
        model=shelf.collection.model,
        id=shelf.collection.id,
        size=size if shelf.count < 100_000 else "100K<n<1M",
    )


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:80]
