"""What belongs together: a caption and what it names, a table and its continuation.

Works on element dicts and knows nothing of how they were read.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from pipeline.pdf.elements import FURNITURE
from pipeline.pdf.page import Box

Json = dict[str, Any]
_FAR = 60.0
_TABLE = re.compile(r"tab", re.I)
_CELL = re.compile(r"<t[dh](?: rowspan=\"\d+\")?(?: colspan=\"(\d+)\")?>")


def attach_captions(page: Sequence[Json]) -> None:
    """On one page: a caption gets what it names as `parent_id`, and that gets its text as
    `caption`. The nearest pair goes first; each has one partner."""
    pairs = sorted(
        (distance, c, t)
        for c, caption in enumerate(page)
        if caption["type"] == "FigureCaption"
        for t, thing in enumerate(page)
        if thing["type"] == ("Table" if _TABLE.match(caption["text"]) else "Image")
        and (distance := _apart(_box(caption), _box(thing))) <= _FAR
    )
    taken: set[int] = set()
    for _, c, t in pairs:
        if c not in taken and t not in taken:
            taken |= {c, t}
            page[c]["metadata"]["parent_id"] = page[t]["element_id"]
            page[t]["metadata"]["caption"] = page[c]["text"]


def link_tables(document: Sequence[Json]) -> None:
    """Over a whole document: a table that is the first thing on its page, below one of the same
    columns and width that is the last thing on the page before, names that one in `continues`."""
    pages = {n: list(es) for n, es in groupby(document, lambda e: e["metadata"]["page_number"])}
    for before, after in pairwise(sorted(pages)):
        last = [e for e in pages[before] if e["type"] not in FURNITURE][-1:]
        first = next(_without_captions(pages[after]), None)
        if after != before + 1 or not last or first is None:
            continue
        if last[0]["type"] == first["type"] == "Table" and _alike(last[0], first):
            first["metadata"]["continues"] = last[0]["element_id"]


def _without_captions(page: Sequence[Json]) -> Iterator[Json]:
    return (e for e in page if e["type"] not in FURNITURE | {"FigureCaption"})


def _alike(a: Json, b: Json) -> bool:
    one, other = _box(a), _box(b)
    shared = min(one.x1, other.x1) - max(one.x0, other.x0)
    wide = max(one.width, other.width)
    return _columns(a) == _columns(b) > 1 and shared > 0.9 * wide


def _columns(table: Json) -> int:
    row = (table["metadata"].get("text_as_html") or "").partition("</tr>")[0]
    return sum(int(found[1] or 1) for found in _CELL.finditer(row))


def _box(element: Json) -> Box:
    points = element["metadata"]["coordinates"]["points"]
    return Box(*points[0], *points[2])


def _apart(a: Box, b: Box) -> float:
    """Points between two boxes above each other; far when they are not."""
    if min(a.x1, b.x1) <= max(a.x0, b.x0):
        return 1e9
    return max(0.0, max(a.y0, b.y0) - min(a.y1, b.y1))
