"""Tables of a page: ruled ones by their lines, borderless ones by the alignment of their words.

Knows nothing of elements, files or other pages.
"""

import itertools
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipeline.pdf.page import Box, PageContent, Word
from pipeline.pdf.tables import borderless, ruled
from pipeline.pdf.tables.table import Cell, Table
from pipeline.pdf.text.lines import rows

_PUNCTUATED = re.compile(r"\d([.,]|,\d{3}|\.\d+)*[.,]?")
_SIDEWAYS = 4  # words: fewer are no table
_VALUE = re.compile(r"\(?[-+–]?[\d.,]+%?\)?")


def find_tables(content: PageContent, page: Any) -> list[Table]:
    """Every table of the page, top down; `page` is tablers' page, None when there is none. One that
    lies sideways is read as if the page were turned."""
    ruled_cells = ruled.cells(page, content) if page else []
    found = _upright(content, ruled_cells)
    for quarter in (90, 270):
        if sum(w.angle == quarter for w in content.words) >= _SIDEWAYS:
            seen = _quarter(content, quarter)
            turned = [[turn(b, quarter, content) for b in boxes] for boxes in ruled_cells]
            for table in _upright(seen, turned):
                back = _quarter_table(table, -quarter % 360, seen)
                if not any(back.box.overlap(t.box) for t in found):
                    found.append(back)
    return sorted(found, key=lambda t: (t.box.y0, t.box.x0))


def _upright(content: PageContent, ruled_cells: Sequence[Sequence[Box]]) -> list[Table]:
    upright = [w for w in content.words if w.angle < 15 or w.angle > 345]
    numbered = _line_numbers(upright, content.height)
    upright = _whole([w for w in upright if w not in numbered])
    found = [_opened(t, upright) for t in ruled.find(content, upright, ruled_cells)]
    taken = [t.box for t in found]
    free = [w for w in upright if not any(box.holds(w.box, 1) for box in taken)]
    found += [
        t
        for t in borderless.find(free)
        if not any(t.box.overlap(b) for b in taken) and not _chart(content, t.box)
    ]
    for table in _between_rules(content, free):
        if not any(table.box.overlap(t.box) for t in found):
            found.append(table)
    return [part for t in found for part in _side_by_side(t)]


def turn(box: Box, quarter: int, content: PageContent) -> Box:
    """The place of a box on the page when that is turned counterclockwise by 90 or 270 degrees."""
    x0, y0, x1, y1 = box.turned(-quarter)  # about the upper left corner
    if quarter == 90:
        return Box(x0, y0 + content.width, x1, y1 + content.width)
    return Box(x0 + content.height, y0, x1 + content.height, y1)


def _quarter(content: PageContent, quarter: int) -> PageContent:
    """The same page turned so that text of that angle (clockwise) is upright."""
    return replace(
        content,
        width=content.height,
        height=content.width,
        words=tuple(
            w._replace(box=turn(w.box, quarter, content), angle=(w.angle - quarter) % 360)
            for w in content.words
        ),
        paths=tuple(turn(p, quarter, content) for p in content.paths),
        images=tuple(turn(p, quarter, content) for p in content.images),
    )


def _quarter_table(table: Table, quarter: int, content: PageContent) -> Table:
    box = turn(table.box, quarter, content)
    return replace(table, box=box, words=frozenset(turn(w, quarter, content) for w in table.words))


def one_column(words: Sequence[Word], box: Box) -> Table:
    """A table of which only the place is known: each line of words is a row."""
    lines = [" ".join(w.text for w in row) for row in rows(words)]
    cells = (
        Cell(row=i, row_span=1, column=0, column_span=1, text=line, header=False)
        for i, line in enumerate(lines)
    )
    held = frozenset(w.box for w in words)
    return Table(box=box, cells=tuple(cells), ruled=False, words=held)


# Numbers


def _whole(words: Sequence[Word]) -> list[Word]:
    """Numbers set with a space before their comma or point, put together again: `1 , 087 , 948`.
    In ordinary text no space stands there."""
    out: list[Word] = []
    apart = False  # whether the last word was put together
    for word in words:
        last = out[-1] if out else None
        joins = (
            last is not None
            and (word.text[0] in ".,%" or (apart and last.text[-1] in ".,"))
            and bool(_PUNCTUATED.fullmatch(last.text + word.text))
            and _beside(last, word) < 0.6 * word.size
            and word.box.x0 > last.box.x0
        )
        if joins and last is not None:
            box = last.box.union(word.box)
            out[-1] = Word(last.text + word.text, box, last.size, last.bold, last.angle)
            apart = True
        else:
            out.append(word)
            apart = False
    return out


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


# Three rules


def _between_rules(content: PageContent, words: Sequence[Word]) -> Iterator[Table]:
    """Tables set between rules of one width: above, under the heading, below."""
    rules: dict[tuple[int, int], list[float]] = {}
    for rule in _rules(content):
        rules.setdefault((round(rule.x0 / 4), round(rule.x1 / 4)), []).append(rule.y0)
    for (left, right), places in rules.items():
        ys = sorted(set(places))
        i = 0
        while i + 2 < len(ys):
            top, head = ys[i], ys[i + 1]
            bottom = next((y for y in ys[i + 2 :] if y - head > 20), None)
            if bottom is None or not 6 < head - top < 80 or bottom - top > 0.9 * content.height:
                i += 1
                continue
            place = Box(4 * left - 6, top, 4 * right + 6, bottom)
            table = borderless.between([w for w in words if place.holds(w.box)], head)
            if table is not None:
                yield table
                i = ys.index(bottom)
            i += 1


def _rules(content: PageContent) -> list[Box]:
    """Long thin horizontal lines, those that go on each other's ends put together."""
    thin = sorted(
        (p for p in content.paths if p.height < 2.5 and p.width > 12),
        key=lambda p: (round(p.y0), p.x0),
    )
    joined: list[Box] = []
    for p in thin:
        last = joined[-1] if joined else None
        if last and abs(last.y0 - p.y0) < 1.5 and p.x0 - last.x1 < 4:
            joined[-1] = last.union(p)
        else:
            joined.append(p)
    return [p for p in joined if p.width > 100]


# What kind of table


def _opened(table: Table, words: Sequence[Word]) -> Table:
    """A ruled table whose rules leave columns together, read by the alignment of its words."""
    body = [c.text.split() for c in table.cells if c.text and not c.header]
    values = [sum(bool(_VALUE.fullmatch(t)) for t in texts) for texts in body]
    packed = sum(v >= 2 and v >= 0.7 * len(t) for v, t in zip(values, body, strict=True))
    if packed < 0.25 * len(body):
        return table
    within = borderless.within([w for w in words if table.box.holds(w.box, 1)])
    if within is None or within.columns <= table.columns:
        return table
    return replace(within, box=table.box, ruled=True)


def _chart(content: PageContent, box: Box) -> bool:
    """Bars among the numbers: boxes that hold no word and are nearly all of another length."""
    bars = [
        p
        for p in content.paths
        if min(p.width, p.height) >= 3 and p.width < 0.9 * box.width and box.holds(p)
    ]
    if not 3 <= len(bars) <= 400:
        return False
    inside = [w.box for w in content.words if box.holds(w.box)]
    bars = [p for p in bars if not any(p.holds(w) for w in inside)]
    wide, high = len({round(p.width) for p in bars}), len({round(p.height) for p in bars})
    return len(bars) >= 3 and max(wide, high) >= 0.6 * len(bars)


def _side_by_side(table: Table) -> Iterator[Table]:
    """A table whose heading repeats from left to right is several, set beside each other."""
    head = {c.column: c.text for c in table.cells if c.header and c.text and c.column_span == 1}
    count = table.columns
    for width in range(2, count // 2 + 1):
        texts = [head.get(c, "") for c in range(count)]
        if count % width == 0 and all(texts) and texts == texts[:width] * (count // width):
            break
    else:
        yield table
        return
    each = table.box.width / (count // width)
    for part in range(count // width):
        first, end = part * width, (part + 1) * width
        mine = [  # a cell over several of them is in the first
            replace(c, column=c.column - first, column_span=min(c.column_span, end - c.column))
            for c in table.cells
            if first <= c.column < end
        ]
        box = table.box
        place = Box(box.x0 + part * each, box.y0, box.x0 + (part + 1) * each, box.y1)
        held = frozenset(w for w in table.words if place.holds(w))
        yield Table(box=place, cells=tuple(mine), ruled=table.ruled, words=held)
