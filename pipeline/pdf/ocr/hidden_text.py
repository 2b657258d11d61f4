"""Invisible text over a scan, as OCR programs leave it: checked against the picture before it is
trusted. Knows nothing of pdfium or tesseract: it is given a function that reads a part of the page.
"""

import difflib
import re
from collections.abc import Callable, Sequence

from pipeline.pdf.page import Box, PageContent
from pipeline.pdf.text.lines import Segment, drawn

LOOKED_AT = 3
TRUSTED = 0.6
_LATIN = re.compile(r"[^a-z0-9]+")


def is_hidden(content: PageContent) -> bool:
    """Whether most words are drawn invisibly and a picture covers most of the page."""
    invisible = sum(w.invisible for w in content.words)
    if invisible <= 0.5 * len(content.words):
        return False
    page = max(content.width * content.height, 1.0)
    return sum(b.area for b in content.images) > 0.6 * page


def agreement(content: PageContent, read: Callable[[Box], str]) -> float | None:
    """How alike the layer and what is read from the picture are on a few lines, 0 to 1; None when
    no line can be compared: too short, or in letters of another script."""
    shares = []
    for line in _lines(content):
        box = Box(line.box.x0 - 6, line.box.y0 - 4, line.box.x1 + 6, line.box.y1 + 4)
        layer, seen = _plain(line.text), _plain(read(box))
        shares.append(difflib.SequenceMatcher(None, layer, seen, autojunk=False).ratio())
    return sum(shares) / len(shares) if shares else None


def _lines(content: PageContent) -> list[Segment]:
    """The longest line of each third of the page's lines."""
    lines = [s for s in drawn(content.words) if len(_plain(s.text)) >= max(8, len(s.text) / 2)]
    lines.sort(key=lambda s: s.box.y0)
    size = -(-len(lines) // LOOKED_AT)
    parts: Sequence[list[Segment]] = [lines[i : i + size] for i in range(0, len(lines), size or 1)]
    return [max(part, key=lambda s: len(s.text)) for part in parts if part]


def _plain(text: str) -> str:
    return _LATIN.sub("", text.casefold())
