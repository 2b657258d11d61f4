"""Scanned pages: tesseract over a picture of the page. The only importer of tesserocr.

One thread (the page process sets OMP_THREAD_LIMIT), a cap on pixels instead of a fixed dpi. Knows
nothing of pdfium: it is given a Pillow image and the page's size in points.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tesserocr

from errors import InputError
from pipeline.page import Box, Word
from pipeline.readers.text import Block

_TESSDATA = (
    Path("/usr/share/tesseract-ocr/5/tessdata"),
    Path("/usr/share/tesseract-ocr/4.00/tessdata"),
    Path("/usr/share/tessdata"),
    Path("/usr/local/share/tessdata"),
)
_ISO = {"en": "eng", "de": "deu", "fr": "fra", "es": "spa", "it": "ita", "pt": "por", "nl": "nld"}
_ITEM = re.compile(r"([•*·–-]|\(?\d{1,2}[.)])\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """`turned` is how many degrees the picture was turned clockwise before reading; `confidence`
    the mean over words, 0 to 100."""

    blocks: tuple[Block, ...]
    turned: int
    confidence: float


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


def packs(languages: tuple[str, ...]) -> str:
    """Tesseract's name for those languages: ISO codes or its own; English when none is given."""
    folder = tessdata()
    wanted = [_ISO.get(code, code) for code in languages] or ["eng"]
    for code in wanted:
        if (
            not re.fullmatch(r"[a-zA-Z_]{3,12}", code)
            or not (folder / f"{code}.traineddata").exists()
        ):
            have = ", ".join(sorted(p.stem for p in folder.glob("*.traineddata")))
            raise InputError(
                "language_missing",
                f"There is no OCR language pack {code!r}.",
                f"Installed: {have}. Add tesseract-ocr-{code} to packages.txt for more.",
            )
    return "+".join(wanted)


def read(picture: Any, width: float, height: float, languages: tuple[str, ...]) -> Read:
    """Paragraphs of a gray page picture, with boxes in points of the upright page."""
    pack, folder = packs(languages), tessdata()
    result = _recognise(picture, pack, folder)
    if result[1] < 60 and (folder / "osd.traineddata").exists():
        turned = _orientation(picture, folder)
        if turned:
            again = _recognise(picture.rotate(-turned, expand=True), pack, folder)
            if again[1] > result[1]:
                blocks = tuple(
                    _turned_back(b, turned, picture.size, (width, height)) for b in again[0]
                )
                return Read(blocks=blocks, turned=turned, confidence=again[1])
    across, down = width / picture.size[0], height / picture.size[1]
    blocks = tuple(
        Block(
            kind=b.kind,
            text=b.text,
            index=b.index,
            box=Box(b.box.x0 * across, b.box.y0 * down, b.box.x1 * across, b.box.y1 * down),
        )
        for b in result[0]
    )
    return Read(blocks=blocks, turned=0, confidence=result[1])


def words(
    picture: Any, width: float, height: float, languages: tuple[str, ...]
) -> tuple[Word, ...]:
    """Single words in tesseract's reading order, with boxes in points of the page."""
    across, down = width / picture.size[0], height / picture.size[1]
    found: list[Word] = []
    level = tesserocr.RIL.WORD
    with tesserocr.PyTessBaseAPI(
        path=str(tessdata()), lang=packs(languages), psm=tesserocr.PSM.AUTO
    ) as api:
        api.SetImage(picture)
        api.Recognize()
        walk = api.GetIterator()
        for part in tesserocr.iterate_level(walk, level) if walk is not None else ():
            text = "" if part.Empty(level) else (part.GetUTF8Text(level) or "").strip()
            bounds = part.BoundingBox(level)
            if text and bounds and part.Confidence(level) > 20:
                x0, y0, x1, y1 = bounds
                box = Box(x0 * across, y0 * down, x1 * across, y1 * down)
                found.append(Word(text=text, box=box, size=box.height))
    return tuple(found)


def _recognise(picture: Any, pack: str, folder: Path) -> tuple[list[Block], float]:
    blocks: list[Block] = []
    with tesserocr.PyTessBaseAPI(path=str(folder), lang=pack, psm=tesserocr.PSM.AUTO) as api:
        api.SetImage(picture)
        api.Recognize()
        confidence = float(api.MeanTextConf())
        walk = api.GetIterator()
        if walk is None:
            return [], confidence
        level = tesserocr.RIL.PARA
        for part in tesserocr.iterate_level(walk, level):
            if part.Empty(level):
                continue
            text = re.sub(r"(\w)-\n(?=[a-zß-ÿ])", r"\1", (part.GetUTF8Text(level) or "").strip())
            text = " ".join(text.split())
            bounds = part.BoundingBox(level)
            if text and bounds and part.Confidence(level) > 20:
                blocks.append(
                    Block(kind=_classify(text), text=text, box=Box(*bounds), index=len(blocks))
                )
    return blocks, confidence


def _classify(text: str) -> str:
    words = text.split()
    if _ITEM.match(text):
        return "ListItem"
    if len(words) <= 8 and text[0].isupper() and text[-1] not in ".,;:":
        return "Title"
    return "NarrativeText" if len(words) >= 5 else "UncategorizedText"


def _orientation(picture: Any, folder: Path) -> int:
    """Degrees to turn the picture clockwise so that its text stands upright."""
    with tesserocr.PyTessBaseAPI(path=str(folder), lang="osd", psm=tesserocr.PSM.OSD_ONLY) as api:
        api.SetImage(picture)
        found = api.DetectOrientationScript()
    return int(found["orient_deg"]) % 360 if found else 0


def _turned_back(
    block: Block, turned: int, size: tuple[int, int], page: tuple[float, float]
) -> Block:
    """A box of the turned picture as a box of the page."""
    wide, high = size
    b = block.box
    if turned == 90:
        box = Box(b.y0, high - b.x1, b.y1, high - b.x0)
    elif turned == 180:
        box = Box(wide - b.x1, high - b.y1, wide - b.x0, high - b.y0)
    else:
        box = Box(wide - b.y1, b.x0, wide - b.y0, b.x1)
    across, down = page[0] / wide, page[1] / high
    return Block(
        kind=block.kind,
        text=block.text,
        index=block.index,
        box=Box(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down),
    )
