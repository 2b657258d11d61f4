"""What was read on a page as element dicts, with crops of its tables and figures. Runs inside a page
process.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.pdf import pdfium
from pipeline.pdf.elements import KINDS, element, links_in
from pipeline.pdf.page import Box, PageContent, Style
from pipeline.pdf.tables import table
from pipeline.pdf.text import blocks as text
from pipeline.pdf.text.blocks import Block
from pipeline.pdf.text.lines import around, joined
from pipeline.pdf.text.reading_order import reading_order

CROP_DPI = 110
CROP_LONG_SIDE = 1600


class Writer:
    """Blocks, tables and figures of one page as element dicts, with crops of the latter two."""

    def __init__(self, page: Any, content: PageContent, crops: Path, style: Style) -> None:
        self._page = page
        self._content = content
        self._crops = crops
        self.style = style
        self.made: list[dict[str, Any]] = []

    def drawn(self, things: Sequence[Any]) -> None:
        """Things in the order they are drawn."""
        boxes = [thing if isinstance(thing, Box) else thing.box for thing in things]
        sorted_ = [things[i] for i in reading_order(boxes)]
        blocks = iter(text.mended([t for t in sorted_ if isinstance(t, Block)]))
        self.ordered([next(blocks) if isinstance(t, Block) else t for t in sorted_])

    def ordered(self, things: Iterable[Any]) -> None:
        """Things in the order they are read."""
        for thing in things:
            if isinstance(thing, Block):
                self._add_block(thing)
            elif isinstance(thing, table.Table):
                self._add(
                    "Table",
                    thing.text,
                    thing.box,
                    text_as_html=table.to_html(thing),
                    image_path=self._crop(thing.box),
                )
            else:
                inner = [w.text for w in self._content.words if thing.holds(w.box)]
                self._add("Image", " ".join(inner), thing, image_path=self._crop(thing))

    def _add_block(self, block: Block) -> None:
        kind = block.kind if block.kind in KINDS else "UncategorizedText"
        depth = None
        if kind == "Title":
            larger = [size for size in self.style.headings if size > block.size + 0.3]
            depth = min(len(larger), 5)
        self._add(kind, block.text, block.box, category_depth=depth, annotation=block.note)

    def unseen(self) -> None:
        """What nobody sees, by itself and marked."""
        words = self._content.hidden
        if words:
            self._add("UncategorizedText", joined(words), around(w.box for w in words), hidden=True)

    def _add(self, kind: str, words: str, box: Box, **metadata: Any) -> None:
        size = (self._content.width, self._content.height)
        box = box.clipped(*size)
        made = element(
            kind,
            words,
            box,
            page=self._content.number,
            size=size,
            sequence=len(self.made),
            **links_in(words, box, self._content),
            **metadata,
        )
        self.made.append(made)

    def _crop(self, box: Box) -> str | None:
        """The name of the crop, written under the hash of its bytes."""
        picture = pdfium.crop(self._page, box, dpi=CROP_DPI, long_side=CROP_LONG_SIDE)
        if picture is None:
            return None
        name = f"{hashlib.sha256(picture).hexdigest()}.jpg"
        path = self._crops / name
        if not path.exists():
            aside = path.with_name(f".{name}.{os.getpid()}")
            aside.write_bytes(picture)
            aside.replace(path)
        return name
