"""Files of a user's folder, read as what they must be: plain ones, never what a link leads to."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from storage.names import CropName, is_one


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader | None]:
    """A plain file, opened for reading; None where there is none, or something else stands there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    with os.fdopen(descriptor, "rb") as file:
        yield file if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_named_by_content(path: Path) -> bool:
    """Whether it is a plain file, and what its name begins with is its sha256."""
    try:
        with opened(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if file else None
    except OSError:  # the disk cannot give it
        return False
    return path.name.partition(".")[0] == found


def crops_of(listed: Path) -> list[CropName]:
    """The crops that the list beside a checkpoint names; what is no crop's name is no crop."""
    with opened(listed) as file:
        words = file.read().decode("ascii", "replace").split() if file else []
    return [CropName(word) for word in words if is_one(CropName, word)]
