"""Pages, read: each by the reader that the router chose for it. Runs inside a page process; what only
some pages need is imported when the first of them comes.

What an element is does not depend on the pages it was read with. Knows nothing of the pool.
"""

import io
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from errors import QuireError
from pipeline.options import PartitionOptions
from pipeline.pdf import figures, hi_res, language, pdfium
from pipeline.pdf.element_writer import Writer
from pipeline.pdf.hi_res import Region
from pipeline.pdf.ocr import hidden_text
from pipeline.pdf.page import Box, Note, PageContent, PageRecord, Style
from pipeline.pdf.relations import attach_captions
from pipeline.pdf.router import Route, may_hide_more, route
from pipeline.pdf.tables import find, ruled
from pipeline.pdf.tables.table import Table
from pipeline.pdf.text import blocks as text
from pipeline.pdf.text import listings
from pipeline.pdf.text.blocks import Block

LAYOUT_DPI = 100
APART = "apart"  # the reader of a page that is left to a call of its own
_SOME_INK = 0.003  # of the page: a line of text has as much
_MOST_INK = 0.6
_HIDDEN = "hidden"  # an invisible text layer, to be compared with the picture

PageRead = tuple[PageRecord, list[dict[str, Any]]]
Seen = dict[int, tuple[Region, ...]]
Grids = Callable[[int], Any | None]


def draw_page(path: Path, number: int) -> bytes:
    """The PNG that the layout model sees."""
    with pdfium.opened(path) as document, pdfium.loaded(document, number) as page:
        picture = pdfium.render(page, dpi=LAYOUT_DPI, long_side=2000)
        png = io.BytesIO()
        picture.convert("RGB").save(png, "PNG", compress_level=1)
        return png.getvalue()


def read_pages(
    path: Path,
    numbers: Sequence[int],
    options: PartitionOptions,
    style: Style,
    crops: Path,
    seen: Seen,
    apart: bool = False,
) -> Iterator[PageRead]:
    """Record and element dicts of each page, in the given order; crops are written under their hash.
    With `apart` a page that takes OCR is not read: its record says so."""
    if options.strategy == "reference":
        yield from _by_reference(path, numbers[0], numbers[-1], options)
        return
    with pdfium.opened(path) as document, ruled.opened(path) as grids:
        for number in numbers:
            started = time.perf_counter()
            try:
                with pdfium.loaded(document, number) as page:
                    content = pdfium.content(page, number)
                    chosen = _choose(page, content, options.strategy)
                    if apart and chosen.reader in {"ocr", _HIDDEN}:
                        yield _apart(number, chosen.reason), []
                        continue
                    writer = Writer(page, content, crops, style)
                    regions = seen.get(number)
                    reader = _read_page(page, content, chosen, grids, options, writer, regions)
                    writer.unseen()
                made = writer.made
                _name_languages(made, options)
                attach_captions(made)
            except QuireError as problem:
                if not problem.permanent:
                    raise
                yield failed(number, problem, time.perf_counter() - started), []
                continue
            record = PageRecord(
                page=number,
                reader=reader.reader,
                reason=reader.reason,
                seconds=round(time.perf_counter() - started, 4),
                elements=len(made),
            )
            yield record, made


def _apart(page: int, reason: str) -> PageRecord:
    return PageRecord(page=page, reader=APART, reason=reason, seconds=0.0, elements=0)


def failed(page: int, problem: QuireError, seconds: float) -> PageRecord:
    """The record of a page that was not read."""
    return PageRecord(
        page=page,
        reader="failed",
        reason=problem.message,
        seconds=round(seconds, 4),
        elements=0,
        error=problem.as_dict(),
    )


def _by_reference(
    path: Path, first: int, last: int, options: PartitionOptions
) -> Iterator[PageRead]:
    from pipeline.ingest import reference  # pikepdf, and for each page of it the stock library

    started = time.perf_counter()
    found = reference.read(path, first, last, options.languages, options.models)
    each = (time.perf_counter() - started) / (last - first + 1)
    for number in range(first, last + 1):
        mine = [e for e in found if e["metadata"].get("page_number") == number]
        record = PageRecord(
            page=number, reader="reference", reason="as asked", seconds=each, elements=len(mine)
        )
        yield record, mine


def _name_languages(made: list[dict[str, Any]], options: PartitionOptions) -> None:
    words = " ".join(e["text"] for e in made)
    found = list(options.languages or language.detect(words))
    for one in made if found else ():
        one["metadata"]["languages"] = found


def _choose(page: Any, content: PageContent, strategy: str) -> Route:
    """The router's choice. Text over a picture is compared with what the page shows: an invisible
    layer word by word, a few typed words by the ink that they leave out."""
    chosen = route(content, strategy)
    if strategy == "fast" or chosen.reader != "text":
        return chosen
    if hidden_text.is_hidden(content):
        return Route(_HIDDEN, chosen.reason)
    if may_hide_more(content):
        seen = pdfium.ink(page, content.words)
        if seen.share > _SOME_INK and seen.uncovered > _MOST_INK:
            return Route("ocr", f"{seen.uncovered:.0%} of the ink is not in the text layer")
    return chosen


def _read_page(
    page: Any,
    content: PageContent,
    chosen: Route,
    grids: Grids,
    options: PartitionOptions,
    writer: Writer,
    regions: tuple[Region, ...] | None,
) -> Route:
    """Give the writer what the page holds; returns how it was read and why so."""
    if chosen.reader == "blank":
        return chosen
    if options.strategy == "fast":
        blocks = text.read(content, list(enumerate(content.words)), writer.style)
        writer.drawn([*blocks, *_noted(content, blocks)])
        return chosen
    if chosen.reader == _HIDDEN:
        chosen = _scans().checked(page, content, options.languages)
    if regions:
        seen, note = content, f"{len(regions)} regions seen"
        if chosen.reader == "ocr":
            seen = replace(content, words=_scans().words(page, content, options.languages))
            note += f", words by OCR: {chosen.reason}"
        found = hi_res.read(seen, regions)
        if found:
            things = [p.thing for p in found]
            writer.ordered([*things, *_noted_last(content, things)])
            return Route("hi_res", note)
    if chosen.reader == "ocr":
        rather = options.strategy != "ocr_only"
        scan = _scans().read(page, content, options.languages, chosen.reason, layer_too=rather)
        if scan.things:
            writer.ordered([*scan.things, *_noted_last(content, scan.things)])
            return Route("ocr", scan.reason)
        chosen = Route("text", scan.reason)
    _text_page(content, grids, writer)
    return chosen


def _scans() -> ModuleType:
    """Imported when the first scan comes: numpy and tesseract need 40 MB."""
    from pipeline.pdf.ocr import scanned_page

    return scanned_page


def _text_page(content: PageContent, grids: Grids, writer: Writer) -> None:
    lined = grids(content.number) if ruled.may_be_ruled(content.paths) else None
    code = listings.find(content.words)
    held = frozenset[Box]().union(*(one.words for one in code))
    found = find.find_tables(_without(content, held), lined)
    boxes = [t.box for t in found]
    pictures = figures.find_figures(content, boxes)
    free = [
        (i, w)
        for i, w in enumerate(content.words)
        if not any(t.has(w.box) for t in found)
        and not any(p.holds(w.box) for p in pictures)
        and w.box not in held
    ]
    blocks = [*text.read(content, free, writer.style), *(one.block for one in code)]
    blocks += _noted(content, blocks)
    placed: list[tuple[float, int, Any]] = [(b.index, 1, b) for b in blocks]
    for thing, box in [*((t, t.box) for t in found), *((p, p) for p in pictures)]:
        placed.append((_place(content, blocks, box), 0, thing))
    placed.sort(key=lambda item: item[:2])
    writer.drawn([thing for _, _, thing in placed])


def _without(content: PageContent, held: Set[Box]) -> PageContent:
    kept = tuple(w for w in content.words if w.box not in held) if held else content.words
    return replace(content, words=kept)


def _noted(content: PageContent, blocks: list[Block]) -> list[Block]:
    """What annotations and bare form fields say, where they stand, unless the page says it there."""
    made = []
    for note in _from_the_top(content.notes):
        there = " ".join(w.text for w in content.words if note.box.holds(w.box))
        if " ".join(note.text.split()) not in there:
            index = _behind(blocks, note.box) or _place(content, blocks, note.box)
            made.append(_note(note, index))
    return made


def _noted_last(content: PageContent, things: Sequence[Block | Table | Box]) -> list[Block]:
    """The same for a page that a model or OCR has put in order: what nothing on it says comes last."""
    said = "".join("".join(t.text.split()) for t in things if not isinstance(t, Box))
    fresh = [n for n in _from_the_top(content.notes) if "".join(n.text.split()) not in said]
    return [_note(note, float("inf")) for note in fresh]


def _from_the_top(notes: Sequence[Note]) -> list[Note]:
    return sorted(notes, key=lambda n: (n.box.y0, n.box.x0))


def _note(note: Note, index: float) -> Block:
    text = "\n".join(" ".join(line.split()) for line in note.text.splitlines())
    return Block(kind="UncategorizedText", text=text, box=note.box, index=index, note=note.kind)


def _behind(blocks: list[Block], box: Box) -> float | None:
    """Behind the label to its left, on the same line."""
    left = [b for b in blocks if b.box.x1 <= box.x0 + 1 and b.box.y0 < box.y1 and b.box.y1 > box.y0]
    return max(left, key=lambda b: b.box.x1).index + 0.4 if left else None


def _place(content: PageContent, blocks: list[Block], box: Box) -> float:
    """Where a table, figure or note comes among the blocks: at its own first word, else before the
    nearest block below it."""
    inside = [i for i, w in enumerate(content.words) if box.holds(w.box)]
    if inside:
        return min(inside)
    below = [
        b for b in blocks if b.box.y0 >= box.y1 - 4 and b.box.x0 < box.x1 and b.box.x1 > box.x0
    ]
    if below:
        return min(below, key=lambda b: b.box.y0).index - 0.5
    return max((b.index for b in blocks), default=0) + 0.5
