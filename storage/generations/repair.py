"""Repair: what a remote or this machine has damaged or lost, from whoever has the right bytes of it.

A file goes back under its name from another remote or from this machine. What no one has as it was is
written anew from this machine, as a new generation: records from the live store, elements from their
checkpoints. What is damaged here comes from the stores. Every byte is hashed before it is used.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

from errors import Corrupt, InputError, NotFound
from storage import elements_folder
from storage.catalog.catalog import Catalog
from storage.generations import base, reader, saved_jobs, verify
from storage.generations import manifest as manifests
from storage.generations.compose import Files, Wish, archive, edition_of
from storage.generations.manifest import File
from storage.generations.reader import Found, named
from storage.generations.replication import Replication
from storage.generations.restore import Restore
from storage.generations.verify import Damage
from storage.live import journal
from storage.live.open_stores import Workspaces
from storage.live.segments import Row
from storage.paths import Paths
from storage.remotes.remote import Change, Remote


def repair(restore: Restore, workspaces: Workspaces, user: str) -> list[Damage]:
    """Put right what is damaged, and bring the mirror up; what is left is returned.

    Raises Unavailable when a remote cannot be asked: nothing is judged lost that may only be away.
    """
    replication = restore.replication
    if user not in verify.users_known(replication):
        return [verify.nothing(replication.primary.name, user)]
    with contextlib.suppress(Corrupt, NotFound):  # which is told below
        replication.head(user)
    damage = [d for r in replication.remotes for d in _from_others(replication, r, user)]
    wish = _anew(replication, workspaces, user, damage)
    with contextlib.suppress(Corrupt):  # it stays damaged, and is told as such
        if wish is not None:
            replication.save(user, wish)
        if replication.mirror is not None:
            replication.catch_up(user, replication.primary, replication.mirror)
    if damage or wish is not None:
        damage = [d for r in replication.remotes for d in _from_others(replication, r, user)]
    damage += [d for r in replication.remotes for d in verify.unnamed(r, user)]
    if [d.code for d in verify.state_here(replication, user)] == ["mark_differs"]:
        replication.adopt(user)  # goes on from the stores, as the worker does
    _from_stores(restore, user)
    return [*damage, *verify.local(replication, user)]


def _anew(
    replication: Replication, workspaces: Workspaces, user: str, damage: Sequence[Damage]
) -> Wish | None:
    """What a next generation has to hold in the place of what no one has as it was; None when there is
    no such thing, or this machine has not what it takes."""
    bad = {d.path: d.code for d in damage if d.remote == replication.primary.name}
    rows = None
    if _lost_records(replication, user, bad):
        rows = _records(replication, workspaces, user)
        if rows is None:
            return None
    anew = {path: code for path, code in bad.items() if _can_be_made(replication.paths, user, path)}
    for path in anew:
        if folder := _folder(replication.paths, user, path):
            elements_folder.list_files(folder, saved=edition_of(path), changed=True)
    return Wish(whole=rows, damaged=anew) if anew or rows is not None else None


def _can_be_made(paths: Paths, user: str, path: str) -> bool:
    """Or left out, as what only speeds things up is; elements are another edition."""
    folder = _folder(paths, user, path)
    if folder is None:
        return not path.startswith("sources/")
    return elements_folder.is_listed(folder) and elements_folder.is_whole(folder)


def _lost_records(replication: Replication, user: str, bad: Collection[str]) -> bool:
    """No remote can give those of the newest generation that was confirmed here."""
    try:
        head = reader.read(replication.primary, user)
    except Corrupt:
        return True
    if (head.manifest.generation if head else 0) < replication.known_generation(user):
        return True
    return any(f.path in bad for f in (head.manifest.segments if head else ()))


def _records(replication: Replication, workspaces: Workspaces, user: str) -> tuple[Row, ...] | None:
    """Every record of the live store; None when it is not whole. Of a user who had none saved and has
    nothing unsaved, no store is needed."""
    known = replication.base(user)
    with contextlib.suppress(Corrupt):
        head = replication.current(user)
        if head and head.manifest.generation > (known.generation if known else 0):
            return None  # another instance saved what this machine lacks
    if known and not known.segments and not journal.pending(replication.paths, user):
        return ()
    return workspaces.closed_rows(user)


def _from_others(replication: Replication, remote: Remote, user: str) -> list[Damage]:
    """What is left damaged in that remote, once it has what others and this machine have of it."""
    bad = list(verify.damaged(remote, user))
    if not bad:
        return bad
    others = [r for r in replication.remotes if r is not remote]
    found = _right_manifest(replication, [remote, *others], user)
    if found is None:
        return bad
    raw = reader.read_raw(remote, user)
    broken = any(d.path == "manifest.json" for d in bad)
    paths = {d.path for d in (verify.lost(remote, user, found) if broken else bad)}
    files: Files = {}
    for file in (f for f in reader.named_files(found) if f.path in paths):
        content = _content(replication, others, user, file)
        if content is not None:
            files[named(user, file.path)] = content
    name = named(user, "manifest.json")
    remote.commit(
        Change(
            files=files,
            manifests={name: found.raw} if broken else {},
            expected={name: reader.digest(raw) if raw is not None else None},
            overwrite=True,
        )
    )
    return list(verify.damaged(remote, user))


def _content(
    replication: Replication, others: Sequence[Remote], user: str, file: File
) -> Path | bytes | None:
    """From another remote, or from this machine."""
    with contextlib.suppress(Corrupt, NotFound, IndexError):
        return reader.content(others, user, file)
    with contextlib.suppress(InputError):  # a name that is not one of ours
        here = _here(replication.paths, replication.catalog, user, file.path)
        if here is not None and reader.measure(here) == (file.sha256, file.bytes):
            return here
    return None


def _here(paths: Paths, catalog: Catalog, user: str, path: str) -> Path | bytes | None:
    """What this machine would save under that name."""
    kind, _, name = path.partition("/")
    if kind == "sources":
        original = paths.source(user, name.removesuffix(".pdf"))
        return original if original.is_file() else None
    if kind == "manifests":
        return base.raw(paths, user)
    if kind == "jobs":
        return saved_jobs.dump(saved_jobs.saved_jobs(catalog, user))
    folder = _folder(paths, user, path)
    return archive(paths, user, folder) if folder else None


def _folder(paths: Paths, user: str, path: str) -> Path | None:
    """Where the elements of a whole document, as they are saved under that name, lie here."""
    kind, _, name = path.partition("/")
    sha256, _, version = name.partition(".")[0].partition("-")
    if kind != "elements" or "/" in name:
        return None
    return paths.elements(user, sha256, version)


def _right_manifest(replication: Replication, remotes: Sequence[Remote], user: str) -> Found | None:
    """The newest that can be read; each generation's manifest is kept under its own name too, and this
    machine has the one that it goes on from."""
    found: list[Found] = []
    for remote in remotes:
        try:
            one = reader.read(remote, user)
        except Corrupt:
            one = _kept_manifest(remote, user)
        if one is not None:
            found.append(one)
    known, raw = replication.base(user), base.raw(replication.paths, user)
    if known and raw:
        found.append(Found(remote=remotes[0], raw=raw, manifest=known))
    return max(found, key=lambda f: f.manifest.generation, default=None)


def _kept_manifest(remote: Remote, user: str) -> Found | None:
    for name in sorted(remote.names(named(user, "manifests")), reverse=True):
        raw = remote.read(name)
        try:
            return Found(remote=remote, raw=raw, manifest=manifests.load(raw, user=user))
        except Corrupt:
            continue
    return None


def _from_stores(restore: Restore, user: str) -> None:
    """What is damaged here, as far as the stores have it."""
    for damage in list(verify.files_here(restore.paths, user)):
        kind, _, name = damage.path.partition("/")
        with contextlib.suppress(Corrupt, NotFound, InputError):  # it is told as damaged
            if kind == "sources":
                restore.original(user, name.removesuffix(".pdf"))
            elif kind == "crops":
                restore.crop(user, name)
            else:
                sha256, _, version = name.partition("-")
                restore.elements(user, sha256, version)
