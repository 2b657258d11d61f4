"""The open stores, by user: who may open one, and when one is closed.

A store that was not closed cleanly is never opened: it is restored from what is saved and the journal.
One process at a time has a user's store open. Knows nothing of what a store holds.
"""

import fcntl
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from errors import Corrupt, QuireError, Unavailable
from storage.live import closed_copy, journal
from storage.live.chroma import chroma_version
from storage.live.closed_copy import Copy
from storage.live.workspace import Workspace
from storage.paths import Paths

OPEN_AT_ONCE = 16
LOADED_AT_ONCE = 200_000  # records, at about 2.5 KB of memory each
RESTORES_AT_ONCE = 2


@dataclass(slots=True)
class _Slot:
    """One user's place; `opening` is there while nobody may use the store, `lock` while no other
    process may."""

    workspace: Workspace | None = None
    lock: IO[str] | None = None
    opening: "Future[None] | None" = None
    busy: int = 0

    def close(self) -> None:
        """The store, then its lock."""
        workspace, self.workspace = self.workspace, None
        try:
            if workspace is not None:
                workspace.close()
        finally:
            self.release()

    def release(self) -> None:
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.close()


def locked(path: Path) -> IO[str]:
    """That file, held until it is closed or the process ends; Unavailable when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w", encoding="ascii")
    try:
        # Unlike flock: a page process that outlives a killed worker does not go on holding it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.close()
        raise Unavailable(
            "store_in_use",
            f"The live store cannot be locked: another process has it open ({problem.strerror}).",
            "Stop the other one, or give each its own QUIRE_DATA_DIR; it is tried again.",
        ) from problem
    return file


@dataclass(slots=True)
class Workspaces:
    """Open stores by user; the least recently used are closed when they are too many or too large.

    `restore(user)` builds a live store; it raises Unavailable while no remote can be asked, and
    then nothing is opened. Meanwhile, and while it takes longer than `patience` seconds, `open`
    raises Unavailable: other users are not kept waiting, and a job tries again. So it does while
    another process has the store open. `shipped(user)` is the last journal file that a generation holds, `changed(user)` is told of every change.
    """

    paths: Paths
    restore: Callable[[str], None]
    shipped: Callable[[str], str] = lambda _: ""
    changed: Callable[[str], None] = lambda _: None
    patience: float = 3.0
    _slots: "OrderedDict[str, _Slot]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _restores: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(RESTORES_AT_ONCE)
    )

    @contextmanager
    def open(self, user: str) -> Iterator[Workspace]:
        workspace = self._acquire(user)
        try:
            yield workspace
        finally:
            with self._lock:
                self._slots[user].busy -= 1

    def restoring(self, user: str) -> bool:
        with self._lock:
            slot = self._slots.get(user)
            return slot is not None and slot.opening is not None

    def close(self) -> None:
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()

    def forget(self, user: str) -> None:
        """Close a user's live store; it is rebuilt at the next touch."""
        self._exclusively(user, lambda: self.paths.clean(user).unlink(missing_ok=True))

    def discard(self, user: str) -> None:
        """Close and remove a user's live store and journal for good."""

        def remove() -> None:
            self.paths.clean(user).unlink(missing_ok=True)
            for folder in (self.paths.chroma(user), self.paths.pending(user)):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.paths.user(user).glob(f"{self.paths.fulltext(user).name}*"):
                path.unlink()

        self._exclusively(user, remove)

    def copy(self, user: str) -> Copy | None:
        """A copy of the closed live store to publish; None while it is in use."""
        with self.open(user) as workspace:
            if workspace.preparing:
                return None
            records = workspace.records_now()
        target = self.paths.copy(user)
        taken: list[Copy] = []

        def take() -> None:
            held = tuple(journal.pending(self.paths, user))
            try:
                closed_copy.copy(self.paths.chroma(user), target)
            except Corrupt:
                self.paths.clean(user).unlink(missing_ok=True)
                raise
            except OSError as problem:
                raise Unavailable(
                    "publish_failed",
                    f"The Chroma directory cannot be copied ({problem.strerror}).",
                    "Free some disk space; it is tried again.",
                ) from problem
            taken.append(Copy(directory=target, journal=held, records=records))

        return taken[0] if self._exclusively(user, take, only_idle=True) else None

    def _exclusively(
        self, user: str, work: Callable[[], object], *, only_idle: bool = False
    ) -> bool:
        """Run with the store closed and nobody able to open it; False when it is in use."""
        done: Future[None] = Future()
        while True:
            with self._lock:
                slot = self._slots.setdefault(user, _Slot())
                waiting = slot.opening
                if waiting is None:
                    if only_idle and slot.busy:
                        return False
                    slot.opening = done
                    workspace, slot.workspace = slot.workspace, None
                    break
            wait([waiting])
        try:
            slot.lock = slot.lock or locked(self.paths.lock(user))
            if workspace is not None:
                workspace.close()
            work()
        finally:
            slot.release()
            with self._lock:
                slot.opening = None
            done.set_result(None)
        return True

    def _acquire(self, user: str) -> Workspace:
        limit = time.monotonic() + self.patience
        while True:
            with self._lock:
                slot = self._slots.setdefault(user, _Slot())
                self._slots.move_to_end(user)
                current = slot.busy or not self.paths.stale(user).exists()
                if slot.opening is None and slot.workspace is not None and current:
                    slot.busy += 1
                    return slot.workspace
                if slot.opening is None:
                    slot.opening = Future()
                    threading.Thread(
                        target=self._ready, args=(user, slot, slot.opening), daemon=True
                    ).start()
                opening = slot.opening
            if not wait([opening], timeout=max(0.0, limit - time.monotonic())).done:
                raise Unavailable(
                    "restoring",
                    "Your collections are being restored from the store.",
                    "Try again in a few seconds; jobs wait by themselves.",
                )
            opening.result()

    def _ready(self, user: str, slot: _Slot, opening: "Future[None]") -> None:
        """Open the user's store, rebuilt first when it is not whole; errors go to who waits."""
        problem: BaseException | None = None
        try:
            slot.lock = slot.lock or locked(self.paths.lock(user))
            if slot.workspace is not None:
                slot.workspace.close()
                slot.workspace = None
            clean, stale = self.paths.clean(user), self.paths.stale(user)
            whole = clean.exists() and clean.read_text(encoding="ascii") == chroma_version()
            if not whole or stale.exists():
                clean.unlink(missing_ok=True)
                with self._restores:
                    self.restore(user)
            slot.workspace = Workspace(self.paths, user, self.shipped(user), self.changed)
        except QuireError as caught:
            problem = caught
        finally:
            if slot.workspace is None:
                slot.release()
            with self._lock:
                slot.opening = None
            if problem is not None:
                opening.set_exception(problem)
            else:
                opening.set_result(None)
        self._make_room(user)

    def _make_room(self, opened: str) -> None:
        while True:
            with self._lock:
                there = {u: s for u, s in self._slots.items() if s.workspace is not None}
                loaded = sum(s.workspace.records for s in there.values() if s.workspace)
                idle = [
                    u
                    for u, s in there.items()
                    if u != opened and not s.busy and not s.opening
                    if s.workspace and not s.workspace.preparing
                ]
            if not idle or (len(there) <= OPEN_AT_ONCE and loaded <= LOADED_AT_ONCE):
                return
            self._exclusively(idle[0], lambda: None, only_idle=True)
