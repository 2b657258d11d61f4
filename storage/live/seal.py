"""What is known of a user's live store, so that none is believed that was not proved.

`CLEAN` is there while the store is closed: what it goes on from, and the sha256 of its every byte.
`OPEN` is there while a process has it open, and after one was killed: such a store is built anew.
Both name the files of the journal that the store holds. Knows nothing of what is in the files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storage.atomic_write import atomic_write
from storage.paths import Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """`base`: the sha256 of the manifest that the store goes on from ("": there was none).
    `journal`: files of the journal that it holds on top. `chroma`: the version that closed it.
    `index`: the sha256 of each file below the Chroma directory; `words`: the keyword index's."""

    journal: tuple[str, ...] = ()
    base: str = ""
    chroma: str = ""
    index: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Seal | None:
    """None when there is none, or it is not what was written."""
    try:
        digest, body = path.read_text(encoding="utf-8").split("\n", 1)
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            return None
        told = json.loads(body)
        return Seal(**{**told, "journal": tuple(told["journal"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(path: Path, seal: Seal) -> None:
    body = json.dumps(asdict(seal), sort_keys=True)
    atomic_write(path, f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}".encode())


def base(paths: Paths, user: str) -> str:
    """Which manifest a store that is built now goes on from."""
    path = paths.base(user)
    raw = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(raw).hexdigest() if raw else ""


def index(paths: Paths, user: str) -> dict[str, str]:
    top = paths.chroma(user)
    return {p.relative_to(top).as_posix(): digest(p) for p in sorted(top.rglob("*"))}


def words(paths: Paths, user: str) -> dict[str, str]:
    """The keyword index, with what SQLite leaves beside it."""
    path = paths.fulltext(user)
    return {p.name: digest(p) for p in sorted(path.parent.glob(f"{path.name}*"))}


def digest(path: Path) -> str:
    """The sha256 of a file; a kind that is none of 64 digits for what is no file."""
    if path.is_symlink() or not path.is_file():
        return "link" if path.is_symlink() else "folder"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
