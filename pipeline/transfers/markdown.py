"""Elements as Markdown that shows a document's text and does nothing else: no link, picture or HTML comes
from the document but the cells of its tables. Knows nothing of archives.
"""

import html
import re
from html.parser import HTMLParser
from typing import Any

from storage.names import CropName, is_one

_SIGNS = re.compile(r"[\\`*_\[\]<&|$~]")
_BEGINS = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#>]))", re.ASCII)
_CELLS = {"table", "thead", "tbody", "tr", "th", "td"}
_SPAN = re.compile(r"[0-9]{1,4}", re.ASCII)


def element(e: dict[str, Any]) -> str:
    """An element dict as a block of Markdown; its crop is looked for in `figures/`."""
    said, metadata = str(e["text"]), e["metadata"]
    if e["type"] == "Title":
        return f"## {plain(' '.join(said.split()))}"
    if e["type"] == "ListItem":
        return f"- {plain(said.lstrip('•-* '))}"
    if e["type"] == "Table" and metadata.get("text_as_html"):
        return table(str(metadata["text_as_html"]))
    image = metadata.get("image_path")
    if e["type"] == "Image" and is_one(CropName, image):
        return f"![Figure on page {int(metadata.get('page_number') or 0)}](figures/{image})"
    return plain(said)


def plain(said: str) -> str:
    """Lines as they are read: what Markdown would take for a sign has a backslash before it."""
    lines = (_SIGNS.sub(r"\\\g<0>", line.strip()) for line in said.splitlines())
    return "\n".join(_BEGINS.sub(r"\1\\", line) for line in lines if line)


def table(written: str) -> str:
    """The HTML of a table on one line: rows, cells, what they span, and their text."""
    reader = _Cells()
    reader.feed(written)
    reader.close()
    made = "".join(reader.made)
    return made if made.startswith("<table>") else f"<table>{made}</table>"


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _CELLS:
            spans = [
                f' {key}="{value}"'
                for key, value in attrs
                if key in {"colspan", "rowspan"} and value and _SPAN.fullmatch(value)
            ]
            self.made.append(f"<{tag}{''.join(spans)}>")

    def handle_endtag(self, tag: str) -> None:
        if tag in _CELLS:
            self.made.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self.made.append(html.escape(" ".join(data.split())))
