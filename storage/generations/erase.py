"""Erasing for good: what a save has deleted also leaves the histories, and a receipt says by when.

A manifest names what is still to be forgotten, so that a killed process or a mirror that is away
delays it but never loses it. Knows nothing of why something is erased.
"""

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass

from errors import QuireError, Refused, Unavailable
from storage.catalog.catalog import ACTIVE
from storage.generations import reader
from storage.generations.compose import Wish
from storage.generations.reader import named
from storage.generations.replication import Replication
from storage.generations.verify import users_of
from storage.live.open_stores import Workspaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """`where` (`live`, a remote's name), and `by` when (seconds, epoch; None: `reason` says why
    that cannot be told yet)."""

    where: str
    by: float | None
    reason: str | None = None


def forget(replication: Replication, users: Iterable[str]) -> list[Gone]:
    """Older versions of what these users erased are removed, from the mirror first. The primary's
    history goes only once the mirror is proved equal: it is the other copy of what stays."""
    names = frozenset(
        named(user, path)
        for user in users
        if (base := replication.base(user)) and base.forgetting
        for path in (*base.forgetting, "manifest.json")
    )
    if not names:
        return []
    gone: list[Gone] = []
    try:
        if replication.mirror is not None:
            for user in sorted({n.split("/")[1] for n in names}):
                _prove_whole(replication, user)
        for remote in reversed(replication.remotes):
            after = remote.forget(names)
            gone.append(Gone(where=remote.name, by=time.time() + after))
    except QuireError as problem:
        done = {g.where for g in gone}
        gone += [
            Gone(where=r.name, by=None, reason=str(problem))
            for r in replication.remotes
            if r.name not in done
        ]
        return gone
    replication.forgotten.update({n.split("/")[1] for n in names})
    return gone


def squash(replication: Replication, above: int) -> bool:
    """The primary's history goes when it is longer than that, once everybody's newest generation
    is proved to be whole in every remote. False when that cannot be done now."""
    try:
        if replication.primary.history() <= above:
            return False
        for user in users_of([replication.primary]):
            _prove_whole(replication, user)
        replication.primary.forget(frozenset())
    except QuireError:
        return False
    return True


def erase_user(replication: Replication, workspaces: Workspaces, user: str) -> list[Gone]:
    """Everything of a user, from everywhere. An empty generation stays behind: it keeps another
    instance, which may lag, from bringing back what it still has."""
    wipe(replication, workspaces, user)
    replication.save(user, Wish(erase_user=True))
    return [Gone(where="live", by=time.time()), *forget(replication, [user])]


def wipe(replication: Replication, workspaces: Workspaces, user: str) -> None:
    """Everything of a user on this machine, but what a save of their erasure goes on from."""
    paths, catalog = replication.paths, replication.catalog
    if catalog.jobs(user, ACTIVE, 1):
        raise Refused("jobs_running", "There are unfinished jobs.", "Cancel them first.")
    workspaces.discard(user)
    catalog.forget_user(user)
    base = paths.base(user).read_bytes() if paths.base(user).exists() else None
    shutil.rmtree(paths.user(user), ignore_errors=True)
    shutil.rmtree(paths.exports / user, ignore_errors=True)
    if base is not None:
        paths.user(user).mkdir(parents=True)
        paths.base(user).write_bytes(base)


def _prove_whole(replication: Replication, user: str) -> None:
    """Every remote has the same newest generation, and a file under each name in it."""
    found = [reader.read(remote, user) for remote in replication.remotes]
    first = found[0]
    whole = first is not None and all(f is not None and f.raw == first.raw for f in found)
    for remote in replication.remotes if whole else ():
        assert first is not None
        names = set(remote.names(named(user, "")))
        whole = whole and all(named(user, file.path) in names for file in first.manifest.needs())
    if not whole:
        raise Unavailable(
            "mirror_behind",
            "The remotes do not all hold the newest generation whole.",
            "History is removed once they do.",
        )
