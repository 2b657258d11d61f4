"""Elements into chunks: text by title, each table and each figure as a chunk of its own.

Works on a stream: `chunk_batch` keeps back what the next pages may still join, so that the chunks
of a document do not depend on how its pages were batched. Headers, footers and page breaks are the
page's furniture and no chunk's text. Knows nothing of vectors or stores.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from errors import InputError
from pipeline.pdf.elements import FURNITURE

if TYPE_CHECKING:
    from unstructured.documents.elements import Element

Json = dict[str, Any]
_NEARBY = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOptions:
    """Lengths in characters, as unstructured names them."""

    max_characters: int = 512
    new_after_n_chars: int = 384
    combine_text_under_n_chars: int = 256
    overlap: int = 0

    @classmethod
    def up_to(cls, size: int) -> "ChunkOptions":
        """Texts of `size` at most, in the proportions of the default."""
        return cls(
            max_characters=size,
            new_after_n_chars=size * 3 // 4,
            combine_text_under_n_chars=size // 2,
        ).checked()

    def checked(self) -> "ChunkOptions":
        if not 50 <= self.max_characters <= 8000:
            raise InputError(
                "chunk_size", "max_characters is out of range.", "Use 50 to 8,000 characters."
            )
        parts = (self.overlap + 1, self.new_after_n_chars, self.combine_text_under_n_chars)
        if self.overlap < 0 or not all(0 <= n <= self.max_characters for n in parts):
            raise InputError(
                "chunk_size", "A length does not fit the chunk.", "Use less than max_characters."
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What is embedded. `boxes` holds one box per element: page, x0, y0, x1, y1 in points from
    the upper left, and the page's size `w`, `h`. `kind` is `Text`, `Table` or `Image`."""

    kind: str
    text: str
    pages: tuple[int, ...]
    boxes: tuple[Mapping[str, float], ...]
    element_ids: tuple[str, ...]
    element_types: tuple[str, ...]
    section_titles: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    table_html: str | None = None
    image: str | None = None
    caption: str | None = None
    part: int = 0

    def record_id(self, source_id: str) -> str:
        """The same content of the same source has the same id, whenever it is made."""
        seen = "\0".join([source_id, self.kind, str(self.part), *self.element_ids, self.text])
        return hashlib.sha256(seen.encode(errors="replace")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """What is kept back between batches: elements not yet chunked, the title above them."""

    elements: tuple[Json, ...] = ()
    title: str | None = None


def chunk_batch(
    carry: Carry, batch: Sequence[Json], options: ChunkOptions, *, last: bool
) -> tuple[list[Chunk], Carry]:
    """The chunks that are final after these elements, and what to hand to the next call."""
    made = [*_tables(batch, options), *_figures(batch)]
    stream = [*carry.elements, *(e for e in batch if _is_text(e))]
    groups = list(_groups(stream, options))
    kept: list[Json] = []
    if groups and not last:
        held = groups.pop()
        first = held[0][0]["element_id"]
        start = next(i for i, e in enumerate(stream) if e["element_id"] == first)
        kept = stream[start:]
    title = carry.title
    for elements, texts in groups:
        titles = tuple(e["text"] for e in elements if e["type"] == "Title")
        made += [
            _chunk(elements, text, titles or ((title,) if title else ()), part)
            for part, text in enumerate(texts)
        ]
        title = titles[-1] if titles else title
    made.sort(key=lambda c: (c.pages[0], c.boxes[0]["y0"] if c.boxes else 0, c.part))
    return made, Carry(elements=tuple(kept), title=title)


def chunks(batches: Iterable[Sequence[Json]], options: ChunkOptions) -> Iterator[Chunk]:
    """All chunks of a document given in any batches of whole pages."""
    carry = Carry()
    for batch in batches:
        made, carry = chunk_batch(carry, batch, options, last=False)
        yield from made
    yield from chunk_batch(carry, [], options, last=True)[0]


def _is_text(e: Json) -> bool:
    if e["metadata"].get("hidden"):
        return False  # nobody sees it on the page
    return e["type"] not in FURNITURE | {"Table", "Image"} and bool(e["text"].strip())


def _groups(stream: list[Json], options: ChunkOptions) -> Iterator[tuple[list[Json], list[str]]]:
    """Sections in order: their elements, and the texts they were cut into."""
    by_id = {e["element_id"]: e for e in stream}
    current: list[Json] = []
    texts: list[str] = []
    for chunk in _by_title(stream, options):
        members = [by_id[o.id] for o in chunk.metadata.orig_elements or []]
        if current and members[0] is not current[0]:
            yield current, texts
            texts = []
        current = members
        texts.append(chunk.text)
    if current:
        yield current, texts


def _by_title(elements: list[Json], options: ChunkOptions) -> "Iterator[Element]":
    from unstructured.chunking.title import iter_chunks_by_title  # half a second, at first use
    from unstructured.staging.base import elements_from_dicts

    return iter_chunks_by_title(
        elements_from_dicts(elements),
        max_characters=options.max_characters,
        new_after_n_chars=min(options.new_after_n_chars, options.max_characters),
        combine_text_under_n_chars=min(options.combine_text_under_n_chars, options.max_characters),
        overlap=options.overlap,
        include_orig_elements=True,
    )


def _chunk(elements: Sequence[Json], text: str, titles: tuple[str, ...], part: int) -> Chunk:
    return Chunk(
        kind="Text",
        text=text,
        pages=_pages(elements),
        boxes=tuple(_box(e) for e in elements if "coordinates" in e["metadata"]),
        element_ids=tuple(e["element_id"] for e in elements),
        element_types=tuple(dict.fromkeys(e["type"] for e in elements)),
        section_titles=titles,
        languages=_languages(elements),
        part=part,
    )


def _tables(batch: Sequence[Json], options: ChunkOptions) -> Iterator[Chunk]:
    for e in batch:
        if e["type"] != "Table":
            continue
        caption = e["metadata"].get("caption")
        pieces = list(_by_title([e], options))
        whole = e["metadata"].get("text_as_html")
        for part, piece in enumerate(pieces):
            text = f"{caption}\n{piece.text}" if caption else piece.text
            if not text.strip():
                continue
            yield Chunk(
                kind="Table",
                text=text,
                pages=_pages([e]),
                boxes=(_box(e),) if "coordinates" in e["metadata"] else (),
                element_ids=(e["element_id"],),
                element_types=("Table",),
                languages=_languages([e]),
                table_html=whole if len(pieces) == 1 else piece.metadata.text_as_html or whole,
                image=e["metadata"].get("image_path"),
                caption=caption,
                part=part,
            )


def _figures(batch: Sequence[Json]) -> Iterator[Chunk]:
    for i, e in enumerate(batch):
        if e["type"] != "Image":
            continue
        caption = e["metadata"].get("caption")
        inner = e["text"].strip()
        words = "\n".join(t for t in (caption, inner) if t) or _nearby(batch, i)
        yield Chunk(
            kind="Image",
            text=words or f"Figure on page {e['metadata'].get('page_number', 0)}",
            pages=_pages([e]),
            boxes=(_box(e),) if "coordinates" in e["metadata"] else (),
            element_ids=(e["element_id"],),
            element_types=("Image",),
            languages=_languages([e]),
            image=e["metadata"].get("image_path"),
            caption=caption,
        )


def _nearby(batch: Sequence[Json], at: int) -> str:
    """The text around a figure that says nothing itself."""
    page = batch[at]["metadata"].get("page_number")
    texts = [
        e["text"]
        for e in (*reversed(batch[max(0, at - 3) : at]), *batch[at + 1 : at + 3])
        if _is_text(e) and e["metadata"].get("page_number") == page
    ]
    return " ".join(texts)[:_NEARBY]


def _pages(elements: Sequence[Json]) -> tuple[int, ...]:
    return tuple(sorted({int(e["metadata"].get("page_number") or 1) for e in elements}))


def _languages(elements: Sequence[Json]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c for e in elements for c in e["metadata"].get("languages") or ()))


def _box(e: Json) -> Mapping[str, float]:
    place = e["metadata"]["coordinates"]
    xs = [float(p[0]) for p in place["points"]]
    ys = [float(p[1]) for p in place["points"]]
    return {
        "page": int(e["metadata"].get("page_number") or 1),
        "x0": min(xs),
        "y0": min(ys),
        "x1": max(xs),
        "y1": max(ys),
        "w": float(place["layout_width"]),
        "h": float(place["layout_height"]),
    }
