"""Listings: pseudo-code and programs whose lines are numbered (`3: x ← y`), as blocks that keep lines and
indents and leave the numbers out. Knows nothing of tables.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.pdf.page import Box, Word
from pipeline.pdf.text.blocks import Block
from pipeline.pdf.text.lines import around, joined

_NUMBER = re.compile(r"\d{1,3}:")
_STATEMENT = re.compile(
    r"[=←≤≥<>{}∅∈∪()\[\]]|\b(if|for|while|else|end|return|let|input|output|repeat|until|do)\b", re.I
)
_LEAST = 3  # lines
_LONGEST = 60  # words of one
_APART = 4.0  # times the letters' height from one line to the next


class Listing(NamedTuple):
    """`words` are the places of its words, the numbers among them."""

    block: Block
    words: frozenset[Box]


class _Line(NamedTuple):
    number: Word
    words: Sequence[Word]


def find(words: Sequence[Word]) -> list[Listing]:
    """Those of a page, given as its words in the order they are drawn."""
    starts = [i for i, w in enumerate(words) if w.angle == 0 and _NUMBER.fullmatch(w.text)]
    if len(starts) < _LEAST:
        return []
    found, run = [], [starts[0]]
    for i in [*starts[1:], -1]:
        if i >= 0 and _goes_on(words, run[-1], i):
            run.append(i)
            continue
        lines = [*_lines(words, run)]
        said = [joined(line.words) for line in lines]
        if len(lines) >= _LEAST and sum(map(bool, map(_STATEMENT.search, said))) > 0.4 * len(lines):
            found.append(_listing(lines, said, run[0]))
        run = [i]
    return found


def _goes_on(words: Sequence[Word], last: int, i: int) -> bool:
    """Whether the next line of a listing begins there: with the next number, right below."""
    a, b = words[last], words[i]
    follows = int(b.text[:-1]) == int(a.text[:-1]) + 1
    below = 0.5 * a.size < b.box.y0 - a.box.y0 < _APART * a.size
    inside = all(w.box.x0 >= a.box.x1 - 1 for w in words[last + 1 : i])
    return follows and below and inside and i - last <= _LONGEST and abs(a.box.x1 - b.box.x1) < 3


def _lines(words: Sequence[Word], run: Sequence[int]) -> Iterator[_Line]:
    for start, after in zip(run, [*run[1:], None], strict=True):
        number, rest = words[start], words[start + 1 : after]
        if after is None:  # nothing says where it ends, but the line itself
            rest = rest[
                : next((n for n, w in enumerate(rest) if not _beside(number, w)), len(rest))
            ]
        yield _Line(number, rest)


def _beside(number: Word, word: Word) -> bool:
    middle = (word.box.y0 + word.box.y1) / 2
    return number.box.y0 < middle < number.box.y1 and word.box.x0 >= number.box.x1 - 1


def _listing(lines: Sequence[_Line], said: Sequence[str], index: int) -> Listing:
    size = lines[0].number.size
    left = min((line.words[0].box.x0 for line in lines if line.words), default=0.0)
    indents = [round(2 * (w[0].box.x0 - left) / size) if w else 0 for _, w in lines]
    text = "\n".join(" " * n + line for n, line in zip(indents, said, strict=True))
    boxes = [w.box for line in lines for w in (line.number, *line.words)]
    block = Block(
        kind="CodeSnippet",
        text=text,
        box=around(boxes),
        index=index,
        size=size,
        lines=len(lines),
    )
    return Listing(block, frozenset(boxes))
