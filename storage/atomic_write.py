"""Files that are whole or not there, whatever ends the writing of them."""

import os
import time
from pathlib import Path


def atomic_write(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Put into place once it is complete; what is left of one that failed would fill a full disk.
    `durable`: it is on the disk before it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
