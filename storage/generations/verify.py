"""Verify: every byte that the newest generation names, in every remote, and what this machine keeps of it.

Changes nothing; `repair.py` puts right what is found.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from errors import Corrupt, NotFound
from storage import elements_folder
from storage.catalog.catalog import IMPORTED
from storage.files import is_named_by_content
from storage.generations import reader
from storage.generations.base import users_here
from storage.generations.compose import archived, elements_path, source_path
from storage.generations.reader import Found
from storage.generations.replication import Replication
from storage.paths import Paths
from storage.remotes.remote import Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A name in a remote whose bytes are missing or wrong, and the code of the error."""

    remote: str
    user: str
    path: str
    code: str


def users_of(remotes: Sequence[Remote]) -> list[str]:
    """Whoever has a manifest in one of them."""
    found: set[str] = set()
    for remote in remotes:
        for name in remote.names("users"):
            parts = name.split("/")
            if len(parts) == 3 and parts[2] == "manifest.json":
                found.add(parts[1])
    return sorted(found)


def users_known(replication: Replication) -> list[str]:
    """Whoever has something in one of the remotes, or on this machine."""
    here = {*users_here(replication.paths), *replication.catalog.marked()}
    return sorted(here.union(users_of(replication.remotes)))


def verify(remote: Remote, user: str) -> Iterator[Damage]:
    """Reads everything; raises Unavailable when the remote cannot be asked."""
    if reader.read_raw(remote, user) is None:
        yield nothing(remote.name, user)
    yield from damaged(remote, user)
    yield from unnamed(remote, user)


def nothing(where: str, user: str) -> Damage:
    return Damage(remote=where, user=user, path="manifest.json", code="nothing_saved")


def damaged(remote: Remote, user: str) -> Iterator[Damage]:
    """What is named, and is missing or not as it was written."""
    try:
        found = reader.read(remote, user)
    except Corrupt as problem:
        yield Damage(remote=remote.name, user=user, path="manifest.json", code=problem.code)
        return
    if found is not None:
        yield from lost(remote, user, found)


def lost(remote: Remote, user: str, found: Found) -> Iterator[Damage]:
    """What that generation names, and the remote has not as it was written."""
    for file in reader.named_files(found):
        try:
            reader.content([remote], user, file)
        except (Corrupt, NotFound) as problem:
            yield Damage(remote=remote.name, user=user, path=file.path, code=problem.code)


def unnamed(remote: Remote, user: str) -> Iterator[Damage]:
    """Originals and elements that sources need and the generation does not name. A source from
    somebody's archive may have come without. No other remote can give them back."""
    with contextlib.suppress(Corrupt):  # which is told as damage
        if (found := reader.read(remote, user)) is None:
            return
        files = {f.path for f in found.manifest.files}
        originals = {source_path(f.sha256) for f in found.manifest.files}  # by their content
        archives = archived(files)
        for source in found.manifest.sources:
            original = source_path(source.sha256)
            elements = elements_path(source.sha256, source.version)
            if source.version == IMPORTED:
                continue
            if original not in originals:
                yield Damage(remote=remote.name, user=user, path=original, code="original_missing")
            if elements not in archives:
                yield Damage(remote=remote.name, user=user, path=elements, code="elements_missing")


def local(replication: Replication, user: str) -> Iterator[Damage]:
    """Where this machine goes on from another state than the stores, and those of its files that are not
    what was written."""
    with contextlib.suppress(Corrupt):  # which is told as damage
        yield from state_here(replication, user)
    yield from files_here(replication.paths, user)


def state_here(replication: Replication, user: str) -> Iterator[Damage]:
    """What this machine says of that user and the stores do not."""
    found = replication.current(user)
    mark = replication.catalog.mark(user)
    if mark.sha256 is not None and not replication.proved(user):
        yield Damage(remote="here", user=user, path="BASE.json", code="mark_differs")
    if mark.generation > (found.manifest.generation if found else 0):
        yield Damage(remote="here", user=user, path="catalog", code="store_went_back")


def files_here(paths: Paths, user: str) -> Iterator[Damage]:
    """Files of this machine that are damaged, and folders of elements that are, or lack some. The live
    store proves itself when it is opened."""
    told = partial(Damage, remote="here", user=user)
    top = paths.user(user)
    for kind, code in (("sources", "original_corrupt"), ("crops", "figure_corrupt")):
        for path in sorted((top / kind).glob("[!.]*")):
            if not is_named_by_content(path):
                yield told(path=f"{kind}/{path.name}", code=code)
    for folder in sorted((top / "elements").glob("[!.]*")):
        if folder.is_dir() and not elements_folder.is_whole(folder):
            yield told(path=f"elements/{folder.name}", code="elements_corrupt")
