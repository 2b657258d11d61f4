"""Scanned pages: tesseract over a picture of the page, set straight first. The only importer of
tesserocr.

One thread (the page process sets OMP_THREAD_LIMIT before tesseract is loaded), a cap on pixels
instead of a fixed dpi. Ruled tables are found in the picture. Knows nothing of pdfium: it is given a gray Pillow image and the page's size in points.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import tesserocr

from errors import InputError
from pipeline.pdf.language import PART3
from pipeline.pdf.ocr import image
from pipeline.pdf.page import Box, Word
from pipeline.pdf.tables import cells_from_lines, ruled
from pipeline.pdf.tables.table import Table
from pipeline.pdf.text.blocks import Block, count
from pipeline.pdf.text.lines import around, between

_TESSDATA = (
    Path("/usr/share/tesseract-ocr/5/tessdata"),
    Path("/usr/share/tesseract-ocr/4.00/tessdata"),
    Path("/usr/share/tessdata"),
    Path("/usr/local/share/tessdata"),
)
_SCRIPT = {
    "Arabic": "ara", "Bengali": "ben", "Cyrillic": "rus", "Devanagari": "hin", "Greek": "ell",
    "Han": "chi_sim", "HanS": "chi_sim", "HanT": "chi_tra", "Hangul": "kor", "Hebrew": "heb",
    "Japanese": "jpn", "Katakana": "jpn", "Hiragana": "jpn", "Korean": "kor", "Tamil": "tam",
    "Thai": "tha",
}  # fmt: skip
_ITEM = re.compile(r"([•*·–-]|\(?\d{1,2}[.)])\s")
_SURE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """`things` are blocks and ruled tables in reading order, boxes in points of the page as it is
    shown. `turned` is by how many quarter turns, in degrees, the picture was turned clockwise
    before reading, `skew` by how many degrees more its lines fell; `confidence` is the mean over
    words, 0 to 100; `pack` the language pack."""

    things: tuple[Block | Table, ...]
    turned: int
    skew: float
    confidence: float
    pack: str


def tessdata() -> Path:
    """The folder of the installed language packs."""
    for folder in _TESSDATA:
        if (folder / "eng.traineddata").exists():
            return folder
    raise InputError(
        "ocr_missing",
        "Tesseract's language files are not installed.",
        "Install the package tesseract-ocr (see packages.txt).",
    )


def _pack(code: str) -> str:
    """Tesseract's name for a language."""
    name = PART3.get(code, code)
    return "chi_sim" if name == "zho" else name


def installed(code: str) -> bool:
    """Whether there is a pack of that name: an ISO code or tesseract's own."""
    name = _pack(code)
    plain = re.fullmatch(r"[a-zA-Z_]{3,12}", name) is not None
    return plain and (tessdata() / f"{name}.traineddata").exists()


def packs(languages: tuple[str, ...]) -> str:
    """Tesseract's name for those languages: ISO codes or its own; English when none is given."""
    wanted = [_pack(code) for code in languages] or ["eng"]
    for code in wanted:
        if not installed(code):
            raise _missing(code, f"There is no OCR language pack {code!r}.")
    return "+".join(wanted)


def _columns(pack: str) -> str:
    """The installed packs that read the same languages written downwards."""
    return "+".join(f"{p}_vert" for p in pack.split("+") if installed(f"{p}_vert"))


def _missing(code: str, message: str) -> InputError:
    have = ", ".join(sorted(p.stem for p in tessdata().glob("*.traineddata")))
    package = f"tesseract-ocr-{code.lower().replace('_', '-')}"
    return InputError(
        "language_missing",
        message,
        f"Installed: {have}. Add {package} to packages.txt for more.",
    )


def read(picture: Any, width: float, height: float, languages: tuple[str, ...]) -> Read:
    """The text and the ruled tables of a gray page picture."""
    best = _seen(picture, width, height, languages)
    across = best.view.scale
    lines = image.rules(image.ink(best.view.picture), round(30 / across))
    boxes = [[Box(*(v * across for v in b)) for b in part] for part in lines]
    best = replace(best, words=tuple(_without_rules(best.words, [*boxes[0], *boxes[1]])))
    words = [w.word for w in best.words]
    tables = [
        table
        for group in cells_from_lines.cells(*boxes, slack=3.0)
        if (table := ruled.table_of(group, words)) is not None
    ]
    return Read(
        things=tuple(_things(best, tables)),
        turned=best.view.turned,
        skew=best.view.skew,
        confidence=best.confidence,
        pack=best.pack,
    )


def _without_rules(words: Sequence["_Seen"], lines: Sequence[Box]) -> Iterator["_Seen"]:
    """Rules that were read as letters, alone or before a word, taken out."""
    pending = False  # what a dropped word began still begins
    for seen in words:
        box = seen.word.box
        text = seen.word.text.strip("|¦_")
        touched = [
            b
            for b in lines
            if b.x0 - 2 < box.x1 and box.x0 < b.x1 + 2 and b.y0 - 2 < box.y1 and box.y0 < b.y1 + 2
        ]
        if touched and text[:1] in "[(" and not set(text) & set(")]"):
            text = text[1:]
        if touched and not any(c.isalnum() for c in text):
            pending |= seen.paragraph
            continue
        word = Word(text, box, seen.word.size) if touched else seen.word
        yield _Seen(word, seen.paragraph or pending, seen.line or pending)
        pending = False


def words(
    picture: Any, width: float, height: float, languages: tuple[str, ...]
) -> tuple[Word, ...]:
    """Single words in reading order, with boxes in points of the page as it is shown."""
    best = _seen(picture, width, height, languages)
    return tuple(Word(w.word.text, best.view.back(w.word.box), w.word.size) for w in best.words)


# The picture, set straight


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """A picture that was turned clockwise by `turned`, then back by `skew`; `scale` is points per
    pixel, `page` the size of the page in points."""

    picture: Any
    turned: int
    skew: float
    scale: float
    page: tuple[float, float]

    def back(self, box: Box) -> Box:
        """A box in points of this view as the box around it on the page."""
        wide, high = self.picture.size[0] * self.scale, self.picture.size[1] * self.scale
        before = self.page if self.turned in {0, 180} else self.page[::-1]
        sine, cosine = math.sin(math.radians(self.skew)), math.cos(math.radians(self.skew))
        corners = []
        for x, y in ((box.x0, box.y0), (box.x1, box.y0), (box.x0, box.y1), (box.x1, box.y1)):
            dx, dy = x - wide / 2, y - high / 2
            u = before[0] / 2 + dx * cosine - dy * sine
            v = before[1] / 2 + dx * sine + dy * cosine
            corners.append(_turned_back(u, v, self.turned, self.page))
        xs, ys = zip(*corners, strict=True)
        return Box(
            max(0.0, min(xs)),
            max(0.0, min(ys)),
            min(self.page[0], max(xs)),
            min(self.page[1], max(ys)),
        )


def _turned_back(x: float, y: float, turned: int, page: tuple[float, float]) -> tuple[float, float]:
    """A point of the page turned clockwise by `turned`, on the page."""
    wide, high = page
    if turned == 90:
        return y, high - x
    if turned == 180:
        return wide - x, high - y
    if turned == 270:
        return wide - y, x
    return x, y


def _view(picture: Any, turned: int, skew: float, page: tuple[float, float]) -> _View:
    scale = page[0] / picture.size[0]
    if turned:
        picture = picture.rotate(-turned, expand=True)
    if skew:
        paper = picture.resize((1, 1)).getpixel((0, 0))
        picture = picture.rotate(skew, resample=2, expand=True, fillcolor=max(paper, 200))
    return _View(picture=picture, turned=turned, skew=skew, scale=scale, page=page)


# Recognition


class _Seen(NamedTuple):
    """A word in points of the view, and whether a paragraph or a line begins with it."""

    word: Word
    paragraph: bool
    line: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    view: _View
    words: tuple[_Seen, ...]
    confidence: float
    pack: str


def _seen(picture: Any, width: float, height: float, languages: tuple[str, ...]) -> _Answer:
    """The best reading of the picture. Straight and in the language asked for is tried first; only
    where that is not sure, tesseract is asked how the text stands and in which script it is."""
    pack, page = packs(languages), (width, height)
    posture = image.posture(image.ink(picture))
    first = _view(picture, 0, 0.0 if posture.sideways else posture.skew, page)
    best = None if posture.sideways else _recognised(first, pack)
    if best is not None and best.confidence >= _SURE:
        return best
    turned, script = _stands(first.picture)
    if not languages and script in _SCRIPT:
        pack = _SCRIPT[script]
        if not installed(pack):
            raise _missing(pack, f"The page is in {script} script, and its pack is not installed.")
    columns = _columns(pack)
    if columns and (best is None or best.confidence < _SURE):
        down = _downward(first, columns)
        best = down if best is None or down.confidence > best.confidence else best
        if best.confidence >= _SURE:
            return best
    if posture.sideways and turned in {0, 180}:
        turned = 90  # tesseract cannot tell; the other way is tried when this one is not sure
    for turn in dict.fromkeys((turned, (turned + 180) % 360)):
        if best is not None and (turn, pack) == (best.view.turned, best.pack):
            continue
        skew = first.skew
        if turn in {90, 270}:
            skew = image.posture(image.ink(picture.rotate(-turn, expand=True))).skew
        again = _recognised(_view(picture, turn, skew, page), pack)
        if best is None or again.confidence > best.confidence:
            best = again
        if best.confidence >= _SURE:
            break
    assert best is not None
    return best


def _downward(view: _View, pack: str) -> _Answer:
    """Columns as tesseract parts the page, or all of it as one block: on a page with wide gaps between
    columns it takes most of them for something else than text."""
    parted = _recognised(view, pack)
    whole = _recognised(view, pack, tesserocr.PSM.SINGLE_BLOCK_VERT_TEXT)
    letters = [sum(len(w.word.text) for w in answer.words) for answer in (parted, whole)]
    return whole if letters[1] > 1.2 * letters[0] else parted


def _recognised(view: _View, pack: str, mode: int = tesserocr.PSM.AUTO) -> _Answer:
    found: list[_Seen] = []
    with tesserocr.PyTessBaseAPI(path=str(tessdata()), lang=pack, psm=mode) as api:
        api.SetImage(view.picture)
        api.Recognize()
        confidence = float(api.MeanTextConf())
        walk = api.GetIterator()
        level, paragraph, line = tesserocr.RIL.WORD, tesserocr.RIL.PARA, tesserocr.RIL.TEXTLINE
        begins, breaks = True, True
        for part in tesserocr.iterate_level(walk, level) if walk is not None else ():
            begins |= part.IsAtBeginningOf(paragraph)
            breaks |= part.IsAtBeginningOf(line)
            text = "" if part.Empty(level) else (part.GetUTF8Text(level) or "").strip()
            bounds = part.BoundingBox(level)
            if text and bounds and part.Confidence(level) > 20:
                box = Box(*(v * view.scale for v in bounds))
                found.append(_Seen(Word(text, box, box.height), begins, breaks))
                begins = breaks = False
    return _Answer(
        view=view, words=tuple(found), confidence=confidence if found else 0.0, pack=pack
    )


def _stands(picture: Any) -> tuple[int, str]:
    """Degrees to turn the picture clockwise so that its text stands upright, and its script."""
    folder = tessdata()
    if not (folder / "osd.traineddata").exists():
        return 0, ""
    with tesserocr.PyTessBaseAPI(path=str(folder), lang="osd", psm=tesserocr.PSM.OSD_ONLY) as api:
        api.SetImage(picture)
        found = api.DetectOrientationScript()
    if not found:
        return 0, ""
    sure = found["script_conf"] > 1
    return int(found["orient_deg"]) % 360, str(found["script_name"]) if sure else ""


# Blocks


def _things(answer: _Answer, tables: Sequence[Table]) -> list[Block | Table]:
    """Paragraphs outside tables, each table where its first word is read."""
    back = answer.view.back
    things: list[Block | Table] = []
    placed: set[int] = set()
    paragraph: list[_Seen] = []

    def close() -> None:
        if paragraph:
            things.append(_block(paragraph, back, len(things)))
            paragraph.clear()

    for seen in answer.words:
        inside = next((i for i, t in enumerate(tables) if t.box.holds(seen.word.box)), None)
        if inside is None:
            if seen.paragraph:
                close()
            paragraph.append(seen)
        elif inside not in placed:
            close()
            placed.add(inside)
            things.append(replace(tables[inside], box=back(tables[inside].box)))
    close()
    return things


def _block(paragraph: Sequence[_Seen], back: Any, index: int) -> Block:
    text = ""
    box = around(seen.word.box for seen in paragraph)
    for seen in paragraph:
        said = seen.word.text
        if seen.line and re.search(r"\w-$", text) and said[0].islower():
            text = text[:-1] + said
        else:
            text = f"{text}{between(text, said)}{said}" if text else said
    return Block(kind=_classify(text), text=text, box=back(box), index=index)


def _classify(text: str) -> str:
    if _ITEM.match(text):
        return "ListItem"
    if count(text) <= 8 and text[0].isupper() and text[-1] not in ".,;:":
        return "Title"
    return "NarrativeText" if count(text) >= 5 else "UncategorizedText"
