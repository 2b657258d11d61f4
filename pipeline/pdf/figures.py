"""Pictures and vector drawings of a page, clustered into figures. Boxes only, no pixels."""

from collections.abc import Sequence

from pipeline.pdf.page import Box, PageContent, Word

_CELL = 8.0
_MAX_TEXT = 400


def find_figures(content: PageContent, taken: Sequence[Box]) -> list[Box]:
    """Boxes of figures, top down; nothing that touches `taken` (tables) for drawings."""
    page = content.width * content.height
    pictures = [
        b.clipped(content.width, content.height)
        for b in content.images
        if b.width > 24 and b.height > 24 and b.area < 0.95 * page
    ]
    drawings = [
        box
        for box in _drawings(content)
        if not any(box.overlap(t) > 0.1 * min(box.area, t.area) for t in taken)
    ]
    merged = _merge([b for b in [*pictures, *drawings] if b.width > 20 and b.height > 20])
    return sorted(
        (b for b in merged if b.area < 0.95 * page and _characters(content.words, b) <= _MAX_TEXT),
        key=lambda b: (b.y0, b.x0),
    )


def _characters(words: Sequence[Word], box: Box) -> int:
    return sum(len(w.text) for w in words if w.box.overlap(box) > 0.5 * w.box.area)


def _merge(boxes: list[Box]) -> list[Box]:
    """Boxes nearer than 6 points become one, until none are."""
    merged: list[Box] = []
    for box in boxes:
        while True:
            near = next((m for m in merged if _near(m, box)), None)
            if near is None:
                break
            merged.remove(near)
            box = box.union(near)
        merged.append(box)
    return merged


def _near(a: Box, b: Box) -> bool:
    return a.x0 - 6 < b.x1 and b.x0 - 6 < a.x1 and a.y0 - 6 < b.y1 and b.y0 - 6 < a.y1


def _drawings(content: PageContent) -> list[Box]:
    if len(content.paths) < 12:
        return []
    cells: dict[tuple[int, int], int] = {}
    for p in content.paths:
        if p.width > 0.9 * content.width or p.height > 0.9 * content.height:
            continue
        if p.height < 1.5 and p.width > 0.35 * content.width:
            continue
        columns = range(int(p.x0 // _CELL), min(int(p.x1 // _CELL), int(p.x0 // _CELL) + 200) + 1)
        lines = range(int(p.y0 // _CELL), min(int(p.y1 // _CELL), int(p.y0 // _CELL) + 200) + 1)
        for x in columns:
            for y in lines:
                cells[x, y] = cells.get((x, y), 0) + 1
    found = []
    while cells:
        seed, hits = next(iter(cells)), 0
        stack = [seed]
        hits += cells.pop(seed)
        x0 = x1 = seed[0]
        y0 = y1 = seed[1]
        while stack:
            x, y = stack.pop()
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    near = (x + dx, y + dy)
                    if near in cells:
                        hits += cells.pop(near)
                        stack.append(near)
        box = Box(x0 * _CELL, y0 * _CELL, (x1 + 1) * _CELL, (y1 + 1) * _CELL)
        box = box.clipped(content.width, content.height)
        if (
            box.width > 60
            and box.height > 40
            and hits >= 25
            and box.area < 0.8 * content.width * content.height
        ):
            found.append(box)
    return found
