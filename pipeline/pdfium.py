"""pdfium: open, words, drawn paths, pictures, pixels. The only importer of pypdfium2.

Runs inside page processes only: pdfium is not thread safe and a hostile file may abort it. Knows
nothing of elements. Coordinates come out as in `page.py`: points, origin top left, rotation done.
"""

import ctypes
import io
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from pypdfium2 import PdfiumError

from errors import InputError
from pipeline.page import Box, Frame, PageContent, Word

MAX_OBJECTS = 20_000
_BREAKS = frozenset("\x00\t\n\r \u00a0\u2028\ufffe")


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
        raise InputError(
            "page_unreadable", "This page is damaged.", "Check the page in a PDF program."
        ) from problem
    return float(width), float(height)


class _Space:
    """From a page's own coordinates (origin bottom left, unrotated) to ours."""

    def __init__(self, page: Any) -> None:
        left, bottom, right, top = page.get_bbox()
        self.left, self.bottom, self.right, self.top = left, bottom, right, top
        self.rotation = page.get_rotation()
        across, up = right - left, top - bottom
        self.width, self.height = (up, across) if self.rotation in {90, 270} else (across, up)

    @property
    def frame(self) -> Frame:
        return Frame(self.left, self.bottom, self.right, self.top, self.rotation)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        return self.frame.box(x0, y0, x1, y1)


def content(document: Any, number: int) -> PageContent:
    """Words in the order the page draws them, paths and pictures of one page, from 1."""
    page = _page(document, number)
    try:
        space = _Space(page)
        text = page.get_textpage()
        try:
            words, characters, bad = _words(text, space)
        finally:
            text.close()
        paths, images, objects = _objects(page, space)
        return PageContent(
            number=number,
            width=space.width,
            height=space.height,
            words=tuple(words),
            paths=tuple(paths),
            images=tuple(images),
            characters=characters,
            garbled=bad / characters if characters else 0.0,
            objects=objects,
            frame=space.frame,
        )
    finally:
        page.close()


def _page(document: Any, number: int) -> Any:
    try:
        return document[number - 1]
    except PdfiumError as problem:
        raise InputError(
            "page_unreadable", "This page is damaged.", "Check the page in a PDF program."
        ) from problem


def _words(text: Any, space: _Space) -> tuple[list[Word], int, int]:
    handle = text.raw
    count = raw.FPDFText_CountChars(handle)
    get_unicode, get_box = raw.FPDFText_GetUnicode, raw.FPDFText_GetCharBox
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    at = (ctypes.byref(left), ctypes.byref(right), ctypes.byref(bottom), ctypes.byref(top))
    words: list[Word] = []
    letters: list[str] = []
    start = bad = seen = 0
    x0 = y0 = x1 = y1 = 0.0
    before: tuple[float, float, float, float] | None = None

    def close() -> None:
        if letters:
            words.append(_word(handle, start, "".join(letters), space, (x0, y0, x1, y1)))
            letters.clear()

    def add(letter: str, *, ligature: bool) -> None:
        # pdfium turns right-to-left text around letter by letter, a ligature's letters as well
        if ligature and is_rtl(letter) and is_rtl(letters[-1]):
            letters.insert(-1, letter)
        else:
            letters.append(letter)

    for i in range(count):
        code = get_unicode(handle, i)
        letter = chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
        if letter in _BREAKS:
            close()
            continue
        if code < 32 or letter == "\ufffd" or 0xE000 <= code < 0xF900:
            bad += 1
            if code < 32:
                continue
        if not get_box(handle, i, *at):
            continue
        a, b, c, d = left.value, right.value, bottom.value, top.value
        if b <= a and d <= c:
            continue
        seen += 1
        if letters:
            # The common case without a call: close to the right, on the line, left-to-right.
            near = x0 - 1 <= a <= x1 + 0.4 * (d - c) and c < y1 and y0 < d < c + 30
            plain = code < 0x590 and letters[-1] < "\u0590" and y1 - y0 < 30
            if not (near and plain) and _ends(
                letters, letter, Box(x0, y0, x1, y1), Box(a, c, b, d)
            ):
                close()
        if letters:
            x0 = a if a < x0 else x0
            y0 = c if c < y0 else y0
            x1 = b if b > x1 else x1
            y1 = d if d > y1 else y1
        else:
            start, x0, y0, x1, y1 = i, a, c, b, d
        here = (a, b, c, d)
        add(letter, ligature=bool(letters) and here == before)
        before = here
    close()
    return words, seen, bad


def _ends(letters: Sequence[str], letter: str, word: Box, box: Box) -> bool:
    """Whether a word is over before that letter: by a gap, or where the script turns around."""
    if len(letters) > 1 and word.height > 2 * word.width:
        return False  # written downwards
    rtl = is_rtl(letter)
    if rtl and unicodedata.category(letter) == "Mn":
        return False  # a mark stands above another letter
    height = max(word.height, box.height, 1.0)
    apart = min(word.y1, box.y1) - max(word.y0, box.y0) < 0.05 * height - 1.5
    gap = 0.4 * height + 0.6
    if rtl:
        away = word.x0 - box.x1 > gap or box.x1 > word.x1 + 1
    else:
        away = box.x0 - word.x1 > gap or box.x0 < word.x0 - 1
    turns = letter.isalpha() and letters[-1].isalpha() and rtl != is_rtl(letters[-1])
    return away or apart or turns


def is_rtl(letter: str) -> bool:
    """Hebrew, Arabic and their neighbours, presentation forms included."""
    return "\u0590" <= letter <= "\u08ff" or "\ufb1d" <= letter <= "\ufefc"


def _word(
    handle: Any, start: int, text: str, space: _Space, tight: tuple[float, float, float, float]
) -> Word:
    x0, y0, x1, y1 = tight
    loose = raw.FS_RECTF()
    angle = round(raw.FPDFText_GetCharAngle(handle, start) * 57.29578) % 360
    upright = angle < 15 or angle > 345
    if upright and raw.FPDFText_GetLooseCharBox(handle, start, ctypes.byref(loose)):
        low, high = min(loose.bottom, loose.top), max(loose.bottom, loose.top)
        if high - low <= 3.5 * max(y1 - y0, 3.0):
            y0, y1 = min(y0, low), max(y1, high)
    box = space.box(x0, y0, x1, y1)
    weight = raw.FPDFText_GetFontWeight(handle, start)
    mode = raw.FPDFText_GetTextRenderMode(handle, start) if _HAS_MODE else 0
    return Word(
        text,
        box,
        box.height if upright else box.width,
        bold=weight >= 600,
        angle=(angle - space.rotation) % 360,
        invisible=mode == 3,
    )


_HAS_MODE = hasattr(raw, "FPDFText_GetTextRenderMode")


def _objects(page: Any, space: _Space) -> tuple[list[Box], list[Box], int]:
    paths: list[Box] = []
    images: list[Box] = []
    total = raw.FPDFPage_CountObjects(page.raw)
    a, b, c, d = (ctypes.c_float() for _ in range(4))
    at = (ctypes.byref(a), ctypes.byref(b), ctypes.byref(c), ctypes.byref(d))
    for i in range(min(total, MAX_OBJECTS)):
        thing = raw.FPDFPage_GetObject(page.raw, i)
        kind = raw.FPDFPageObj_GetType(thing)
        if kind == raw.FPDF_PAGEOBJ_TEXT or not raw.FPDFPageObj_GetBounds(thing, *at):
            continue
        box = space.box(a.value, b.value, c.value, d.value)
        if kind == raw.FPDF_PAGEOBJ_PATH:
            paths.append(box)
        elif kind in {raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_FORM, raw.FPDF_PAGEOBJ_SHADING}:
            images.append(box)
    return paths, images, total


def render(
    document: Any, number: int, *, dpi: float = 72, long_side: int = 2200, gray: bool = False
) -> Any:
    """A page as a Pillow image at that resolution, or less: `long_side` caps the pixels."""
    page = _page(document, number)
    try:
        width, height = page.get_size()
        scale = min(dpi / 72, long_side / max(width, height, 1.0))
        bitmap = page.render(scale=max(scale, 1e-4), grayscale=gray, rev_byteorder=True)
        try:
            return bitmap.to_pil().copy()
        finally:
            bitmap.close()
    finally:
        page.close()


def page_image(path: Path, number: int, width: int) -> bytes:
    """A page as WebP, `width` pixels wide; runs in a page process."""
    with opened(path) as document:
        across, down = page_size(document, number)
        long_side = round(width * max(1.0, down / max(across, 1.0)))
        picture = render(document, number, dpi=72 * width / max(across, 1.0), long_side=long_side)
        out = io.BytesIO()
        picture.convert("RGB").save(out, "WEBP", quality=80, method=2)
        return out.getvalue()


def is_scan(document: Any, number: int) -> bool:
    """A page of pictures without text: cheap, for the estimate."""
    try:
        page = _page(document, number)
    except InputError:
        return False
    try:
        text = page.get_textpage()
        try:
            characters = raw.FPDFText_CountChars(text.raw)
        finally:
            text.close()
        if characters >= 25:
            return False
        space = _Space(page)
        _, images, _ = _objects(page, space)
        area = max(space.width * space.height, 1.0)
        return any(image.area > 0.4 * area for image in images)
    finally:
        page.close()
