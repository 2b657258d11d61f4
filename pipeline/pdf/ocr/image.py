"""What the picture of a page shows before it is read: how it is turned, and its rules.

Arrays of gray pixels in, numbers and boxes in pixels out. Knows nothing of text or PDFs.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.pdf.page import Box

_STEEPEST = 20.0
_SAMPLE = 30_000
_FULL = 0.95  # of a rule is ink


class Posture(NamedTuple):
    """`skew` in degrees, counted as the lines fall to the right; `sideways` when lines of text seem
    to run from top to bottom."""

    skew: float
    sideways: bool


def ink(gray: Any) -> Any:
    """Which pixels are darker than halfway between the paper and black."""
    pixels = np.asarray(gray)
    paper = float(np.percentile(pixels[::8, ::8], 80))
    return pixels < 0.62 * paper


def posture(dark: Any) -> Posture:
    """By how the ink gathers in lines when it is summed up along each slope."""
    y, x = np.nonzero(dark[::2, ::2])
    if len(x) < 200:
        return Posture(0.0, sideways=False)
    step = max(1, len(x) // _SAMPLE)
    x, y = x[::step].astype(np.float32), y[::step].astype(np.float32)
    level, flat, along = _steepest(x, y)
    _, _, across = _steepest(y, -x)
    # The steepest slope tried is no peak: something else than lines of text lies there.
    straight = not 0.3 <= abs(level) < _STEEPEST or along < 1.04 * flat
    return Posture(0.0 if straight else level, sideways=across > 1.3 * along)


def _steepest(x: Any, y: Any) -> tuple[float, float, float]:
    """The slope in degrees at which the ink gathers most, how much at none, and how much there."""

    def gathered(degrees: float) -> float:
        lines = y - x * np.float32(np.tan(np.radians(degrees)))
        counts = np.bincount((lines - lines.min()).astype(np.int64) // 2)
        return float(np.square(np.diff(counts.astype(np.float64))).sum())

    flat = gathered(0.0)
    coarse = max(np.arange(-_STEEPEST, _STEEPEST + 0.1, 0.5), key=gathered)
    best = float(max(np.arange(coarse - 0.5, coarse + 0.51, 0.1), key=gathered))
    return round(best, 2), flat, gathered(best)


# Rules


def rules(dark: Any, least: int) -> tuple[list[Box], list[Box]]:
    """Horizontal and vertical lines of at least that many pixels."""
    across = _strokes(dark, least, axis=1)
    down = [Box(b.y0, b.x0, b.y1, b.x1) for b in _strokes(dark, least, axis=0)]
    return across, down


def _strokes(dark: Any, least: int, *, axis: int) -> list[Box]:
    """Long thin runs along the rows (axis 1) or columns; one that wanders over some rows is one."""
    if dark.shape[axis] < least:
        return []
    thick = dark.copy()  # a line that wanders by a pixel counts as straight
    if axis:
        thick[1:] |= dark[:-1]
        thick[:-1] |= dark[1:]
    else:
        thick[:, 1:] |= dark[:, :-1]
        thick[:, :-1] |= dark[:, 1:]
    rows = _inked(thick, least, axis)
    some = thick[rows] if axis else thick[:, rows].T
    sums = np.cumsum(np.pad(some, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    full = (sums[:, least:] - sums[:, :-least]) >= _FULL * least
    open_: list[list[int]] = []
    done: list[list[int]] = []
    for row, long in zip(rows.tolist(), full, strict=True):
        if not long.any():
            continue
        edges = np.diff(np.concatenate(([0], long.astype(np.int8), [0])))
        starts, ends = np.nonzero(edges == 1)[0], np.nonzero(edges == -1)[0] + least - 1
        still: list[list[int]] = []
        for stroke in open_:
            (still if stroke[3] >= row - 2 else done).append(stroke)
        open_ = still
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
            near = next((s for s in open_ if s[0] <= b and a <= s[2]), None)
            if near is None:
                open_.append([a, row, b, row + 1])
            else:
                near[0], near[2], near[3] = min(near[0], a), max(near[2], b), row + 1
    return [Box(*map(float, s)) for s in [*done, *open_] if s[3] - s[1] <= max(9, least // 6)]


def _inked(thick: Any, least: int, axis: int) -> Any:
    """The rows (axis 1) or columns that may hold a run: it fills most eights of pixels that it
    covers, and each missing pixel leaves one of them open. Few rows of text have so many."""
    if axis:
        eights = np.packbits(thick, axis=1) == 255
    else:
        whole = len(thick) // 8 * 8
        eights = thick[:whole].reshape(-1, 8, thick.shape[1]).all(axis=1)
    filled = np.count_nonzero(eights, axis=axis)
    return np.nonzero(filled >= (least - 15) // 8 - int((1 - _FULL) * least))[0]
