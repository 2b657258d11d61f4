"""pdfium: open, drawn paths, pictures, links, pixels. With `text_layer.py` and `annotations.py` the only
importer of pypdfium2.

Runs inside page processes only: pdfium is not thread safe and a hostile file may abort it. Knows
nothing of elements. Coordinates come out as in `page.py`: points, origin top left, rotation done.
"""

import ctypes
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as raw
import pypdfium2_raw
from pypdfium2 import PdfiumError

from errors import InputError
from pipeline.pdf.annotations import notes
from pipeline.pdf.glyphs import BAD, bound
from pipeline.pdf.page import Box, Frame, Link, PageContent, Word
from pipeline.pdf.text_layer import Written, written

LIBRARY = Path(pypdfium2_raw.__file__).parent / "libpdfium.so"  # whoever else needs PDFium
MAX_OBJECTS = 20_000
MAX_LINKS = 2_000
_P, _I = ctypes.c_void_p, ctypes.c_int
_get_object = bound(raw.FPDFPage_GetObject, _P, _P, _I)
_get_type = bound(raw.FPDFPageObj_GetType, _I, _P)
_get_bounds = bound(raw.FPDFPageObj_GetBounds, _I, _P, _P, _P, _P, _P)
_get_draw_mode = bound(raw.FPDFPath_GetDrawMode, _I, _P, _P, _P)
TINY = 1.0  # points: text below that height cannot be read by anybody
SEEN = 24  # of 255: how much darker or lighter than what is around it a letter must be


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The document, or damaged_pdf."""
    try:
        document = pdfium.PdfDocument(path)
    except PdfiumError as problem:
        raise InputError(
            "damaged_pdf",
            "The file is damaged and cannot be opened.",
            "Open and save it again in a PDF program, then submit that copy.",
        ) from problem
    try:
        yield document
    finally:
        document.close()


def page_size(document: Any, number: int) -> tuple[float, float]:
    """Width and height in points of a page counted from 1, without loading it."""
    try:
        width, height = document.get_page_size(number - 1)
    except PdfiumError as problem:
        raise _unreadable() from problem
    return float(width), float(height)


def _unreadable() -> InputError:
    return InputError(
        "page_unreadable", "This page is damaged.", "Check the page in a PDF program."
    )


class _Space:
    """From a page's own coordinates (origin bottom left, unrotated) to ours."""

    def __init__(self, page: Any) -> None:
        left, bottom, right, top = page.get_bbox()
        self.rotation = page.get_rotation()
        across, up = right - left, top - bottom
        self.width, self.height = (up, across) if self.rotation in {90, 270} else (across, up)
        self.frame = Frame(left, bottom, right, top, self.rotation)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        return self.frame.box(x0, y0, x1, y1)


@contextmanager
def loaded(document: Any, number: int) -> Iterator[Any]:
    """One page, counted from 1, parsed once for all that is asked of it; or page_unreadable."""
    try:
        page = document[number - 1]
    except PdfiumError as problem:
        raise _unreadable() from problem
    try:
        yield page
    finally:
        page.close()


def content(page: Any, number: int) -> PageContent:
    """Words in the order the page draws them, paths, pictures and links of a loaded page."""
    space = _Space(page)
    found = written(page, number, space.frame)
    drawn = _objects(page, space)
    hidden = _hidden(page, found, drawn, space)
    shown = tuple(w for w in found.words if w not in hidden) if hidden else found.words
    unseen = sum(len(w.text) for w in hidden)
    return PageContent(
        number=number,
        width=space.width,
        height=space.height,
        words=shown,
        paths=tuple(drawn.paths),
        images=tuple(drawn.images),
        characters=max(0, found.characters - unseen),
        garbled=found.garbled,
        objects=drawn.total,
        frame=space.frame,
        links=tuple(_links(page, space)),
        texts=drawn.texts,
        hidden=tuple(w for w in found.words if w in hidden),
        notes=notes(page, number, space.frame),
    )


class _Drawn(NamedTuple):
    """The objects of a page: boxes of paths and pictures, how many are text, how many there are;
    `covers` are fills that are drawn after text, with their place in the drawing order, and `order`
    has the place of each text object."""

    paths: list[Box]
    images: list[Box]
    texts: int
    total: int
    covers: list[tuple[int, Box]]
    order: dict[int, int]


def _objects(page: Any, space: _Space) -> _Drawn:
    texts: dict[int, int] = {}
    paths: list[Box] = []
    images: list[Box] = []
    covers: list[tuple[int, Box]] = []
    handle = ctypes.cast(page.raw, ctypes.c_void_p).value
    total = raw.FPDFPage_CountObjects(page.raw)
    sides = (ctypes.c_float * 4)()
    at = tuple(ctypes.addressof(sides) + 4 * i for i in range(4))
    for i in range(min(total, MAX_OBJECTS)):
        thing = _get_object(handle, i)
        kind = _get_type(thing)
        if kind == raw.FPDF_PAGEOBJ_TEXT:
            texts[thing] = i
            continue
        if not _get_bounds(thing, *at):
            continue
        box = space.box(*sides)
        if kind == raw.FPDF_PAGEOBJ_PATH:
            paths.append(box)
            if texts and min(box.width, box.height) > 4 and _is_filled(thing):
                covers.append((i, box))
        elif kind in {raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_FORM, raw.FPDF_PAGEOBJ_SHADING}:
            images.append(box)
    return _Drawn(paths, images, len(texts), total, covers, texts)


def _is_filled(path: int) -> bool:
    modes = (ctypes.c_int * 2)()
    at = ctypes.addressof(modes)
    _get_draw_mode(path, at, at + 4)
    return modes[0] != 0


def _hidden(page: Any, found: Written, drawn: _Drawn, space: _Space) -> set[Word]:
    """The words that nobody sees. Those that may be pale, covered or of a layer that is off are
    looked for in a picture of the page."""
    whole = Box(0, 0, space.width, space.height)
    hidden: set[Word] = set()
    doubtful: list[Word] = []
    for word, thing in zip(found.words, found.objects, strict=True):
        size = max(word.size, word.box.width / len(word.text))
        if not whole.holds(word.box) or size < TINY:
            hidden.add(word)
        elif word.invisible:
            if not any(image.holds(word.box) for image in drawn.images):
                hidden.add(word)
        elif word.doubtful or _is_covered(word.box, drawn, thing):
            doubtful.append(word)
    if doubtful:
        part = reduce(Box.union, (w.box for w in doubtful)).clipped(space.width, space.height)
        picture = render(page, dpi=72, gray=True, box=part)
        across, down = picture.width / part.width, picture.height / part.height
        for word in doubtful:
            x0, y0, x1, y1 = word.box
            corner = int((x0 - part.x0) * across), int((y0 - part.y0) * down)
            right = min(round((x1 - part.x0) * across) + 1, picture.width)
            lower = min(round((y1 - part.y0) * down) + 1, picture.height)
            low, high = picture.crop((*corner, right, lower)).getextrema()
            if high - low < SEEN:
                hidden.add(word)
    return hidden


def _is_covered(box: Box, drawn: _Drawn, thing: int | None) -> bool:
    """Whether something opaque is drawn over it later."""
    at = drawn.order.get(thing or 0) if drawn.covers else None
    if at is None or at > drawn.covers[-1][0]:
        return False
    x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
    later = bisect_right(drawn.covers, at, key=itemgetter(0))
    return any(x0 <= x <= x1 and y0 <= y <= y1 for _, (x0, y0, x1, y1) in drawn.covers[later:])


def _links(page: Any, space: _Space) -> Iterator[Link]:
    """Where the page leads to an address outside the document."""
    at, link = ctypes.c_int(0), raw.FPDF_LINK()
    rect = raw.FS_RECTF()
    for _ in range(MAX_LINKS):
        if not raw.FPDFLink_Enumerate(page.raw, ctypes.byref(at), ctypes.byref(link)):
            return
        action = raw.FPDFLink_GetAction(link)
        if not action or raw.FPDFAction_GetType(action) != raw.PDFACTION_URI:
            continue
        size = raw.FPDFAction_GetURIPath(page.pdf.raw, action, None, 0)
        buffer = ctypes.create_string_buffer(min(size, 4096))
        raw.FPDFAction_GetURIPath(page.pdf.raw, action, buffer, len(buffer))
        if raw.FPDFLink_GetAnnotRect(link, ctypes.byref(rect)):
            low, high = sorted((rect.bottom, rect.top))
            url = buffer.value.decode("utf-8", "replace")
            yield Link(url, space.box(rect.left, low, rect.right, high))


def render(
    page: Any,
    *,
    dpi: float = 72,
    long_side: int = 2200,
    gray: bool = False,
    box: Box | None = None,
) -> Any:
    """A loaded page, or the part of it in `box`, as a Pillow image at that resolution, or less:
    `long_side` caps the pixels of the page or the part."""
    width, height = page.get_size()
    part = box or Box(0, 0, width, height)
    scale = max(min(dpi / 72, long_side / max(part.width, part.height, 1.0)), 1e-4)
    cut = (part.x0, height - part.y1, width - part.x1, part.y0)
    bitmap = page.render(
        scale=scale,
        crop=tuple(max(0.0, side) for side in cut),
        grayscale=gray,
        rev_byteorder=True,
    )
    try:
        return bitmap.to_pil().copy()
    finally:
        bitmap.close()


class Ink(NamedTuple):
    """The share of a page that is inked, and the share of that ink that no word of its text covers."""

    share: float
    uncovered: float


def ink(page: Any, words: Sequence[Word], *, dpi: float = 36) -> Ink:
    """What a loaded page shows beside those words. Ink is what differs from the commonest shade."""
    from PIL import ImageDraw  # for pages that have a picture: page processes stay small

    picture = render(page, dpi=dpi, gray=True)
    shades = picture.histogram()
    ground = shades.index(max(shades))
    inked = picture.point([255 if abs(v - ground) > 64 else 0 for v in range(256)])
    whole = inked.histogram()[255]
    draw = ImageDraw.Draw(inked)
    across, down = picture.width / page.get_width(), picture.height / page.get_height()
    for x0, y0, x1, y1 in (w.box for w in words):
        draw.rectangle((x0 * across, y0 * down, x1 * across, y1 * down), fill=0)
    left = inked.histogram()[255]
    return Ink(whole / (picture.width * picture.height), left / whole if whole else 0.0)


def crop(page: Any, box: Box, *, dpi: float, long_side: int) -> bytes | None:
    """A part of a loaded page, with a margin of 2 points, as JPEG; None when it is empty. Only what
    lies in the part is drawn."""
    width, height = page.get_size()
    part = Box(
        max(0.0, box.x0 - 2), max(0.0, box.y0 - 2), min(width, box.x1 + 2), min(height, box.y1 + 2)
    )
    if part.width < 1 or part.height < 1:
        return None
    out = io.BytesIO()
    render(page, dpi=dpi, long_side=long_side, box=part).convert("RGB").save(
        out, "JPEG", quality=80
    )
    return out.getvalue()


def page_image(path: Path, number: int, width: int) -> bytes:
    """A page as WebP, `width` pixels wide; runs in a page process."""
    with opened(path) as document:
        across, down = page_size(document, number)
        long_side = round(width * max(1.0, down / max(across, 1.0)))
        with loaded(document, number) as page:
            picture = render(page, dpi=72 * width / max(across, 1.0), long_side=long_side)
        out = io.BytesIO()
        picture.convert("RGB").save(out, "WEBP", quality=77, method=1)
        return out.getvalue()


class Glance(NamedTuple):
    """Whether a page is a picture without text, and the beginning of its text layer."""

    scan: bool = False
    text: str = ""
    garbled: bool = False


def glance(document: Any, number: int) -> Glance:
    """What a page is, cheaply, for the estimate; nothing when it cannot be read."""
    try:
        with loaded(document, number) as page:
            text = page.get_textpage()
            try:
                count = raw.FPDFText_CountChars(text.raw)
                letters = text.get_text_range(0, min(count, 1000)) if count > 0 else ""
            finally:
                text.close()
            if count >= 25:
                return Glance(False, letters, len(BAD.findall(letters)) > 0.1 * len(letters))
            space = _Space(page)
            images = _objects(page, space).images
            area = max(space.width * space.height, 1.0)
            return Glance(any(image.area > 0.4 * area for image in images), letters)
    except (InputError, PdfiumError):
        return Glance()


def is_secured(document: Any) -> bool:
    """Whether an open document is encrypted: it opened without a password."""
    return int(raw.FPDF_GetSecurityHandlerRevision(document.raw)) >= 0
