"""pdfium: open, words, drawn paths, pictures, pixels. The only importer of pypdfium2.

Runs inside page processes only: pdfium is not thread safe and a hostile file may abort it. Knows
nothing of elements. Coordinates come out as in `page.py`: points, origin top left, rotation done.
"""

import ctypes
import io
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as raw
from pypdfium2 import PdfiumError

from errors import InputError
from pipeline.page import Box, Frame, Link, PageContent, Word

MAX_OBJECTS = 20_000
MAX_LINKS = 2_000
HYPHEN = "\x02"  # pdfium's own sign for the hyphen at the end of a line
_RUN = re.compile("[^\\0\t\n\r \u00a0\u2028\x02]+\x02?")
_BAD = re.compile("[\x01\x03-\x08\x0b\x0c\x0e-\x1f\ufffd\ue000-\uf8ff]")
_BY_LETTER = re.compile("[\x01\x03-\x1f\u0590-\u08ff\ufb1d-\ufefc]")
_BOLD = re.compile(r"bold|black|heavy|demi|cmbx", re.I)
_MONO = re.compile(r"mono(?!type)|courier|consol|typewriter|cmtt|sourcecode|menlo|firacode", re.I)
_SIGNS = re.compile(r"cmsy|lmmathsymbols", re.I)
# TeX's symbol font has signs where others have digits and small letters, often without saying so.
_SIGN = dict(zip("0123456789abcdefghijklmnopqrstuvwxyz",
                 "′∞∈∋△▽\u0338↦∀∃⊣⌊⌋⌈⌉{}⟨⟩|‖↕⇕∖≀√⨿∇∫⊔⊓⊑⊒§†‡", strict=True))  # fmt: skip
_MATH = re.compile(r"cmmi|cmsy|cmex|msam|msbm|math|rsfs|euf[mb]", re.I)


def _bound(function: Any, result: Any, *arguments: Any) -> Any:
    """The same C function with handles as plain integers: three times cheaper to call."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    return ctypes.CFUNCTYPE(result, *arguments)(address)


_P, _I = ctypes.c_void_p, ctypes.c_int
_count_rects = _bound(raw.FPDFText_CountRects, _I, _P, _I, _I)
_get_rect = _bound(raw.FPDFText_GetRect, _I, _P, _I, _P, _P, _P, _P)
_get_char_box = _bound(raw.FPDFText_GetCharBox, _I, _P, _I, _P, _P, _P, _P)
_get_loose_box = _bound(raw.FPDFText_GetLooseCharBox, _I, _P, _I, _P)
_get_text_object = _bound(raw.FPDFText_GetTextObject, _P, _P, _I)
_get_angle = _bound(raw.FPDFText_GetCharAngle, ctypes.c_float, _P, _I)
_get_weight = _bound(raw.FPDFText_GetFontWeight, _I, _P, _I)
_get_font = _bound(raw.FPDFTextObj_GetFont, _P, _P)
_get_mode = _bound(raw.FPDFTextObj_GetTextRenderMode, _I, _P)
_get_font_name = _bound(raw.FPDFFont_GetBaseFontName, ctypes.c_size_t, _P, _P, ctypes.c_size_t)


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
    text = page.get_textpage()
    try:
        glyphs = _Glyphs(text, space)
        words = tuple(glyphs.words())
    finally:
        text.close()
    paths, images, texts, objects = _objects(page, space)
    return PageContent(
        number=number,
        width=space.width,
        height=space.height,
        words=words,
        paths=tuple(paths),
        images=tuple(images),
        characters=glyphs.seen,
        garbled=glyphs.bad / glyphs.seen if glyphs.seen else 0.0,
        objects=objects,
        frame=space.frame,
        links=tuple(_links(page, space)),
        texts=texts,
    )


class _Look(NamedTuple):
    """What all words of one text object share. `low` and `high` are the font's depth and height
    around the line, in the page's own coordinates; None where the text is turned."""

    angle: int
    low: float | None
    high: float
    bold: bool
    mono: bool
    math: bool
    signs: bool
    invisible: bool


class _Face(NamedTuple):
    """What a font's name and weight say."""

    bold: bool
    mono: bool
    math: bool
    signs: bool


class _Glyphs:
    """The words of a text page. Letters come in one call, boxes in two a word, fonts and angles in
    a few for each text object; only where script or spacing is unusual is each letter asked."""

    def __init__(self, text: Any, space: _Space) -> None:
        self._handle = ctypes.cast(text.raw, ctypes.c_void_p).value
        self._space = space
        self._four = (ctypes.c_double * 4)()
        at = ctypes.addressof(self._four)
        self._at = tuple(ctypes.c_void_p(at + 8 * i) for i in range(4))
        self._letters = _letters(text.raw)
        self._looks: dict[int | None, _Look] = {}
        self._faces: dict[int | None, _Face] = {}
        self.bad = len(_BAD.findall(self._letters))
        self.seen = 0

    def words(self) -> Iterator[Word]:
        for run in _RUN.finditer(self._letters):
            start, end = run.span()
            letters = run.group()
            whole = None if _BY_LETTER.search(letters) else self._whole(start, end)
            if whole is None:
                yield from self._by_letter(start, end)
                continue
            box, pieces = whole
            self.seen += end - start
            if pieces > 1 or self._look(start).signs:
                letters = self._with_signs(start, letters)
            yield self._word(start, letters, box)

    def _with_signs(self, start: int, letters: str) -> str:
        return "".join(
            _SIGN[c] if c in _SIGN and self._look(start + i).signs else c
            for i, c in enumerate(letters)
        )

    def _whole(self, start: int, end: int) -> tuple[Box, int] | None:
        """The box of a run of letters that is one word, drawn in so many pieces near each other."""
        handle, four, at = self._handle, self._four, self._at
        pieces = _count_rects(handle, start, end - start)
        if not 0 < pieces <= end - start or not _get_rect(handle, 0, *at):
            return None
        left, top, right, bottom = four
        for i in range(1, pieces):
            _get_rect(handle, i, *at)
            x0, y1, x1, y0 = four
            height = max(top - bottom, y1 - y0, 1.0)
            if not left - 1 <= x0 <= right + 0.4 * height + 0.6:
                return None
            if min(top, y1) - max(bottom, y0) < 0.05 * height - 1.5:
                return None
            left, bottom = min(left, x0), min(bottom, y0)
            right, top = max(right, x1), max(top, y1)
        if end - start > 1 and top - bottom > right - left and self._look(start).low is not None:
            return None  # perhaps written downwards
        return Box(left, bottom, right, top), pieces

    def _by_letter(self, start: int, end: int) -> Iterator[Word]:
        word: list[str] = []
        first = start
        box = before = Box(0, 0, 0, 0)
        for i in range(start, end):
            letter = self._letters[i]
            if letter < " " and letter != HYPHEN:
                continue
            if not _get_char_box(self._handle, i, *self._at):
                continue
            x0, x1, y0, y1 = self._four
            if x1 <= x0 and y1 <= y0:
                continue
            here = Box(x0, y0, x1, y1)
            self.seen += 1
            if word and _ends(word, letter, box, here):
                yield self._word(first, "".join(word), box)
                word = []
            if not word:
                first, box = i, here
            else:
                box = box.union(here)
            # pdfium turns right-to-left text around letter by letter, a ligature's letters as well
            if word and here == before and is_rtl(letter) and is_rtl(word[-1]):
                word.insert(-1, letter)
            else:
                word.append(letter)
            before = here
        if word:
            yield self._word(first, "".join(word), box)

    def _word(self, start: int, letters: str, tight: Box) -> Word:
        angle, low, high, bold, mono, maths, _, invisible = self._look(start)
        x0, y0, x1, y1 = tight
        if low is not None and high - low <= 3.5 * max(y1 - y0, 3.0):
            y0, y1 = min(y0, low), max(y1, high)
        box = self._space.box(x0, y0, x1, y1)
        if letters[-1] == HYPHEN:
            letters = letters[:-1] + "\u00ad"
        size = box.height if low is not None else box.width
        return Word(letters, box, size, bold, angle, invisible, mono, maths)

    def _look(self, start: int) -> _Look:
        thing = _get_text_object(self._handle, start)
        found = self._looks.get(thing)
        if found is None:
            found = self._looks[thing] = self._looked(start, thing)
        return found

    def _looked(self, start: int, thing: int | None) -> _Look:
        angle = round(_get_angle(self._handle, start) * 57.29578) % 360
        low, high = None, -math.inf
        if angle < 15 or angle > 345:
            low = math.inf
            loose = (ctypes.c_float * 4)()  # left, top, right, bottom
            if _get_loose_box(self._handle, start, ctypes.addressof(loose)):
                low, high = min(loose[1], loose[3]), max(loose[1], loose[3])
        font = _get_font(thing) if thing else None
        face = self._faces.get(font)
        if face is None:
            face = self._faces[font] = _face(font, _get_weight(self._handle, start))
        return _Look(
            angle=(angle - self._space.rotation) % 360,
            low=low,
            high=high,
            bold=face.bold,
            mono=face.mono,
            math=face.math,
            signs=face.signs,
            invisible=bool(thing) and _get_mode(thing) == 3,
        )


def _letters(handle: Any) -> str:
    """One character for each index of the text page, a line's own hyphen as HYPHEN."""
    count = raw.FPDFText_CountChars(handle)
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (count + 1))()
    got = raw.FPDFText_GetText(handle, 0, count, buffer) - 1
    letters = bytes(buffer)[: 2 * max(got, 0)].decode("utf-16-le", "replace")
    if len(letters) != count:  # pdfium leaves control characters out there
        codes = (raw.FPDFText_GetUnicode(handle, i) for i in range(count))
        letters = "".join(
            chr(c) if c < 0x110000 and not 0xD800 <= c < 0xE000 else "\ufffd" for c in codes
        )
    return letters.replace("\ufffe", HYPHEN)


def _face(font: int | None, weight: int) -> _Face:
    if not font:
        return _Face(bold=weight >= 600, mono=False, math=False, signs=False)
    buffer = ctypes.create_string_buffer(200)
    _get_font_name(font, ctypes.addressof(buffer), 200)
    name = buffer.value.decode("utf-8", "replace")
    return _Face(
        bold=weight >= 600 or bool(_BOLD.search(name)),
        mono=bool(_MONO.search(name)),
        math=bool(_MATH.search(name)),
        signs=bool(_SIGNS.search(name)),
    )


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


def _objects(page: Any, space: _Space) -> tuple[list[Box], list[Box], int, int]:
    texts = 0
    paths: list[Box] = []
    images: list[Box] = []
    total = raw.FPDFPage_CountObjects(page.raw)
    a, b, c, d = (ctypes.c_float() for _ in range(4))
    at = (ctypes.byref(a), ctypes.byref(b), ctypes.byref(c), ctypes.byref(d))
    for i in range(min(total, MAX_OBJECTS)):
        thing = raw.FPDFPage_GetObject(page.raw, i)
        kind = raw.FPDFPageObj_GetType(thing)
        if kind == raw.FPDF_PAGEOBJ_TEXT:
            texts += 1
            continue
        if not raw.FPDFPageObj_GetBounds(thing, *at):
            continue
        box = space.box(a.value, b.value, c.value, d.value)
        if kind == raw.FPDF_PAGEOBJ_PATH:
            paths.append(box)
        elif kind in {raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_FORM, raw.FPDF_PAGEOBJ_SHADING}:
            images.append(box)
    return paths, images, texts, total


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
        picture.convert("RGB").save(out, "WEBP", quality=80, method=2)
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
                return Glance(False, letters, len(_BAD.findall(letters)) > 0.1 * len(letters))
            space = _Space(page)
            _, images, _, _ = _objects(page, space)
            area = max(space.width * space.height, 1.0)
            return Glance(any(image.area > 0.4 * area for image in images), letters)
    except (InputError, PdfiumError):
        return Glance()


def is_secured(document: Any) -> bool:
    """Whether an open document is encrypted: it opened without a password."""
    return int(raw.FPDF_GetSecurityHandlerRevision(document.raw)) >= 0
