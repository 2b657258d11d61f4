"""Tables whose cells are drawn: rules make boxes, boxes make rows and columns, words fill them.

Knows nothing of elements, files or other pages.
"""

import importlib.util
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.pdf import pdfium
from pipeline.pdf.page import Box, Frame, PageContent, Word
from pipeline.pdf.tables import borderless
from pipeline.pdf.tables.table import Spot, Table, is_number, with_header, without_empty
from pipeline.pdf.text.lines import around, joined, rows

MAX_PATHS = 8000
_LONG = 60  # letters
_MAX_BOXES = 400
_COLUMN = 12.0  # points: a ruled column as wide is one, whether it holds anything or not


@contextmanager
def opened(path: Path) -> Iterator[Callable[[int], Any | None]]:
    """Gives tablers' page of a number counted from 1, None where it cannot open the file that pdfium
    could. Opened, and tablers imported, when the first page is asked for."""
    with ExitStack() as stack:

        @cache
        def document() -> Any | None:
            try:
                return stack.enter_context(_tablers().Document(path))
            except (RuntimeError, ValueError):
                return None

        yield lambda number: found.get_page(number - 1) if (found := document()) else None


@cache
def _tablers() -> Any:
    """The package (7 MB), over the PDFium that reads everything else: it brings another one, of its own
    age, and takes whichever is loaded first."""
    found = importlib.util.find_spec("tablers")
    assert found and found.submodule_search_locations
    (binary,) = Path(found.submodule_search_locations[0]).glob("tablers.*so")
    spec = importlib.util.spec_from_file_location("tablers.tablers", binary)
    assert spec and spec.loader
    native = sys.modules["tablers.tablers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    native.PdfiumRuntime(str(pdfium.LIBRARY))
    import tablers

    return tablers


def may_be_ruled(paths: Sequence[Box]) -> bool:
    """Whether lines drawn across and down meet anywhere: without that there is no ruled table, and
    looking for one is the dearest step of a text page."""
    if not 2 <= len(paths) <= MAX_PATHS:
        return False
    down = [p for p in paths if p.height >= 8]
    across = [p for p in paths if p.width >= 20]
    if len(down) * len(across) > 10_000:
        return True
    return any(
        d.x0 - 3 < a.x1 and a.x0 - 3 < d.x1 and d.y0 - 3 < a.y1 and a.y0 - 3 < d.y1
        for d in down
        for a in across
    )


def cells(page: Any, content: PageContent) -> list[list[Box]]:
    """What rules enclose on tablers' `page`: the cells of each table. Cells that are drawn as boxes of
    their own, beside each other, are not always found there."""
    found = [
        [_seen(cell.bbox, content.frame) for cell in table.cells]
        for table in _tablers().find_tables(page, extract_text=False)
    ]
    places = [around(boxes) for boxes in found]
    return found + [
        b for b in _drawn_cells(content) if not any(around(b).overlap(p) for p in places)
    ]


def _drawn_cells(content: PageContent) -> list[list[Box]]:
    """Groups of four boxes or more that touch each other, in rows and columns."""
    most = 0.25 * content.width * content.height
    boxes = [p for p in content.paths if p.width >= 12 and p.height >= 8 and p.area < most]
    groups: list[list[Box]] = []
    for box in boxes if 4 <= len(boxes) <= _MAX_BOXES else ():
        touching = [g for g in groups if any(_touch(box, other) for other in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([box, *(b for g in touching for b in g)])
    return [
        list(dict.fromkeys(g))
        for g in groups
        if len(set(g)) >= 4
        and _tiled(g)
        and min(len(_edges([b[i] for b in g])) for i in (0, 1)) > 1
    ]


def _touch(a: Box, b: Box) -> bool:
    """Side by side: they share an edge, and hardly any room."""
    across = min(a.x1, b.x1) - max(a.x0, b.x0)
    down = min(a.y1, b.y1) - max(a.y0, b.y0)
    return min(across, down) > -2 and min(across, down) < 3 and max(across, down) > 6


def find(
    content: PageContent, words: Sequence[Word], pieces: Sequence[Sequence[Box]]
) -> Iterator[Table]:
    """The tables that those cells make with those words."""
    for boxes in _together(pieces, words):
        tiled = _tiled(boxes)
        if tiled and _drawn_over(boxes, content.paths):
            continue
        made = table_of(boxes, words) if tiled else _loose(boxes, words)
        if made is not None and made.box.area < 0.95 * content.width * content.height:
            yield made


def _seen(bounds: Sequence[float], frame: Frame) -> Box:
    """tablers counts down from the height of the visible part, to the right from the page's own
    origin, and knows no rotation."""
    x0, y0, x1, y1 = bounds
    height = frame.top - frame.bottom
    return frame.box(x0, height - y1, x1, height - y0)


def _drawn_over(boxes: Sequence[Box], paths: Sequence[Box]) -> bool:
    """Whether strokes and shades cross the cells without following their edges: a figure with a
    grid, not a table."""
    whole = around(boxes)
    across = [x for b in boxes for x in (b.x0, b.x1)]
    down = [y for b in boxes for y in (b.y0, b.y1)]
    strays = 0
    for p in paths:
        if min(p.width, p.height) < 3 or not _encloses(whole, p):
            continue
        on_columns = all(min(abs(x - e) for e in across) < 3 for x in (p.x0, p.x1))
        on_rows = all(min(abs(y - e) for e in down) < 3 for y in (p.y0, p.y1))
        strays += not (on_columns or on_rows or any(_encloses(b, p) for b in boxes))
    return strays >= 2


def _encloses(outer: Box, inner: Box) -> bool:
    across = outer.x0 - 2 <= inner.x0 and inner.x1 <= outer.x1 + 2
    return across and outer.y0 - 2 <= inner.y0 and inner.y1 <= outer.y1 + 2


def _tiled(boxes: Sequence[Box]) -> bool:
    """Whether the cells fill their table; else shades behind lines of text were taken for cells."""
    return sum(b.area for b in boxes) > 0.85 * around(boxes).area


def _loose(boxes: Sequence[Box], words: Sequence[Word]) -> Table | None:
    """The table in that place by the alignment of its words."""
    whole = around(boxes)
    found = borderless.within([w for w in words if whole.holds(w.box)])
    return replace(found, box=whole.union(found.box), ruled=True) if found else None


def _edges(values: Sequence[float]) -> list[float]:
    """Distinct positions, those nearer than 2 points taken as one."""
    merged: list[float] = []
    for value in sorted(values):
        if not merged or value - merged[-1] > 2:
            merged.append(value)
    return merged


def _nearest(edges: Sequence[float], value: float) -> int:
    return min(range(len(edges)), key=lambda i: abs(edges[i] - value))


# Pieces of one table


def _together(pieces: Sequence[Sequence[Box]], words: Sequence[Word]) -> list[list[Box]]:
    """Pieces below each other with the same columns are one table when there is at most a line of
    text between them, which becomes a row over all columns."""
    merged: list[list[Box]] = []
    for boxes in sorted(pieces, key=lambda boxes: around(boxes).y0):
        for above in merged:
            between = _between(above, boxes, words)
            if between is not None:
                above += [*between, *boxes]
                break
        else:
            merged.append(list(boxes))
    return merged


def _between(above: list[Box], below: Sequence[Box], words: Sequence[Word]) -> list[Box] | None:
    a, b = around(above), around(below)
    columns = [_edges([*(x.x0 for x in p), around(p).x1]) for p in (above, below)]
    same = len(columns[0]) == len(columns[1]) > 2 and all(
        abs(p - q) <= 3 for p, q in zip(*columns, strict=True)
    )
    if not same or not -2 <= b.y0 - a.y1 <= 30:
        return None
    gap = Box(a.x0, a.y1, a.x1, b.y0)
    inside = rows(w for w in words if gap.holds(w.box))
    if not inside:
        return [] if b.y0 - a.y1 < 6 else None
    return [gap] if len(inside) == 1 and len(joined(inside[0])) <= _LONG else None


# One table


class Lined(NamedTuple):
    """A cell of ruled lines: row, rows, column, columns, and its words by line."""

    row: int
    rows: int
    column: int
    columns: int
    lines: list[list[Word]]


def table_of(boxes: Sequence[Box], words: Sequence[Word]) -> Table | None:
    """The table that those cells make with those words; None when they hold none."""
    boxes = _without_frame(boxes, words)
    if len(boxes) < 4 or _crossed(boxes, words):
        return None
    across = _edges([b.x0 for b in boxes] + [max(b.x1 for b in boxes)])
    down = _edges([b.y0 for b in boxes] + [max(b.y1 for b in boxes)])
    lined: list[Lined] = []
    for box, held in zip(boxes, _dealt(boxes, words), strict=True):
        inside = rows(held)
        c0, c1 = _nearest(across, box.x0), _nearest(across, box.x1)
        r0, r1 = _nearest(down, box.y0), _nearest(down, box.y1)
        lined.append(Lined(r0, max(1, r1 - r0), c0, max(1, c1 - c0), inside))
    stub = _stub(boxes, down, words) if len(across) > 2 else []
    if stub:
        lined = [*stub, *(c._replace(column=c.column + 1) for c in lined)]
    shift = 1 if stub else 0
    high = len(down) - 1
    broad = [
        i + shift
        for i, (a, b) in enumerate(itertools.pairwise(across))
        if b - a >= _COLUMN
        and sum(c.rows for c in lined if (c.column, c.columns) == (i + shift, 1)) > 0.8 * high
    ]
    cells = without_empty(_unfolded(lined), broad)
    said = [c for c in cells if c.text]
    high = len({c.row for c in said})
    wide = len({c.column for c in said})
    line = (
        high == 1 and wide >= 4 and len(boxes) == wide and all(len(c.text) <= _LONG for c in said)
    )
    if not line and (high < 2 or wide < 2 or len(said) < 3 or len(said) < 0.15 * len(cells)):
        return None
    if sum(len(c.text) > 400 for c in said) > len(said) / 3:
        return None  # boxes around paragraphs, not a table
    whole = around(boxes)
    for cell in stub:
        for word in itertools.chain(*cell.lines):
            whole = whole.union(word.box)
    places = frozenset(w.box for cell in lined for line in cell.lines for w in line)
    return Table(box=whole, cells=with_header(cells), ruled=True, words=places)


def _dealt(boxes: Sequence[Box], words: Sequence[Word]) -> list[list[Word]]:
    """The words of each cell: those inside, and those a point outside of it that no other holds. Of
    cells that overlap the smallest has them."""
    inside: list[list[Word]] = [[] for _ in boxes]
    whole = around(boxes)
    smallest_first = sorted(range(len(boxes)), key=lambda i: boxes[i].area)
    for word in (w for w in words if whole.holds(w.box, 1)):
        at = next((i for i in smallest_first if boxes[i].holds(word.box)), None)
        if at is None:
            at = next((i for i in smallest_first if boxes[i].holds(word.box, 1)), None)
        if at is not None:
            inside[at].append(word)
    return inside


def _without_frame(boxes: Sequence[Box], words: Sequence[Word]) -> list[Box]:
    """A first row that spans the whole table is its title, a last one with a sentence its note:
    both are text around the table."""
    kept = list(boxes)
    whole = around(kept)
    for top in (True, False):
        while len(kept) > 4:
            edge = min(b.y0 for b in kept) if top else max(b.y1 for b in kept)
            row = [b for b in kept if abs((b.y0 if top else b.y1) - edge) <= 2]
            if len(row) != 1 or row[0].width < 0.97 * whole.width:
                break
            said = joined([w for w in words if row[0].holds(w.box, 1)])
            if not top and len(said) <= _LONG:
                break
            kept.remove(row[0])
    return kept


def _crossed(boxes: Sequence[Box], words: Sequence[Word]) -> bool:
    """Whether words stand on the rules, or lines of text run on through them: then they frame
    something else, or are axes."""
    whole = around(boxes)
    inside = [w for w in words if whole.holds(w.box, 1)]
    if sum(any(_stands_on(w.box, b) for b in boxes) for w in inside) > 0.2 * len(inside):
        return True
    lines = rows(inside)
    crossed = 0
    for line in lines:
        for a, b in itertools.pairwise(line):
            if b.box.x0 - a.box.x1 > 0.45 * a.size or not (
                a.text.isalpha() and b.text[0].islower()
            ):
                continue
            middle = (a.box.x1 + b.box.x0) / 2
            y = (a.box.y0 + a.box.y1) / 2
            if any(
                c.y0 <= y <= c.y1 and min(abs(c.x0 - middle), abs(c.x1 - middle)) < 3 for c in boxes
            ):
                crossed += 1
                break
    return crossed >= 2 and crossed > 0.2 * len(lines)


def _stands_on(word: Box, cell: Box) -> bool:
    x, y = (word.x0 + word.x1) / 2, (word.y0 + word.y1) / 2
    on_side = min(abs(cell.x0 - x), abs(cell.x1 - x)) < 0.2 * word.width
    on_edge = min(abs(cell.y0 - y), abs(cell.y1 - y)) < 0.2 * word.height
    return (on_side and cell.y0 < y < cell.y1) or (on_edge and cell.x0 < x < cell.x1)


def _stub(boxes: Sequence[Box], down: Sequence[float], words: Sequence[Word]) -> list[Lined]:
    """The labels of rows when they stand left of the rules: beside most rows exactly one short
    line. As cells of a first column."""
    left = min(b.x0 for b in boxes)
    found: list[Lined] = []
    for row, (top, bottom) in enumerate(itertools.pairwise(down)):
        beside = [
            w for w in words if w.box.x1 < left + 1 and top <= (w.box.y0 + w.box.y1) / 2 < bottom
        ]
        lines = rows(beside)
        label = [_touching(line, left) for line in lines]
        if len(label) == 1 and label[0] and len(joined(label[0])) <= 45:
            found.append(Lined(row, 1, 0, 1, [label[0]]))
        elif label:
            return []
    if len(found) < 4:
        return []
    held = [b for b in boxes if any(b.holds(w.box, 1) for w in words)]
    filled = sum(
        any(top - 1 <= b.y0 < bottom - 1 for b in held) for top, bottom in itertools.pairwise(down)
    )
    return found if len(found) >= 0.8 * filled else []


def _touching(line: Sequence[Word], left: float) -> list[Word]:
    """The end of a line without a gap wider than four letters."""
    kept: list[Word] = []
    for word in reversed(line):
        if kept and kept[-1].box.x0 - word.box.x1 > 2 * word.size:
            break
        kept.append(word)
    near = bool(kept) and left - kept[0].box.x1 < 150
    return kept[::-1] if near else []


# Rows that the rules leave together


def _unfolded(cells: Sequence[Lined]) -> list[Spot]:
    """Rows that the rules leave together although their lines are rows, each as a row of its own:
    many tables are ruled around groups of rows only."""
    out: list[Spot] = []
    shift = 0
    for row in range(max(c.row for c in cells) + 1):
        here = [c for c in cells if c.row == row]
        bands = _bands(here, [c for c in cells if c.row <= row < c.row + c.rows])
        if len(bands) < 2:
            out += [Spot(row + shift, c.rows, c.column, c.columns, _said(c.lines)) for c in here]
            continue
        for cell in here:
            for i, (top, bottom) in enumerate(bands):
                mine = [ln for ln in cell.lines if top <= _middle(ln) < bottom]
                out.append(Spot(row + shift + i, 1, cell.column, cell.columns, _said(mine)))
        shift += len(bands) - 1
    return out


def _said(lines: Sequence[Sequence[Word]]) -> str:
    return " ".join(joined(line) for line in lines)


def _bands(here: Sequence[Lined], crossing: Sequence[Lined]) -> list[tuple[float, float]]:
    """Top and bottom of each row inside a ruled one; empty when it is a row itself, or when a cell
    reaches further down."""
    filled = [c for c in here if c.lines]
    if not filled or any(c.rows > 1 for c in crossing):
        return []
    return _numbered(filled) or _striped(filled)


def _numbered(filled: Sequence[Lined]) -> list[tuple[float, float]]:
    """Rows by the numbers that stand line by line in two columns (of several)."""
    numeric = [
        c
        for c in filled
        if len(c.lines) > 1 and sum(is_number(_said([ln])) for ln in c.lines) >= 0.8 * len(c.lines)
    ]
    if not numeric or len(numeric) < min(2, len(filled) - 1):
        return []
    anchors = sorted(_middle(ln) for c in numeric for ln in c.lines)
    height = statistics.median(w.box.height for c in numeric for ln in c.lines for w in ln)
    values = _clusters(anchors, 0.5 * height)
    if sum(len(c.lines) for c in numeric) < 0.6 * len(values) * len(numeric):
        return []  # the lines of one column do not stand beside those of another
    labels = [ln for c in filled if c not in numeric for ln in c.lines]
    free = [ln for ln in labels if all(abs(_middle(ln) - v) > 0.5 * height for v in values)]
    # A label's own line is a row unless it goes on what stands above it.
    heads = [ln for ln in free if not (ln[0].text[0].islower() or ln[0].text[0] in "(&")]
    starts = sorted([*values, *_clusters(sorted(map(_middle, heads)), 0.5 * height)])
    tops = [v - 0.5 * height for v in starts]
    return list(zip([-1e9, *tops[1:]], [*tops[1:], 1e9], strict=True))


def _striped(filled: Sequence[Lined]) -> list[tuple[float, float]]:
    """Rows by white stripes through all columns, at least twice as high as the space between the
    lines of a cell, with two columns filled in each of two rows."""
    spans = sorted(
        (min(w.box.y0 for w in ln), max(w.box.y1 for w in ln)) for c in filled for ln in c.lines
    )
    inner = [
        min(w.box.y0 for w in b) - max(w.box.y1 for w in a)
        for c in filled
        for a, b in itertools.pairwise(c.lines)
    ]
    if not inner:
        return []
    height = statistics.median(bottom - top for top, bottom in spans)
    least = max(0.3 * height, 2 * sorted(inner)[len(inner) // 4] + 0.2 * height)
    cuts, reached = [], spans[0][1]
    for top, bottom in spans:
        if top - reached > least:
            cuts.append((top + reached) / 2)
        reached = max(reached, bottom)
    bands = list(zip([-1e9, *cuts], [*cuts, 1e9], strict=True))
    full = [
        sum(any(top <= _middle(ln) < bottom for ln in c.lines) for c in filled) >= 2
        for top, bottom in bands
    ]
    return bands if sum(full) >= 2 else []


def _middle(line: Sequence[Word]) -> float:
    return statistics.median((w.box.y0 + w.box.y1) / 2 for w in line)


def _clusters(values: Sequence[float], apart: float) -> list[float]:
    """The first of each group of sorted values that are nearer to it than `apart`."""
    found: list[float] = []
    for value in values:
        if not found or value - found[-1] > apart:
            found.append(value)
    return found
