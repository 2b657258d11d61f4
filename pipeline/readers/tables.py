"""Tables of a page: ruled ones by their lines, borderless ones by the alignment of their words.

Precision first: a run of prose must never become a table. The only importer of tablers. Knows
nothing of elements, files or other pages.
"""

import bisect
import html
import itertools
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tablers

from pipeline.page import Box, PageContent, Word
from pipeline.readers.lines import Segment, rows, split

MAX_PATHS = 8000
_NUMERIC = re.compile(
    r"[-+–—(±~<>≤≥$€£¥]*\s*(\d[\d.,:/ \u00a0–-]*\s*[%)°a-zA-Z*†‡§]{0,3}|n/?a|N/?A|[-–—.…x×✓✔✗]+)\s*[)*†‡%]*"
)
_MARKER = re.compile(r"[\(\[]?(\d{1,3}|[a-zA-Z]|[ivx]{1,4})?[.)\]]?|[•▪●○■–—*·-]")
_UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Row and column of its upper left corner, how far it reaches, and what it says."""

    row: int
    row_span: int
    column: int
    column_span: int
    text: str
    header: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    box: Box
    cells: tuple[Cell, ...]
    ruled: bool

    @property
    def text(self) -> str:
        return " ".join(c.text for c in self.cells if c.text)


def find_tables(content: PageContent, page: Any) -> list[Table]:
    """Every table of the page, top down; `page` is tablers' page, None when there is none."""
    upright = [w for w in content.words if w.angle < 15 or w.angle > 345]
    numbered = _line_numbers(upright, content.height)
    upright = [w for w in upright if w not in numbered]
    found = _ruled(content, upright, page) if page is not None else []
    taken = [t.box for t in found]
    free = [w for w in upright if not any(_inside(w.box, box) for box in taken)]
    found += [t for t in _borderless(content, free) if not any(t.box.overlap(b) for b in taken)]
    return sorted(found, key=lambda t: (t.box.y0, t.box.x0))


def one_column(words: Sequence[Word], box: Box) -> Table:
    """A table of which only the place is known: each line of words is a row."""
    lines = [" ".join(w.text for w in row) for row in rows(words)]
    cells = (
        Cell(row=i, row_span=1, column=0, column_span=1, text=line, header=False)
        for i, line in enumerate(lines)
    )
    return Table(box=box, cells=tuple(cells), ruled=False)


def to_html(table: Table) -> str:
    """Rows of `<td>`, header rows as `<th>` in `<thead>`; escaped, valid XML."""
    by_row: dict[int, list[Cell]] = {}
    for cell in table.cells:
        by_row.setdefault(cell.row, []).append(cell)
    head: list[str] = []
    body: list[str] = []
    for row in sorted(by_row):
        cells = sorted(by_row[row], key=lambda c: c.column)
        header = all(c.header for c in cells)
        tag = "th" if header else "td"
        line = "".join(
            f"<{tag}{_span('rowspan', c.row_span)}{_span('colspan', c.column_span)}>"
            f"{html.escape(_UNSAFE.sub('', c.text), quote=False)}</{tag}>"
            for c in cells
        )
        (head if header and not body else body).append(f"<tr>{line}</tr>")
    top = f"<thead>{''.join(head)}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(body)}</tbody></table>"


def _span(name: str, count: int) -> str:
    return f' {name}="{count}"' if count > 1 else ""


def _inside(inner: Box, outer: Box) -> bool:
    x, y = (inner.x0 + inner.x1) / 2, (inner.y0 + inner.y1) / 2
    return outer.x0 - 1 <= x <= outer.x1 + 1 and outer.y0 - 1 <= y <= outer.y1 + 1


def _line_numbers(words: Sequence[Word], height: float) -> set[Word]:
    """Numbers that count the lines of the page beside its text: consecutive, evenly spaced, in one
    column, at least fifteen, over half of the page."""
    columns: dict[int, list[Word]] = {}
    for word in words:
        if word.text.isdecimal() and len(word.text) <= 3:
            columns.setdefault(round(word.box.x1 / 4), []).append(word)
    found: set[Word] = set()
    for at, column in columns.items():
        near = sorted([*column, *columns.get(at + 1, [])], key=lambda w: w.box.y0)
        run: list[Word] = []
        for word in near:
            if run and int(word.text) != int(run[-1].text) + 1:
                run = []
            run.append(word)
            tall = run[-1].box.y0 - run[0].box.y0
            if len(run) >= 15 and tall > 0.5 * height:
                steps = [b.box.y0 - a.box.y0 for a, b in itertools.pairwise(run)]
                if max(steps) < 1.5 * statistics.median(steps):
                    found |= set(run)
    return {n for n in found if all(_beside(n, w) > 8 for w in words if w is not n)}


def _beside(number: Word, word: Word) -> float:
    """Points between two words of one line; far when they are not."""
    a, b = number.box, word.box
    if min(a.y1, b.y1) - max(a.y0, b.y0) < 0.5 * a.height:
        return 1e9
    return max(b.x0 - a.x1, a.x0 - b.x1)


# Ruled


def _ruled(content: PageContent, words: Sequence[Word], page: Any) -> list[Table]:
    if len(content.paths) > MAX_PATHS or len(content.paths) < 2:
        return []
    found = []
    for table in tablers.find_tables(page, extract_text=False):
        made = _grid([Box(*cell.bbox) for cell in table.cells], words)
        if made is not None and made.box.area < 0.95 * content.width * content.height:
            found.append(made)
    return found


def _edges(values: Sequence[float]) -> list[float]:
    """Distinct positions, those nearer than 2 points taken as one."""
    merged: list[float] = []
    for value in sorted(values):
        if not merged or value - merged[-1] > 2:
            merged.append(value)
    return merged


def _nearest(edges: Sequence[float], value: float) -> int:
    return min(range(len(edges)), key=lambda i: abs(edges[i] - value))


def _grid(boxes: Sequence[Box], words: Sequence[Word]) -> Table | None:
    across = _edges([b.x0 for b in boxes] + [max(b.x1 for b in boxes)])
    down = _edges([b.y0 for b in boxes] + [max(b.y1 for b in boxes)])
    lined: list[_Lined] = []
    for box in boxes:
        inside = rows(w for w in words if _inside(w.box, box))
        c0, c1 = _nearest(across, box.x0), _nearest(across, box.x1)
        r0, r1 = _nearest(down, box.y0), _nearest(down, box.y1)
        lined.append(_Lined(r0, max(1, r1 - r0), c0, max(1, c1 - c0), inside))
    cells = _without_empty(_unfolded(lined))
    filled = [c for c in cells if c[4]]
    high = len({c[0] for c in filled})
    wide = len({c[2] for c in filled})
    if high < 2 or wide < 2 or len(filled) < 4 or len(filled) < 0.15 * len(cells):
        return None
    if sum(len(c[4]) > 400 for c in filled) > len(filled) / 3:
        return None  # boxes around paragraphs, not a table
    box = boxes[0]
    for other in boxes[1:]:
        box = box.union(other)
    return Table(box=box, cells=_with_header(cells), ruled=True)


class _Lined(NamedTuple):
    """A cell of ruled lines: row, rows, column, columns, and its words by line."""

    row: int
    rows: int
    column: int
    columns: int
    lines: list[list[Word]]


def _said(lines: Sequence[Sequence[Word]]) -> str:
    return " ".join(w.text for line in lines for w in line)


def _unfolded(cells: Sequence[_Lined]) -> list[tuple[int, int, int, int, str]]:
    """Rows that the rules leave together although their numbers stand in several lines, each as
    rows of their own: many tables are ruled around groups of rows only."""
    out: list[tuple[int, int, int, int, str]] = []
    shift = 0
    for row in range(max(c.row for c in cells) + 1):
        here = [c for c in cells if c.row == row]
        bands = _bands(here, [c for c in cells if c.row <= row < c.row + c.rows])
        if len(bands) < 2:
            out += [(row + shift, c.rows, c.column, c.columns, _said(c.lines)) for c in here]
            continue
        for cell in here:
            for i, (top, bottom) in enumerate(bands):
                mine = [ln for ln in cell.lines if top <= _middle(ln) < bottom]
                out.append((row + shift + i, 1, cell.column, cell.columns, _said(mine)))
        shift += len(bands) - 1
    return out


def _bands(here: Sequence[_Lined], crossing: Sequence[_Lined]) -> list[tuple[float, float]]:
    """Top and bottom of each line of a ruled row when its lines are rows; empty when they are not:
    when a cell reaches further, or less than two columns (of several) hold numbers line by line."""
    if any(c.rows > 1 for c in crossing):
        return []
    filled = [c for c in here if c.lines]
    numeric = [
        c
        for c in filled
        if len(c.lines) > 1
        and sum(bool(_NUMERIC.fullmatch(_said([ln]))) for ln in c.lines) >= 0.8 * len(c.lines)
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


def _middle(line: Sequence[Word]) -> float:
    return statistics.median((w.box.y0 + w.box.y1) / 2 for w in line)


def _clusters(values: Sequence[float], apart: float) -> list[float]:
    """The first of each group of sorted values that are nearer to it than `apart`."""
    found: list[float] = []
    for value in values:
        if not found or value - found[-1] > apart:
            found.append(value)
    return found


def _without_empty(
    cells: list[tuple[int, int, int, int, str]],
) -> list[tuple[int, int, int, int, str]]:
    """Rows and columns in which nothing begins or stands are closed up."""
    rows_used = sorted({c[0] for c in cells if c[4]})
    columns_used = sorted({c[2] for c in cells if c[4]})
    kept: dict[tuple[int, int], tuple[int, int, int, int, str]] = {}
    for r, rs, c, cs, text in cells:
        r0, r1 = bisect.bisect_left(rows_used, r), bisect.bisect_left(rows_used, r + rs)
        c0, c1 = bisect.bisect_left(columns_used, c), bisect.bisect_left(columns_used, c + cs)
        if r1 > r0 and c1 > c0 and (text or (r0, c0) not in kept):
            kept[r0, c0] = (r0, r1 - r0, c0, c1 - c0, text)
    return [kept[k] for k in sorted(kept)]


def _with_header(cells: Sequence[tuple[int, int, int, int, str]]) -> tuple[Cell, ...]:
    """The rows above the first one with numbers in most of its later cells are the header."""
    by_row: dict[int, list[str]] = {}
    for r, _, c, _, text in cells:
        if text and c > 0:
            by_row.setdefault(r, []).append(text)
    last = max(c[0] for c in cells)
    numeric = [
        r
        for r, texts in sorted(by_row.items())
        if sum(bool(_NUMERIC.fullmatch(t)) for t in texts) >= len(texts) / 2
    ]
    first = min(numeric[0], 4) if numeric else 1
    if first > last / 2 + 1:
        first = 1
    return tuple(
        Cell(row=r, row_span=rs, column=c, column_span=cs, text=t, header=r < first)
        for r, rs, c, cs, t in cells
    )


# Borderless


def _borderless(content: PageContent, words: Sequence[Word]) -> Iterator[Table]:
    if len(words) < 8:
        return
    height = statistics.median(w.size for w in words)
    lines = [(split(line, max(5.0, 1.15 * 0.8 * height) + 1.2), line) for line in rows(words)]
    edges = _prose_edges([s for parts, _ in lines for s in parts])
    cleaned = []
    for parts, _ in lines:
        kept = [s for s in parts if not _is_prose(s, edges)]
        if kept:
            cleaned.append(kept)
    for run in _runs(cleaned, height):
        table = _table(run, height)
        if table is not None:
            yield table


def _long(s: Segment) -> bool:
    text = s.text
    digits = sum(c.isdigit() for c in text)
    return len(text) > 32 and len(s.words) >= 5 and digits < 0.2 * len(text)


def _prose_edges(segments: Sequence[Segment]) -> list[float]:
    """Left edges that many long segments share: columns of prose."""
    bins: dict[int, list[float]] = {}
    for s in segments:
        if _long(s):
            bins.setdefault(round(s.box.x0 / 4), []).append(s.box.x0)
    return [statistics.median(xs) for xs in bins.values() if len(xs) >= 6]


def _is_prose(s: Segment, edges: Sequence[float]) -> bool:
    return _long(s) and any(abs(s.box.x0 - e) < 14 for e in edges)


def _tabular(parts: Sequence[Segment]) -> bool:
    if len(parts) < 2:
        return False
    long = [i for i, s in enumerate(parts) if len(s.text) > 45]
    if not long:
        return True
    if len(long) == 1 and len(parts) >= 3:
        return True
    later = any(_NUMERIC.fullmatch(s.text) for s in parts[1:])
    return long == [0] and later and len(parts[-1].text) > 2


def _runs(lines: Sequence[Sequence[Segment]], height: float) -> Iterator[list[Sequence[Segment]]]:
    """Neighbouring tabular lines, with at most two single segments between two of them."""
    current: list[Sequence[Segment]] = []
    loose: list[Sequence[Segment]] = []
    bottom = 0.0
    for parts in lines:
        top = min(s.box.y0 for s in parts)
        gap = top - bottom
        if current and _tabular(parts) and gap <= 3.2 * height + 6:
            current += [*loose, parts]
            loose = []
        elif (
            current
            and len(parts) == 1
            and len(loose) < 2
            and len(parts[0].text) < 70
            and gap < 2.5 * height + 4
        ):
            loose.append(parts)
        else:
            if sum(len(p) > 1 for p in current) >= 3:
                yield current
            current, loose = ([parts] if _tabular(parts) else []), []
        bottom = max(s.box.y1 for s in parts)
    if sum(len(p) > 1 for p in current) >= 3:
        yield current


def _separators(run: Sequence[Sequence[Segment]]) -> list[float]:
    """Middles of the vertical stretches of 3 points or more that almost no row crosses."""
    several = [parts for parts in run if len(parts) > 1]
    left = int(min(s.box.x0 for p in several for s in p))
    right = int(max(s.box.x1 for p in several for s in p)) + 1
    cover = [0] * (right - left + 1)
    # Where rows of numbers are, they decide: headings stand across columns.
    body = [
        p for p in several if sum(bool(_NUMERIC.fullmatch(s.text)) for s in p[1:]) * 2 >= len(p)
    ]
    if len(body) >= 3 and 2 * len(body) >= len(several):
        several = body
    for parts in several:
        for s in parts:
            for x in range(int(s.box.x0) - left, int(s.box.x1) - left + 1):
                cover[min(x, len(cover) - 1)] += 1
    allowed = (0.06 if len(several) >= 25 else 0.08) * len(several)
    found, start = [], None
    for x, count in enumerate([*cover, len(several)]):
        if count <= allowed:
            start = x if start is None else start
        elif start is not None:
            if x - start >= 3:
                found.append(left + (start + x) / 2)
            start = None
    return [x for x in found if left < x < right]


def _table(run: Sequence[Sequence[Segment]], height: float) -> Table | None:
    separators = _separators(run)
    if not separators:
        return None
    columns = len(separators) + 1
    lines: list[dict[tuple[int, int], list[Segment]]] = []
    bottoms: list[float] = []
    for parts in run:
        cells: dict[tuple[int, int], list[Segment]] = {}
        for s in parts:
            pull = min(6.0, s.box.width / 2)
            first = bisect.bisect(separators, s.box.x0 + pull)
            last = max(first, bisect.bisect(separators, s.box.x1 - pull))
            cells.setdefault((first, last), []).append(s)
        top = min(s.box.y0 for s in parts)
        if _continuation(cells, lines, top - bottoms[-1] if bottoms else 99, height):
            key = next(iter(cells))
            target = next(k for k in lines[-1] if k[0] <= key[0] <= k[1])
            lines[-1][target] += cells[key]
        else:
            lines.append(cells)
        bottoms.append(max(s.box.y1 for s in parts))
    if not _trusted(lines, columns):
        return None
    made = [
        (r, 1, first, last - first + 1, " ".join(s.text for s in segments))
        for r, cells in enumerate(lines)
        for (first, last), segments in sorted(cells.items())
    ]
    everything = [s for parts in run for s in parts]
    box = everything[0].box
    for s in everything[1:]:
        box = box.union(s.box)
    return Table(box=box, cells=_with_header(_filled(made, columns)), ruled=False)


def _filled(
    cells: list[tuple[int, int, int, int, str]], columns: int
) -> list[tuple[int, int, int, int, str]]:
    """Empty cells put where a row has none, so that columns line up in HTML."""
    out = []
    for row in sorted({c[0] for c in cells}):
        at = 0
        for cell in sorted(c for c in cells if c[0] == row):
            if cell[2] < at:
                continue
            out += [(row, 1, c, 1, "") for c in range(at, cell[2])]
            out.append(cell)
            at = cell[2] + cell[3]
        out += [(row, 1, c, 1, "") for c in range(at, columns)]
    return out


def _continuation(
    cells: dict[tuple[int, int], list[Segment]],
    lines: list[dict[tuple[int, int], list[Segment]]],
    gap: float,
    height: float,
) -> bool:
    """A single wrapped line of a cell of the row above."""
    if len(cells) != 1 or not lines or len(lines[-1]) < 2 or gap >= 0.28 * height + 0.6:
        return False
    (first, _), segments = next(iter(cells.items()))
    if first == 0 or _NUMERIC.fullmatch(segments[0].text):
        return False
    above = next((v for k, v in lines[-1].items() if k[0] <= first <= k[1]), None)
    return above is not None and not _NUMERIC.fullmatch(above[0].text)


def _trusted(lines: Sequence[dict[tuple[int, int], list[Segment]]], columns: int) -> bool:
    """The gates: what looks like columns by chance is refused."""
    cells = [(k, s) for line in lines for k, v in line.items() for s in v]
    texts = [s.text for _, s in cells]
    mean = statistics.mean(map(len, texts))
    numeric = sum(bool(_NUMERIC.fullmatch(t)) for t in texts) / len(texts)
    per_column = [[s for (first, _), s in cells if first == c] for c in range(columns)]
    strong = sum(len(column) >= 3 for column in per_column)
    if strong < 2 or len(lines) < 3:
        return False
    if columns == 2 and numeric < 0.25 and mean > 22:
        return False
    if numeric < 0.12 and mean > 30:
        return False
    filled = sum(len(line) for line in lines) / (len(lines) * columns)
    if filled < 0.35:
        return False
    alignment = _alignment(per_column)
    if alignment < 0.55:
        return False
    if numeric < 0.15 and not (
        columns >= 3 and mean <= 16 and alignment >= 0.7 and len(lines) >= 4
    ):
        return False
    if columns == 2:
        for column in per_column:
            markers = sum(bool(_MARKER.fullmatch(s.text)) for s in column)
            if markers > 0.8 * len(column):
                return False
    return True


def _alignment(per_column: Sequence[Sequence[Segment]]) -> float:
    """The share of cells whose left edge, right edge or centre fits their column's."""
    fitting = total = 0
    for column in per_column:
        if not column:
            continue
        best = 0
        for values in (
            [s.box.x0 for s in column],
            [s.box.x1 for s in column],
            [(s.box.x0 + s.box.x1) / 2 for s in column],
        ):
            middle = statistics.median(values)
            best = max(best, sum(abs(v - middle) <= 3 for v in values))
        fitting += best
        total += len(column)
    return fitting / total if total else 0.0
