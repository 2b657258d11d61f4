"""Text files whose first line is the sha256 of what follows: one that a disk has damaged is not believed.

Files that were written without that line are taken as they are. Knows nothing of what is in them.
"""

import hashlib
import json
import re
from pathlib import Path

from errors import Corrupt
from storage.atomic_write import atomic_write
from storage.files import opened

_SEAL = re.compile(rb'\{"sha256": "[0-9a-f]{64}"\}\n')


def write(path: Path, text: str) -> None:
    """Whole or not there."""
    atomic_write(path, sealed(text.encode(errors="replace")))


def read(path: Path) -> str:
    """What was written; FileNotFoundError when nothing is there, Corrupt when it is something else."""
    body, _ = opened_seal(path)
    try:
        return body.decode()
    except UnicodeDecodeError as problem:
        raise damaged(path) from problem


def opened_seal(path: Path) -> tuple[bytes, bool]:
    """What follows that line, and whether there was one; errors as of `read`."""
    content = _content(path)
    seal = _SEAL.match(content)
    body = content[seal.end() :] if seal else content
    if not content or (seal and seal[0] != _seal(body)):
        raise damaged(path)
    return body, seal is not None


def is_proved(path: Path) -> bool:
    """Whether it has that line, and is what was written."""
    try:
        return opened_seal(path)[1]
    except (FileNotFoundError, Corrupt):
        return False


def with_seal(content: bytes) -> bytes:
    """What is known to be right, with its line."""
    return content if _SEAL.match(content) else sealed(content)


def sealed(body: bytes) -> bytes:
    return _seal(body) + body


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
        try:
            return file.read() if file else b""
        except OSError as problem:  # the disk cannot give it
            raise damaged(path) from problem


def _seal(body: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"
