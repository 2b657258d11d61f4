"""Text files whose first line is the sha256 of what follows: one that a disk has damaged is not believed.

Files that were written without that line are taken as they are. Knows nothing of what is in them.
"""

import hashlib
import json
from pathlib import Path

from errors import Corrupt
from storage.atomic_write import atomic_write
from storage.files import opened

_BEGINS = b'{"sha256":'


def write(path: Path, text: str) -> None:
    """Whole or not there."""
    atomic_write(path, _seal(body := text.encode(errors="replace")) + body)


def read(path: Path) -> str:
    """What was written; FileNotFoundError when nothing is there, Corrupt when it is something else."""
    content = _content(path)
    try:
        if _is_proved(content):
            return content.partition(b"\n")[2].decode()
        if content and not content.startswith(_BEGINS):
            return content.decode()
    except UnicodeDecodeError as problem:
        raise damaged(path) from problem
    raise damaged(path)


def is_whole(path: Path) -> bool:
    try:
        read(path)
    except (Corrupt, OSError):
        return False
    return True


def is_proved(path: Path) -> bool:
    """Whether it has that line, and is what was written."""
    try:
        return _is_proved(_content(path))
    except OSError:
        return False


def sealed(content: bytes) -> bytes:
    """What is known to be right, with its line."""
    return content if _is_proved(content) else _seal(content) + content


def damaged(path: Path) -> Corrupt:
    return Corrupt(
        "elements_corrupt",
        f"What was read of a document is damaged on this disk ({path.name}).",
        "Retry its job: the pages are read again.",
    )


def _content(path: Path) -> bytes:
    with opened(path) as file:
        if file is None and not path.exists() and not path.is_symlink():
            raise FileNotFoundError(path)
        return file.read() if file else b""


def _is_proved(content: bytes) -> bool:
    return content.startswith(_BEGINS) and content.startswith(_seal(content.partition(b"\n")[2]))


def _seal(body: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"
