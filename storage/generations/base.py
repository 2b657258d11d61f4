"""What this machine goes on from: a user's newest manifest in BASE.json, and the catalogue's mark of it.

The two are written one after the other, so that whatever of them is lost, put back or damaged shows:
then neither is believed, and the stores are asked. Knows no remote.
"""

import contextlib
import functools

from errors import Corrupt
from storage.atomic_write import atomic_write
from storage.catalog.catalog import Catalog
from storage.generations import manifest as manifests
from storage.generations.manifest import Manifest
from storage.generations.reader import digest
from storage.names import UserKey, is_one
from storage.paths import Paths


def raw(paths: Paths, user: str) -> bytes | None:
    """The bytes as they lie there: empty when nothing was saved, None when they cannot be read."""
    with contextlib.suppress(OSError):
        return paths.base(user).read_bytes()
    return None


def manifest(paths: Paths, user: str) -> Manifest | None:
    """None when there is none, also when what lies there is damaged."""
    content = raw(paths, user)
    if not content:
        return None
    try:
        return _loaded(content, user)
    except Corrupt:
        return None


@functools.lru_cache(32)
def _loaded(content: bytes, user: str) -> Manifest:
    """A save asks for the same one several times."""
    return manifests.load(content, user=user)


def proved(paths: Paths, catalog: Catalog, user: str) -> bool:
    """Whether the catalogue's rows go on from what BASE.json holds."""
    content = raw(paths, user)
    return content is not None and catalog.mark(user).sha256 == digest(content)


def go_on_from(
    paths: Paths, catalog: Catalog, user: str, content: bytes, saved: int | None = None
) -> Manifest | None:
    """From that manifest (empty: there is none), which holds the first `saved` changes of the rows."""
    atomic_write(paths.base(user), content)
    found = _loaded(content, user) if content else None
    catalog.set_mark(user, found.generation if found else 0, digest(content), saved)
    return found


def users_here(paths: Paths) -> list[str]:
    """Users with something in this data directory; what else lies there is nobody's."""
    top = paths.root / "users"
    return sorted(
        p.name
        for p in top.glob("*")
        if is_one(UserKey, p.name) and p.is_dir() and not p.is_symlink()
    )
