"""Elements as Markdown (CommonMark and pipe tables) that shows a document's text and does nothing else: no
link, picture or HTML comes from the document but the cells of its tables. Knows nothing of files.
"""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from typing import Any, NamedTuple

from pipeline.pdf.elements import FURNITURE

_SIGNS = re.compile(r"[\\`*_\[\]<&|$~]")
_BEGINS = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#>]))", re.ASCII)
_MARK = re.compile(r"(?:[•‣▪◦●○■□·*–-]|\uf0b7)\s+")
_NUMBER = re.compile(r"(\d{1,9}[.)])\s+", re.ASCII)
_CELLS = {"table", "thead", "tbody", "tr", "th", "td"}
_SPAN = re.compile(r"[0-9]{1,4}", re.ASCII)
_LEVELS = 6
_SAME = 4.0  # points between items of one level
_DEEPER = 60.0  # points to an inner list at most: what is farther away is in another column

Picture = Callable[[object], str | None]


def document(elements: Sequence[dict[str, Any]], picture: Picture) -> str:
    """The element dicts of pages in reading order. `picture` gives the address of a crop by its name,
    or None. Of headers and footers those are shown that stand in only one place."""
    furniture = Counter(_repeated(e) for e in elements if e["type"] in FURNITURE)
    shown = [
        e
        for e in elements
        if not e["metadata"].get("hidden")
        and (e["type"] not in FURNITURE or (_says(e) and furniture[_repeated(e)] == 1))
    ]
    return "".join(_blocks(shown, picture))


def _blocks(elements: Sequence[dict[str, Any]], picture: Picture) -> Iterator[str]:
    """The blocks, each with the lines that part it from the one before."""
    levels: list[_Level] = []
    apart = ""
    for e in elements:
        if e["type"] == "ListItem":
            within = bool(levels)
            made, levels = _item(e, levels)
            yield ("\n" if within else apart) + made
        elif made := element(e, picture):
            levels = []
            yield apart + made
        else:
            continue
        apart = "\n\n"
    yield "\n"


def element(e: dict[str, Any], picture: Picture) -> str:
    """An element by itself as a block."""
    said, metadata = str(e["text"]), e["metadata"]
    match e["type"]:
        case "Title":
            depth = metadata.get("category_depth")
            level = min(depth + 1, _LEVELS) if isinstance(depth, int) and depth > 0 else 1
            return f"{'#' * level} {plain(' '.join(said.split()))}"
        case "ListItem":
            return _item(e, [])[0]
        case "CodeSnippet":
            ticks = max((len(run) for run in re.findall("`+", said)), default=0)
            fence = "`" * max(3, ticks + 1)
            return f"{fence}\n{said}\n{fence}"
        case "FigureCaption" if said.strip():
            return f"*{plain(said)}*"
        case "Table" if metadata.get("text_as_html"):
            return table(str(metadata["text_as_html"]))
        case "Image" if address := picture(metadata.get("image_path")):
            page = metadata.get("page_number")
            shown = f"![Figure on page {page if isinstance(page, int) else 0}]({address})"
            return f"{shown}\n\n{plain(said)}".rstrip()
        case _:
            return plain(said)


def plain(said: str) -> str:
    """Lines as they are read: what Markdown would take for a sign has a backslash before it."""
    lines = (_SIGNS.sub(r"\\\g<0>", line.strip()) for line in said.splitlines())
    return "\n".join(_BEGINS.sub(r"\1\\", line) for line in lines if line)


# Lists


class _Level(NamedTuple):
    """Of a list that is open: where its items begin, in points, and the columns of its marks and of
    its texts."""

    x: float
    mark: int
    text: int


def _item(e: dict[str, Any], open_: list[_Level]) -> tuple[str, list[_Level]]:
    """An item under the lists that are open before it, and those that are after it."""
    said = str(e["text"]).strip()
    numbered = _NUMBER.match(said)
    mark = f"{numbered[1]} " if numbered else "- "
    begins = numbered or _MARK.match(said)
    said = said[begins.end() :] if begins else said
    x = _left(e)
    levels = list(open_)
    while len(levels) > 1 and x < levels[-1].x - _SAME:
        levels.pop()
    if not levels or abs(x - levels[-1].x) > _DEEPER:
        at, levels = 0, []
    elif x > levels[-1].x + _SAME:
        at = levels[-1].text
    else:
        at = levels.pop().mark
    inner = at + len(mark)
    lines = plain(said).splitlines() or [""]
    made = f"{' ' * at}{mark}{lines[0]}"
    made += "".join(f"\n{' ' * inner}{line}" for line in lines[1:])
    return made, [*levels, _Level(x, at, inner)]


def _left(e: dict[str, Any]) -> float:
    points = (e["metadata"].get("coordinates") or {}).get("points") or ()
    return min((float(x) for x, _ in points), default=0.0)


# Headers and footers


def _repeated(e: dict[str, Any]) -> str:
    """What a header or footer says, whatever the page's number."""
    return re.sub(r"\d+", "#", " ".join(str(e["text"]).split())).casefold()


def _says(e: dict[str, Any]) -> bool:
    return e["type"] in {"Header", "Footer"} and any(c.isalpha() for c in str(e["text"]))


# Tables


def table(written: str) -> str:
    """A table, given as HTML: by pipes where it is a plain grid, else as HTML on one line, of rows,
    cells, what they span, and their text."""
    reader = _Cells()
    reader.feed(written)
    reader.close()
    if reader.is_grid():
        return _grid(reader.rows)
    made = "".join(reader.made)
    return made if made.startswith("<table>") else f"<table>{made}</table>"


class _Cell(NamedTuple):
    head: bool
    said: list[str]


def _grid(rows: Sequence[Sequence[_Cell]]) -> str:
    """Without a head of its own, it is given an empty one: there is none without."""
    lines = [[_SIGNS.sub(r"\\\g<0>", " ".join(cell.said)) for cell in row] for row in rows]
    headed = all(cell.head for cell in rows[0])
    head, *body = lines if headed else [[""] * len(lines[0]), *lines]
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []
        self.rows: list[list[_Cell]] = []
        self._plain = True  # nothing spans, nothing lies outside of the cells, one table
        self._inside = False

    def is_grid(self) -> bool:
        widths = {len(row) for row in self.rows}
        heads = [all(cell.head for cell in row) for row in self.rows]
        return self._plain and len(widths) == 1 and widths != {0} and not any(heads[1:])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _CELLS:
            return
        spans = [
            f' {key}="{value}"'
            for key, value in attrs
            if key in {"colspan", "rowspan"} and value and _SPAN.fullmatch(value)
        ]
        self._plain &= not spans and not (tag == "table" and self.made)
        self.made.append(f"<{tag}{''.join(spans)}>")
        if tag == "tr":
            self.rows.append([])
        if tag in {"th", "td"}:
            self._plain &= bool(self.rows)
            if self.rows:
                self.rows[-1].append(_Cell(tag == "th", []))
        self._inside = tag in {"th", "td"}

    def handle_endtag(self, tag: str) -> None:
        if tag in _CELLS:
            self.made.append(f"</{tag}>")
            self._inside = False

    def handle_data(self, data: str) -> None:
        said = " ".join(data.split())
        self.made.append(html.escape(said))
        if said and self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1].said.append(said)
        self._plain &= self._inside or not said
