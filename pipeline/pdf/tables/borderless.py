"""Tables without rules: runs of lines whose segments stand below each other.

Precision first: a run of prose must never become a table. Knows nothing of rules, elements, files
or other pages.
"""

import bisect
import collections
import itertools
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.pdf.page import Box, Word
from pipeline.pdf.tables.false_positives import Cells, alignment, by_column, trusted
from pipeline.pdf.tables.table import Spot, Table, filled, is_number, with_header
from pipeline.pdf.text.lines import Segment, around, rows, segment, split

_VALUE = re.compile(r"[-+–−±<>≤≥~$€£¥(\[*]*\d[\d.,:–-]*(?<![.,:–-])[%)\]*†‡§°]*|[—†‡#]|[nN]/?[aA]")

_LEADS = re.compile(r"[-+–−(]?\d{1,3}")  # the first group of a number's digits, and the later ones
_THREE = re.compile(r"\d{3}([.,]\d+)?[%)]*")
_SHARE = re.compile(r"\([-+–−]?[\d.,]+\s?%\)")


def find(words: Sequence[Word]) -> Iterator[Table]:
    """Top down."""
    if len(words) < 8:
        return
    height = statistics.median(w.size for w in words)
    lines = [_parts(line, height) for line in rows(words)]
    edges = _prose_edges(lines)
    cleaned = [kept for parts in lines if (kept := _without_prose(parts, edges))]
    for run in _runs(cleaned, height):
        table = _table(run, height)
        if table is not None:
            yield table


def within(words: Sequence[Word]) -> Table | None:
    """The table that all those words make: what stands in a frame."""
    if len(words) < 8:
        return None
    height = statistics.median(w.size for w in words)
    return _table([_parts(line, height) for line in rows(words)], height)


def between(words: Sequence[Word], head: float) -> Table | None:
    """The table between a rule above and one below, with a rule under its heading at `head`: the
    rules say that it is one, so words need not be short, and few numbers are enough."""
    if len(words) < 8:
        return None
    height = statistics.median(w.size for w in words)
    run = [_parts(line, height) for line in rows(words)]
    several = [parts for parts in run if len(parts) > 1]
    top = sum(parts[0].box.y1 < head + 2 for parts in run)
    if not top or len(several) < 3 or 2 * len(several) < len(run):
        return None
    if all(statistics.mean(len(p[i].text) for p in several) > 45 for i in (0, -1)):
        return None  # columns of prose
    columns = _columns(run)
    if not columns.separators:
        return None
    cells = [_cells(parts, columns) for parts in run]
    per_column = by_column(cells, len(columns.separators) + 1)
    if any(len(c) < 2 for c in per_column) or alignment(per_column) < 0.6:
        return None
    return _made(run, cells, columns, top, height)


def _parts(line: Sequence[Word], height: float) -> list[Segment]:
    """A line cut at its wide gaps, and between two numbers however near they are."""
    found: list[Segment] = []
    for part in split(line, max(5.0, 1.15 * 0.8 * height) + 1.2):
        start = 0
        for i, (a, b) in enumerate(itertools.pairwise(part.words), 1):
            if _VALUE.fullmatch(a.text) and _VALUE.fullmatch(b.text) and not _grouped(a, b):
                found.append(segment(part.words[start:i], 0))
                start = i
        found.append(segment(part.words[start:], 0))
    return found


def _grouped(a: Word, b: Word) -> bool:
    """`12 345` with a space for the thousands, `1269 (19.9%)`, or one right behind the other."""
    gap = b.box.x0 - a.box.x1
    one = (_LEADS.fullmatch(a.text) and _THREE.fullmatch(b.text)) or _SHARE.fullmatch(b.text)
    return gap < 0.1 * a.size or (bool(one) and gap < 0.5 * a.size)


# Which lines


def _long(s: Segment) -> bool:
    text = s.text
    digits = sum(c.isdigit() for c in text)
    return len(text) > 32 and len(s.words) >= 5 and digits < 0.2 * len(text)


class _Edge(NamedTuple):
    """Where a column of prose begins, and where most of its lines end."""

    left: float
    right: float


def _prose_edges(lines: Sequence[Sequence[Segment]]) -> list[_Edge]:
    """Left edges that many long segments share: columns of prose, unless most of those segments are
    labels of numbers beside them."""
    bins: dict[int, list[tuple[Segment, bool]]] = {}
    for parts in lines:
        for s, after in itertools.zip_longest(parts, parts[1:]):
            if _long(s):
                labels = after is not None and is_number(after.text)
                bins.setdefault(round(s.box.x0 / 4), []).append((s, labels))
    return [
        _Edge(
            statistics.median(s.box.x0 for s, _ in found),
            statistics.quantiles((s.box.x1 for s, _ in found), n=4)[2],
        )
        for found in bins.values()
        if len(found) >= 6 and sum(labels for _, labels in found) < 0.6 * len(found)
    ]


def _without_prose(parts: Sequence[Segment], edges: Sequence[_Edge]) -> list[Segment]:
    """A line without its prose. A long segment before a number is its label when it ends where no
    line of that column of prose would: well before the others do, or with only numbers behind it."""
    kept = []
    for i, s in enumerate(parts):
        edge = next((e for e in edges if abs(s.box.x0 - e.left) < 14), None) if _long(s) else None
        if edge is None or _is_label(s, parts[i + 1 :], edge):
            kept.append(s)
    return kept


def _is_label(s: Segment, after: Sequence[Segment], edge: _Edge) -> bool:
    if not after or not all(_is_value(a) for a in after):
        return False
    across = after[0].box.x0
    inside_column = across < edge.right - 2 * s.size  # numbers where prose would run on
    return inside_column or s.box.x1 < edge.right - 4 * s.size


def _is_value(s: Segment) -> bool:
    return is_number(s.text) or s.text in {"$", "€", "£", "¥"}


def _tabular(parts: Sequence[Segment]) -> bool:
    if len(parts) < 2:
        return False
    long = [i for i, s in enumerate(parts) if len(s.text) > 45]
    if not long:
        return True
    if len(long) == 1 and len(parts) >= 3:
        return True
    later = any(is_number(s.text) for s in parts[1:])
    return long == [0] and later and len(parts[-1].text) > 2


def _runs(lines: Sequence[Sequence[Segment]], height: float) -> Iterator[list[Sequence[Segment]]]:
    """Neighbouring tabular lines, with a few single segments between two of them: two, or four
    where rows of numbers as long go on below."""
    current: list[Sequence[Segment]] = []
    loose: list[Sequence[Segment]] = []
    bottom = 0.0
    for parts in lines:
        top = min(s.box.y0 for s in parts)
        gap = top - bottom
        near = gap <= 3.2 * height + 6
        again = bool(loose) and _same(parts, current[0])
        if (
            current
            and not again
            and _tabular(parts)
            and near
            and (len(loose) <= 2 or _alike(current, parts))
        ):
            current += [*loose, parts]
            loose = []
        elif (
            current
            and len(parts) == 1
            and len(loose) < 4
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


def _same(a: Sequence[Segment], b: Sequence[Segment]) -> bool:
    """A heading that comes again begins another table."""
    return [s.text for s in a] == [s.text for s in b] and not any(is_number(s.text) for s in a)


def _alike(current: Sequence[Sequence[Segment]], parts: Sequence[Segment]) -> bool:
    last = next(p for p in reversed(current) if len(p) > 1)
    return _numbers(last) and _numbers(parts) and abs(len(last) - len(parts)) <= 1


def _numbers(parts: Sequence[Segment]) -> bool:
    """A row of numbers, perhaps behind a label."""
    return len(parts) > 1 and 2 * sum(is_number(s.text) for s in parts[1:]) >= len(parts)


# Which columns


class _Columns(NamedTuple):
    """Where columns part, and the left and right edge of each by its rows of numbers, if known."""

    separators: list[float]
    edges: list[tuple[float, float]]


def _columns(run: Sequence[Sequence[Segment]]) -> _Columns:
    several = [parts for parts in run if len(parts) > 1]
    body = [p for p in several if _numbers(p)]
    # Where rows of numbers are, they decide: headings stand across columns.
    decide = body if len(body) >= 3 and 2 * len(body) >= len(several) else several
    by_cover = _separators(decide)
    counted = _counted(body)
    if counted is not None and len(counted.separators) > len(by_cover):
        return counted
    return _Columns(by_cover, [])


def _counted(body: Sequence[Sequence[Segment]]) -> _Columns | None:
    """Columns by counting when most rows of numbers have equally many, however near they stand."""
    if len(body) < 3:
        return None
    most, _ = collections.Counter(map(len, body)).most_common(1)[0]
    equal = [p for p in body if len(p) == most]
    if len(equal) < 3 or 2 * len(equal) < len(body):
        return None
    columns = [[p[i] for p in equal] for i in range(most)]
    if most < 2 or alignment(columns) < 0.6:
        return None
    edges = [
        (statistics.median(s.box.x0 for s in c), statistics.median(s.box.x1 for s in c))
        for c in columns
    ]
    separators = [(a[1] + b[0]) / 2 for a, b in itertools.pairwise(edges)]
    return _Columns(separators, edges) if separators == sorted(separators) else None


def _separators(decide: Sequence[Sequence[Segment]]) -> list[float]:
    """Middles of the vertical stretches of 3 points or more that almost no row crosses."""
    left = int(min(s.box.x0 for p in decide for s in p))
    right = int(max(s.box.x1 for p in decide for s in p)) + 1
    cover = [0] * (right - left + 1)
    for parts in decide:
        for s in parts:
            for x in range(int(s.box.x0) - left, int(s.box.x1) - left + 1):
                cover[min(x, len(cover) - 1)] += 1
    allowed = (0.06 if len(decide) >= 25 else 0.08) * len(decide)
    found, start = [], None
    for x, count in enumerate([*cover, len(decide)]):
        if count <= allowed:
            start = x if start is None else start
        elif start is not None:
            if x - start >= 3:
                found.append(left + (start + x) / 2)
            start = None
    inner = [x for x in found if left < x < right]
    # A first or last column that almost no row has is the start or end of a longer line.
    while inner and sum(p[0].box.x0 < inner[0] for p in decide) <= allowed:
        inner.pop(0)
    while inner and sum(p[-1].box.x1 > inner[-1] for p in decide) <= allowed:
        inner.pop()
    return inner


def _reach(box: Box, separators: Sequence[float]) -> tuple[int, int]:
    pull = min(6.0, box.width / 2)
    first = bisect.bisect(separators, box.x0 + pull)
    return first, max(first, bisect.bisect(separators, box.x1 - pull))


def _cells(parts: Sequence[Segment], columns: _Columns) -> Cells:
    cells: Cells = {}
    if columns.edges and len(parts) == len(columns.edges) and _numbers(parts):
        return {(i, i): [s] for i, s in enumerate(parts)}
    for s in parts:
        for piece in _headings(s, columns):
            cells.setdefault(_reach(piece.box, columns.separators), []).append(piece)
    return cells


def _headings(s: Segment, columns: _Columns) -> list[Segment]:
    """A segment over several columns is cut into the headings of each when its words stand above
    every one of them, edge above edge or middle above middle."""
    first, last = _reach(s.box, columns.separators)
    if first == last or not columns.edges or len(s.words) < last - first + 1:
        return [s]
    groups: dict[int, list[Word]] = {}
    for word in s.words:
        middle = (word.box.x0 + word.box.x1) / 2
        groups.setdefault(bisect.bisect(columns.separators, middle), []).append(word)
    if sorted(groups) != list(range(first, last + 1)):
        return [s]
    pieces = [segment(groups[i], 0) for i in sorted(groups)]
    for i, piece in enumerate(pieces, first):
        left, right = columns.edges[i]
        away = (
            abs(piece.box.x0 - left),
            abs(piece.box.x1 - right),
            abs(piece.box.x0 + piece.box.x1 - left - right) / 2,
        )
        if min(away) > 4:
            return [s]
    return pieces


# One table


def _table(run: Sequence[Sequence[Segment]], height: float) -> Table | None:
    if sum(len(parts) > 1 for parts in run) < 3:
        return None
    columns = _columns(run)
    if not columns.separators:
        return None
    lines = [_cells(parts, columns) for parts in run]
    if not trusted(lines, len(columns.separators) + 1):
        return None
    return _made(run, lines, columns, _head(run), height)


def _made(
    run: Sequence[Sequence[Segment]],
    given: Sequence[Cells],
    columns: _Columns,
    head: int,
    height: float,
) -> Table:
    """The lines as rows, the first `head` of them as heading, wrapped lines put to the cells that
    they go on from: `given`, a line's cells each, is used up by it."""
    lines: list[Cells] = []
    bottoms: list[float] = []
    for i, (parts, cells) in enumerate(zip(run, given, strict=True)):
        top = min(s.box.y0 for s in parts)
        if i >= head and _continuation(cells, lines, top - bottoms[-1] if bottoms else 99, height):
            key = next(iter(cells))
            target = next(k for k in lines[-1] if k[0] <= key[0] <= k[1])
            lines[-1][target] += cells[key]
        else:
            lines.append(cells)
        bottoms.append(max(s.box.y1 for s in parts))
    made, top_rows = _folded(lines[:head], height)
    made += [
        Spot(top_rows + r, 1, first, last - first + 1, " ".join(s.text for s in segments))
        for r, cells in enumerate(lines[head:])
        for (first, last), segments in sorted(cells.items())
    ]
    box = around(s.box for parts in run for s in parts)
    spots = filled(_without_overlap(made), len(columns.separators) + 1)
    held = frozenset(w.box for parts in run for s in parts for w in s.words)
    return Table(box=box, cells=with_header(spots, top_rows or None), ruled=False, words=held)


def _head(run: Sequence[Sequence[Segment]]) -> int:
    """How many lines stand above the first row of numbers; 0 when that is most of the run."""
    first = next((i for i, parts in enumerate(run) if _numbers(parts)), 0)
    return first if first <= max(1, len(run) / 2) and first <= 9 else 0


def _folded(head: Sequence[Cells], height: float) -> tuple[list[Spot], int]:
    """The lines of a heading as cells: what stands tightly below in the same columns goes on."""
    open_: list[tuple[tuple[int, int], list[Segment], int]] = []
    done: list[tuple[tuple[int, int], list[Segment], int]] = []
    for cells in head:
        for key, segments in sorted(cells.items()):
            over = [c for c in open_ if c[0][0] <= key[1] and key[0] <= c[0][1]]
            same = next((c for c in over if c[0] == key), None)
            if len(over) == 1 and same and segments[0].box.y0 - same[1][-1].box.y1 < 0.45 * height:
                same[1].extend(segments)
                continue
            level = max((c[2] for c in over), default=-1) + 1
            cell = (key, list(segments), level)
            done.append(cell)
            open_ = [c for c in open_ if c not in over or c[0] != key and not _covers(key, c[0])]
            open_.append(cell)
    depth = max((c[2] for c in done), default=-1) + 1
    spots = []
    for key, segments, level in done:
        below = [c[2] for c in done if c[2] > level and c[0][0] <= key[1] and key[0] <= c[0][1]]
        until = min(below, default=depth)
        text = " ".join(s.text for s in segments)
        spots.append(Spot(level, until - level, key[0], key[1] - key[0] + 1, text))
    return spots, depth


def _covers(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _without_overlap(cells: Sequence[Spot]) -> list[Spot]:
    """A cell that would reach into another keeps its first column; its text is never lost."""
    taken: dict[tuple[int, int], int] = {}
    kept: list[Spot] = []
    for cell in sorted(cells):
        spots = [
            (r, c)
            for r in range(cell.row, cell.row + cell.row_span)
            for c in range(cell.column, cell.column + cell.column_span)
        ]
        if any(s in taken for s in spots):
            at = taken.get((cell.row, cell.column))
            if at is not None:
                kept[at] = kept[at]._replace(text=f"{kept[at].text} {cell.text}")
                continue
            spots = spots[:1]
            cell = cell._replace(row_span=1, column_span=1)
        taken |= dict.fromkeys(spots, len(kept))
        kept.append(cell)
    return kept


def _continuation(cells: Cells, lines: Sequence[Cells], gap: float, height: float) -> bool:
    """A single wrapped line of a cell of the row above."""
    if len(cells) != 1 or not lines or len(lines[-1]) < 2 or gap >= 0.28 * height + 0.6:
        return False
    (first, _), segments = next(iter(cells.items()))
    if is_number(segments[0].text) or (first == 0 and not segments[0].text[0].islower()):
        return False
    above = next((v for k, v in lines[-1].items() if k[0] <= first <= k[1]), None)
    return above is not None and not is_number(above[0].text)
