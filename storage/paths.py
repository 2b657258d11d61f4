"""Where everything lives, given a root and a user key. Pure: touches no disk, opens nothing."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from storage.names import CropName, ExportName, JobId, Sha256, Version
from storage.names import UserKey as UserKey


def user_key(secret: bytes, identity: str) -> UserKey:
    """The only form of an identity that reaches a path or a row: HMAC-SHA256, 32 hex digits."""
    return UserKey(hmac.new(secret, identity.encode(), hashlib.sha256).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path under the data directory; each argument is one of `names` before it is joined, or
    InputError."""

    root: Path

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.sqlite"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def uploads(self) -> Path:
        """What callers have sent and not yet submitted, in a folder each."""
        return self.root / "uploads"

    @property
    def remote(self) -> Path:
        return self.root / "remote"

    def user(self, key: str) -> Path:
        return self.root / "users" / UserKey(key)

    def source(self, key: str, sha256: str) -> Path:
        return self.user(key) / "sources" / f"{Sha256(sha256)}.pdf"

    def elements(self, key: str, sha256: str, version: str) -> Path:
        name = f"{Sha256(sha256)}-{Version(version)}"
        return self.user(key) / "elements" / name

    def crops(self, key: str) -> Path:
        return self.user(key) / "crops"

    def crop(self, key: str, name: str) -> Path:
        return self.crops(key) / CropName(name)

    def pictures(self, key: str) -> Path:
        """Pages as they were drawn: they can be drawn again."""
        return self.user(key) / "pages"

    def page_images(self, key: str, sha256: str) -> Path:
        return self.pictures(key) / Sha256(sha256)

    def page_image(self, key: str, sha256: str, page: int, width: int) -> Path:
        return self.page_images(key, sha256) / f"{int(page)}-{int(width)}.webp"

    def work(self, key: str, job_id: str) -> Path:
        return self.user(key) / "work" / JobId(job_id)

    def deleted(self, key: str) -> Path:
        """Names of the crops of deleted documents, until those that nobody else names are gone."""
        return self.user(key) / "deleted"

    def chroma(self, key: str) -> Path:
        return self.user(key) / "chroma"

    def fulltext(self, key: str) -> Path:
        return self.user(key) / "fulltext.sqlite"

    def pending(self, key: str) -> Path:
        return self.user(key) / "pending"

    def clean(self, key: str) -> Path:
        """The seal of a live store that is closed; one without it is built anew."""
        return self.user(key) / "CLEAN"

    def opened(self, key: str) -> Path:
        """What is known of a live store that is open, or was when its process ended."""
        return self.user(key) / "OPEN"

    def stale(self, key: str) -> Path:
        """There while another instance has saved what the live store does not hold."""
        return self.user(key) / "STALE"

    def remains(self, key: str) -> Path:
        """There while the live store may hold pieces of what was erased from the stores."""
        return self.user(key) / "REMAINS"

    def lost(self, key: str) -> Path:
        """There while changes that a damaged disk has lost are still to be made again: since when."""
        return self.user(key) / "LOST"

    def base(self, key: str) -> Path:
        """The manifest that the catalogue and the live store go on from; empty: there was none."""
        return self.user(key) / "BASE.json"

    def for_pages(self, key: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """What page processes of that user may read, and what they may write."""
        mine = self.user(key)
        return (mine / "sources",), (mine / "elements", mine / "crops", mine / "work")

    def lock(self, key: str) -> Path:
        """Held by the one process that may open the live store."""
        return self.user(key) / "LOCK"

    def saving(self, key: str) -> Path:
        """What is made for a save and not needed after it; nothing of what the owner has."""
        return self.root / "saving" / UserKey(key)

    def copy(self, key: str) -> Path:
        """The copy of a closed live store on its way to be published."""
        return self.saving(key) / "chroma"

    @property
    def instance(self) -> Path:
        """The name of this data directory among others that write the same stores."""
        return self.root / "instance"

    @property
    def lease(self) -> Path:
        """This instance's last term as the one that runs the jobs of its stores."""
        return self.root / "lease.json"

    @property
    def key_id(self) -> Path:
        """Which secret the user keys in this data directory are made with."""
        return self.root / "secret.id"

    def export(self, key: str, name: str) -> Path:
        return self.exports / UserKey(key) / ExportName(name)
