"""Files that are whole or not there, whatever ends the writing of them."""

import os
import time
from pathlib import Path


def atomic_write(path: Path, content: bytes) -> None:
    """Put into place once it is complete; what is left of one that failed would fill a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
