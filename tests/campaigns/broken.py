"""Deliberately broken variants of what proves and saves local state: the sequences must find each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from storage.catalog.catalog import Catalog
from storage.generations import base, compose, manifest, replication
from storage.generations.committer import Committer
from storage.generations.compose import Wish
from storage.generations.manifest import Manifest
from storage.generations.merge_catalog import rebase
from storage.live import journal, seal
from storage.live.chroma import Sound
from storage.live.open_stores import Workspaces
from storage.live.seal import Seal

Variant = Callable[[], AbstractContextManager[object]]


def _opened_as_it_is(self: Workspaces, user: str) -> Seal | None:
    """As long as Chroma has the same version; a directory that is gone is a new one."""
    return seal.read(self.paths.clean(user)) or seal.read(self.paths.opened(user))


def _uncompared(self: Workspaces, user: str, copy: Any) -> int:
    return 0


@contextmanager
def _both(*patches: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _with_base(paths: Any, _catalog: Any, user: str) -> bool:
    """The rows are believed wherever BASE.json lies, whatever became of them."""
    return bool(base.raw(paths, user))


def _rebase(catalog: Catalog, user: str, known: Manifest | None, theirs: Manifest) -> bool:
    """Only where there is no BASE.json."""
    return known is None and rebase(catalog, user, known, theirs)


def _uncounted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Rows that change so ask for no save."""

    def changed(*given: Any) -> Any:
        with mock.patch.object(Catalog, "_count", lambda *_: None):
            return call(*given)

    return changed


def _as_it_lies(paths: Any, user: str) -> Manifest | None:
    content = base.raw(paths, user)
    return manifest.load(content, user=user) if content else None


def _wish(self: Committer, user: str, wish: Wish) -> None:
    _WISH(self, user, replace(wish, erase=False))


def _retire(head: Any, new: Manifest, _keep: int, _wish: Wish) -> Any:
    return _RETIRE(head, new, compose.KEEP, Wish())


def _puts(files: list[Path]) -> Iterator[Any]:
    return (row for row in _ROWS(files) if row.op == "put")


_WISH, _RETIRE = Committer._wish, compose._retire
_ROWS = journal.rows


def _all(_paths: Any, _user: str, _names: Any, _shipped: str = "") -> list[str]:
    return []


BROKEN: dict[str, Variant] = {
    "a closed store is opened as it is": lambda: mock.patch.object(
        Workspaces, "_proved", lambda _self, _user, held: held
    ),
    "a killed store is opened as it is": lambda: _both(
        mock.patch.object(Workspaces, "_sealed", _opened_as_it_is),
        mock.patch.object(Workspaces, "_proved", lambda _self, _user, held: held),
    ),
    "and is published uncompared": lambda: _both(
        mock.patch.object(Workspaces, "_proved", lambda _self, _user, held: held),
        mock.patch.object(Workspaces, "_compared", _uncompared),
    ),
    "a seal of an earlier generation is believed": lambda: mock.patch.object(
        Workspaces, "_sealed", lambda self, user: seal.read(self.paths.clean(user))
    ),
    "what is missing in the journal is not missed": lambda: mock.patch.object(
        journal, "wanting", _all
    ),
    "a damaged file of the journal is read": lambda: mock.patch.object(
        journal, "whole", lambda _: True
    ),
    "what the index alone has is not journalled again": lambda: mock.patch.object(
        Workspaces, "_mend", lambda *_: None
    ),
    "Chroma's errors are passed on": lambda: _both(
        mock.patch.object(Workspaces, "_proved", lambda _self, _user, held: held),
        mock.patch.object(Sound, "__exit__", lambda *_: None),
    ),
    "a lost catalogue is written over the store": lambda: _both(
        mock.patch.object(base, "proved", _with_base),
        mock.patch.object(replication, "rebase", _rebase),
    ),
    "a lost index is opened as a new one, and published": lambda: _both(
        mock.patch.object(Workspaces, "_sealed", _opened_as_it_is),
        mock.patch.object(Workspaces, "_proved", lambda _self, _user, held: held),
        mock.patch.object(Workspaces, "_compared", _uncompared),
    ),
    "what was accepted asks for no save": lambda: _both(
        mock.patch.object(Catalog, "put_job", _uncounted(Catalog.put_job)),
        mock.patch.object(Catalog, "unfinished_users", lambda _: []),
    ),
    "a new collection asks for no save": lambda: mock.patch.object(
        Catalog, "create_collection", _uncounted(Catalog.create_collection)
    ),
    "a new title asks for no save": lambda: mock.patch.object(
        Catalog, "rename_collection", _uncounted(Catalog.rename_collection)
    ),
    "a damaged mark ends the work": lambda: mock.patch.object(base, "manifest", _as_it_lies),
    "a deletion leaves no tombstone": lambda: mock.patch.object(Catalog, "_bury", lambda *_: None),
    "a deletion of records is not saved": lambda: mock.patch.object(journal, "rows", _puts),
    "nothing is erased": lambda: mock.patch.object(Committer, "_wish", _wish),
    "a live store keeps what was erased": lambda: mock.patch.object(
        Workspaces,
        "_remove_live",
        lambda self, user: self.paths.remains(user).unlink(missing_ok=True),
    ),
    "older generations stay when something is erased": lambda: mock.patch.object(
        compose, "_retire", _retire
    ),
}
