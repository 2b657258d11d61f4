"""Born-digital text into blocks with a class each, in reading order.

Follows the order in which the page draws its words, which in most files is the order in which they
are read, and joins segments into paragraphs by geometry. Knows nothing of tables, files, elements.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.pdf.page import Box, PageContent, Style, Word
from pipeline.pdf.scripts import RTL, UNSPACED
from pipeline.pdf.text.lines import Segment, around, between, drawn

HYPHENS = "-\u00ad\u2010"
_PLAIN = Style()
_RUNNING_TEXT = {"NarrativeText", "ListItem", "UncategorizedText"}
# The number of a page before or behind a running head; others, as of an invoice, are part of the text.
_NUMBERED = re.compile(
    r"^(\d{1,4}|[ivxlc]{1,7})(?=[\s|·•–—])|(?<=[\s|·•–—])(\d{1,4}|[ivxlc]{1,7})$"
    r"|(?<=page )\d{1,4}|(?<=seite )\d{1,4}|\d{1,4}(?= (of|von|/) \d)|(?<= of )\d{1,4}$|(?<= von )\d{1,4}$"
)
_PAGE_NUMBER = re.compile(r"[-–—.| ]*(page |seite |p\. ?)?(\d{1,4}|[ivxlc]{1,7})[-–—.| ]*")
EDGE = 0.14
NEAR = 4.0  # points, of one height
SHORT = 150  # letters

_ITEM = re.compile(
    r"([•▪●○■◦‣⁃∙·]|[-–—*])\s+\S|(\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\(?[ivxIVX]{1,5}[.)])\s+\S"
)
_SECTION = re.compile(r"([A-Z]|\d{1,2}(\.\d{1,2})*)[.)]\s+(?=[A-Z])")
_NUMERAL = re.compile(r"([IVXivx]{1,5}|[A-Z]|\d{1,2})(\.\d{1,2})*[.)]?\s+(?=\S)")
_BULLET = re.compile(r"[•▪●○■◦‣⁃∙·・①-⑳➢✓❖]")
# Marks of lists as Word writes them, in letters of Symbol and Wingdings that mean nothing elsewhere.
_SYMBOLS = {
    "\uf0b7": "•", "\uf0a7": "▪", "\uf06f": "○", "\uf0a8": "○", "\uf0d8": "➢", "\uf0fc": "✓",
    "\uf076": "❖", "\uf02d": "–",
}  # fmt: skip
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_KEPT_OPEN = re.compile(r"(und|oder|bzw\.?|sowie|and|or|to|et|ou|y|o|e|en|of)\b")
_ADDRESS = re.compile(r"(://|^www\.|@|\w/\w)")
_CAPTION = re.compile(
    r"(fig(ure|\.)?|abb(ildung|\.)?|table|tab\.|tableau|tabelle|[図图圖表])\s*\d", re.I
)
_CODE_SIGN = re.compile(r"[{}()=<>;]")
_CODE = re.compile(
    r"(^|\s)(def |class |import |return |#include|function |var |let |const |\{|\};?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`index` orders blocks on the page; `kind` is the name of an unstructured element; `size` is
    the height of its letters in points."""

    kind: str
    text: str
    box: Box
    index: float
    size: float = 0.0
    lines: int = 1
    note: str | None = None  # the kind of annotation that says it


def read(
    content: PageContent, words: Sequence[tuple[int, Word]], style: Style = _PLAIN
) -> list[Block]:
    """Blocks of those words (with their drawing order), in the order they are drawn."""
    if not words:
        return []
    order = [i for i, _ in words]
    segments = _marked(drawn([w for _, w in words]))
    page = _Page(
        width=content.width,
        height=content.height,
        size=_weighted_median(segments),
        typed=sum(w.mono for _, w in words) > 0.5 * len(words),
        bold=sum(w.bold for _, w in words) > 0.5 * len(words),
        style=style,
    )
    blocks = []
    for group in _groups(segments):
        code = not page.typed and _is_code(group)
        text = "\n".join(s.text for s in group) if code else _join(group)
        if text.strip():
            box = around(s.box for s in group)
            size = statistics.median(s.size for s in group)
            kind = _at_edge(text, box, size, page)
            kind = kind or ("CodeSnippet" if code else _classify(group, text, size, page))
            lines = 1 + sum(b.box.y0 > a.box.y1 - 0.5 * a.size for a, b in pairwise(group))
            index = order[group[0].index]
            blocks.append(Block(kind=kind, text=text, box=box, index=index, size=size, lines=lines))
    return _with_sections(blocks)


def _with_sections(blocks: Sequence[Block]) -> list[Block]:
    """The same, where a numbered line in capitals as titles have them, over a paragraph, is the heading
    of a section and no item of a list."""
    made = list(blocks)
    for i, (block, after) in enumerate(pairwise(blocks)):
        numbered = _SECTION.match(block.text)
        if not numbered or block.kind != "ListItem" or block.lines > 1:
            continue
        words = [w for w in block.text[numbered.end() :].split() if len(w) > 3]
        capitals = sum(w[0].isupper() for w in words) > 0.6 * len(words)
        over = after.kind == "NarrativeText" and after.lines > 1 and block.text[-1] not in ".,;:"
        if capitals and over and count(block.text) <= 10:
            made[i] = replace(block, kind="Title")
    return made


def mended(blocks: Sequence[Block]) -> list[Block]:
    """The same in reading order, words parted between two columns put together in the first."""
    made = list(blocks)
    for i, block in enumerate(made):
        if block.text[-1] not in HYPHENS:
            continue
        text = block.text.rstrip(HYPHENS)
        after = next((j for j in range(i + 1, len(made)) if made[j].kind in _RUNNING_TEXT), None)
        if block.kind in _RUNNING_TEXT and after is not None and text[-1:].isalpha():
            rest, _, more = made[after].text.partition(" ")
            if rest[0].islower() and more:
                made[i] = replace(block, text=text + rest)
                made[after] = replace(made[after], text=more)
                continue
        if block.text[-1] == "\u00ad":
            made[i] = replace(block, text=f"{text}-")
    return made


def pattern(text: str) -> str:
    """A running head without what changes from page to page: the page's number becomes #."""
    said = " ".join(text.split()).casefold()
    return "#" if _PAGE_NUMBER.fullmatch(said) else _NUMBERED.sub("#", said)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """`size` is that of most letters; `typed` and `bold` say that such a font is the usual one."""

    width: float
    height: float
    size: float
    typed: bool
    bold: bool
    style: Style


def _is_code(group: Sequence[Segment]) -> bool:
    """In a typewriter's font, with the punctuation of code."""
    words = [w for s in group for w in s.words]
    mono = sum(w.mono for w in words) >= 0.9 * len(words)
    return mono and len(_CODE_SIGN.findall(" ".join(w.text for w in words))) >= 2


def _is_formula(group: Sequence[Segment]) -> bool:
    """Mostly letters of a mathematical font, with hardly a word of language among them."""
    words = [w for s in group for w in s.words]
    if len(words) < 3 or sum(w.math for w in words) < 0.4 * len(words):
        return False
    return sum(len(w.text) >= 4 and w.text.isalpha() and not w.math for w in words) <= 1


def _weighted_median(segments: Sequence[Segment]) -> float:
    sizes = sorted((s.size, len(s.text)) for s in segments)
    half, seen = sum(n for _, n in sizes) / 2, 0
    for size, count in sizes:
        seen += count
        if seen >= half:
            return size
    return sizes[-1][0]


def _marked(segments: Sequence[Segment]) -> list[Segment]:
    """A list's mark that stands by itself put together with the text behind it."""
    made: list[Segment] = []
    for s in segments:
        mark = made[-1] if made and _is_mark(made[-1]) else None
        if mark and _same_line(mark.box, s.box) and 0 <= s.box.x0 - mark.box.x1 < 4 * s.size:
            made.pop()
            s = Segment((*mark.words, *s.words), around((mark.box, s.box)), mark.index)
        first = s.words[0]
        if len(s.words) > 1 and _is_sign(first) and not (first.mono and s.words[1].mono):
            sign = first._replace(text=_sign(first.text), size=s.words[1].size)
            s = Segment((sign, *s.words[1:]), s.box, s.index)
        made.append(s)
    return made


def _is_mark(s: Segment) -> bool:
    return len(s.words) == 1 and _is_sign(s.words[0])


def _is_sign(word: Word) -> bool:
    """One sign of a list; `o` in a typewriter's font is Word's second one."""
    if len(word.text) != 1:
        return False
    return bool(_BULLET.match(word.text) or _PRIVATE.match(word.text)) or (
        word.text == "o" and word.mono
    )


def _sign(letter: str) -> str:
    return "◦" if letter == "o" else _SYMBOLS.get(letter, "•" if _PRIVATE.match(letter) else letter)


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
    same_line = _same_line(a, b)
    if same_line and RTL.search(s.text):
        return a.x0 - b.x1 < 2.2 * height
    if same_line:
        return b.x0 >= a.x1 - 1 and b.x0 - a.x1 < 2.2 * height
    if _ITEM.match(s.text) or _BULLET.match(s.text):
        return False
    if all(_same_line(x.box, a) for x in block):
        bold, said = all(x.bold for x in block), " ".join(x.text for x in block)
        if bold != s.bold or _is_shouted(said) > _is_shouted(s.text):
            return False
    gap = b.y0 - a.y1
    unspaced = UNSPACED.match(last.text[-1]) and UNSPACED.match(s.text)
    if not -0.5 * height < gap < (1.15 if unspaced else 0.65) * height:
        return False
    left = min(x.box.x0 for x in block)
    right = max(x.box.x1 for x in block)
    shared = min(right, b.x1) - max(left, b.x0)
    if shared < 0.5 * min(right - left, b.width):
        return False
    short = unspaced or a.x1 < left + 0.55 * (right - left)
    indented = b.x0 - left > (0.7 * height if unspaced else 6)
    return not (short and indented)


def _is_shouted(text: str) -> bool:
    """A few words in capitals only, as headings are set."""
    return text.isupper() and sum(c.isalpha() for c in text) >= 4 and len(text.split()) <= 10


def _same_line(a: Box, b: Box) -> bool:
    return min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5 * min(a.height, b.height)


def _join(group: Sequence[Segment]) -> str:
    """Lines joined by a space; a hyphen at a line's end before a small letter is taken out, unless
    it is one of several in its word, of an address, or left open as in "on- and offshore"."""
    text = ""
    for i, s in enumerate(group):
        line = s.text[:-1].replace("\u00ad", "-") + s.text[-1]
        last = text.rpartition(" ")[2]
        if not text:
            text = line
        elif _same_line(group[i - 1].box, s.box):
            text = f"{text} {line}"
        elif _ADDRESS.search(last) and last[-1] in f"{HYPHENS}/_=&?":
            text = f"{text[:-1]}-{line}" if last[-1] in HYPHENS else text + line
        elif text[-1] in HYPHENS and _KEPT_OPEN.match(line):
            text = f"{text[:-1]}- {line}"
        elif text[-1] in HYPHENS and text[-2:-1].isalpha() and line[0].islower():
            compound = any(c in HYPHENS for c in last[:-1])
            text = f"{text[:-1]}-{line}" if compound else text[:-1] + line
        elif text[-1] == "\u00ad":
            text = f"{text[:-1]}-{line}"
        else:
            text = f"{text}{between(text, line)}{line}"
    return text


def count(text: str) -> int:
    """Its words; two letters are about one where no space parts them."""
    return len(text.split()) + len(UNSPACED.findall(text)) // 2


def _classify(group: Sequence[Segment], text: str, size: float, page: _Page) -> str:
    words = count(text)
    letters = sum(c.isalpha() for c in text)
    solid = max(1, sum(not c.isspace() for c in text))
    if _CAPTION.match(text) and words < 60:
        return "FigureCaption"
    numbered = _NUMERAL.match(text)
    if numbered and len(group) <= 3 and _is_shouted(text[numbered.end() :]):
        return "Title"
    if _ITEM.match(text) or _BULLET.match(text):
        return "ListItem"
    if _is_formula(group):
        return "Formula"
    mostly = letters > 0.5 * solid
    if mostly and words <= 14 and len(group) <= 3 and _says_something(group):
        larger = size > 1.18 * page.size
        tells = not page.bold or _is_shouted(text)
        bold = tells and all(s.bold for s in group) and text[-1] not in ".,;。、"
        if larger or (bold and words <= 12):
            return "Title"
        if (
            len(group) == 1
            and words <= 8
            and text[0].isupper()
            and text[-1] not in ".,;:"
            and size > 1.05 * page.size
        ):
            return "Title"
    if mostly and words >= 6:
        return "NarrativeText"
    if len(_CODE.findall(text)) >= 2:
        return "CodeSnippet"
    return "UncategorizedText"


def _says_something(group: Sequence[Segment]) -> bool:
    """Whether it has a word of language: letters of formulas and diagrams are no headings."""
    return any(
        (len(w.text) >= 3 and sum(c.isalpha() for c in w.text) >= 3 and not w.math)
        or UNSPACED.search(w.text)
        for s in group
        for w in s.words
    )


def edges(box: Box, height: float) -> tuple[bool, bool]:
    """Whether it stands at the upper edge of a page of that height, and at the lower one."""
    return box.y1 < EDGE * height, box.y0 > (1 - EDGE) * height


def _at_edge(text: str, box: Box, size: float, page: _Page) -> str | None:
    """Header, Footer or PageNumber: what the document repeats at that height, and the numbers of its
    pages. What stands once is content, however near the edge; so is a heading that only its number
    tells from those of other pages."""
    upper, lower = edges(box, page.height)
    if not upper and not lower:
        return None
    said, middle = pattern(text), (box.y0 + box.y1) / 2
    near = [s for s, at in page.style.running if abs(at - middle) <= NEAR]
    outside = box.y1 < 0.06 * page.height or box.y0 > 0.945 * page.height
    if said == "#" and (near or outside):
        return "PageNumber"
    large = size > 1.18 * page.size and "#" in said
    if said not in near or large:
        return None
    return "Header" if upper else "Footer"
