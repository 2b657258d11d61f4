"""A document's elements on this disk: which files they consist of, and whether they are whole.

Each file says its own sha256; once all are there, a list says which. Files of a version that wrote neither
are taken as they are, when they can be read at all. Knows nothing of what elements are.
"""

import json
from pathlib import Path

from errors import Corrupt
from storage import sealed_text
from storage.atomic_write import atomic_write
from storage.files import crops_of, is_plain
from storage.names import CropName, ElementsFile, is_one

EDITION = "edition.json"  # a number
LISTED = "files.json"  # the names of the other files, once all are there


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if is_one(ElementsFile, p.name))


def edition(folder: Path) -> int:
    """How often what is saved of these elements was not what they are now."""
    try:
        return int(sealed_text.read(folder / EDITION))
    except (FileNotFoundError, Corrupt, ValueError):
        return 0


def is_listed(folder: Path) -> bool:
    return (folder / LISTED).exists()


def is_whole(folder: Path) -> bool:
    """Whether each file is what was written, and each that was listed is there."""
    there = files(folder)
    if not is_listed(folder):
        return all(map(file_is_whole, there))
    if not all(map(sealed_text.is_proved, there)):
        return False
    return _listed(folder) <= {p.name for p in there}


def is_old(folder: Path) -> bool:
    """Whether a version wrote it whose files do not say what they are."""
    there = files(folder)
    return bool(there) and not any(map(sealed_text.is_proved, there))


def file_is_whole(path: Path) -> bool:
    """Whether it is what was written; of an old one, whether it can be read."""
    if path.suffix == ".crops" and is_plain(path) and not path.stat().st_size:
        return True  # an old one that names none
    try:
        body, proved = sealed_text.opened_seal(path)
        if proved or path.suffix == ".crops":
            return proved or all(is_one(CropName, word) for word in body.decode().split())
        told = [json.loads(line) for line in body.splitlines()]
    except (FileNotFoundError, Corrupt, ValueError):
        return False
    return bool(told) and (path.suffix == ".jsonl" or len(told) == 1)


def list_files(folder: Path, *, saved: int = -1, changed: bool = False) -> None:
    """All that belongs to these elements is there: from now on what is gone is missed. Where the edition
    that is `saved` of them is not what they are now (`changed`, or there are more than were listed),
    they are the next one. Corrupt when a batch is damaged; what else is goes, and is made again."""
    before = _listed(folder) if is_listed(folder) else None
    for path in files(folder):
        if not file_is_whole(path):
            if path.name.startswith("batch-"):
                raise sealed_text.damaged(path)
            path.unlink()
        elif not sealed_text.is_proved(path):
            atomic_write(path, sealed_text.with_seal(path.read_bytes()))
    names = {p.name for p in files(folder)} - {EDITION, LISTED}
    if not names:
        return
    if changed or (before is not None and not names <= before):
        sealed_text.write(folder / EDITION, str(max(edition(folder), saved) + 1))
    sealed_text.write(folder / LISTED, "\n".join(p.name for p in files(folder) if p.name != LISTED))


def may_show(folder: Path, crop: str) -> bool:
    """False when the lists of crops are all there, and do not name that one."""
    lists = [p for p in files(folder) if p.suffix == ".crops"]
    wanted = {name for name in _listed(folder) if name.endswith(".crops")}
    if not wanted or not wanted <= {p.name for p in lists if file_is_whole(p)}:
        return True
    return any(crop in crops_of(p) for p in lists)


def _listed(folder: Path) -> set[str]:
    try:
        return set(sealed_text.read(folder / LISTED).split())
    except (FileNotFoundError, Corrupt):
        return set()
