"""Whether there is room for what comes, and where an upload is kept until its job needs it.

What an owner has is measured on the disk (storage/usage.py). Work that grows asks for its room first,
gets it as a promise that others see, and ends it when it knows what it has taken. Each check raises
Refused, or Unavailable while the disk is full. Knows nothing of the engine or of what is in a PDF.
"""

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from errors import Refused
from settings import Settings
from storage.catalog.catalog import ACTIVE, Catalog
from storage.paths import Paths
from storage.scarce import disk_full, scarcity
from storage.usage import Usage

_SPARE = 500 << 20  # bytes of the disk that new work leaves alone
_WORKING = 100 << 20  # and those that work which was taken leaves to reading and deleting
_GROWTH = 3  # a file, its elements and records take about that many times its bytes
_STEP = 4 << 20  # bytes that are promised ahead to what says nothing of its size


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of these settings."""

    settings: Settings
    paths: Paths
    catalog: Catalog
    measured: Usage = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", Usage(self.paths))

    def limit(self, user: str) -> int:
        """Bytes that this owner may have in all."""
        visitor = self.catalog.is_visitor(user)
        return (self.settings.visitor_quota_mb if visitor else self.settings.user_quota_mb) << 20

    def usage(self, user: str) -> dict[str, int]:
        """Bytes that this owner has, and how many there may be."""
        return {"bytes": self.measured.of(user).stored, "limit_bytes": self.limit(user)}

    def admit(self, user: str, upload: Path) -> None:
        """That user's jobs, the disk and that user's bytes have room for a job; its file has been
        taken already."""
        most = self.settings.max_jobs
        active = self.catalog.count_jobs(user, ACTIVE)
        if active >= most:
            raise Refused(
                "too_many_jobs", f"You have {most} jobs in the queue.", "Wait until some are done."
            )
        self._disk(upload.stat().st_size * (_GROWTH - 1), _SPARE)
        limit = self.limit(user)
        self._room(user, (active + 1) * max(1, min(1 << 20, limit // 64)), limit, limit)

    def grow(self, user: str, size: int = 0) -> None:
        """What a job was taken for may grow by so many bytes: records, elements."""
        self._disk(size, _WORKING)
        limit = self.limit(user)
        self._room(user, size, limit - _margin(limit), limit)

    def picture(self, user: str, size: int) -> None:
        """A picture of a page comes: others make room for it. It is never refused."""
        with suppress(Refused):
            limit = self.limit(user)
            self._room(user, size, limit, limit)
        if shutil.disk_usage(self.paths.root).free < _WORKING:
            self._evict(user, size)

    @contextmanager
    def promised(self, user: str, folder: Path) -> Iterator["Promise"]:
        """Room for what is written into that folder; the promise is over at the end, whatever
        happened."""
        promise = Promise(self, user, folder)
        try:
            yield promise
        finally:
            self.measured.keep(folder)

    def allot(self, user: str, folder: Path, size: int, ahead: int) -> int:
        """What that folder may become: `size` bytes, and up to `ahead` more where there is room."""
        where = self.catalog.visitor_address(user) or user
        with scarcity(self.paths.root), self.measured.locked(where):
            own = self.measured.within(folder).all
            limit = self.limit(user)
            most = limit - 2 * _margin(limit)
            left = own + self._room(user, size - own, most, limit)
            self._disk(size - own, _SPARE)
            allotted = min(size + ahead, left)
            self.measured.promise(folder, allotted)
            return allotted

    def discard(self, upload: Path) -> None:
        """An upload that is not needed any more, and the folders made for it; nothing else."""
        if not upload.is_relative_to(self.paths.uploads):
            return
        upload.unlink(missing_ok=True)
        for folder in upload.parents[:2]:
            with suppress(OSError):  # others came with it
                folder.rmdir()

    def _room(self, user: str, size: int, most: int, limit: int) -> int:
        """Bytes that may come until there are `most`, `size` of them at least; Refused when there is
        no room for these, also without the pictures of pages, which can be drawn again."""
        own, shared = most - self.measured.of(user).all, self._shared(user, most)
        own -= self._away(user)
        if size > min(own, shared):
            freed = self._evict(user, size - min(own, shared))
            own, shared = own + freed, shared + freed
        left = min(own, shared)
        if own >= size > shared:
            raise Refused(
                "quota_exceeded",
                "What visitors may store is used up, at your address or by all of them.",
                "Sign in, or delete what is not needed.",
            )
        if size > left:
            raise Refused(
                "quota_exceeded",
                f"Your {limit >> 20} MB are used up.",
                "Delete what is not needed.",
            )
        return left

    def _shared(self, user: str, most: int) -> int:
        """Bytes that are left of what visitors share: at one address as much as one of them, and all
        of them together. What a promise said a moment ago counts at an address, and ten seconds later
        everywhere."""
        if not self.catalog.is_visitor(user):
            return most
        here = most - self.measured.total(self.catalog.visitors(beside=user), age=0)
        visitors = self.settings.visitors_quota_mb << 20
        return min(here, visitors - self.measured.total(self.catalog.visitors()))

    def _away(self, user: str) -> int:
        """Bytes of originals that a store has and this disk lacks, after a wipe: they come back."""
        held = {s.sha256: s.bytes for s in self.catalog.sources(user)}
        return sum(size for sha, size in held.items() if not self.paths.source(user, sha).exists())

    def _evict(self, user: str, size: int) -> int:
        """Pictures of pages go, the oldest first, until that many bytes are given back."""
        freed = 0
        pictures = self.paths.pictures(user).rglob("*.webp")
        for path in sorted(pictures, key=lambda p: p.stat().st_mtime):
            if freed >= size:
                break
            freed += path.stat().st_blocks * 512
            path.unlink(missing_ok=True)
        return freed

    def _disk(self, size: int, spare: int) -> None:
        if shutil.disk_usage(self.paths.root).free - size < spare:
            raise disk_full("The disk of this Space is almost full.")


@dataclass(slots=True)
class Promise:
    """What a folder may become; it grows while there is room. One thread at a time."""

    admission: Admission
    user: str
    folder: Path
    bytes: int = -1
    _has: int = 0

    def need(self, size: int, *, ahead: int = 0) -> None:
        """The folder may have `size` bytes in all, and up to `ahead` more where there is room."""
        if size > self.bytes:
            self.bytes = self.admission.allot(self.user, self.folder, size, ahead)

    def more(self, size: int) -> None:
        """So many bytes come next, of what says nothing of its size before it ends."""
        self._has += size
        self.need(self._has, ahead=_STEP)

    def settle(self) -> None:
        """It may have what it has by now, and no more; Refused when that is too much."""
        self._has = self.admission.measured.within(self.folder).stored
        self.bytes = self.admission.allot(self.user, self.folder, self._has, 0)


def _margin(limit: int) -> int:
    """What is left alone for what cannot be told before: records come with less than twice that."""
    return min(8 << 20, limit // 32)


def keep(upload: Path, target: Path) -> None:
    """The upload is moved there, unless the same bytes are there already: what has the name of other
    bytes is damaged."""
    if target.exists() and filecmp.cmp(upload, target, shallow=False):
        upload.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        upload.replace(target)
    except OSError:  # another file system
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(upload, aside)
        aside.replace(target)


def write_private(path: Path, content: str) -> None:
    """A file only this user of the machine can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
