"""The published Chroma directory: the copy of a closed live store that anybody can open.

Its bytes change whenever Chroma opens it, so a generation decides whether a new one is due, never a
hash. Knows nothing of remotes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from errors import Corrupt
from storage.names import ChromaFile, is_one

_SLACK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A directory that holds the base generation (`base`: the sha256 of its manifest) and these
    journal files, nothing else."""

    directory: Path
    journal: tuple[Path, ...]
    records: int
    base: str = ""


def check(directory: Path) -> None:
    """Corrupt when there is anything else in it than the plain files of a closed directory, or when an
    index file is torn: after a kill it can be terabytes long, with nothing in it, and would fill the
    disk when it is copied."""
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_dir() or is_one(ChromaFile, name)):
            raise Corrupt(
                "index_foreign",
                "There is more in the Chroma directory than Chroma leaves when it is closed.",
                "Open and close it with the Chroma that made it, and take out what is not Chroma's.",
            )
    for links in directory.glob("*/link_lists.bin"):
        level0 = links.with_name("data_level0.bin")
        size = links.stat()
        most = (level0.stat().st_size if level0.exists() else 0) // 4 + _SLACK
        if size.st_size > most or size.st_blocks * 512 + _SLACK < size.st_size:
            raise Corrupt(
                "index_torn",
                "An index file of the live store is torn.",
                "It is not copied; the store is rebuilt from its segments.",
            )


def copy(directory: Path, to: Path) -> None:
    """A closed directory, file by file, under `to`; checked first."""
    check(directory)
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(directory, to, symlinks=True)


def members(directory: Path) -> dict[str, Path]:
    """Its files by their path below it; never a link."""
    return {
        p.relative_to(directory).as_posix(): p
        for p in sorted(directory.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }
