"""Words into lines, lines into segments: geometry that text and table readers share."""

import itertools
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.pdf.page import Box, Word
from pipeline.pdf.scripts import RTL, UNSPACED

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEADER = re.compile(r"\.{4,}$")
_NUMBER = re.compile(r"[-–(+$€£]?\d+([.,]\d+)*[%)]?")


@dataclass(frozen=True)
class Segment:
    """Words side by side without a wide gap; `index` is the drawing order of its first word."""

    words: tuple[Word, ...]
    box: Box
    index: int

    @cached_property
    def text(self) -> str:
        return joined(self.words)

    @cached_property
    def size(self) -> float:
        return statistics.median(w.size for w in self.words)

    @property
    def bold(self) -> bool:
        return sum(w.bold for w in self.words) > len(self.words) / 2


def joined(words: Sequence[Word]) -> str:
    """With a space between two words, but none before an index or exponent of the word before, nor
    where a column of Chinese or Japanese goes on. Raised digits are written as such: those behind a
    number would be read as its own."""
    parts = [words[0].text] if words else []
    for last, word in itertools.pairwise(words):
        if _script(last, word):
            raised = word.text.isdecimal() and word.box.y1 < last.box.y1 - 0.1 * last.size
            parts.append(word.text.translate(_RAISED) if raised else word.text)
        else:
            turned = turns(word) and not between(last.text, word.text)
            stop = word.text in {",", "."} and word.box.x0 - last.box.x1 < 0.5 * last.size
            parts += [word.text] if turned or stop else [" ", word.text]
    return "".join(parts)


def between(text: str, more: str) -> str:
    """What stands between the end of a line and the next one: a space, except in a script without."""
    return "" if UNSPACED.match(text[-1:]) and UNSPACED.match(more) else " "


def turns(word: Word) -> bool:
    """Whether it does not run from left to right, or from right to left."""
    return 15 < word.angle < 345


def _script(last: Word, word: Word) -> bool:
    """Right behind a letter or digit, and smaller or standing higher or lower."""
    size = max(last.size, word.size)
    if not last.text[-1].isalnum() or not word.text[0].isalnum():
        return False
    mark = word.text.isdecimal() and len(word.text) <= 2 and word.size < 0.7 * last.size
    if not -0.2 * size < word.box.x0 - last.box.x1 < (0.3 if mark else 0.15) * size:
        return False
    away = abs(word.box.y0 + word.box.y1 - last.box.y0 - last.box.y1) / 2
    return word.size < 0.85 * last.size or (away > 0.2 * size and len(word.text) <= 3)


def around(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds them all."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return Box(min(left), min(top), max(right), max(bottom))


def segment(words: Sequence[Word], index: int) -> Segment:
    box = words[0].box if len(words) == 1 else around(w.box for w in words)
    return Segment(tuple(words), box, index)


def drawn(words: Sequence[Word], gap: float = 1.0) -> list[Segment]:
    """Segments in drawing order: a word joins the one before on the same line, to its right and
    nearer than `gap` times its size."""
    found: list[Segment] = []
    current: list[Word] = []
    start = 0
    for i, word in enumerate(words):
        if current and not _continues(current, word, gap):
            found.append(segment(current, start))
            current = []
        if not current:
            start = i
        current.append(word)
    if current:
        found.append(segment(current, start))
    return found


def _continues(line: Sequence[Word], word: Word, gap: float) -> bool:
    last = line[-1]
    a, b = last.box, word.box
    if last.angle != word.angle:
        return False
    if turns(word) and UNSPACED.search(word.text):
        return _near(around(w.box for w in line), b, 1.2 * word.size) and not _paragraph(line, word)
    if turns(word):
        return _near(a, b, gap * word.size)
    shared = min(a.y1, b.y1) - max(a.y0, b.y0)
    size = max(last.size, word.size)
    if _rtl(last) or _rtl(word):
        return shared > 0.4 * min(a.height, b.height) and a.x0 - b.x1 < gap * size and b.x0 < a.x1
    return (
        shared > 0.4 * min(a.height, b.height)
        and b.x0 - a.x1 < gap * size
        and b.x0 > a.x0 - 0.3 * size
    )


def _near(a: Box, b: Box, gap: float) -> bool:
    """In either direction."""
    across = max(a.x0, b.x0) - min(a.x1, b.x1)
    down = max(a.y0, b.y0) - min(a.y1, b.y1)
    return across < gap and down < gap


def _paragraph(columns: Sequence[Word], word: Word) -> bool:
    """Whether another one begins with that word of Chinese or Japanese: with a column that is
    indented, or in letters of another size."""
    size = max(w.size for w in columns)
    indented = word.box.y0 - min(w.box.y0 for w in columns) > 0.7 * size
    moved = word.box.x1 <= columns[-1].box.x0 + 1
    other = len(word.text) > 1 and not 0.72 <= word.size / size <= 1.4
    return other or (moved and indented)


def _rtl(word: Word) -> bool:
    return not word.text.isascii() and bool(RTL.search(word.text))


def rows(words: Iterable[Word]) -> list[list[Word]]:
    """Lines over the whole width, top down, each from left to right."""
    found: list[list[Word]] = []
    bands: list[tuple[float, float]] = []
    for word in sorted(words, key=lambda w: (w.box.y0 + w.box.y1) / 2):
        middle = (word.box.y0 + word.box.y1) / 2
        for i in range(len(found) - 1, max(-1, len(found) - 5), -1):
            top, bottom = bands[i]
            shared = min(bottom, word.box.y1) - max(top, word.box.y0)
            low = min(bottom - top, word.box.height)
            if top - 0.5 <= middle <= bottom + 0.5 and shared > 0.35 * low:
                found[i].append(word)
                break
        else:
            found.append([word])
            bands.append((word.box.y0, word.box.y1))
    return [sorted(line, key=lambda w: w.box.x0) for line in found]


def split(line: Sequence[Word], gap: float) -> list[Segment]:
    """A line cut where the space between two words is at least `gap` points (two thirds of that
    between two numbers), and at leaders: dots that lead the eye across, left out themselves."""
    parts: list[list[Word]] = []
    right, led = 0.0, False
    for word in line:
        text = _LEADER.sub("", word.text)
        if text:
            away = word.box.x0 - right
            numbers = parts and away >= 0.66 * gap and _number(parts[-1][-1]) and _number(word)
            if not parts or led or away >= gap or numbers:
                parts.append([])
                right = word.box.x1
            parts[-1].append(word if text == word.text else word._replace(text=text))
        right = max(right, word.box.x1)
        led = text != word.text
    return [segment(part, 0) for part in parts]


def _number(word: Word) -> bool:
    return bool(_NUMBER.fullmatch(word.text))
