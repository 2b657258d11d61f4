"""Chunks into records: a vector from an `encode` callable and flat metadata. Knows no model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pipeline.ingest.chunk import Chunk
from storage.live.chroma import Record
from storage.live.record_metadata import MAX_VALUES

_LISTED = MAX_VALUES // 6  # of each of the five lists of a record
Encode = Callable[[Sequence[str]], list[list[float]]]


class Encoder(Protocol):
    """A loaded model, as `models/embedding.py` makes it; the stages know no more of it."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def device(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> list[list[float]]: ...

    def encode_query(self, text: str) -> list[float]: ...


def records(
    chunks: Sequence[Chunk], encode: Encode, *, source_id: str, filename: str
) -> list[Record]:
    """One record per chunk; ids come from content, so the same chunks give the same records."""
    bare = {
        c.record_id(source_id): Record(
            id=c.record_id(source_id),
            document=c.text,
            embedding=(),
            metadata=metadata(c, source_id=source_id, filename=filename),
        )
        for c in chunks
    }
    vectors = encode([r.searched for r in bare.values()])
    return [replace(r, embedding=v) for r, v in zip(bare.values(), vectors, strict=True)]


def metadata(chunk: Chunk, *, source_id: str, filename: str) -> dict[str, Any]:
    """Scalars and lists of one type, as Chroma takes them: keys without a value are left out, and of a
    list what would be too much for it."""
    values: dict[str, Any] = {
        "source_id": source_id,
        "filename": filename,
        "page": chunk.pages[0],
        "last_page": chunk.pages[-1],
        "page_numbers": list(chunk.pages[:_LISTED]),
        "boxes": json.dumps(chunk.boxes),
        "element_type": chunk.kind,
        "element_types": list(chunk.element_types[:_LISTED]),
        "element_ids": list(chunk.element_ids[:_LISTED]),
        "section_titles": list(chunk.section_titles[:_LISTED]),
        "languages": list(chunk.languages[:_LISTED]),
        "table_html": chunk.table_html,
        "image": chunk.image,
        "caption": chunk.caption,
        "context": chunk.context,
    }
    return {k: v for k, v in values.items() if v not in (None, [], "")}
