"""Deliberately broken variants of what proves local state: the sequences must find each."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

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


def _both(*patches: Any) -> AbstractContextManager[object]:
    stack = ExitStack()
    for patch in patches:
        stack.enter_context(patch)
    return stack


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
}
