"""Deliberately broken variants of the stores' protocol: `bench/store_faults.py` must catch each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from bench.store_world import MemoryHub
from errors import Conflict, QuireError
from storage.generations import compose, reader, replication
from storage.generations import manifest as manifests
from storage.generations.compose import Wish
from storage.generations.replication import Replication
from storage.remotes.remote import Change
from storage.remotes.s3 import S3Remote


def _blind(remotes: Any, user: str, file: Any) -> bytes:
    return bytes(remotes[0].read(reader.named(user, file.path), 1 << 30))


def _manifest_first(self: S3Remote, change: Change) -> None:
    whole(self, replace(change, files={}, deletes=frozenset()))
    for name, content in change.files.items():
        self._create(self._key(name), content)


def _unlooked(self: Replication, found: Any, problem: QuireError, outcomes: Any) -> bool | None:
    if isinstance(problem, Conflict):
        return looked(self, found, problem, outcomes)
    outcomes[found.user] = problem
    return None


def _dropping(self: Replication, found: Any, problem: QuireError, outcomes: Any) -> bool | None:
    answer = looked(self, found, problem, outcomes)
    if answer is False:
        for path in found.journal:
            path.unlink()
    return answer


def _hasty(self: Replication, drafts: Any, outcomes: Any) -> list[str]:
    for found in drafts:
        for path in found.journal:
            path.unlink()
    return committed(self, drafts, outcomes)


def _prune_all(head: Any, new: Any, keep: int, wish: Wish) -> Any:
    made, deletes = retired(head, new, keep, wish)
    old = {f.path for f in (*head.manifest.segments, *head.manifest.files)} if head else set()
    return made, deletes | (old - {f.path for f in new.needs()})


def _backwards(self: Replication, user: str, source: Any, target: Any, at_hand: Any) -> None:
    """Without looking at what the mirror has: its log goes on with whatever was read before."""
    stale = self.paths.user(user) / "stale.json"
    found = reader.read(source, user)
    raw = stale.read_bytes() if stale.exists() else found.raw if found else b""
    if found:
        stale.write_bytes(found.raw)
        copied_over(self, user, source, target, at_hand)
        head = target._newest(reader.named(user, "manifest.json"))
        target.client.objects[head] = raw


whole, looked, committed = S3Remote.commit, Replication._landed, Replication._commit
retired, copied_over = compose._retire, Replication._copy

BROKEN: dict[str, Callable[[], Any]] = {
    "no parent check": lambda: mock.patch.object(MemoryHub, "_moved", lambda *_: []),
    "the mirror's manifest before its files": lambda: mock.patch.object(
        S3Remote, "commit", _manifest_first
    ),
    "bytes used without their hash": lambda: mock.patch.object(reader, "content", _blind),
    "prune what the newest does not need": lambda: mock.patch.object(
        compose, "_retire", _prune_all
    ),
    "an unclear answer taken for a failure": lambda: mock.patch.object(
        Replication, "_landed", _unlooked
    ),
    "a rebase that drops the journal": lambda: mock.patch.object(Replication, "_landed", _dropping),
    "the mirror may go back": lambda: mock.patch.object(Replication, "_copy", _backwards),
    "saved before it is confirmed": lambda: mock.patch.object(Replication, "_commit", _hasty),
    "a journal shipped twice": lambda: mock.patch.object(
        manifests.Manifest, "shipped_by", lambda *_: ""
    ),
    "the loser's catalogue wins": lambda: mock.patch.object(replication, "rebase", lambda *_: None),
}
