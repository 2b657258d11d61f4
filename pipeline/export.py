"""A collection to take away: Parquet, a Chroma directory, JSON elements, Markdown; one zip each."""

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import InputError
from storage import segments, snapshot
from storage.catalog import Collection
from storage.chroma import Record
from storage.segments import Row

FORMATS = ("parquet", "chroma", "json", "markdown")
_README = """# {title}

{count} records exported by Quire. Vectors were made with `{model}`, normalised, cosine space.

Parquet: `pandas.read_parquet("records.parquet")` or
`datasets.load_dataset("parquet", data_files="records.parquet")`.

Chroma: `chromadb.PersistentClient("chroma").get_collection("{id}", embedding_function=None)`;
embed your question with the same model.
"""


def export(
    collection: Collection,
    records: Sequence[Record],
    elements: Mapping[str, Sequence[dict[str, Any]]],
    *,
    kind: str,
    crops: Path,
    folder: Path,
) -> Path:
    """Write `folder/<collection>-<kind>.zip` and return it."""
    if kind not in FORMATS:
        raise InputError("format_unknown", "There is no such format.", f"Use {', '.join(FORMATS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{collection.id}-{kind}.zip"
    aside = target.with_suffix(".tmp")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        readme = _README.format(
            title=collection.title, count=len(records), model=collection.model, id=collection.id
        )
        archive.writestr("README.md", readme)
        rows = [_row(collection.id, r) for r in records]
        if kind == "parquet":
            archive.writestr("records.parquet", segments.encode(rows))
        elif kind == "chroma":
            _chroma(archive, collection, rows)
        elif kind == "json":
            for i, (name, found) in enumerate(elements.items()):
                archive.writestr(
                    f"{i:04d}-{_plain(name)}.json", json.dumps(found, ensure_ascii=False, indent=1)
                )
        else:
            _markdown(archive, elements, crops)
    aside.replace(target)
    return target


def _row(collection: str, record: Record) -> Row:
    return Row(
        op="put",
        collection=collection,
        id=record.id,
        document=record.document,
        metadata=record.metadata,
        embedding=record.embedding,
    )


def _chroma(archive: zipfile.ZipFile, collection: Collection, rows: Sequence[Row]) -> None:
    with tempfile.TemporaryDirectory() as work:
        built = Path(work) / "chroma"
        snapshot.build(
            built, {collection.id: {r.id: r for r in rows}}, {collection.id: collection.title}
        )
        for path in sorted(built.rglob("*")):
            if path.is_file():
                archive.write(path, f"chroma/{path.relative_to(built)}")


def _markdown(
    archive: zipfile.ZipFile, elements: Mapping[str, Sequence[dict[str, Any]]], crops: Path
) -> None:
    pictures: set[str] = set()
    for i, (name, found) in enumerate(elements.items()):
        lines = []
        for e in found:
            image = e["metadata"].get("image_path")
            if e["type"] == "Title":
                lines.append(f"## {e['text']}")
            elif e["type"] == "ListItem":
                lines.append(f"- {e['text'].lstrip('•-* ')}")
            elif e["type"] == "Table":
                lines.append(e["metadata"].get("text_as_html") or e["text"])
            elif e["type"] == "Image" and image:
                pictures.add(image)
                lines.append(f"![Figure on page {e['metadata'].get('page_number')}]({image})")
            elif e["type"] not in {"Header", "Footer", "PageBreak"}:
                lines.append(e["text"])
        archive.writestr(f"{i:04d}-{_plain(name)}.md", "\n\n".join(lines) + "\n")
    for picture in sorted(pictures):
        if (crops / picture).exists():
            archive.write(crops / picture, picture)


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)[:80]
