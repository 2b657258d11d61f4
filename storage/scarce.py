"""What a machine may run out of, as an error that passes by itself: room on the disk, open files.

Knows no library but the errors of Python, the system and SQLite; others are asked what they came from.
"""

import errno
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import QuireError, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILES = {errno.EMFILE, errno.ENFILE}
_NO_ROOM = 1 << 20  # bytes: less than that is none


def disk_full(message: str = "The disk of this Space is full.") -> Unavailable:
    return Unavailable("disk_full", message, "Delete what is not needed.")


def too_many_open_files() -> Unavailable:
    return Unavailable(
        "too_many_open_files",
        "This Space has too many files open.",
        "It is tried again; allow more with `ulimit -n`.",
    )


def scarce(problem: BaseException, root: Path) -> QuireError | None:
    """What this error comes from, where the machine has too little of it; None for any other error.
    `root` is the data directory."""
    for cause in _causes(problem):
        number = cause.errno if isinstance(cause, OSError) else None
        sqlite = getattr(cause, "sqlite_errorcode", None)
        if isinstance(cause, QuireError) and cause.code in {"disk_full", "too_many_open_files"}:
            return cause
        if number in _FULL or sqlite == sqlite3.SQLITE_FULL:
            return disk_full()
        if number in _FILES:
            return too_many_open_files()
        # SQLite and Chroma say of both only that a file cannot be opened or written.
        unclear = sqlite is not None and sqlite & 0xFF in {
            sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR,
        }  # fmt: skip
        if unclear or type(cause).__module__.startswith("chromadb"):
            if shutil.disk_usage(root).free < _NO_ROOM:
                return disk_full()
            if descriptors_left() < 4:
                return too_many_open_files()
    return None


@contextmanager
def scarcity(root: Path) -> Iterator[None]:
    """An OSError inside is raised as what it comes from, where the machine has too little of that."""
    try:
        yield
    except OSError as problem:
        found = scarce(problem, root)
        if found is None:
            raise
        raise found from problem


def known(problem: Exception, root: Path, advice: str) -> QuireError:
    """The same; any other error as one that nobody expected."""
    return scarce(problem, root) or QuireError(
        "internal", f"Something unexpected happened ({type(problem).__name__}).", advice
    )


def descriptors_left() -> int:
    """How many files this process may still open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return soft - len(list(Path("/proc/self/fd").iterdir()))
    except OSError:  # not even one
        return 0


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    left: list[BaseException | None] = [problem]
    while left:
        one = left.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [getattr(one, "orig", None), one.__cause__, one.__context__]
