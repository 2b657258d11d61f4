"""How many bytes each owner has on this disk, and what is promised to work that still grows.

Measured and never noted: the blocks of all that lies in an owner's folders, as `du` counts them, so that a
kill, a wipe or a change from outside leaves nothing to put right. Folders whose files are written once are
looked into again only when their time has changed. A promise is a file without blocks in the folder that
may grow, as long as the folder may become; it ends with the work, or with the next start. Knows nothing of
how much anybody may have.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from storage.paths import Paths

PROMISE = ".promised"
_BLOCK = 512  # the unit of st_blocks
_WRITTEN_ONCE = frozenset({"sources", "elements", "crops", "pages"})
_MOST = 200_000  # folders that are remembered
_RESTLESS = (
    2_000_000_000  # nanoseconds in which a folder's time may not yet tell of its last change
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Bytes: `stored` is what `du` says, `promised` what may come on top of it."""

    stored: int = 0
    promised: int = 0

    @property
    def all(self) -> int:
        return self.stored + self.promised

    def __add__(self, other: "Taken") -> "Taken":
        return Taken(stored=self.stored + other.stored, promised=self.promised + other.promised)


@dataclass(frozen=True, slots=True)
class _Folder:
    """What was in it when its time was that: bytes of its files, names of its folders."""

    changed: int
    bytes: int
    folders: tuple[str, ...]


@dataclass(slots=True)
class Usage:
    """Of all owners of one data directory; any thread and any process may ask."""

    paths: Paths
    _seen: dict[str, _Folder] = field(default_factory=dict)
    _totals: dict[str, tuple[float, int]] = field(default_factory=dict)

    def of(self, user: str) -> Taken:
        """All that lies in that owner's folders."""
        tops = (self.paths.user(user), self.paths.exports / user, self.paths.uploads / user)
        return sum((self.within(top) for top in tops), Taken())

    def total(self, users: Iterable[str], *, age: float = 10.0) -> int:
        """Bytes of all these owners together, none measured longer than `age` seconds ago."""
        now, found = time.monotonic(), 0
        for user in users:
            at, stored = self._totals.get(user, (float("-inf"), 0))
            if now - at > age:
                stored = self.of(user).all
                self._totals[user] = now, stored
            found += stored
        return found

    def within(self, folder: Path) -> Taken:
        """What is in that folder, itself included; nothing where there is none."""
        return self._measured(str(folder), steady=folder.name in _WRITTEN_ONCE)

    @contextmanager
    def locked(self, user: str) -> Iterator[None]:
        """Nobody else, in no process, promises that owner anything meanwhile."""
        self.paths.run.mkdir(parents=True, exist_ok=True)
        with (self.paths.run / f"usage-{user[:2]}.lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def promise(self, folder: Path, size: int) -> None:
        """That folder may have so many bytes in all."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / PROMISE).open("ab") as file:
            file.truncate(size)

    def keep(self, folder: Path) -> None:
        """It has what it has: the promise is over."""
        (folder / PROMISE).unlink(missing_ok=True)

    def _measured(self, folder: str, *, steady: bool) -> Taken:
        try:
            status = os.lstat(folder)
            known = self._seen.get(folder) if steady else None
            if known is None or known.changed != status.st_mtime_ns:
                known, promise = self._looked(folder, status.st_mtime_ns, steady=steady)
            else:
                promise = 0
        except (FileNotFoundError, NotADirectoryError):
            self._seen.pop(folder, None)
            return Taken()
        found = Taken(stored=status.st_blocks * _BLOCK + known.bytes)
        for name in known.folders:
            found += self._measured(f"{folder}/{name}", steady=steady or name in _WRITTEN_ONCE)
        return found + Taken(promised=max(0, promise - found.all))

    def _looked(self, folder: str, changed: int, *, steady: bool) -> tuple[_Folder, int]:
        """Its files and folders now; and the promise, if it has one."""
        size = promise = 0
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    size += status.st_blocks * _BLOCK
                    if entry.name == PROMISE:
                        promise = status.st_size
        found = _Folder(changed, size, tuple(folders))
        if steady and abs(time.time_ns() - changed) > _RESTLESS:
            if len(self._seen) > _MOST:
                self._seen.clear()
            self._seen[folder] = found
        return found, promise


def end_promises(paths: Paths) -> None:
    """Of the jobs of a worker that is gone, and what it had made for a save."""
    for promise in paths.root.glob(f"users/*/work/*/{PROMISE}"):
        promise.unlink(missing_ok=True)
    shutil.rmtree(paths.root / "saving", ignore_errors=True)


def drop_unfinished(paths: Paths) -> None:
    """Uploads that had not arrived when their process ended."""
    for promise in paths.uploads.glob(f"*/*/{PROMISE}"):
        shutil.rmtree(promise.parent, ignore_errors=True)
