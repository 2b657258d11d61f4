"""A page that is a picture: drawn, read by OCR, and what is made of the answer; invisible text over
it compared with what is seen.

Runs inside a page process, which imports it for such pages only: with numpy and tesseract it takes
as much memory as all that a text page needs. Knows nothing of elements.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from errors import InputError
from pipeline.pdf import language, pdfium
from pipeline.pdf.ocr import hidden_text, tesseract
from pipeline.pdf.page import Box, PageContent, Word
from pipeline.pdf.router import Route, is_lost
from pipeline.pdf.tables.table import Table
from pipeline.pdf.text.blocks import Block

DPI = 150
LEAST = 900
MOST_DPI = 600
LONG_SIDE = 2200
MORE = 1.5  # times the letters of a text layer: so much more OCR must find to be taken instead
MISSED = 0.35  # of the ink of a scan may lie outside of its invisible text


class Scan(NamedTuple):
    """What OCR made of a page, in reading order; nothing where its text layer is to be read instead."""

    things: tuple[Block | Table | Box, ...]
    reason: str


def read(
    page: Any, content: PageContent, languages: tuple[str, ...], reason: str, *, layer_too: bool
) -> Scan:
    """A page sent to OCR for that reason; `layer_too` says that a text layer, however short, is
    better than an OCR that finds no more."""
    seen = sum(len(w.text) for w in content.words if not w.invisible)
    short = layer_too and bool(content.words) and content.garbled <= 0.1
    try:
        answer = _recognised(_drawn(page), content, languages)
    except InputError as problem:
        if problem.code != "language_missing" or languages or not short:
            raise
        return Scan((), f"{reason}; read as it is: {problem.message}")
    note = f"{reason}; {_how(answer)}"
    if short:
        letters = sum(len(thing.text) for thing in answer.things)
        lost = is_lost(content) and is_lost(replace(content, characters=letters))
        if lost or (not is_lost(content) and letters < MORE * seen):
            return Scan((), f"{note}; read as it is: OCR finds {letters} letters only")
    if answer.things:
        return Scan(answer.things, note)
    if content.characters < 25:  # the picture itself
        return Scan((Box(0, 0, content.width, content.height),), f"{note}; no text found")
    return Scan((), f"{note}; OCR found none")


def words(page: Any, content: PageContent, languages: tuple[str, ...]) -> tuple[Word, ...]:
    """The words of the page's picture."""
    return tesseract.words(_drawn(page), content.width, content.height, languages)


def checked(page: Any, content: PageContent, languages: tuple[str, ...]) -> Route:
    """Whether the invisible text of a scanned page says what its picture shows."""

    def seen(box: Box) -> str:
        strip = pdfium.render(page, dpi=DPI, long_side=LONG_SIDE, gray=True, box=box)
        found = tesseract.words(strip, box.width, box.height, languages)
        return " ".join(w.text for w in found)

    missed = pdfium.ink(page, content.words).uncovered
    if missed > MISSED:
        return Route("ocr", f"{missed:.0%} of the ink is not in the invisible text")
    alike = hidden_text.agreement(content, seen)
    if alike is None:
        return Route("text", "invisible text over a picture, in letters that could not be checked")
    if alike < hidden_text.TRUSTED:
        return Route("ocr", f"the invisible text is not what the picture shows ({alike:.0%} alike)")
    return Route("text", f"invisible text, as the picture shows it ({alike:.0%} alike)")


def _drawn(page: Any) -> Any:
    """The picture for OCR: a page smaller than a hand is drawn larger, a poster smaller."""
    long_side = max(page.get_size())
    dpi = min(max(DPI, 72 * LEAST / max(long_side, 1.0)), MOST_DPI)
    return pdfium.render(page, dpi=dpi, long_side=LONG_SIDE, gray=True)


def _recognised(picture: Any, content: PageContent, languages: tuple[str, ...]) -> tesseract.Read:
    """The page by OCR; once more when its text shows that it is in another language whose pack is
    installed, and nobody said which."""
    answer = tesseract.read(picture, content.width, content.height, languages)
    if languages or answer.pack != "eng":
        return answer
    said = " ".join(thing.text for thing in answer.things)
    found = [code for code in language.detect(said) if code != "eng"]
    if not found or not tesseract.installed(found[0]):
        return answer
    return tesseract.read(picture, content.width, content.height, (found[0],))


def _how(answer: tesseract.Read) -> str:
    said = [f"confidence {answer.confidence:.0f}"]
    if answer.turned:
        said.append(f"turned by {answer.turned}°")
    if answer.skew:
        said.append(f"set straight by {answer.skew:.1f}°")
    if answer.pack != "eng":
        said.append(f"language pack {answer.pack}")
    return "; ".join(said)
