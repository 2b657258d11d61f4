"""Verify and repair: every byte that the newest generation names, in every remote.

What one remote has damaged or lost, another one, or this machine's live store, gives back.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from errors import Corrupt, NotFound, QuireError
from storage.catalog.catalog import IMPORTED
from storage.generations import manifest as manifests
from storage.generations import reader
from storage.generations.base import users_here
from storage.generations.compose import Files, Wish, archived, elements_path, source_path
from storage.generations.reader import Found, named
from storage.generations.replication import Replication
from storage.live import journal
from storage.live.build_chroma import put_row
from storage.live.open_stores import Workspaces
from storage.live.segments import Row
from storage.remotes.remote import Change, Remote


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
        yield _nothing(remote.name, user)
    yield from _damaged(remote, user)
    yield from _unnamed(remote, user)


def _nothing(where: str, user: str) -> Damage:
    return Damage(remote=where, user=user, path="manifest.json", code="nothing_saved")


def _damaged(remote: Remote, user: str) -> Iterator[Damage]:
    """What is named, and is missing or not as it was written."""
    try:
        found = reader.read(remote, user)
    except Corrupt as problem:
        yield Damage(remote=remote.name, user=user, path="manifest.json", code=problem.code)
        return
    if found is None:
        return
    for file in (*found.manifest.needs(), *found.manifest.kept):
        try:
            reader.content([remote], user, file)
        except (Corrupt, NotFound) as problem:
            yield Damage(remote=remote.name, user=user, path=file.path, code=problem.code)


def _unnamed(remote: Remote, user: str) -> Iterator[Damage]:
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
    """What this machine says of that user and the stores do not: it goes on from another state."""
    found = replication.current(user)
    mark = replication.catalog.mark(user)
    if mark.sha256 is not None and not replication.proved(user):
        yield Damage(remote="here", user=user, path="BASE.json", code="mark_differs")
    if mark.generation > (found.manifest.generation if found else 0):
        yield Damage(remote="here", user=user, path="catalog", code="store_went_back")


def repair(replication: Replication, workspaces: Workspaces, user: str) -> list[Damage]:
    """Put right what is damaged, and bring the mirror up; what is left is returned.

    Bytes come from another remote that has them; where none has, the records of the live store,
    when it is whole, are saved as a new generation. Raises Unavailable when a remote cannot be
    asked: nothing is judged lost that may only be away.
    """
    if user not in users_known(replication):
        return [_nothing(replication.primary.name, user)]
    with contextlib.suppress(Corrupt, NotFound):  # which is told below
        replication.head(user)
    damage = [d for r in replication.remotes for d in _from_others(replication, r, user)]
    if _lost(replication, user, damage):
        rows = _records(replication, workspaces, user)
        if rows is not None:
            replication.save(user, Wish(whole=rows))
            damage = [d for r in replication.remotes for d in _damaged(r, user)]
    if replication.mirror is not None and not damage:
        replication.catch_up(user, replication.primary, replication.mirror)
    damage += [d for r in replication.remotes for d in _unnamed(r, user)]
    here = list(local(replication, user))
    if [d.code for d in here] == ["mark_differs"]:
        replication.adopt(user)  # goes on from the stores, as the worker does
        here = list(local(replication, user))
    return damage + here


def _records(replication: Replication, workspaces: Workspaces, user: str) -> tuple[Row, ...] | None:
    """Every record of the live store; None when it is not whole. Of a user who had none saved and has
    nothing unsaved, no store is needed."""
    paths, known = replication.paths, replication.base(user)
    if not paths.clean(user).exists():
        empty = known is not None and not known.segments and not journal.pending(paths, user)
        return () if empty else None
    with contextlib.suppress(Corrupt), workspaces.open(user) as workspace:
        return tuple(
            put_row(c, r) for c in workspace.collections() for r in workspace.get(c, vectors=True)
        )
    return None


def _lost(replication: Replication, user: str, damage: Sequence[Damage]) -> bool:
    """No remote can give the newest generation that was confirmed here."""
    known = replication.known_generation(user)
    try:
        head = reader.read(replication.primary, user)
    except Corrupt:
        return True
    needed = {f.path for f in head.manifest.segments} if head else set()
    return (head.manifest.generation if head else 0) < known or any(
        d.remote == replication.primary.name and d.path in needed for d in damage
    )


def _from_others(replication: Replication, remote: Remote, user: str) -> list[Damage]:
    """What is left damaged in that remote."""
    bad = list(_damaged(remote, user))
    if not bad:
        return bad
    others = [r for r in replication.remotes if r is not remote]
    found = _right_manifest([remote, *others], user)
    if found is None:
        return bad
    raw = reader.read_raw(remote, user)
    broken = any(d.path == "manifest.json" for d in bad)
    needs, kept = found.manifest.needs(), found.manifest.kept
    paths = {d.path for d in bad}
    files: Files = {}
    for file in needs if broken else [f for f in (*needs, *kept) if f.path in paths]:
        try:
            files[named(user, file.path)] = reader.content(others, user, file)
        except (QuireError, IndexError):
            continue  # it stays damaged, and is told as such
    name = named(user, "manifest.json")
    remote.commit(
        Change(
            files=files,
            manifests={name: found.raw} if broken else {},
            expected={name: reader.digest(raw) if raw is not None else None},
            overwrite=True,
        )
    )
    return list(_damaged(remote, user))


def _right_manifest(remotes: Sequence[Remote], user: str) -> Found | None:
    """The newest that can be read; each generation's manifest is kept under its own name too."""
    found: list[Found] = []
    for remote in remotes:
        try:
            one = reader.read(remote, user)
        except Corrupt:
            one = _kept_manifest(remote, user)
        if one is not None:
            found.append(one)
    return max(found, key=lambda f: f.manifest.generation, default=None)


def _kept_manifest(remote: Remote, user: str) -> Found | None:
    for name in sorted(remote.names(named(user, "manifests")), reverse=True):
        raw = remote.read(name)
        try:
            return Found(remote=remote, raw=raw, manifest=manifests.load(raw, user=user))
        except Corrupt:
            continue
    return None
