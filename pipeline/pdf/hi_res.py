"""hi_res pages: regions that a layout model saw, filled with the page's own words.

The models run elsewhere (`Detector`); here are only their answers. A word that no region covers is
read like any born-digital text, so that a model that sees little loses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.pdf.page import Box, PageContent, Word
from pipeline.pdf.tables import find
from pipeline.pdf.tables.table import Cell, Table
from pipeline.pdf.text import blocks
from pipeline.pdf.text.blocks import Block
from pipeline.pdf.text.lines import around

# The classes of DocLayNet and of docling's heron, as unstructured's element types.
KINDS = {
    "caption": "FigureCaption",
    "checkbox-selected": "Form",
    "checkbox-unselected": "Form",
    "code": "CodeSnippet",
    "document-index": "Table",
    "figure": "Image",
    "footnote": "Footer",
    "form": "Form",
    "formula": "Formula",
    "key-value-region": "Form",
    "list-item": "ListItem",
    "page-footer": "Footer",
    "page-header": "Header",
    "picture": "Image",
    "section-header": "Title",
    "table": "Table",
    "text": "NarrativeText",
    "title": "Title",
}

# Docling's layout models number their classes so (their model cards list them).
HERON = (
    "Caption", "Footnote", "Formula", "List-item", "Page-footer", "Page-header", "Picture",
    "Section-header", "Table", "Text", "Title", "Document Index", "Code", "Checkbox-Selected",
    "Checkbox-Unselected", "Form", "Key-Value Region",
)  # fmt: skip


class Region(NamedTuple):
    """A detection: `kind` is an element type, `box` a share of the page (0 to 1); a table's rows,
    columns and spanning cells are shares of the page too, header rows first in `rows`."""

    kind: str
    score: float
    box: Box
    rows: tuple[Box, ...] = ()
    columns: tuple[Box, ...] = ()
    spans: tuple[Box, ...] = ()
    headers: int = 0


class Detector(Protocol):
    """Loaded layout and table models, as `models/detection.py` makes them."""

    def detect(self, pictures: Sequence[Path]) -> list[tuple[Region, ...]]:
        """The regions of each page picture."""


@dataclass(frozen=True, slots=True)
class Placed:
    """`thing` is a Block, a Table or the Box of a figure; `index` orders it on the page."""

    index: float
    thing: Block | Table | Box


def kind(label: str) -> str | None:
    """The element type of a model's class name; None for one that is not known."""
    return KINDS.get(label.lower().replace("_", "-").replace(" ", "-"))


def settle(regions: Sequence[Region]) -> list[Region]:
    """Clipped to the page, best first; one that mostly lies in a better one is dropped."""
    kept: list[Region] = []
    for region in sorted(regions, key=lambda r: (-r.score, r.box)):
        b = region.box
        box = Box(max(0.0, b.x0), max(0.0, b.y0), min(1.0, b.x1), min(1.0, b.y1))
        if box.width <= 0 or box.height <= 0:
            continue
        if all(box.overlap(k.box) <= 0.5 * min(box.area, k.box.area) for k in kept):
            kept.append(region._replace(box=box))
    return kept


def read(content: PageContent, regions: Sequence[Region]) -> list[Placed]:
    """Everything on the page in reading order: each region's words, then what none covers."""
    free = dict(enumerate(content.words))
    placed: list[Placed] = []
    empty: list[Box] = []
    # Tables and figures first: their words are theirs alone, whatever else was seen on top.
    for region in sorted(settle(regions), key=lambda r: r.kind not in {"Table", "Image"}):
        box = _points(region.box, content)
        inside = [(i, w) for i, w in free.items() if box.holds(w.box)]
        if region.kind == "Image":
            if sum(len(w.text) for _, w in inside) > 400:
                continue  # a page of text taken for a picture
        elif not inside:
            continue
        for i, _ in inside:
            del free[i]
        if not inside:
            empty.append(box)
            continue
        thing: Block | Table | Box
        if region.kind == "Image":
            thing = box
        elif region.kind == "Table":
            thing = _table(content, region, box, [w for _, w in inside])
        else:
            thing = _block(content, region.kind, inside)
        placed.append(Placed(min(i for i, _ in inside), thing))
    placed += [Placed(b.index, b) for b in blocks.read(content, list(free.items()))]
    placed.sort(key=lambda p: p.index)
    for box in empty:
        placed.append(Placed(_before_next(box, placed), box))
    return sorted(placed, key=lambda p: p.index)


def _block(content: PageContent, kind: str, inside: list[tuple[int, Word]]) -> Block:
    found = blocks.read(content, inside)
    box = around(block.box for block in found)
    words = " ".join(b.text for b in found)
    return Block(kind=kind, text=words, box=box, index=found[0].index)


def _table(content: PageContent, region: Region, box: Box, words: list[Word]) -> Table:
    """Cells where rows cross columns, filled with the words whose middle they hold; without rows
    and columns the words of each line are one row."""
    rows = [_points(r, content) for r in region.rows]
    columns = [_points(c, content) for c in region.columns]
    if not rows or not columns:
        return find.one_column(words, box)
    spans = [_reach(_points(s, content), rows, columns) for s in region.spans]
    owner: dict[tuple[int, int], tuple[int, int]] = {}
    for r0, r1, c0, c1 in spans:
        free = all((r, c) not in owner for r in range(r0, r1) for c in range(c0, c1))
        if free and (r1 - r0) * (c1 - c0) > 1:
            owner |= {(r, c): (r0, c0) for r in range(r0, r1) for c in range(c0, c1)}
    texts: dict[tuple[int, int], list[str]] = {}
    for word in words:
        place = (_nearest(word.box, rows, down=True), _nearest(word.box, columns, down=False))
        texts.setdefault(owner.get(place, place), []).append(word.text)
    cells = []
    for row in range(len(rows)):
        for column in range(len(columns)):
            first = owner.get((row, column), (row, column))
            if first != (row, column):
                continue
            mine = [p for p, o in owner.items() if o == first] or [first]
            cells.append(
                Cell(
                    row=row,
                    row_span=max(p[0] for p in mine) - row + 1,
                    column=column,
                    column_span=max(p[1] for p in mine) - column + 1,
                    text=" ".join(texts.get(first, [])),
                    header=row < region.headers,
                )
            )
    return Table(box=box, cells=tuple(cells), ruled=False)


def _reach(box: Box, rows: list[Box], columns: list[Box]) -> tuple[int, int, int, int]:
    """The rows and columns whose middle the box holds, as half-open ranges."""
    inside = [i for i, r in enumerate(rows) if box.y0 <= (r.y0 + r.y1) / 2 <= box.y1]
    across = [i for i, c in enumerate(columns) if box.x0 <= (c.x0 + c.x1) / 2 <= box.x1]
    if not inside or not across:
        return 0, 0, 0, 0
    return inside[0], inside[-1] + 1, across[0], across[-1] + 1


def _nearest(word: Box, bands: list[Box], *, down: bool) -> int:
    at = (word.y0 + word.y1) / 2 if down else (word.x0 + word.x1) / 2

    def away(i: int) -> float:
        low, high = (bands[i].y0, bands[i].y1) if down else (bands[i].x0, bands[i].x1)
        return max(low - at, at - high, 0.0)

    return min(range(len(bands)), key=away)


def _before_next(box: Box, placed: Sequence[Placed]) -> float:
    """Before the nearest thing below it, else after everything."""
    below = [
        (other.y0, p.index)
        for p in placed
        if (other := p.thing if isinstance(p.thing, Box) else p.thing.box).y0 >= box.y1 - 4
        and other.x0 < box.x1
        and other.x1 > box.x0
    ]
    return min(below)[1] - 0.5 if below else max((p.index for p in placed), default=0.0) + 0.5


def _points(share: Box, content: PageContent) -> Box:
    wide, high = content.width, content.height
    return Box(share.x0 * wide, share.y0 * high, share.x1 * wide, share.y1 * high)
