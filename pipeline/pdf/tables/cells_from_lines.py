"""Bare lines that meet, as the cells they enclose. Knows nothing of words."""

import itertools
import statistics
from collections.abc import Sequence

from pipeline.pdf.page import Box
from pipeline.pdf.text.lines import around


def cells(across: Sequence[Box], down: Sequence[Box], *, slack: float) -> list[list[Box]]:
    """The cells of each group of horizontal and vertical lines that meet, ends within `slack`."""
    return [boxes for group in _groups(across, down, slack) if (boxes := _cells(*group, slack))]


def _groups(
    across: Sequence[Box], down: Sequence[Box], slack: float
) -> list[tuple[list[Box], list[Box]]]:
    groups: list[tuple[list[Box], list[Box]]] = []
    for line, flat in [*((h, True) for h in across), *((v, False) for v in down)]:
        near = _grown(line, slack)
        met = [g for g in groups if any(_touch(near, o) for o in (g[1] if flat else g[0]))]
        mine: tuple[list[Box], list[Box]] = ([line], []) if flat else ([], [line])
        for group in met:
            groups.remove(group)
            mine[0].extend(group[0])
            mine[1].extend(group[1])
        groups.append(mine)
    return [g for g in groups if len(g[0]) >= 3 and len(g[1]) >= 3]


def _grown(box: Box, by: float) -> Box:
    return Box(box.x0 - by, box.y0 - by, box.x1 + by, box.y1 + by)


def _touch(a: Box, b: Box) -> bool:
    return a.x0 <= b.x1 and b.x0 <= a.x1 and a.y0 <= b.y1 and b.y0 <= a.y1


def _cells(across: Sequence[Box], down: Sequence[Box], slack: float) -> list[Box]:
    """Fields between neighbouring lines, put together where no line parts them."""
    ys = _apart([(h.y0 + h.y1) / 2 for h in across], slack)
    xs = _apart([(v.x0 + v.x1) / 2 for v in down], slack)

    def parts_rows(y: float, x0: float, x1: float) -> bool:
        return any(
            abs((h.y0 + h.y1) / 2 - y) <= slack and min(h.x1, x1) - max(h.x0, x0) > 0.7 * (x1 - x0)
            for h in across
        )

    def parts_columns(x: float, y0: float, y1: float) -> bool:
        return any(
            abs((v.x0 + v.x1) / 2 - x) <= slack and min(v.y1, y1) - max(v.y0, y0) > 0.7 * (y1 - y0)
            for v in down
        )

    owner: dict[tuple[int, int], tuple[int, int]] = {}
    for r, c in itertools.product(range(len(ys) - 1), range(len(xs) - 1)):
        owner[r, c] = (r, c)
        if c and not parts_columns(xs[c], ys[r], ys[r + 1]):
            owner[r, c] = owner[r, c - 1]
        elif r and not parts_rows(ys[r], xs[c], xs[c + 1]):
            owner[r, c] = owner[r - 1, c]
    fields: dict[tuple[int, int], Box] = {}
    for (r, c), first in owner.items():
        box = Box(xs[c], ys[r], xs[c + 1], ys[r + 1])
        fields[first] = fields[first].union(box) if first in fields else box
    found = list(fields.values())
    if not found:
        return []
    # A field that is no rectangle would lie over others: then the lines make no table.
    return found if sum(b.area for b in found) <= 1.02 * around(found).area else []


def _apart(values: Sequence[float], slack: float) -> list[float]:
    groups: list[list[float]] = []
    for value in sorted(values):
        if groups and value - groups[-1][-1] <= slack:
            groups[-1].append(value)
        else:
            groups.append([value])
    return [statistics.mean(g) for g in groups]
