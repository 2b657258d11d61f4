"""The order in which the parts of a page are read, from where they stand and how they were drawn.

Most files draw a page in the order it is read, and inside a column or among columns that order is
kept. What was drawn in one go and stands clear above or below the rest, as a masthead or a running
head drawn last, is read at its height. Knows nothing of words or elements.
"""

from collections.abc import Sequence

from pipeline.pdf.page import Box


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Which box comes first, second and so on; they are given in drawing order."""
    groups: list[tuple[list[int], Box]] = []  # runs of the drawing order, clear of each other
    for i, box in enumerate(boxes):
        members, place = [i], box
        while True:
            at = next((g for g, (_, other) in enumerate(groups) if _tied(other, place)), None)
            if at is None:
                break
            # What was drawn between two that belong together belongs to them.
            for _, other in groups[at:]:
                place = place.union(other)
            members = [m for group, _ in groups[at:] for m in group] + members
            del groups[at:]
        groups.append((members, place))
    groups.sort(key=lambda group: group[1].y0)
    return [i for members, _ in groups for i in members]


def _tied(first: Box, later: Box) -> bool:
    """Whether heights say nothing about the order of two parts: they stand side by side, or the one
    drawn later stands higher, but in another column."""
    if later.y0 >= first.y1:
        return False
    shared = min(first.y1, later.y1) - max(first.y0, later.y0)
    if shared > 0.25 * min(first.height, later.height):
        return True
    across = min(first.x1, later.x1) - max(first.x0, later.x0)
    return later.y0 < first.y0 and across < 0.5 * min(first.width, later.width)
