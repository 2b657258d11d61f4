"""What a document does alike on all its pages: its running heads and feet, the sizes of its
headings.

Found in a sample of pages before the first one is read, so that no page waits for another and what
is found does not depend on batches. `look` runs inside a page process. Knows nothing of elements.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import InputError
from pipeline.pdf import pdfium
from pipeline.pdf.page import PageContent, Style
from pipeline.pdf.text import blocks
from pipeline.pdf.text.blocks import Block

RUNS = 6
RUN = 4  # neighbouring pages: left and right pages have heads of their own


@dataclass(frozen=True, slots=True)
class _Edge:
    """A short block near the upper or lower edge of a page; `middle` in points from the top."""

    page: int
    middle: float
    said: str


def look(path: Path) -> Style:
    """The style of a document; an empty one where its sample cannot be read."""
    edges: list[_Edge] = []
    sizes: dict[float, int] = defaultdict(int)
    with pdfium.opened(path) as document:
        sampled = sample(len(document))
        for number in sampled:
            try:
                with pdfium.loaded(document, number) as page:
                    content = pdfium.content(page, number)
            except InputError:
                continue
            for block in blocks.read(content, list(enumerate(content.words)), Style()):
                if block.kind == "Title":
                    # The title of a document is the one of its size.
                    sizes[round(2 * block.size) / 2] += 2 if number == 1 else 1
                if _at_edge(block, content):
                    middle = (block.box.y0 + block.box.y1) / 2
                    edges.append(_Edge(number, middle, blocks.pattern(block.text)))
    least = 1 if len(sampled) < RUN else 2  # one large word in a figure is no heading
    return Style(
        running=_repeated(edges, len(sampled)),
        headings=tuple(sorted((s for s, count in sizes.items() if count >= least), reverse=True)),
    )


def sample(pages: int) -> list[int]:
    """Up to RUNS runs of RUN neighbouring pages, spread over the document."""
    if pages <= RUNS * RUN:
        return list(range(1, pages + 1))
    starts = [1 + round(i * (pages - RUN) / (RUNS - 1)) for i in range(RUNS)]
    return sorted({s + i for s in starts for i in range(RUN)})


def _at_edge(block: Block, content: PageContent) -> bool:
    upper, lower = blocks.edges(block.box, content.height)
    return (upper or lower) and len(block.text) < blocks.SHORT and block.lines <= 2


def _repeated(edges: Sequence[_Edge], pages: int) -> tuple[tuple[str, float], ...]:
    """What stands at one height on three sampled pages or more, or on two of two or three."""
    by_text: dict[str, list[_Edge]] = defaultdict(list)
    for edge in edges:
        by_text[edge.said].append(edge)
    found = []
    for said, all_of_it in by_text.items():
        rest = sorted(all_of_it, key=lambda e: e.middle)
        while rest:
            near = [e for e in rest if e.middle - rest[0].middle <= blocks.NEAR]
            rest = rest[len(near) :]
            if len({e.page for e in near}) >= min(3, max(2, pages)):
                found.append((said, round(sum(e.middle for e in near) / len(near), 1)))
    return tuple(sorted(found))
