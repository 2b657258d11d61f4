"""The journal: a Parquet file per change of a user's records, until a generation holds it.

Names are numbers that only grow, also when the clock goes back: a manifest says up to which one an
instance has shipped, and what it ships again after a crash would undo what others wrote since.
"""

import os
import secrets
import time
from pathlib import Path

from storage.paths import Paths


def write(folder: Path, content: bytes, after: str = "") -> str:
    """A file that is whole or not there; returns its name, which is greater than `after`."""
    folder.mkdir(parents=True, exist_ok=True)
    last = max([after, *(p.name for p in folder.glob("*.parquet"))])
    number = max(time.time_ns(), int(last.removesuffix(".parquet") or 0) + 1)
    path = folder / f"{number:020d}.parquet"
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return path.name


def pending(paths: Paths, user: str, shipped: str = "") -> list[Path]:
    """What no generation holds yet, oldest first."""
    return sorted(p for p in paths.pending(user).glob("*.parquet") if p.name > shipped)


def instance(paths: Paths) -> str:
    """This data directory's name among the instances, made once."""
    if not paths.instance.exists():
        paths.root.mkdir(parents=True, exist_ok=True)
        aside = paths.instance.with_name(f".instance.{secrets.token_hex(4)}")
        aside.write_text(secrets.token_hex(8), encoding="ascii")
        aside.replace(paths.instance)
    return paths.instance.read_text(encoding="ascii")
