"""Elements into chunks: a page's text in pieces that begin at its titles, each table and each figure as
chunks of its own.

No chunk leaves its page: a hit has one page, and what is said on two pages is found on each. Headers,
footers and page breaks are the page's furniture and no chunk's text. Knows nothing of vectors or stores.
"""

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from errors import InputError
from pipeline.pdf.elements import FURNITURE

if TYPE_CHECKING:
    from unstructured.documents.elements import Element

Json = dict[str, Any]
_NEARBY = 400
_CONTEXT = 200  # characters of each thing that stands above a table
_LEFTOVER = 0.2  # of a chunk: less is no chunk of its own where it fits into the one before it
_NARROW = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f]")  # two models' tokens a letter
_SENTENCE_END = re.compile(r"[.!?…](?=\s)|[。！？]")
_ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOptions:
    """Lengths in characters, as unstructured names them; a letter of another script than Latin counts
    as two. A chunk is closed before a title once it has `combine_text_under_n_chars`, and before
    anything once it has `new_after_n_chars`."""

    max_characters: int = 512
    new_after_n_chars: int = 448
    combine_text_under_n_chars: int = 256
    overlap: int = 0

    @classmethod
    def up_to(cls, size: int) -> "ChunkOptions":
        """Texts of `size` at most, in the proportions of the default."""
        return cls(
            max_characters=size,
            new_after_n_chars=size * 7 // 8,
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
    """What is found. `kind` is `Text`, `Table` or `Image`; `context` says what a table or figure stands
    below, for search alone. `boxes` holds one box per element: page, x0, y0, x1, y1 in points from the
    upper left, and the page's size `w`, `h`."""

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
    context: str = ""
    part: int = 0

    def record_id(self, source_id: str) -> str:
        """The same content of the same source has the same id, whenever it is made."""
        told = [self.context] if self.context else []
        what = [source_id, self.kind, str(self.part), *self.element_ids, self.text, *told]
        seen = "\0".join(what)
        return hashlib.sha256(seen.encode(errors="replace")).hexdigest()[:32]


def chunk_batch(
    title: str, batch: Sequence[Json], options: ChunkOptions
) -> tuple[list[Chunk], str]:
    """The chunks of these whole pages, which stand below that title, and the title of the next ones."""
    made: list[Chunk] = []
    for _, page in groupby(batch, lambda e: e["metadata"].get("page_number")):
        elements = list(page)
        of_page = list(_texts(title, elements, options))
        of_page += _tables(title, elements, options)
        of_page += _figures(title, elements)
        made += sorted(of_page, key=lambda c: (c.boxes[0]["y0"] if c.boxes else 0, c.part))
        title = _title_after(title, elements)
    return made, title


def chunks(batches: Iterable[Sequence[Json]], options: ChunkOptions) -> Iterator[Chunk]:
    """All chunks of a document given in any batches of whole pages."""
    title = ""
    for batch in batches:
        made, title = chunk_batch(title, batch, options)
        yield from made


def _title_after(title: str, elements: Sequence[Json]) -> str:
    titles = [e["text"] for e in elements if e["type"] == "Title" and _is_text(e)]
    return titles[-1][:_CONTEXT] if titles else title


def _is_text(e: Json) -> bool:
    if e["metadata"].get("hidden"):
        return False  # nobody sees it on the page
    return e["type"] not in FURNITURE | {"Table", "Image"} and bool(e["text"].strip())


def _texts(title: str, page: Sequence[Json], options: ChunkOptions) -> Iterator[Chunk]:
    current: list[tuple[str, Json, int]] = []  # a text, its element, which part of that it is
    size = 0
    for piece in _pieces(filter(_is_text, page), options):
        text, element, part = piece
        length = _size(text)
        begins = element["type"] == "Title" and not part
        small = length < options.max_characters * _LEFTOVER and not begins
        full = size >= options.new_after_n_chars and not small
        if current and (
            size + length + 1 > options.max_characters
            or full
            or (begins and size >= options.combine_text_under_n_chars)
        ):
            yield _chunk(current, title)
            title = _title_after(title, [e for _, e, _ in current])
            current, size = [], 0
        current.append(piece)
        size += length + 1
    if current:
        yield _chunk(current, title)


def _pieces(elements: Iterable[Json], options: ChunkOptions) -> Iterator[tuple[str, Json, int]]:
    """Each element's text, cut where a sentence or a word ends when it is longer than a chunk."""
    for element in elements:
        for part, text in enumerate(_cut(element["text"].strip(), options)):
            yield text, element, part


def _cut(text: str, options: ChunkOptions) -> Iterator[str]:
    most = options.max_characters
    while _size(text[: most + 1]) > most:
        room = most
        while (size := _size(text[:room])) > most:
            room = room * most // size
        ends = [m.end() for m in _SENTENCE_END.finditer(text, room // 2, room)]
        end = ends[-1] if ends else text.rfind(" ", room // 2, room)
        end = end if end > 0 else room
        yield text[:end].rstrip()
        text = text[end - min(options.overlap, end // 2) :].lstrip()
    yield text


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text) + len(_NARROW.findall(text))


def _chunk(pieces: Sequence[tuple[str, Json, int]], title: str) -> Chunk:
    elements = list({e["element_id"]: e for _, e, _ in pieces}.values())
    titles = tuple(e["text"] for e in elements if e["type"] == "Title")
    return Chunk(
        kind="Text",
        text="\n\n".join(text for text, _, _ in pieces),
        pages=_pages(elements),
        boxes=tuple(_box(e) for e in elements if "coordinates" in e["metadata"]),
        element_ids=tuple(e["element_id"] for e in elements),
        element_types=tuple(dict.fromkeys(e["type"] for e in elements)),
        section_titles=titles or ((title,) if title else ()),
        languages=_languages(elements),
        part=pieces[0][2],
    )


def _tables(title: str, page: Sequence[Json], options: ChunkOptions) -> Iterator[Chunk]:
    for at, e in enumerate(page):
        if e["type"] != "Table":
            continue
        title = _title_after(title, page[:at])
        caption = e["metadata"].get("caption")
        pieces = list(_table_pieces(e, options))
        whole = e["metadata"].get("text_as_html")
        for part, piece in enumerate(pieces):
            text = f"{caption}\n{piece.text}" if caption else piece.text
            if not text.strip():
                continue
            told = [title, "" if caption else _line_above(page, at), _heads(whole) if part else ""]
            yield Chunk(
                kind="Table",
                text=text,
                context=_context(told, text),
                section_titles=(title,) if title else (),
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


def _table_pieces(table: Json, options: ChunkOptions) -> "Iterator[Element]":
    from unstructured.chunking.title import iter_chunks_by_title  # half a second, at first use
    from unstructured.staging.base import elements_from_dicts

    return iter_chunks_by_title(
        elements_from_dicts([table]),
        max_characters=options.max_characters,
        new_after_n_chars=min(options.new_after_n_chars, options.max_characters),
        overlap=options.overlap,
    )


def _context(told: Iterable[str], text: str) -> str:
    return "\n".join(dict.fromkeys(t for t in told if t and t not in text))


def _line_above(page: Sequence[Json], at: int) -> str:
    """The end of what is said before a table that has no caption."""
    return page[at - 1]["text"][-_CONTEXT:] if at and _is_text(page[at - 1]) else ""


def _heads(table: str | None) -> str:
    """The words of the first row."""
    row = _ROW.search(table or "")
    return " ".join(html.unescape(_TAG.sub(" ", row[1])).split())[:_CONTEXT] if row else ""


def _figures(title: str, page: Sequence[Json]) -> Iterator[Chunk]:
    for i, e in enumerate(page):
        if e["type"] != "Image":
            continue
        title = _title_after(title, page[:i])
        caption = e["metadata"].get("caption")
        inner = e["text"].strip()
        words = "\n".join(t for t in (caption, inner) if t) or _nearby(page, i)
        text = words or f"Figure on page {e['metadata'].get('page_number', 0)}"
        yield Chunk(
            kind="Image",
            text=text,
            context=_context([title], text),
            section_titles=(title,) if title else (),
            pages=_pages([e]),
            boxes=(_box(e),) if "coordinates" in e["metadata"] else (),
            element_ids=(e["element_id"],),
            element_types=("Image",),
            languages=_languages([e]),
            image=e["metadata"].get("image_path"),
            caption=caption,
        )


def _nearby(page: Sequence[Json], at: int) -> str:
    """The text around a figure that says nothing itself."""
    around = (*reversed(page[max(0, at - 3) : at]), *page[at + 1 : at + 3])
    texts = [e["text"] for e in around if _is_text(e)]
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
