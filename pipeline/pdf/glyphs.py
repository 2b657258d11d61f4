"""The letters of a text page as pdfium has them, put together to words: their places, fonts, accents,
raised digits, and what is turned.

Letters come in runs, boxes and fonts are asked for as seldom as can be. Knows nothing of form fields
or elements.
"""

import ctypes
import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pypdfium2.raw as raw

from pipeline.pdf import vertical_text
from pipeline.pdf.page import Box, Frame, Word
from pipeline.pdf.scripts import BY_LETTER, RTL, SQUARE

HYPHEN = "\x02"  # pdfium's own sign for the hyphen at the end of a line
_RUN = re.compile("[^\\0\t\n\r \u00a0\u2028\x02]+\x02?")
BAD = re.compile("[\x01\x03-\x08\x0b\x0c\x0e-\x1f\ufffd\ue000-\uf8ff]")
_BOLD = re.compile(r"bold|black|heavy|demi|(cm|sf|lm)\w*bx|sfsx|-medi(?!um)|[a-z]TB\b", re.I)
_NAMED = re.compile(r"(?:[A-Z]{6}\+)?\w*[A-Za-z]{3}")
_MONO = re.compile(r"mono(?!type)|courier|consol|typewriter|cmtt|sourcecode|menlo|firacode", re.I)
_SIGNS = re.compile(r"cmsy|lmmathsymbols", re.I)
# TeX's symbol font has signs where others have digits and small letters, often without saying so.
_SIGN = dict(zip("0123456789abcdefghijklmnopqrstuvwxyz",
                 "′∞∈∋△▽\u0338↦∀∃⊣⌊⌋⌈⌉{}⟨⟩|‖↕⇕∖≀√⨿∇∫⊔⊓⊑⊒§†‡", strict=True))  # fmt: skip
_ACCENT = dict(zip("`´^ˆ~˜¯˘˙¨˚˝ˇ¸˛",
                   "\u0300\u0301\u0302\u0302\u0303\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328", strict=True))  # fmt: skip
_ACCENTED = re.compile("[`´^ˆ~˜¯˘˙¨˚˝ˇ¸˛]")
_DOTLESS = str.maketrans("ıȷ", "ij")
_DIGIT = re.compile(r"\d")
_PALE = 240  # of 255: text in that colour is looked for in the picture of its page
_MATH = re.compile(r"cmmi|cmsy|cmex|msam|msbm|math|rsfs|euf[mb]", re.I)


def bound(function: Any, result: Any, *arguments: Any) -> Any:
    """The same C function with handles as plain integers: three times cheaper to call."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    return ctypes.CFUNCTYPE(result, *arguments)(address)


_P, _I = ctypes.c_void_p, ctypes.c_int
_count_rects = bound(raw.FPDFText_CountRects, _I, _P, _I, _I)
_get_rect = bound(raw.FPDFText_GetRect, _I, _P, _I, _P, _P, _P, _P)
_get_char_box = bound(raw.FPDFText_GetCharBox, _I, _P, _I, _P, _P, _P, _P)
_get_loose_box = bound(raw.FPDFText_GetLooseCharBox, _I, _P, _I, _P)
_get_text_object = bound(raw.FPDFText_GetTextObject, _P, _P, _I)
_get_weight = bound(raw.FPDFText_GetFontWeight, _I, _P, _I)
_get_font = bound(raw.FPDFTextObj_GetFont, _P, _P)
_get_mode = bound(raw.FPDFTextObj_GetTextRenderMode, _I, _P)
_get_matrix = bound(raw.FPDFText_GetMatrix, _I, _P, _I, _P)
_get_origin = bound(raw.FPDFText_GetCharOrigin, _I, _P, _I, _P, _P)
_get_font_size = bound(raw.FPDFText_GetFontSize, ctypes.c_double, _P, _I)
_is_generated = bound(raw.FPDFText_IsGenerated, _I, _P, _I)
_get_fill = bound(raw.FPDFPageObj_GetFillColor, _I, _P, _P, _P, _P, _P)
_count_marks = bound(raw.FPDFPageObj_CountMarks, _I, _P)
_get_mark = bound(raw.FPDFPageObj_GetMark, _P, _P, ctypes.c_ulong)
_get_mark_name = bound(raw.FPDFPageObjMark_GetName, _I, _P, _P, ctypes.c_ulong, _P)
_get_font_ascent = bound(raw.FPDFFont_GetAscent, _I, _P, ctypes.c_float, _P)
_get_font_descent = bound(raw.FPDFFont_GetDescent, _I, _P, ctypes.c_float, _P)
_get_glyph_width = bound(raw.FPDFFont_GetGlyphWidth, _I, _P, ctypes.c_uint, ctypes.c_float, _P)
_get_font_name = bound(raw.FPDFFont_GetBaseFontName, ctypes.c_size_t, _P, _P, ctypes.c_size_t)


class _Look(NamedTuple):
    """What all words of one text object share. `low` and `high` are the font's depth and height
    around the line, in the page's own coordinates turned by `quarter` so that the text is upright;
    None where it is not turned by a right angle."""

    angle: int
    quarter: int
    low: float | None
    high: float
    bold: bool
    mono: bool
    math: bool
    signs: bool
    invisible: bool
    doubtful: bool


class _Face(NamedTuple):
    """What a font's name and weight say."""

    bold: bool
    mono: bool
    math: bool
    signs: bool


class Glyphs:
    """The words of a text page. Letters come in one call, boxes in two a word, fonts and angles in
    a few for each text object; only where script or spacing is unusual is each letter asked."""

    def __init__(self, text: Any, frame: Frame) -> None:
        self._handle = ctypes.cast(text.raw, ctypes.c_void_p).value
        self._frame = frame
        self._four = (ctypes.c_double * 4)()
        at = ctypes.addressof(self._four)
        self._at = tuple(ctypes.c_void_p(at + 8 * i) for i in range(4))
        self._matrix = (ctypes.c_float * 6)()
        self._at_matrix = ctypes.addressof(self._matrix)
        self._letters = _letters(text.raw)
        self._looks: dict[int | None, _Look] = {}
        self._looked_at = -1  # the letter that was looked at last, which has these
        self._thing: int | None = None
        self._now: _Look
        self._faces: dict[int | None, _Face] = {}
        self.bad = len(BAD.findall(self._letters))
        self.seen = 0
        self.downward = False

    def words(self) -> Iterator[tuple[Word, int | None]]:
        """Each with its text object."""
        sideways: list[tuple[int, int]] = []
        for start, end in self._runs():
            quarter = self._look(start).quarter
            if sideways and quarter != self._look(sideways[-1][0]).quarter:
                yield from self._sideways(sideways)
                sideways = []
            if quarter:
                sideways.append((start, end))
                continue
            raised = self._raised(start, end) if _DIGIT.match(self._letters[end - 1]) else end
            if start < raised:
                yield from self._upright(start, raised)
            if raised < end:
                yield from self._upright(raised, end)
        yield from self._sideways(sideways)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Where letters begin and end that nothing parts. On a page of a few lines pdfium may take
        letters that are drawn one by one for lines of their own."""
        held: tuple[int, int] | None = None
        for run in _RUN.finditer(self._letters):
            start, end = run.span()
            if held and start - held[1] == 2 and self._touches(held[1] - 1, start):
                held = held[0], end
                continue
            if held:
                yield held
            held = start, end
        if held:
            yield held

    def _touches(self, last: int, letter: int) -> bool:
        """Whether a letter behind a line's end stands right behind the one before it."""
        if not _is_generated(self._handle, letter - 1):
            return False
        _get_origin(self._handle, last, self._at[0], self._at[1])
        line = self._four[1]
        _get_origin(self._handle, letter, self._at[0], self._at[1])
        if abs(self._four[1] - line) > 0.5 or self._look(letter).angle:
            return False
        return abs(self._advance(letter, 0)[0] - self._advance(last, 0)[1]) < 0.1 * self._size(last)

    def _upright(self, start: int, end: int) -> Iterable[tuple[Word, int | None]]:
        """The words of a run of letters; nearly always one."""
        letters = self._letters[start:end]
        whole = None if BY_LETTER.search(letters) else self._whole(start, end)
        if whole is None:
            column = self._column(start, letters)
            return self._by_letter(start, end) if column is None else (column,)
        box, pieces = whole
        self.seen += end - start
        if pieces > 1 or self._look(start).signs:
            letters = self._with_signs(start, letters)
        if _ACCENTED.search(letters):
            letters = self._with_accents(start, letters)
        return (self._word(start, letters.replace("\r\n", ""), box),)

    def _sideways(self, runs: Sequence[tuple[int, int]]) -> Iterator[tuple[Word, int | None]]:
        """Runs of text turned by one right angle. pdfium finds their spaces by the letters' boxes on
        the page, which is wrong there: only those that the file has part words, and gaps."""
        if not runs:
            return
        quarter = self._look(runs[0][0]).quarter
        made: list[tuple[Box, str, int]] = []
        backwards = parted = False
        begin = end = 0.0  # of the word, along its line
        for i in range(runs[0][0], runs[-1][1]):
            letter = self._letters[i]
            if letter <= " " and letter != HYPHEN or letter == "\u00a0":
                parted = parted or not _is_generated(self._handle, i)
                continue
            drawn = self._box(i)
            if drawn is None:
                continue
            self.seen += 1
            here = drawn.turned(quarter)
            start, after = self._advance(i, quarter)
            gap = 0.13 * self._size(i)
            along = bool(made) and _on_one_line(made[-1][0], here)
            if not parted and along and -3 * gap < start - end < gap:
                made[-1] = made[-1][0].union(here), made[-1][1] + letter, made[-1][2]
                end = after
            elif not parted and along and -3 * gap < begin - after < gap:
                made[-1] = made[-1][0].union(here), letter + made[-1][1], made[-1][2]
                begin, backwards = start, True
            else:
                backwards |= along and start < begin  # upside down, they are given from the right
                made.append((here, letter, i))
                begin, end = start, after
            parted = False
        for box, letters, first in _from_the_left(made) if backwards else made:
            yield self._word(first, letters, box.turned(-quarter))

    def _box(self, i: int) -> Box | None:
        """Of a letter, in the page's own coordinates; None when nothing is drawn."""
        if not _get_char_box(self._handle, i, *self._at):
            return None
        x0, x1, y0, y1 = self._four
        return Box(x0, y0, x1, y1) if x1 > x0 or y1 > y0 else None

    def _advance(self, i: int, quarter: int) -> tuple[float, float]:
        """Where a letter begins on its line and where the next one would, as if upright."""
        _get_origin(self._handle, i, self._at[0], self._at[1])
        x, y = self._four[0], self._four[1]
        size = self._size(i)
        start = Box(x, y, x, y).turned(quarter).x0
        thing = _get_text_object(self._handle, i)
        font = _get_font(thing) if thing else None
        width = ctypes.c_float(0)
        if font:
            _get_glyph_width(font, ord(self._letters[i]), 1.0, ctypes.addressof(width))
        return start, start + (width.value or 0.6) * size

    def _size(self, i: int) -> float:
        """The height of the font's square, in points."""
        _get_matrix(self._handle, i, self._at_matrix)
        return float(_get_font_size(self._handle, i) * math.hypot(self._matrix[2], self._matrix[3]))

    def _angle(self, i: int) -> int:
        """Degrees clockwise of the line that a letter stands on. A slanted one is not turned, though
        pdfium says so."""
        if not _get_matrix(self._handle, i, self._at_matrix):
            return 0
        return round(-math.degrees(math.atan2(self._matrix[1], self._matrix[0]))) % 360

    def _with_signs(self, start: int, letters: str) -> str:
        return "".join(
            _SIGN[c] if c in _SIGN and self._look(start + i).signs else c
            for i, c in enumerate(letters)
        )

    def _with_accents(self, start: int, letters: str) -> str:
        """Accents that stand by themselves over a letter, as TeX draws them, put on it."""
        made = list(letters)
        for i in (m.start() for m in _ACCENTED.finditer(letters)):
            if not _get_char_box(self._handle, start + i, *self._at):
                continue
            middle = (self._four[0] + self._four[1]) / 2
            for beside in (i + 1, i - 1):
                if not 0 <= beside < len(letters) or not letters[beside].isalpha():
                    continue
                _get_char_box(self._handle, start + beside, *self._at)
                if self._four[0] - 0.3 <= middle <= self._four[1] + 0.3:
                    made[beside] = letters[beside].translate(_DOTLESS) + _ACCENT[letters[i]]
                    made[i] = ""
                    break
        return "".join(made)

    def _raised(self, start: int, end: int) -> int:
        """Where digits begin that are set smaller and higher than what stands before them: the mark
        of a note, an exponent."""
        first = self._look(start)
        if self._look(end - 1) is first:
            return end
        for i in range(start + 1, end):
            look = self._look(i)
            if look is first or look.low is None or first.low is None:
                continue
            smaller = look.high - look.low < 0.85 * (first.high - first.low)
            if smaller and look.low > first.low + 0.1 * (first.high - first.low):
                return i if self._letters[i:end].isdigit() else end
        return end

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

    def _column(self, start: int, letters: str) -> tuple[Word, int | None] | None:
        """That run as one word where it is Chinese or Japanese and written downwards."""
        if len(letters) < 2 or not SQUARE.search(letters):
            return None
        boxes = []
        for i in range(start, start + len(letters)):
            seen = _get_char_box(self._handle, i, *self._at)
            x0, x1, y0, y1 = self._four
            if seen and x1 - x0 > 0.1:
                boxes.append(self._frame.box(x0, y0, x1, y1))
        if not vertical_text.is_column(boxes):
            return None
        self.downward = True
        self.seen += len(letters)
        look, around = self._look(start), functools.reduce(Box.union, boxes)
        word = Word(letters, around, around.width, look.bold, vertical_text.DOWN, look.invisible)
        return word, _get_text_object(self._handle, start)

    def _by_letter(self, start: int, end: int) -> Iterator[tuple[Word, int | None]]:
        word: list[str] = []
        first = start
        box = before = Box(0, 0, 0, 0)
        for i in range(start, end):
            letter = self._letters[i]
            if letter < " " and letter != HYPHEN:
                continue
            here = self._box(i)
            if here is None:
                continue
            self.seen += 1
            if word and _ends(word, letter, box, here):
                yield self._word(first, "".join(word), box)
                word = []
            if not word:
                first, box = i, here
            else:
                box = box.union(here)
            # pdfium turns right-to-left text around letter by letter, a ligature's letters as well
            if word and here == before and RTL.match(letter) and RTL.match(word[-1]):
                word.insert(-1, letter)
            else:
                word.append(letter)
            before = here
        if word:
            yield self._word(first, "".join(word), box)

    def _word(self, start: int, letters: str, tight: Box) -> tuple[Word, int | None]:
        angle, quarter, low, high, bold, mono, math_, _, invisible, doubtful = self._look(start)
        x0, y0, x1, y1 = tight.turned(quarter) if quarter else tight
        flat = y1 - y0 < 0.1  # a letter of a font that is neither in the file nor here
        if low is not None and (flat or high - low <= 3.5 * max(y1 - y0, 3.0)):
            y0, y1 = min(y0, low), max(y1, high)
        height = y1 - y0
        if quarter:
            x0, y0, x1, y1 = Box(x0, y0, x1, y1).turned(-quarter)
        box = self._frame.box(x0, y0, x1, y1)
        if not letters.isascii():  # a soft hyphen is drawn, too
            letters = unicodedata.normalize("NFC", letters.replace("\u00ad", "-"))
        letters = letters.replace(HYPHEN, "\u00ad")
        size = height if low is not None else box.width
        word = Word(letters, box, size, bold, angle, invisible, mono, math_, doubtful)
        return word, self._thing

    def _look(self, start: int) -> _Look:
        if self._looked_at != start:
            thing = _get_text_object(self._handle, start)
            found = self._looks.get(thing)
            if found is None:
                found = self._looks[thing] = self._looked(start, thing)
            self._looked_at, self._thing, self._now = start, thing, found
        return self._now

    def _looked(self, start: int, thing: int | None) -> _Look:
        angle = self._angle(start)
        low, high, quarter = None, -math.inf, 0
        if angle < 15 or angle > 345:
            low = math.inf
            loose = (ctypes.c_float * 4)()  # left, top, right, bottom
            if _get_loose_box(self._handle, start, ctypes.addressof(loose)):
                low, high = min(loose[1], loose[3]), max(loose[1], loose[3])
        font = _get_font(thing) if thing else None
        if low is None and min(angle % 90, -angle % 90) <= 3:
            quarter = round(angle / 90) * 90 % 360
            low, high = self._line(start, font, quarter)
        face = self._faces.get(font)
        if face is None:
            face = self._faces[font] = _face(font, _get_weight(self._handle, start))
        return _Look(
            angle=(angle + self._frame.rotation) % 360,
            quarter=quarter,
            low=low,
            high=high,
            bold=face.bold,
            mono=face.mono,
            math=face.math,
            signs=face.signs,
            invisible=bool(thing) and _get_mode(thing) == 3,
            doubtful=thing is not None and (_is_pale(thing) or _is_optional(thing)),
        )

    def _line(self, start: int, font: int | None, quarter: int) -> tuple[float, float]:
        """Depth and height of the font around the line that a letter stands on, turned upright."""
        size = self._size(start)
        up, down = ctypes.c_float(0.75), ctypes.c_float(-0.25)
        if font:
            _get_font_ascent(font, 1.0, ctypes.addressof(up))
            _get_font_descent(font, 1.0, ctypes.addressof(down))
        if not 0.3 < up.value - down.value < 3:
            up.value, down.value = 0.75, -0.25
        _get_origin(self._handle, start, self._at[0], self._at[1])
        x, y = self._four[0], self._four[1]
        line = Box(x, y, x, y).turned(quarter).y0
        return line + down.value * size, line + up.value * size


def _on_one_line(a: Box, b: Box) -> bool:
    height = max(a.height, b.height, 1.0)
    return min(a.y1, b.y1) - max(a.y0, b.y0) >= 0.05 * height - 1.5


def _from_the_left(words: Iterable[tuple[Box, str, int]]) -> list[tuple[Box, str, int]]:
    """Words of each line by their place on it."""
    lines: list[list[tuple[Box, str, int]]] = []
    for word in words:
        if lines and _on_one_line(lines[-1][-1][0], word[0]):
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line)]


def _is_pale(thing: int) -> bool:
    """Whether it is drawn in white or nearly so, or is transparent."""
    colour = (ctypes.c_uint * 4)()
    at = ctypes.addressof(colour)
    if not _get_fill(thing, at, at + 4, at + 8, at + 12):
        return False
    return min(colour[0], colour[1], colour[2]) >= _PALE or colour[3] < 16


def _is_optional(thing: int) -> bool:
    """Whether it belongs to a layer that may be switched off."""
    name = ctypes.create_string_buffer(8)
    length = ctypes.c_ulong(0)
    for i in range(_count_marks(thing)):
        mark = _get_mark(thing, i)
        named = _get_mark_name(mark, ctypes.addressof(name), 8, ctypes.addressof(length))
        if named and bytes(name)[:4] == b"O\0C\0" and length.value == 6:
            return True
    return False


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
    """By the font's name: the weight that pdfium tells is guessed from the width of stems, and calls
    whole documents bold. Only a font without a name is judged by it."""
    name = ""
    if font:
        buffer = ctypes.create_string_buffer(200)
        _get_font_name(font, ctypes.addressof(buffer), 200)
        name = buffer.value.decode("utf-8", "replace")
    return _Face(
        bold=bool(_BOLD.search(name)) or (weight >= 700 and not _NAMED.match(name)),
        mono=bool(_MONO.search(name)),
        math=bool(_MATH.search(name)),
        signs=bool(_SIGNS.search(name)),
    )


def _ends(letters: Sequence[str], letter: str, word: Box, box: Box) -> bool:
    """Whether a word is over before that letter: by a gap, or where the script turns around."""
    if len(letters) > 1 and word.height > 2 * word.width:
        return False  # written downwards
    rtl = bool(RTL.match(letter))
    if rtl and unicodedata.category(letter) == "Mn":
        return False  # a mark stands above another letter
    height = max(word.height, box.height, 1.0)
    apart = not _on_one_line(word, box)
    square = SQUARE.match(letter) and SQUARE.match(letters[-1])  # a stop is half empty
    gap = (1.0 if square else 0.4) * height + 0.6
    if rtl:
        away = word.x0 - box.x1 > gap or box.x1 > word.x1 + 1
    else:
        away = box.x0 - word.x1 > gap or box.x0 < word.x0 - 1
    turns = letter.isalpha() and letters[-1].isalpha() and rtl != bool(RTL.match(letters[-1]))
    return away or apart or turns
