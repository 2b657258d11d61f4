"""Room that is kept on the disk for the day on which it is full: a file that is given up then, so that
the worker can start, and what is there can be read and deleted. SQLite writes for each of these.

Knows nothing of who filled the disk; jobs that write wait as long as the reserve would be theirs.
"""

import os
import shutil
from contextlib import suppress

from storage.paths import Paths

RESERVE = 64 << 20  # bytes
_FULL = 8 << 20
_ROOMY = 500 << 20


def tend(paths: Paths) -> None:
    """Given up when the disk is full, kept again when there is much room."""
    reserve = paths.run / "reserve"
    free = shutil.disk_usage(paths.root).free
    if free < _FULL:
        reserve.unlink(missing_ok=True)
    elif free > _ROOMY + RESERVE and not reserve.exists():
        paths.run.mkdir(parents=True, exist_ok=True)
        aside = reserve.with_suffix(".tmp")
        with suppress(OSError), aside.open("wb") as file:  # later, where somebody was faster
            os.posix_fallocate(file.fileno(), 0, RESERVE)
            aside.replace(reserve)
