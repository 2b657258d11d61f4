"""The journal: a Parquet file per change of a user's records, until a generation holds it.

Names begin with numbers that only grow, also when the clock goes back: a manifest says up to which one
an instance has shipped, and what it ships again after a crash would undo what others wrote since. They
end with what the content's sha256 begins with, so that a damaged file is never shipped.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from errors import Corrupt
from storage.atomic_write import atomic_write
from storage.live import seal, segments
from storage.live.segments import Row
from storage.names import UserKey, is_one
from storage.paths import Paths

_DIGITS = 16
_INSTANCE = re.compile(rb"[0-9a-f]{16}")


def write(folder: Path, content: bytes, after: str = "") -> str:
    """A file that is whole or not there; returns its name, which is greater than `after`."""
    last = max([after, *(p.name for p in folder.glob("*.parquet*"))])
    count = max(time.time_ns(), number(last) + 1)
    path = folder / f"{count:020d}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.parquet"
    atomic_write(path, content, durable=True)
    return path.name


def number(name: str) -> int:
    """When it was written, in nanoseconds, or a little later."""
    digits = name.partition(".")[0].partition("-")[0]
    return int(digits) if digits.isdigit() else 0


def pending(paths: Paths, user: str, shipped: str = "") -> list[Path]:
    """What no generation holds yet, oldest first."""
    return sorted(p for p in paths.pending(user).glob("*.parquet") if p.name > shipped)


def proved(paths: Paths, user: str, shipped: str = "") -> list[Path]:
    """The same, each as it was written and none missing that the live store holds: Corrupt
    otherwise, with the names of what is `lost`."""
    lost = wanting(paths, user, known(paths, user), shipped)
    if lost:
        raise damaged(lost)
    return pending(paths, user, shipped)


def wanting(paths: Paths, user: str, names: Iterable[str], shipped: str = "") -> list[str]:
    """Which of these names are not there any more, and which files are not as they were written."""
    found = pending(paths, user, shipped)
    there = {p.name for p in found}
    bad = {p.name for p in found if not whole(p)}
    return sorted({n for n in names if n > shipped} - there | bad)


def known(paths: Paths, user: str) -> set[str]:
    """Names that the live store holds, by what it has left in writing."""
    seals = (seal.read(paths.clean(user)), seal.read(paths.opened(user)))
    return {name for one in seals if one for name in one.journal}


def whole(path: Path) -> bool:
    """Whether it is what was written; of a name that an earlier version gave, whether it can be
    read."""
    digits = path.stem.partition("-")[2]
    try:
        if digits:
            return seal.digest(path).startswith(digits)
        return bool(list(segments.decode(path)))
    except (OSError, Corrupt):
        return False


def rows(files: Iterable[Path]) -> Iterator[Row]:
    for path in files:
        yield from segments.decode(path)


def set_aside(paths: Paths, user: str) -> None:
    """Damaged files stay, under a name that nobody reads."""
    for path in pending(paths, user):
        if not whole(path):
            path.replace(path.with_suffix(".damaged"))
            path.with_suffix(".damaged").touch()


def erase(paths: Paths, user: str, before: float) -> None:
    """What was changed before that time (seconds, epoch) is not wanted any more."""
    for path in pending(paths, user):
        if number(path.name) < before * 1e9:
            path.unlink()
    for path in (paths.clean(user), paths.opened(user)):
        if held := seal.read(path):
            names = tuple(n for n in held.journal if number(n) >= before * 1e9)
            seal.write(path, replace(held, journal=names))


def note_lost(paths: Paths, user: str, names: Iterable[str]) -> None:
    """For whoever can make these changes again."""
    since = min([*map(number, names), lost_since(paths, user) or number("9" * 20)])
    atomic_write(paths.lost(user), str(since).encode())


def losses(paths: Paths) -> dict[str, int]:
    """By user, of all that have lost changes: when, in nanoseconds, the first of these was made."""
    marks = (paths.root / "users").glob(f"*/{paths.lost('0' * 32).name}")
    users = [p.parent.name for p in marks if is_one(UserKey, p.parent.name)]
    told = {user: lost_since(paths, user) for user in users}
    return {user: since for user, since in told.items() if since is not None}


def lost_since(paths: Paths, user: str) -> int | None:
    """When, in nanoseconds, the first change was made that is lost; None when none is."""
    path = paths.lost(user)
    if not path.exists():
        return None
    told = path.read_text(encoding="ascii", errors="replace")
    return int(told) if told.isdigit() else 0


def damaged(names: Iterable[str]) -> Corrupt:
    return Corrupt(
        "journal_damaged",
        "Changes that are not yet saved are damaged or lost on this disk.",
        "They are written again from the index when it has them; else you are told which.",
        lost=tuple(names),
    )


def instance(paths: Paths) -> str:
    """This data directory's name among the instances, made once; and again when it is damaged."""
    told = paths.instance.read_bytes() if paths.instance.exists() else b""
    if not _INSTANCE.fullmatch(told):
        atomic_write(paths.instance, secrets.token_hex(8).encode())
        told = paths.instance.read_bytes()
    return told.decode("ascii")
