"""What time removes: uploads that nobody submitted, old exports, damaged files that were set aside,
workspaces of visitors who left.

One pass is a plain function of the clock; the worker makes one every few minutes. Knows nothing of
requests.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import QuireError
from storage.catalog.tokens import Accounts
from storage.paths import Paths

UPLOADS_FOR = 2 * 3600.0
EXPORTS_FOR = 24 * 3600.0
DAMAGED_FOR = 30 * 86400.0
_EVERY = 300.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """`erase` removes all that users have, everywhere, and tells what stood in whose way;
    `visitor_hours` after the last visit."""

    paths: Paths
    accounts: Accounts
    erase: Callable[[Sequence[str]], Mapping[str, QuireError | None]]
    visitor_hours: int


def keep(house: House, stopping: threading.Event) -> None:
    """A pass now and then, until it is time to stop."""
    while not stopping.wait(_EVERY):
        for reason in tidy(house, time.time()):
            log.warning("a visitor's workspace stays for now: %s", reason)


def tidy(house: House, now: float) -> list[str]:
    """One pass; why a workspace could not be erased yet. What is away is tried in the next one."""
    _drop_older(house.paths.uploads, "*/*", now - UPLOADS_FOR)
    _drop_older(house.paths.exports, "*/*", now - EXPORTS_FOR)
    for folder, pattern in (
        (house.paths.root, "*.damaged-*"),
        (house.paths.root / "users", "*/pending/*.damaged"),
    ):
        _drop_older(folder, pattern, now - DAMAGED_FOR)
    gone = house.accounts.visitors_unseen_since(now - house.visitor_hours * 3600)
    told = house.erase(gone) if gone else {}
    for user in (u for u, problem in told.items() if problem is None):
        shutil.rmtree(house.paths.uploads / user, ignore_errors=True)
        house.accounts.forget(user)
    return [problem.code for problem in told.values() if problem]


def _drop_older(folder: Path, pattern: str, moment: float) -> None:
    for path in folder.glob(pattern):
        try:
            if path.stat().st_mtime >= moment:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue  # submitted or fetched meanwhile
