"""The open stores, by user: who may open one, and when one is closed.

A store is opened only when its seal proves every byte of it; any other is built anew from what is saved
and the journal. So is, once, one that shows itself damaged while it is open. A copy is published only when
it holds exactly what is saved. One process at a time has a user's store open, and one user's damage is
that user's alone. Knows nothing of remotes.
"""

import fcntl
import logging
import shutil
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Protocol

from errors import Conflict, Corrupt, QuireError, Unavailable
from storage.live import closed_copy, journal, seal
from storage.live.build_chroma import State, differences, every, put_row
from storage.live.chroma import Sound, VectorStore, chroma_version, index_damaged
from storage.live.closed_copy import Copy
from storage.live.seal import Seal
from storage.live.segments import Row
from storage.live.workspace import Workspace
from storage.paths import Paths
from storage.scarce import descriptors_left, too_many_open_files

log = logging.getLogger(__name__)

OPEN_AT_ONCE = 16
LOADED_AT_ONCE = 200_000  # records, at about 2.5 KB of memory each
RESTORES_AT_ONCE = 2
_FILES = 14  # that an open store has open
_FILES_SPARE = 6  # for the databases, page processes and calls beside it
_REBUILT_RECENTLY = 60.0  # seconds: damage that comes back sooner is told, not rebuilt again


class Truth(Protocol):
    """What a live store is a cache of. Every method raises what the remotes answer while they cannot
    be asked; then nothing is opened."""

    def live(self, user: str) -> Seal:
        """Build the live store; which manifest and which files of the journal it holds."""

    def saved(self, user: str, files: Sequence[Path] | None = None) -> tuple[str, State]:
        """The sha256 of the newest manifest, and its records with these files of the journal on top
        (None: all that are whole)."""

    def shipped(self, user: str) -> str:
        """The last file of the journal that a generation holds."""

    def bury(self, user: str, workspace: Workspace) -> None:
        """Delete what was deleted, and is there again because its journal was lost."""

    def tell(self, user: str, problem: QuireError) -> None:
        """What the user's status is to say."""


@dataclass(slots=True)
class _Slot:
    """One user's place. `opening` is set while nobody may use the store, `lock` while no other process
    may, `rebuilding` while it is restored. `saves` leads from the manifest that a save of this instance
    went on from to the one it made; `rebuilt_at` is when damage was last put right."""

    workspace: Workspace | None = None
    lock: IO[str] | None = None
    opening: "Future[None] | None" = None
    busy: int = 0
    rebuilding: bool = False
    saves: dict[str, str] = field(default_factory=dict)
    rebuilt_at: float = float("-inf")

    def close(self) -> None:
        """The store, not its lock. One that cannot be closed is not sealed, and built anew."""
        workspace, self.workspace = self.workspace, None
        try:
            if workspace is not None:
                workspace.close()
        except (QuireError, OSError) as problem:
            log.warning("a store was not closed: %s", problem)

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


def opening() -> Unavailable:
    return Unavailable(
        "opening",
        "Your collections are being opened.",
        "Try again in a few seconds; jobs wait by themselves.",
    )


def restoring() -> Unavailable:
    return Unavailable(
        "restoring",
        "Your collections are being restored from the store.",
        "Try again in a few seconds; jobs wait by themselves.",
    )


@dataclass(slots=True)
class Workspaces:
    """Open stores by user; the least recently used are closed when they are too many or too large.

    While a store is built, and while that takes longer than `patience` seconds, `open` raises
    Unavailable: other users are not kept waiting, and a job tries again. So it does while another
    process has the store open. `changed(user)` is told of every change.
    """

    paths: Paths
    truth: Truth
    changed: Callable[[str], None] = lambda _: None
    patience: float = 3.0
    _slots: "OrderedDict[str, _Slot]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _restores: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(RESTORES_AT_ONCE)
    )

    @contextmanager
    def open(self, user: str) -> Iterator[Workspace]:
        slot, workspace = self._acquire(user)
        try:
            yield workspace
        except Corrupt as problem:
            if not workspace.damaged:
                raise
            raise restoring() from problem  # whoever comes next has it built anew
        finally:
            with self._lock:
                slot.busy -= 1

    def restoring(self, user: str) -> bool:
        with self._lock:
            slot = self._slots.get(user)
            return slot is not None and self._restores_something(user, slot)

    def _restores_something(self, user: str, slot: _Slot) -> bool:
        """What is empty and new is only opened."""
        return slot.rebuilding and bool(seal.base(self.paths, user))

    def close(self) -> None:
        with self._lock:
            slots = list(self._slots.values())
            self._slots.clear()
        for slot in slots:
            slot.close()
            slot.release()

    def forget(self, user: str) -> None:
        """Close a user's live store; it is rebuilt at the next touch."""
        self._exclusively(user, lambda: self.paths.clean(user).unlink(missing_ok=True))

    def discard(self, user: str) -> None:
        """Close and remove a user's live store and journal for good."""

        def remove() -> None:
            for path in (self.paths.clean(user), self.paths.opened(user)):
                path.unlink(missing_ok=True)
            for folder in (self.paths.chroma(user), self.paths.pending(user)):
                shutil.rmtree(folder, ignore_errors=True)
            for path in self.paths.user(user).glob(f"{self.paths.fulltext(user).name}*"):
                path.unlink()

        self._exclusively(user, remove)

    def renew(self, user: str) -> bool:
        """Have the live store built anew: what a database keeps of deleted rows goes with the old one.
        False while it is in use. A kill at any moment leaves one that is built anew, or the mark."""
        if not self.paths.user(user).is_dir():
            return True
        try:
            self.mend(user)  # else the index may be the only one that holds what is not saved
            with self._lock:
                slot = self._slots.get(user)
                there = slot.workspace if slot else None
            if there and there.preparing:
                return False
            if not self._exclusively(user, lambda: self._remove_live(user), only_idle=True):
                return False
        except OSError as problem:
            raise _failed(problem) from problem
        if there:  # whoever used it need not wait for it; what stands in its way they are told
            with suppress(QuireError), self.open(user):
                pass
        return True

    def _remove_live(self, user: str) -> None:
        """The closed live store, but not what its journal is to hold, and last of all the mark."""
        opened, chroma = self.paths.opened(user), self.paths.chroma(user)
        unsaved = journal.proved(self.paths, user, self.truth.shipped(user))
        if unsaved:
            seal.write(opened, Seal(journal=tuple(p.name for p in unsaved)))
        self.paths.clean(user).unlink(missing_ok=True)
        for folder in (chroma, chroma.with_name("chroma.tmp")):
            if folder.exists():
                shutil.rmtree(folder)
        for path in self.paths.user(user).glob(f"{self.paths.fulltext(user).name}*"):
            path.unlink()
        if not unsaved:
            opened.unlink(missing_ok=True)
        for path in self.paths.pending(user).glob("*.damaged"):
            path.unlink()  # nobody knows what it held
        self.paths.remains(user).unlink(missing_ok=True)

    def mend(self, user: str) -> None:
        """What is not saved yet, and is damaged or gone in the journal, is journalled again from the
        index. Nothing is to be saved before."""
        with self._lock:
            slot = self._slots.get(user)
            there = slot.workspace if slot else None
        if self._missing(user, there):
            with self.open(user) as workspace:
                self._mend(user, workspace)

    def went_on(self, user: str, before: str, after: str) -> None:
        """A save of this instance: what holds its changes on top of `before` holds `after`."""
        with self._lock:
            slot = self._slots.setdefault(user, _Slot())
            slot.saves[before] = after
            if slot.opening is None:
                self._apply_saves(user, slot)

    def closed_rows(self, user: str) -> tuple[Row, ...] | None:
        """Every record of the store, closed and read from a copy: whatever happens meanwhile, it stays
        proved. None when its seal does not prove it."""
        found: list[tuple[Row, ...]] = []
        target = self.paths.copy(user)

        def read() -> None:
            held = self._sealed(user)
            if not held or not self._proved(user, held):
                return
            closed_copy.copy(self.paths.chroma(user), target)
            with Sound():
                store = VectorStore(target)
                try:
                    names = store.collections()
                    found.append(tuple(put_row(n, r) for n in names for r in every(store, n)))
                finally:
                    store.close()

        try:
            self._exclusively(user, read)
        except Corrupt as problem:
            log.warning("a closed store cannot be read: %s", problem, extra={"user": user})
        finally:
            shutil.rmtree(target, ignore_errors=True)
        return found[0] if found else None

    # Publishing

    def copy(self, user: str) -> Copy | None:
        """A copy of the closed live store to publish; None while it is in use. Corrupt when it does
        not hold exactly what is saved: then the live store is built anew at the next touch."""
        with self.open(user) as workspace:
            if workspace.preparing:
                return None
        taken: list[tuple[Copy, Seal]] = []
        if not self._exclusively(user, lambda: taken.append(self._copied(user)), only_idle=True):
            return None
        copy, held = taken[0]
        believed = True
        try:
            return replace(copy, records=self._compared(user, copy))
        except Corrupt as problem:
            log.warning("a copy is not published: %s", problem, extra={"user": user})
            believed = False
            raise
        finally:
            self._released(user, held if believed else None)

    def _copied(self, user: str) -> tuple[Copy, Seal]:
        """The copy of a closed store, whose seal is withheld until the copy is proved: to read a
        damaged directory can end the process."""
        clean, target = self.paths.clean(user), self.paths.copy(user)
        held = seal.read(clean)
        if held is None:
            raise index_damaged()
        files = journal.proved(self.paths, user, self.truth.shipped(user))
        try:
            seal.write(self.paths.opened(user), Seal(journal=held.journal))
            clean.unlink()
            closed_copy.copy(self.paths.chroma(user), target)
        except OSError as problem:
            shutil.rmtree(target, ignore_errors=True)  # what there is of it would fill the disk
            self._write_seal(user, held)
            raise Unavailable(
                "publish_failed",
                f"The Chroma directory cannot be copied ({problem.strerror}).",
                "Free some disk space; it is tried again.",
            ) from problem
        return Copy(directory=target, journal=tuple(files), records=0, base=held.base), held

    def _compared(self, user: str, copy: Copy) -> int:
        """How many records it holds, each as it is saved or in the journal."""
        base, state = self.truth.saved(user, copy.journal)
        if base != copy.base:
            raise Conflict(
                "changed_elsewhere",
                "Another instance saved in between.",
                "It is read again and the save repeated.",
            )
        with Sound():
            store = VectorStore(copy.directory)
            try:
                if next(differences(store, state), None) is not None:
                    raise index_damaged()
            finally:
                store.close()
        return sum(map(len, state.values()))

    def _released(self, user: str, held: Seal | None) -> None:
        """The store whose seal was withheld has it again; None: it is of no use any more."""
        with self._lock:
            slot = self._slots.setdefault(user, _Slot())
            if held is None and slot.workspace is not None:
                slot.workspace.damaged = True
            if held is not None and slot.workspace is None and slot.opening is None:
                self._write_seal(user, held)

    def _write_seal(self, user: str, held: Seal) -> None:
        """One that cannot be written for want of room is built anew at the next touch."""
        try:
            seal.write(self.paths.clean(user), held)
            self.paths.opened(user).unlink(missing_ok=True)
        except OSError as problem:
            log.warning("a store was not sealed: %s", problem, extra={"user": user})

    # Opening

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
                    break
            wait([waiting])
        try:
            slot.lock = slot.lock or locked(self.paths.lock(user))
            slot.close()
            work()
        finally:
            slot.release()
            self._end_opening(user, slot)
            done.set_result(None)
        return True

    def _acquire(self, user: str) -> tuple[_Slot, Workspace]:
        limit = time.monotonic() + self.patience
        while True:
            with self._lock:
                slot = self._slots.setdefault(user, _Slot())
                self._slots.move_to_end(user)
                there = slot.workspace
                current = slot.busy or not self.paths.stale(user).exists()
                if slot.opening is None and there and not there.damaged and current:
                    slot.busy += 1
                    return slot, there
                if slot.opening is None:
                    slot.opening = Future()
                    self._start_opening(user, slot, slot.opening)
                coming = slot.opening
            if not wait([coming], timeout=max(0.0, limit - time.monotonic())).done:
                raise restoring() if self._restores_something(user, slot) else opening()
            coming.result()

    def _start_opening(self, user: str, slot: _Slot, coming: "Future[None]") -> None:
        arguments = (user, slot, coming)
        try:
            threading.Thread(target=self._ready, args=arguments, daemon=True).start()
        except RuntimeError as problem:  # no thread is left
            slot.opening = None
            raise opening() from problem

    def _ready(self, user: str, slot: _Slot, opening: "Future[None]") -> None:
        """Open the user's store, built first when it is not proved; errors go to who waits."""
        problem: BaseException | None = None
        try:
            while descriptors_left() < _FILES + _FILES_SPARE:
                if not self._close_one(user):
                    raise too_many_open_files()
            slot.workspace = self._opened(user, slot)
        except QuireError as caught:
            problem = caught
        except OSError as caught:
            problem = _failed(caught)
            problem.__cause__ = caught
        finally:
            problem = problem or sys.exception()
            if slot.workspace is None:
                slot.release()
            self._end_opening(user, slot)
            if problem is not None:
                opening.set_exception(problem)
            else:
                opening.set_result(None)
        self._make_room(user)

    def _opened(self, user: str, slot: _Slot) -> Workspace:
        spoilt = slot.workspace is not None and slot.workspace.damaged
        slot.close()
        slot.lock = slot.lock or locked(self.paths.lock(user))
        held = self._sealed(user)
        proved = held and self._proved(user, held)
        if proved:
            try:
                with ExitStack() as undo:
                    workspace = self._workspace(user, proved)
                    undo.callback(workspace.close)
                    self._mend(user, workspace)
                    undo.pop_all()
                return workspace
            except Corrupt as problem:
                log.warning("a sealed store is of no use: %s", problem, extra={"user": user})
        if spoilt and time.monotonic() - slot.rebuilt_at < _REBUILT_RECENTLY:
            raise index_damaged()
        slot.rebuilding = True
        with self._restores, ExitStack() as undo:
            workspace = self._workspace(user, self.truth.live(user))
            undo.callback(workspace.close)
            self.truth.bury(user, workspace)
            undo.pop_all()
        if held or spoilt:
            slot.rebuilt_at = time.monotonic()
            log.warning("the index was damaged and built anew", extra={"user": user})
            self.truth.tell(user, rebuilt())
        return workspace

    def _workspace(self, user: str, held: Seal) -> Workspace:
        return Workspace(self.paths, user, held, self.truth.shipped, self.changed)

    def _sealed(self, user: str) -> Seal | None:
        """The seal of a closed store that goes on from what this machine goes on from."""
        held = seal.read(self.paths.clean(user))
        if held is None or held.chroma != chroma_version() or self.paths.stale(user).exists():
            return None
        return held if held.base == seal.base(self.paths, user) else None

    def _proved(self, user: str, held: Seal) -> Seal | None:
        """The seal of a store that is byte for byte what was closed, with nothing in the journal that
        it lacks. Its `words` are none when the keyword index alone is not."""
        pending = journal.pending(self.paths, user, self.truth.shipped(user))
        lacks = {p.name for p in pending} - set(held.journal)
        if lacks or held.index != seal.index(self.paths, user):
            return None
        return held if held.words == seal.words(self.paths, user) else replace(held, words={})

    def _missing(self, user: str, there: Workspace | None) -> list[str]:
        """Files of the journal that are lost or damaged, as far as that is known."""
        known = there.journal if there else journal.known(self.paths, user)
        return journal.wanting(self.paths, user, known, self.truth.shipped(user))

    def _mend(self, user: str, workspace: Workspace) -> None:
        if self._missing(user, workspace):
            base, state = self.truth.saved(user)
            if base != workspace.base:  # what others deleted since would be put back
                workspace.damaged = True
                raise index_damaged()
            rows = workspace.rejournal(state)
            log.warning("journalled again from the index: %d rows", rows, extra={"user": user})

    def _end_opening(self, user: str, slot: _Slot) -> None:
        with self._lock:
            slot.opening, slot.rebuilding = None, False
            self._apply_saves(user, slot)

    def _apply_saves(self, user: str, slot: _Slot) -> None:
        """Saves of this instance are what the store goes on from, open or closed."""
        if not slot.saves:
            return
        if slot.workspace is not None:
            slot.workspace.base = _latest(slot.saves, slot.workspace.base)
        elif held := seal.read(self.paths.clean(user)):
            self._write_seal(user, replace(held, base=_latest(slot.saves, held.base)))
        slot.saves.clear()

    def _make_room(self, opened: str) -> None:
        while True:
            with self._lock:
                there = [s.workspace for s in self._slots.values() if s.workspace is not None]
                loaded = sum(workspace.records for workspace in there)
            if len(there) <= OPEN_AT_ONCE and loaded <= LOADED_AT_ONCE:
                return
            if not self._close_one(opened):
                return

    def _close_one(self, opened: str) -> bool:
        """The store that nobody has used for longest, but that one; False when none can be closed."""
        with self._lock:
            idle = [
                u
                for u, s in self._slots.items()
                if u != opened and not s.busy and not s.opening
                if s.workspace and not s.workspace.preparing
            ]
        if not idle:
            return False
        try:
            self._exclusively(idle[0], lambda: None, only_idle=True)
        except (QuireError, OSError) as problem:
            log.warning("a store was not closed: %s", problem, extra={"user": idle[0]})
            return False
        return True


def _latest(saves: dict[str, str], base: str) -> str:
    while base in saves:
        base = saves.pop(base)
    return base


def _failed(problem: OSError) -> Unavailable:
    return Unavailable(
        "live_store_failed",
        f"The live store cannot be read or written ({problem.strerror}).",
        "Check the disk and its free space; it is tried again.",
    )


def rebuilt() -> Corrupt:
    return Corrupt(
        "index_rebuilt",
        "The index on this disk was lost or damaged; it was built again from what is saved.",
        "Nothing needs to be done.",
    )
