"""Born-digital text into blocks with a class each, in reading order.

Follows the order in which the page draws its words, which in most files is the order in which they
are read, and joins segments into paragraphs by geometry. Knows nothing of tables, files, elements.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.page import Box, PageContent, Word
from pipeline.readers.lines import Segment, drawn

_ITEM = re.compile(
    r"([•▪●○■◦‣⁃∙·]|[-–—*])\s+\S|(\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\(?[ivxIVX]{1,5}[.)])\s+\S"
)
_BULLET = re.compile(r"[•▪●○■◦‣⁃∙·\uf0b7\uf0a7]")
_CAPTION = re.compile(r"(fig(ure|\.)?|abb(ildung|\.)?|table|tab\.|tableau|tabelle)\s*\d", re.I)
_RTL = re.compile(r"[\u0590-\u08ff\ufb1d-\ufefc]")
_CODE = re.compile(
    r"(^|\s)(def |class |import |return |#include|function |var |let |const |\{|\};?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`index` orders blocks on the page; `kind` is the name of an unstructured element."""

    kind: str
    text: str
    box: Box
    index: float


def read(content: PageContent, words: Sequence[tuple[int, Word]]) -> list[Block]:
    """Blocks of those words (with their drawing order), in reading order."""
    if not words:
        return []
    order = [i for i, _ in words]
    segments = drawn([w for _, w in words])
    median = _weighted_median(segments)
    groups = _groups(segments)
    blocks = []
    for group in groups:
        text = _join(group)
        if text.strip():
            box = group[0].box
            for s in group[1:]:
                box = box.union(s.box)
            kind = _classify(group, text, box, content, median)
            blocks.append(Block(kind=kind, text=text, box=box, index=order[group[0].index]))
    return blocks


def _weighted_median(segments: Sequence[Segment]) -> float:
    sizes = sorted((s.size, len(s.text)) for s in segments)
    half, seen = sum(n for _, n in sizes) / 2, 0
    for size, count in sizes:
        seen += count
        if seen >= half:
            return size
    return sizes[-1][0]


def _groups(segments: Sequence[Segment]) -> list[list[Segment]]:
    groups: list[list[Segment]] = []
    for s in segments:
        if groups and _joins(groups[-1], s):
            groups[-1].append(s)
        else:
            groups.append([s])
    return groups


def _joins(block: Sequence[Segment], s: Segment) -> bool:
    last = block[-1]
    a, b = last.box, s.box
    height = max(last.size, 1.0)
    if last.words[0].angle != s.words[0].angle:
        return False
    if not 0.72 <= s.size / height <= 1.4:
        return False
    same_line = min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5 * min(a.height, b.height)
    if same_line and _RTL.search(s.text):
        return a.x0 - b.x1 < 2.2 * height
    if same_line:
        return b.x0 >= a.x1 - 1 and b.x0 - a.x1 < 2.2 * height
    if _ITEM.match(s.text) or _BULLET.match(s.text):
        return False
    if last.bold != s.bold and len(block) == 1:
        return False
    gap = b.y0 - a.y1
    if not -0.5 * height < gap < 0.65 * height:
        return False
    left = min(x.box.x0 for x in block)
    right = max(x.box.x1 for x in block)
    shared = min(right, b.x1) - max(left, b.x0)
    if shared < 0.5 * min(right - left, b.width):
        return False
    short = a.x1 < left + 0.55 * (right - left)
    indented = b.x0 - left > 6
    return not (short and indented)


def _join(group: Sequence[Segment]) -> str:
    """Lines joined by a space; a hyphen at a line's end before a small letter is taken out."""
    text = ""
    for s in group:
        line = s.text.replace("\u00ad\u00ad", "\u00ad")
        if not text:
            text = line
        elif (
            text[-1] in "-\u00ad\u2010"
            and len(text) > 1
            and text[-2].isalpha()
            and line[0].islower()
        ):
            text = text[:-1] + line
        else:
            text = f"{text} {line}"
    return text.replace("\u00ad", "")


def _classify(
    group: Sequence[Segment], text: str, box: Box, content: PageContent, median: float
) -> str:
    words = text.split()
    letters = sum(c.isalpha() for c in text)
    solid = max(1, sum(not c.isspace() for c in text))
    if box.y1 < 0.06 * content.height and len(words) < 30:
        return "Header"
    if box.y0 > 0.945 * content.height and len(words) < 30:
        return "Footer"
    if _CAPTION.match(text) and len(words) < 60:
        return "FigureCaption"
    if _ITEM.match(text) or _BULLET.match(text):
        return "ListItem"
    mostly = letters > 0.5 * solid
    size = statistics.median(s.size for s in group)
    if mostly and len(words) <= 14 and len(group) <= 3:
        larger = size > 1.18 * median
        bold = all(s.bold for s in group) and text[-1] not in ".,;"
        if larger or (bold and len(words) <= 12):
            return "Title"
        if (
            len(group) == 1
            and len(words) <= 8
            and text[0].isupper()
            and text[-1] not in ".,;:"
            and size > 1.05 * median
        ):
            return "Title"
    if mostly and len(words) >= 6:
        return "NarrativeText"
    if len(_CODE.findall(text)) >= 2:
        return "CodeSnippet"
    return "UncategorizedText"
