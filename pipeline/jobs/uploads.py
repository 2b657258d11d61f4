"""Whether an upload is taken, and where it is kept until its job needs it.

Each check raises Refused with what stands in the way. Knows nothing of the engine or of what is in a
PDF.
"""

import os
import shutil
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from errors import Refused
from settings import Settings
from storage.catalog.catalog import ACTIVE, Catalog
from storage.names import text
from storage.paths import Paths

_SPARE = 500 << 20  # bytes of the disk that are left alone
_GROWTH = 3  # a file, its elements and records take about that many times its bytes


@dataclass(frozen=True, slots=True)
class Admission:
    """The limits of these settings."""

    settings: Settings
    paths: Paths
    catalog: Catalog

    def admit(self, user: str, upload: Path, *, visitor: bool) -> None:
        """That user's jobs, the disk and that user's bytes have room for it."""
        most = self.settings.max_jobs
        if self.catalog.count_jobs(user, ACTIVE) >= most:
            raise Refused(
                "too_many_jobs", f"You have {most} jobs in the queue.", "Wait until some are done."
            )
        self.room(user, upload.stat().st_size, visitor=visitor)

    def room(self, user: str, size: int, *, visitor: bool = False, beside: int = 0) -> int:
        """How many bytes that user may still bring; Refused when `size` is more. `beside` is what
        lies uploaded and is not submitted yet."""
        usage = self.usage(user, visitor=visitor)
        left = usage["limit_bytes"] - usage["bytes"] - beside
        free = (shutil.disk_usage(self.paths.root).free - _SPARE) // _GROWTH
        if size > left:
            raise Refused(
                "quota_exceeded",
                f"Your {usage['limit_bytes'] >> 20} MB are used up.",
                "Delete sources that are not needed.",
            )
        if size > free:
            raise Refused(
                "disk_full", "The disk of this Space is almost full.", "Delete what is not needed."
            )
        return max(0, min(left, free))

    def usage(self, user: str, *, visitor: bool = False) -> dict[str, int]:
        """Bytes of that user's sources, and how many there may be."""
        most = self.settings.visitor_quota_mb if visitor else self.settings.user_quota_mb
        return {"bytes": self.catalog.stored_bytes(user), "limit_bytes": most << 20}


def keep(upload: Path, target: Path) -> None:
    """The upload is moved there, unless the same bytes are there already."""
    if target.exists():
        upload.unlink(missing_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        upload.replace(target)
    except OSError:  # another file system
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(upload, aside)
        aside.replace(target)


def display_name(name: str) -> str:
    """For display only, never part of a path: NFC, no folder, no control characters."""
    last = unicodedata.normalize("NFC", text(name)).replace("\\", "/").split("/")[-1]
    plain = "".join(c for c in last if c.isprintable())[:300].strip()
    return plain or "document.pdf"


def write_private(path: Path, content: str) -> None:
    """A file only this user of the machine can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
