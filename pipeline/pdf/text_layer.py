"""The words of a page's text layer, and those of its form fields. With `glyphs.py`, `annotations.py` and
`pdfium.py` the only importer of pypdfium2. Knows nothing of elements.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any, NamedTuple

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from pipeline.pdf import vertical_text
from pipeline.pdf.annotations import fields
from pipeline.pdf.glyphs import Glyphs
from pipeline.pdf.page import Box, Frame, Word

SPREAD = 5  # letters that stand one by one may be a word; fewer are none


class Written(NamedTuple):
    """The words in the order the page draws them; how many letters that are, and the share of those
    that mean nothing; the text object of each word (None where it is not known)."""

    words: tuple[Word, ...]
    characters: int
    garbled: float
    objects: tuple[int | None, ...]


def written(page: Any, number: int, frame: Frame) -> Written:
    """The words of a loaded page, those in its form fields where they stand. These are no text to
    pdfium until they are drawn into the page; that is done to a copy."""
    found = _read(page, frame)
    places = fields(page, frame)
    if not places:
        return found
    with closing(pdfium.PdfDocument.new()) as copy:
        try:
            copy.import_pages(page.pdf, [number - 1])
        except pdfium.PdfiumError:
            return found
        with closing(copy[0]) as drawn:
            raw.FPDFPage_Flatten(drawn.raw, raw.FLAT_NORMALDISPLAY)
        with closing(copy[0]) as drawn:
            full = _read(drawn, frame)
    known = dict(zip(found.words, found.objects, strict=True))
    words = list(found.words)
    late = [word for word in full.words if word not in known]
    for field in places:
        inside = [w for w in late if field.holds(w.box, 1)]
        if inside:
            at = _place(words, inside[0].box)
            words[at:at] = inside
            late = [w for w in late if w not in inside]
    words += late
    return full._replace(words=tuple(words), objects=tuple(known.get(w) for w in words))


def _read(page: Any, frame: Frame) -> Written:
    with closing(page.get_textpage()) as text:
        glyphs = Glyphs(text, frame)
        each = list(glyphs.words())
        if sum(len(word.text) == 1 for word, _ in each) >= SPREAD:
            each = list(_unspread(each))
        drawn = _once(each)
        if glyphs.downward:
            drawn = dict.fromkeys(vertical_text.arranged(list(drawn)))
    garbled = glyphs.bad / glyphs.seen if glyphs.seen else 0.0
    return Written(tuple(drawn), glyphs.seen, garbled, tuple(drawn.values()))


def _once(drawn: Iterable[tuple[Word, int | None]]) -> dict[Word, int | None]:
    """Words and their text objects, each word once that is drawn several times in one place."""
    kept: dict[Word, int | None] = {}
    places: set[tuple[str, int, int]] = set()
    for word, thing in drawn:
        text, (x, y, _, _) = word.text, word.box
        place = (text, int(x + 0.25), int(y + 0.25))
        if place not in places:
            kept[word] = thing
            places.add(place)
        places.add((text, int(x + 0.75), place[2]))
    return kept


_Drawn = tuple[Word, int | None]


def _unspread(drawn: Iterable[_Drawn]) -> Iterator[_Drawn]:
    """Letters that stand one by one, spread over a line, as the words that they make."""
    letters: list[_Drawn] = []
    for word, thing in drawn:
        if letters and not _goes_on(letters[-1][0], word):
            yield from _spelled(letters)
            letters = []
        if len(word.text) == 1:
            letters.append((word, thing))
        else:
            yield word, thing
    yield from _spelled(letters)


def _goes_on(last: Word, word: Word) -> bool:
    one_line = min(last.box.y1, word.box.y1) - max(last.box.y0, word.box.y0) > 0
    alike = last.angle == word.angle == 0 and len(word.text) == 1
    return one_line and alike and -0.1 * last.size < word.box.x0 - last.box.x1 < 0.9 * last.size


def _spelled(letters: Sequence[_Drawn]) -> Iterator[_Drawn]:
    gaps = [b.box.x0 - a.box.x1 for (a, _), (b, _) in pairwise(letters)]
    alphabetic = sum(w.text.isalpha() for w, _ in letters) >= 0.7 * len(letters)
    if len(letters) < SPREAD or not alphabetic:
        yield from letters
        return
    usual, size = statistics.median(gaps), statistics.median(w.size for w, _ in letters)
    word, thing = letters[0]
    for (letter, its), gap in zip(letters[1:], gaps, strict=True):
        if gap > max(1.6 * usual, usual + 0.14 * size):
            yield word, thing
            word, thing = letter, its
        else:
            text, box = word.text + letter.text, word.box.union(letter.box)
            word = word._replace(text=text, box=box, size=max(word.size, letter.size))
    yield word, thing


def _place(words: Sequence[Word], box: Box) -> int:
    """Where a field that begins there is read: after what stands to its left, else after the line
    above it."""
    left = [(w.box.x1, i) for i, w in enumerate(words) if _before(w.box, box)]
    if left:
        return max(left)[1] + 1
    above = [
        (w.box.y1, i)
        for i, w in enumerate(words)
        if w.box.y1 <= box.y0 + 1 and w.box.x0 <= box.x0 + box.height
    ]
    if not above:
        return 0
    at = max(above)[1] + 1
    while at < len(words) and _before(words[at - 1].box, words[at].box):
        at += 1
    return at


def _before(box: Box, other: Box) -> bool:
    """Whether it stands on the same line, to the left."""
    shared = min(box.y1, other.y1) - max(box.y0, other.y0)
    return box.x1 <= other.x0 + 1 and shared > 0.5 * min(box.height, other.height)
