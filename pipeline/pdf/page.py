"""What a page holds before anyone reads it: words, lines drawn, pictures. Values only.

All lengths are PDF points at 72 per inch, origin top left, after the page's own rotation. Knows
nothing of pdfium, of elements or of files.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Box(NamedTuple):
    """Left, top, right, bottom in points."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def union(self, other: "Box") -> "Box":
        return Box(
            min(self.x0, other.x0),
            min(self.y0, other.y0),
            max(self.x1, other.x1),
            max(self.y1, other.y1),
        )

    def clipped(self, width: float, height: float) -> "Box":
        """Its part on a page of that size; an edge outside comes to the page's edge."""
        x0, x1 = (min(max(x, 0.0), width) for x in (self.x0, self.x1))
        y0, y1 = (min(max(y, 0.0), height) for y in (self.y0, self.y1))
        return Box(x0, y0, x1, y1)

    def turned(self, degrees: int) -> "Box":
        """Its place after a turn about the origin by right angles: from the first axis to the second,
        so counterclockwise where y grows upwards, and clockwise where it grows downwards."""
        x0, y0, x1, y1 = self
        match degrees % 360:
            case 90:
                return Box(-y1, x0, -y0, x1)
            case 180:
                return Box(-x1, -y1, -x0, -y0)
            case 270:
                return Box(y0, -x1, y1, -x0)
        return self

    def holds(self, other: "Box", slack: float = 0.0) -> bool:
        """Whether the middle of the other one lies inside, or no farther out than `slack`."""
        x, y = (other.x0 + other.x1) / 2, (other.y0 + other.y1) / 2
        return self.x0 - slack <= x <= self.x1 + slack and self.y0 - slack <= y <= self.y1 + slack

    def overlap(self, other: "Box") -> float:
        """The shared area, in square points."""
        across = min(self.x1, other.x1) - max(self.x0, other.x0)
        down = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(0.0, across) * max(0.0, down)


class Frame(NamedTuple):
    """The visible part of a page in its own coordinates (origin bottom left, unrotated), and by how
    many degrees the page is turned clockwise when it is shown."""

    left: float
    bottom: float
    right: float
    top: float
    rotation: int

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """The same place as it is seen; `y0` is the lower edge in the page's own coordinates."""
        if self.rotation == 90:
            return Box(y0 - self.bottom, x0 - self.left, y1 - self.bottom, x1 - self.left)
        if self.rotation == 180:
            return Box(self.right - x1, y0 - self.bottom, self.right - x0, y1 - self.bottom)
        if self.rotation == 270:
            return Box(self.top - y1, self.right - x1, self.top - y0, self.right - x0)
        return Box(x0 - self.left, self.top - y1, x1 - self.left, self.top - y0)


class Word(NamedTuple):
    """A run of characters without a gap; `size` is the glyph height in points. `mono` and `math`
    say what its font is made for; `doubtful` that it may not be seen: pale, or of a layer."""

    text: str
    box: Box
    size: float
    bold: bool = False
    angle: int = 0
    invisible: bool = False
    mono: bool = False
    math: bool = False
    doubtful: bool = False


class Link(NamedTuple):
    """A place on the page that leads to an address."""

    url: str
    box: Box


class Note(NamedTuple):
    """What an annotation says; `kind` is its PDF subtype, such as FreeText."""

    kind: str
    text: str
    box: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """One page as pdfium sees it; `paths` are drawn strokes and fills, `images` raster pictures;
    `texts` counts the text objects, each of which draws a glyph or more; `hidden` are words that
    nobody sees: outside of the page, too small, of the background's colour, covered, or of a layer
    that is off; `notes` what annotations and form fields without an appearance say."""

    number: int
    width: float
    height: float
    words: tuple[Word, ...]
    paths: tuple[Box, ...]
    images: tuple[Box, ...]
    characters: int
    garbled: float
    objects: int
    frame: Frame = Frame(0, 0, 0, 0, 0)
    links: tuple[Link, ...] = ()
    texts: int = 0
    hidden: tuple[Word, ...] = ()
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What a document does alike on its pages: the texts of running heads and feet (digits as #)
    with the height of their middle in points from the top, and the sizes of its headings, largest
    first."""

    running: tuple[tuple[str, float], ...] = ()
    headings: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRecord:
    """How one page was read; `error` is set when it was not."""

    page: int
    reader: str
    reason: str
    seconds: float
    elements: int
    error: dict[str, str] | None = None
