"""What a table is once it was found: cells in rows and columns, its header, its HTML.

Knows nothing of words, rules or pages.
"""

import bisect
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.pdf.page import Box

NUMERIC = re.compile(
    r"[-+–—(±~<>≤≥$€£¥]*\s*(\d[\d.,:/ \u00a0–-]*\s*[%)°a-zA-Z*†‡§]{0,3}|n/?a|N/?A|[-–—.…x×✓✔✗†‡#]+)\s*[)*†‡%]*"
)
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
    """`words` are the places of the words that its cells hold: those of other words inside its box
    are not part of it."""

    box: Box
    cells: tuple[Cell, ...]
    ruled: bool
    words: frozenset[Box] = frozenset()

    def has(self, word: Box) -> bool:
        """Whether its cells hold the word in that place, perhaps joined with another."""
        if not self.box.holds(word, 2):
            return False
        return word in self.words or any(held.holds(word) for held in self.words)

    @property
    def text(self) -> str:
        return " ".join(c.text for c in self.cells if c.text)

    @property
    def columns(self) -> int:
        return max((c.column + c.column_span for c in self.cells), default=0)

    @property
    def rows(self) -> int:
        return max((c.row + c.row_span for c in self.cells), default=0)


class Spot(NamedTuple):
    """A cell before it is known which rows are the header."""

    row: int
    row_span: int
    column: int
    column_span: int
    text: str


def is_number(text: str) -> bool:
    """A number with what hangs on it, a range, a dash or a tick."""
    return bool(NUMERIC.fullmatch(text))


def without_empty(cells: Sequence[Spot], kept: Iterable[int] = ()) -> list[Spot]:
    """Rows and columns in which nothing begins or stands are closed up, but for those columns that
    are `kept`."""
    rows_used = sorted({c.row for c in cells if c.text})
    columns_used = sorted({*kept, *(c.column for c in cells if c.text)})
    closed: dict[tuple[int, int], Spot] = {}
    for r, rs, c, cs, text in cells:
        r0, r1 = bisect.bisect_left(rows_used, r), bisect.bisect_left(rows_used, r + rs)
        c0, c1 = bisect.bisect_left(columns_used, c), bisect.bisect_left(columns_used, c + cs)
        if r1 > r0 and c1 > c0 and (text or (r0, c0) not in closed):
            closed[r0, c0] = Spot(r0, r1 - r0, c0, c1 - c0, text)
    return [closed[k] for k in sorted(closed)]


def filled(cells: Sequence[Spot], columns: int) -> list[Spot]:
    """Empty cells put where a row has none, so that columns line up in HTML."""
    taken = {
        (r, c)
        for cell in cells
        for r in range(cell.row, cell.row + cell.row_span)
        for c in range(cell.column, cell.column + cell.column_span)
    }
    rows = max((c.row + c.row_span for c in cells), default=0)
    empty = [
        Spot(r, 1, c, 1, "") for r in range(rows) for c in range(columns) if (r, c) not in taken
    ]
    return sorted([*cells, *empty])


def with_header(cells: Sequence[Spot], rows: int | None = None) -> tuple[Cell, ...]:
    """`rows` are the header; when unknown, those above the first row that has numbers in most of
    its later cells."""
    if rows is None:
        rows = _header_rows(cells)
    return tuple(
        Cell(row=r, row_span=rs, column=c, column_span=cs, text=t, header=r < rows)
        for r, rs, c, cs, t in cells
    )


def _header_rows(cells: Sequence[Spot]) -> int:
    by_row: dict[int, list[str]] = {}
    for cell in cells:
        if cell.text and cell.column > 0:
            by_row.setdefault(cell.row, []).append(cell.text)
    last = max(c.row for c in cells)
    numeric = [
        r for r, texts in sorted(by_row.items()) if sum(map(is_number, texts)) >= len(texts) / 2
    ]
    first = min(numeric[0], 4) if numeric else 1
    return 1 if first > last / 2 + 1 else first


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
