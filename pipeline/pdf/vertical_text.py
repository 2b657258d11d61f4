"""Chinese and Japanese that is written downwards, in columns from right to left.

Words that stand so have the angle of text that is turned to read downwards, whatever way up their
letters are. Knows nothing of pdfium.
"""

from collections.abc import Sequence
from itertools import groupby, pairwise

from pipeline.pdf.page import Box, Word

DOWN = 90  # degrees clockwise


def is_column(letters: Sequence[Box]) -> bool:
    """Whether a letter stands below the one before (boxes as seen on the page), but for a few that
    are small and set aside."""
    size = max((b.width for b in letters), default=0.0)
    below = [
        0.2 * size < (b.y0 + b.y1 - a.y0 - a.y1) / 2 < 2.5 * size
        and abs(b.x0 + b.x1 - a.x0 - a.x1) / 2 < 0.6 * size
        for a, b in pairwise(letters)
    ]
    return sum(below) > 0.7 * len(below)


def arranged(words: Sequence[Word]) -> list[Word]:
    """The same words: single letters and short numbers that stand in a column are part of it, and
    columns drawn in one go follow each other from the right to the left."""
    made = list(words)
    for order in (range(1, len(made)), range(len(made) - 2, -1, -1)):
        for i in order:
            neighbour = made[i - 1] if order.step > 0 else made[i + 1]
            if _belongs(made[i], neighbour):
                made[i] = made[i]._replace(angle=DOWN, size=made[i].box.width)
    found: list[Word] = []
    for down, run in groupby(made, lambda w: w.angle == DOWN):
        together = list(run)
        found += _columns(together) if down else together
    return found


def _belongs(word: Word, column: Word) -> bool:
    if word.angle == DOWN or column.angle != DOWN or len(word.text) > 3:
        return False
    a, b, size = word.box, column.box, column.box.width
    apart = max(a.y0, b.y0) - min(a.y1, b.y1)
    aside = abs(a.x0 + a.x1 - b.x0 - b.x1) / 2
    return apart < size and aside < 0.4 * size and a.width < 1.5 * size


def _columns(words: Sequence[Word]) -> list[Word]:
    """Tiers from the top down, in each the columns from right to left. What is set small beside a
    column, to say how it is read, comes after its tier."""
    found: list[Word] = []
    tier: list[Word] = []
    bottom = 0.0
    for word in sorted(words, key=lambda w: w.box.y0):
        if tier and word.box.y0 >= bottom:
            found += _across(tier)
            tier = []
        tier.append(word)
        bottom = max(bottom, word.box.y1)
    return found + _across(tier)


def _across(tier: Sequence[Word]) -> list[Word]:
    usual = sorted(w.size for w in tier)[len(tier) // 2] if tier else 0.0
    columns: list[list[Word]] = []
    for word in sorted(tier, key=lambda w: -(w.box.x0 + w.box.x1)):
        middle = (word.box.x0 + word.box.x1) / 2
        small = word.size < 0.65 * usual
        last = columns[-1][0] if columns else None
        if last and last.box.x0 <= middle <= last.box.x1 and small == (last.size < 0.65 * usual):
            columns[-1].append(word)
        else:
            columns.append([word])
    ordered = [w for column in columns for w in sorted(column, key=lambda w: w.box.y0)]
    return sorted(ordered, key=lambda w: w.size < 0.65 * usual)
