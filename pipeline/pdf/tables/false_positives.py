"""Whether what stands in columns is a table: refuses columns by chance, formulas, indexes, axes."""

import re
import statistics
from collections.abc import Sequence

from pipeline.pdf.tables.table import is_number
from pipeline.pdf.text.lines import Segment

_MARKER = re.compile(r"[\(\[]?(\d{1,3}|[a-zA-Z]|[ivx]{1,4})?[.)\]]?|[•▪●○■◦–—*·-]")
_INDEXED = re.compile(r"[^\W\d_].*,\s?\d+(n|–\d+)?")
_FORMULA = re.compile("[=∂∑∫∏√∀∃∈⇒⇔→↦∞≠⟨⟩∥∩∪⊂⊆⊗⊕∘]")

Cells = dict[tuple[int, int], list[Segment]]


def by_column(lines: Sequence[Cells], columns: int) -> list[list[Segment]]:
    """What begins in each column, from the top down."""
    return [
        [s for line in lines for (first, _), v in line.items() for s in v if first == c]
        for c in range(columns)
    ]


def trusted(lines: Sequence[Cells], columns: int) -> bool:
    """What looks like columns by chance is refused."""
    cells = [(k, s) for line in lines for k, v in line.items() for s in v]
    texts = [s.text for _, s in cells]
    mean = statistics.mean(map(len, texts))
    numeric = sum(map(is_number, texts)) / len(texts)
    per_column = by_column(lines, columns)
    strong = sum(len(column) >= 3 for column in per_column)
    if strong < 2 or len(lines) < 3:
        return False
    if columns == 2 and numeric < 0.25 and mean > 22:
        return False
    if numeric < 0.12 and mean > 30:
        return False
    if sum(len(line) for line in lines) / (len(lines) * columns) < 0.35:
        return False
    fit = alignment(per_column)
    if fit < 0.55:
        return False
    if numeric < 0.15 and not (columns >= 3 and mean <= 16 and fit >= 0.7 and len(lines) >= 4):
        return False
    if sum(2 * sum(b - a + 1 for a, b in line) >= columns for line in lines) < 3:
        return False  # the ticks of an axis
    if sum(bool(_FORMULA.search(t)) for t in texts) > 0.2 * len(texts):
        return False
    words = [t for t in texts if not is_number(t) and not _MARKER.fullmatch(t)]
    if sum(bool(_INDEXED.fullmatch(t)) for t in words) > 0.4 * max(4, len(words)):
        return False  # an index: what it lists ends in page numbers
    if columns == 2:
        for column in per_column:
            markers = sum(bool(_MARKER.fullmatch(s.text)) for s in column)
            if markers > 0.6 * len(column):
                return False
    return True


def alignment(per_column: Sequence[Sequence[Segment]]) -> float:
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
