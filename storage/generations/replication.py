"""Save and mirror: users' journals and files become generations on the remotes.

The order is files, manifest, "saved"; then the mirror catches up by itself. One commit saves any
number of users. What a generation holds is what its manifest names, each file with its sha256.
Knows nothing of PDFs, chunks or jobs; when to save is the committer's business.
"""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from errors import Conflict, Corrupt, NotFound, QuireError, Unavailable
from storage.catalog.catalog import Catalog, JobRow
from storage.generations import base, reader, saved_jobs
from storage.generations.compose import KEEP, Draft, Files, Wish, compose
from storage.generations.lease import Lease, Term, taken_over
from storage.generations.manifest import File, Manifest
from storage.generations.merge_catalog import rebase
from storage.generations.reader import Found, named
from storage.live import journal, segments
from storage.paths import Paths
from storage.remotes.remote import Change, Remote, changed_elsewhere
from storage.scarce import scarcity

_ATTEMPTS = 6
_RESTORING = 30.0  # seconds that a call waits for the stores, where it cannot do without them
_ASK_AGAIN = 60.0
_FILES_PER_COMMIT = 250  # what the Hub's own client begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStatus:
    """What the page and `/status` tell of a user's stores.

    `saved_generation`: the newest confirmed one (0: none), `saved_at` when (seconds, epoch);
    `unsaved`: changes that no generation holds yet; `published_generation`: what the published
    Chroma directory holds (None: not yet published); `lag`: generations that the mirror is behind
    (None: no mirror, or not known yet); `error`: code, message and advice of what failed last.
    """

    saved_generation: int
    saved_at: float | None
    unsaved: int
    published_generation: int | None
    primary: str
    mirror: str | None
    lag: int | None
    error: dict[str, str] | None


@dataclass(slots=True)
class Replication:
    """One primary and perhaps a mirror, for every user of this data directory. `erasable` are the users
    of whom something that was deleted is still saved, `to_forget` those of whom something may still be in
    the histories, `forgotten` those of whom nothing is, which their next save says, `to_renew` those whose
    live store may hold pieces of what was erased. `commits` is how often
    the primary was asked to take one. Where there is a `lease`, each save renews it, and fails once another
    instance has taken it. `went_on(user, before, after)` is told the sha256 of the manifests that a save
    of this instance went from and to. A call waits `patience` seconds for the stores, where it can do
    without them."""

    paths: Paths
    catalog: Catalog
    primary: Remote
    mirror: Remote | None = None
    keep: int = KEEP
    erasable: set[str] = field(default_factory=set)
    to_forget: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    to_renew: set[str] = field(default_factory=set)
    lease: Lease | None = None
    went_on: Callable[[str, str, str], None] = lambda _user, _before, _after: None
    commits: int = 0
    patience: float = 3.0
    _asked: set[str] = field(default_factory=set)
    _ask_after: dict[str, float] = field(default_factory=dict)
    _asking: "dict[str, Future[None]]" = field(default_factory=dict)
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    _locks: dict[str, threading.RLock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _errors: dict[str, QuireError] = field(default_factory=dict)
    _mirrored: dict[str, int] = field(default_factory=dict)
    _at_hand: dict[str, Files] = field(default_factory=dict)

    @property
    def remotes(self) -> tuple[Remote, ...]:
        return (self.primary, self.mirror) if self.mirror else (self.primary,)

    # Save

    def save(self, user: str, wish: Wish | None = None) -> int:
        """Everything pending of that user as one new generation, confirmed by the primary.

        Returns its number, or the newest one's when nothing had changed. A mirror that fails is
        told by `status` and caught up at the next save; it never fails this one.
        """
        outcome = self.save_all({user: wish or Wish()})[user]
        self.to_mirror([user])
        if isinstance(outcome, QuireError):
            raise outcome
        return outcome

    def save_all(self, wishes: Mapping[str, Wish]) -> dict[str, int | QuireError]:
        """The same for several users in one commit: each one's generation or what stood in its way.
        For whom it had no room, in the order given, is left out and comes with the next one.
        `to_mirror` is the caller's next step."""
        outcomes: dict[str, int | QuireError] = {}
        with ExitStack() as locks:
            for user in sorted(wishes):
                locks.enter_context(self.locked(user))
            left = list(wishes)
            for _ in range(_ATTEMPTS):
                drafts = self._fitting(left, wishes, outcomes)
                left = self._commit(drafts, outcomes) if drafts else []
                if not left:
                    break
            outcomes.update({user: changed_elsewhere() for user in left})
        for user, outcome in outcomes.items():
            self.note(user, outcome if isinstance(outcome, QuireError) else None)
        return outcomes

    def _fitting(
        self,
        users: Sequence[str],
        wishes: Mapping[str, Wish],
        outcomes: dict[str, int | QuireError],
    ) -> list[Draft]:
        """Drafts until a commit is full; one user's draft is never cut."""
        drafts: list[Draft] = []
        files = 0
        for user in users:
            draft = self._draft(user, wishes[user], outcomes)
            if draft is None:
                continue
            files += len(draft.files) + 1
            if drafts and files > _FILES_PER_COMMIT:
                break
            drafts.append(draft)
        return drafts

    def _draft(self, user: str, wish: Wish, outcomes: dict[str, int | QuireError]) -> Draft | None:
        try:
            with scarcity(self.paths.root):
                if wish.erase:
                    self._remain(user)  # before the commit: a kill after it must not forget this
                if user in self.forgotten:
                    wish = replace(wish, forgotten=True)
                if wish.whole is not None:
                    wish = replace(wish, above=self.known_generation(user))
                    head = reader.read(self.primary, user)
                    if known := self.base(user):
                        rebase(self.catalog, user, known if self.proved(user) else None, known)
                else:
                    head = self.head(user)
                    behind = not wish.erase_user and self._adopt(user, head)
                    if behind and wish.copy:
                        wish = replace(wish, copy=None)  # it lacks what another instance wrote
                changes = self.catalog.mark(user).changes
                made = compose(
                    self.paths, self.catalog, head, user, wish, self.keep, self._contents
                )
        except QuireError as problem:
            outcomes[user] = problem
            return None
        if made is None:
            if not wish.erase_user:
                self._go_on_from(user, head.raw if head else b"", changes)
            outcomes[user] = head.manifest.generation if head else 0
        return made

    def _commit(self, drafts: Sequence[Draft], outcomes: dict[str, int | QuireError]) -> list[str]:
        """The users whose drafts have to be made again, on top of what others saved."""
        change = Change(
            files={named(d.user, p): c for d in drafts for p, c in d.files.items()},
            manifests={named(d.user, "manifest.json"): d.raw for d in drafts},
            expected={named(d.user, "manifest.json"): d.manifest.parent for d in drafts},
            deletes=frozenset(named(d.user, p) for d in drafts for p in d.deletes),
            overwrite=any(d.overwrite for d in drafts),
        )
        term = self.lease.next() if self.lease else None
        if self.lease and term:
            change = self.lease.added(change, self.primary, term)
        self.commits += 1
        try:
            self.primary.commit(change)
        except QuireError as problem:
            if self.lease and isinstance(problem, Conflict):
                self.lease.look_again(self.primary)
            if self.lease and self.lease.lost:
                outcomes.update({d.user: taken_over() for d in drafts})
                return []
            return [d.user for d in drafts if self._landed(d, problem, outcomes) is False]
        if self.lease and term:
            self.lease.confirmed(self.primary, term)
        for draft in drafts:
            self._confirmed(draft, outcomes)
        return []

    def _landed(
        self, draft: Draft, problem: QuireError, outcomes: dict[str, int | QuireError]
    ) -> bool | None:
        """Every failure is ambiguous until we have looked for our own manifest: True when it
        stands there, False when another one does, None when that cannot be known."""
        try:
            there = reader.read_raw(self.primary, draft.user)
        except QuireError:
            outcomes[draft.user] = problem
            return None
        if there == draft.raw:
            self._confirmed(draft, outcomes)
            return True
        if isinstance(problem, Conflict):
            return False
        outcomes[draft.user] = problem
        return None

    def _confirmed(self, draft: Draft, outcomes: dict[str, int | QuireError]) -> None:
        if draft.erased:
            self.catalog.forget_user(draft.user, before=draft.manifest.erased_at)
        self.forgotten.discard(draft.user)
        self._go_on_from(draft.user, draft.raw, draft.changes)
        self.went_on(draft.user, draft.manifest.parent or "", reader.digest(draft.raw))
        for path in draft.journal:
            path.unlink(missing_ok=True)
        outcomes[draft.user] = draft.manifest.generation
        if self.mirror is not None:
            self._at_hand[draft.user] = draft.files

    # Who runs the jobs

    def take(self) -> Term | None:
        """From now on this instance runs the jobs of this store, what another one left of them
        included; or the term of the other, which is not over yet or has user keys of another secret.
        Raises what the remotes answer when they cannot be asked."""
        lease = self.lease
        if lease is None or lease.taken:
            return None
        looking = self._threads.submit(lease.look, self.remotes)
        try:
            found = looking.result(_RESTORING)
        except (QuireError, TimeoutError):
            lease.taken = lease.goes_on(self.primary)
            if lease.taken:
                return None
            found = looking.result()
        other = found.instance not in {"", lease.instance}
        if not lease.fits(found) or (other and found.until > lease.clock()):
            return found
        lease.term = found
        if other:
            for user in sorted({*found.users, *lease.unfinished()}):
                self._adopt(user, self.current(user))
        if other and found.users and not self._written(lease):
            return lease.look(self.remotes)
        lease.taken = True
        return None

    def _written(self, lease: Lease) -> bool:
        """False when another instance was faster."""
        term = lease.next()
        try:
            for remote in self.remotes:
                lease.write(remote, term)
        except QuireError:
            if not lease.lost:
                raise
            lease.lost = False
            return False
        return True

    def release(self) -> None:
        """Another instance need not wait; when this one cannot say so, its term runs out."""
        lease = self.lease
        if lease and lease.taken and not lease.lost and lease.term.until > lease.clock():
            term = lease.next(over=True)
            for remote in self.remotes:
                with contextlib.suppress(QuireError):
                    lease.write(remote, term)

    # What this instance goes on from

    def head(self, user: str) -> Found | None:
        """The primary's newest generation. One that is behind what was confirmed here was wiped or
        put back from outside: it goes on from the mirror, or nothing is written."""
        found = reader.read(self.primary, user)
        known = self.known_generation(user)
        if self.mirror and (found is None or found.manifest.generation < known):
            ahead = reader.newest(self.remotes, user, known)
            if ahead and ahead.remote is not self.primary:
                self.catch_up(user, ahead.remote, self.primary)
                found = reader.read(self.primary, user)
        self._check_forward(user, found)
        return found

    def _check_forward(self, user: str, found: Found | None) -> None:
        generation, known = found.manifest.generation if found else 0, self.known_generation(user)
        if generation < known:
            raise Corrupt(
                "store_went_back",
                f"The store holds generation {generation}, but {known} was saved there before.",
                "Somebody changed it from outside. `python -m pipeline repair` writes it again "
                "from this machine.",
            )

    def current(self, user: str) -> Found | None:
        """The newest valid generation of all remotes; raises while it cannot be known."""
        return reader.newest(self.remotes, user, self.known_generation(user))

    def base(self, user: str) -> Manifest | None:
        """The newest manifest that is known here, when there is one that can be read."""
        return base.manifest(self.paths, user)

    def proved(self, user: str) -> bool:
        """Whether the catalogue goes on from what is known here of the stores."""
        return base.proved(self.paths, self.catalog, user)

    def known_generation(self, user: str) -> int:
        """The newest generation that was confirmed here, also when a part of that was lost since."""
        known = self.base(user)
        return max(known.generation if known else 0, self.catalog.mark(user).generation)

    def adopt(self, user: str) -> None:
        """The catalogue holds what the newest manifest names. The stores are asked once in the life of
        this process: local files may have been lost or put back before. Rows that are proved to go on
        from what is known here are used when the stores do not answer soon; else raises what they
        answer, or `restoring`."""
        if user in self._asked and self.paths.base(user).exists():
            return
        here = self.proved(user)
        if here and time.monotonic() < self._ask_after.get(user, 0.0):
            return
        with self._guard:
            asking = self._asking.get(user) or self._threads.submit(self._ask, user)
            self._asking[user] = asking
        if not wait([asking], timeout=self.patience if here else _RESTORING).done:
            if not here:
                raise Unavailable(
                    "restoring",
                    "Your collections are being restored from the store.",
                    "Try again in a few seconds; jobs wait by themselves.",
                )
        elif not here or not isinstance(asking.exception(), QuireError):
            asking.result()

    def _ask(self, user: str) -> None:
        try:
            self._adopt(user, self.current(user))
            self._asked.add(user)
        except QuireError as problem:
            self._ask_after[user] = time.monotonic() + _ASK_AGAIN
            self.note(user, problem)
            raise
        finally:
            with self._guard:
                self._asking.pop(user, None)

    def unsaved(self) -> list[str]:
        """Users with rows that no generation holds yet."""
        return self.catalog.unsaved()

    def restored(self, user: str) -> Found | None:
        """The newest generation, adopted: what a live store is to be built from. Whoever builds it
        has what others saved up to here, so it is no longer stale."""
        with self.locked(user):
            found = self.current(user)
            self._adopt(user, found)
            self.paths.stale(user).unlink(missing_ok=True)
        if found and found.remote is not self.primary:
            try:
                self.catch_up(user, found.remote, self.primary)
            except QuireError as problem:
                self.note(user, problem)  # what is there can be used meanwhile
        return found

    def _adopt(self, user: str, head: Found | None) -> bool:
        """The catalogue goes on from `head`: nothing that it holds is missing here, but what has a
        tombstone. True when the live store lacks what another instance has saved."""
        with self.locked(user):
            self._check_forward(user, head)
            raw = head.raw if head else b""
            there, proved = base.raw(self.paths, user), self.proved(user)
            known = self.base(user) if proved else None
            lost = head is not None and rebase(self.catalog, user, known, head.manifest)
            if proved and there == raw and not lost:
                return False
            if head is not None:
                saved_jobs.put_back(self.catalog, user, self._saved_jobs(user, head.manifest))
                saved_jobs.end_deleted(self.catalog, user)
            if there == raw:
                self._go_on_from(user, raw)
                return False
            if head is not None:
                self._drop_erased(user, known, head.manifest)
                self.paths.user(user).mkdir(parents=True, exist_ok=True)
                self.paths.stale(user).touch()
                if head.manifest.forgetting:  # the other instance has renewed its own
                    self._remain(user)
            self._go_on_from(user, raw)
            return head is not None

    def _drop_erased(self, user: str, known: Manifest | None, newest: Manifest) -> None:
        """What lay in the journal when everything was erased; the live store, which holds it, is no
        longer proved, so that nothing is written again from there."""
        erased = newest.erased_at
        if erased and not (known and known.erased_at == erased):
            journal.erase(self.paths, user, erased)

    def _saved_jobs(self, user: str, newest: Manifest) -> list[JobRow]:
        """None when what holds them is damaged everywhere: documents are restored all the same."""
        try:
            return [
                job
                for file in newest.files
                if file.path.startswith("jobs/")
                for job in saved_jobs.load(self._contents(user, file), user=user)
            ]
        except (Corrupt, NotFound) as problem:
            self.note(user, problem)
            return []

    def _go_on_from(self, user: str, raw: bytes, saved: int | None = None) -> None:
        self.owe(user, base.go_on_from(self.paths, self.catalog, user, raw, saved))

    def owe(self, user: str, newest: Manifest | None) -> None:
        """What that generation says is still to be erased and forgotten."""
        for owed, users in (
            (newest and newest.unerased(), self.erasable),
            (newest and newest.forgetting and user not in self.forgotten, self.to_forget),
        ):
            (users.add if owed else users.discard)(user)

    def _remain(self, user: str) -> None:
        if self.paths.user(user).is_dir():
            self.paths.remains(user).touch()
            self.to_renew.add(user)

    # Files

    def fetch(self, user: str, path: str, to: Path) -> None:
        """A file of the newest generation known here (a source, an elements archive) to a local
        path."""
        known = self.base(user)
        file = next((f for f in known.files if f.path == path), None) if known else None
        if file is None:
            raise NotFound("not_in_store", "That file was never saved.", "Upload it again.")
        reader.fetch(self.remotes, user, file, to)

    def named(self, user: str) -> set[str]:
        """The files that the newest generation known here names."""
        known = self.base(user)
        return {f.path for f in known.files} if known else set()

    def rows(self, user: str, files: Sequence[File]) -> Iterator[segments.Row]:
        """The rows of these segments in order, every byte verified first."""
        for file in files:
            yield from segments.decode(self._contents(user, file))

    def rows_saved(self, user: str) -> int:
        """About how large that user's store is, from what this instance knows."""
        known = self.base(user)
        return sum(f.rows for f in known.segments) if known else 0

    def shipped(self, user: str) -> str:
        """The last journal file of this instance that a generation holds."""
        known = self.base(user)
        return known.shipped_by(journal.instance(self.paths)) if known else ""

    def _contents(self, user: str, file: File) -> bytes:
        return reader.content(self.remotes, user, file)

    # Mirror

    def to_mirror(self, users: Iterable[str]) -> None:
        """Bring the mirror to where the primary is; what fails is told by `status`."""
        for user in users:
            self._to_mirror(user, self._at_hand.pop(user, {}))
            shutil.rmtree(self.paths.saving(user), ignore_errors=True)

    def _to_mirror(self, user: str, at_hand: Files) -> None:
        known = self.base(user)
        if self.mirror is None or not known or self._mirrored.get(user) == known.generation:
            return
        try:
            self.catch_up(user, self.primary, self.mirror, at_hand)
            self.note(user, None)
            if self.lease and not self.lease.stands(self.mirror):
                self.lease.write(self.mirror, self.lease.term)
        except QuireError as problem:
            self.note(user, problem)

    def catch_up(
        self, user: str, source: Remote, target: Remote, at_hand: Files | None = None
    ) -> None:
        """Bring `target` to the newest generation of `source`; never back to an older one. What is
        `at_hand` is not read from `source` again."""
        with self.locked(user):
            self._copy(user, source, target, at_hand or {})

    def _copy(self, user: str, source: Remote, target: Remote, at_hand: Files) -> None:
        new = reader.read(source, user)
        if new is None:
            return
        old = reader.read(target, user)
        if old and old.manifest.generation >= new.manifest.generation:
            self._note_mirror(target, user, old.manifest.generation)
            return
        there = {(f.path, f.sha256) for f in (reader.named_files(old) if old else ())}
        missing = [f for f in reader.named_files(new) if (f.path, f.sha256) not in there]
        listed = {path for path, _ in there}
        listed |= {r.path for r in old.manifest.retired} if old else set()
        still = {f.path for f in reader.named_files(new)} | {r.path for r in new.manifest.retired}
        needed = set(new.manifest.needs())
        incoming = self.paths.saving(user) / "incoming"
        at_hand = {**at_hand, reader.kept_copy(new).path: new.raw}
        files: Files = {}
        try:
            for file in missing:
                content = at_hand.get(file.path)
                if content is None:
                    content = incoming / file.sha256
                    try:
                        reader.fetch([source], user, file, content)
                    except (Corrupt, NotFound):
                        if file in needed:
                            raise
                        continue  # an older generation's manifest: `verify` tells that it is lost
                files[named(user, file.path)] = content
            target.commit(
                Change(
                    files=files,
                    manifests={named(user, "manifest.json"): new.raw},
                    expected={
                        named(user, "manifest.json"): reader.digest(old.raw) if old else None
                    },
                    deletes=frozenset(named(user, p) for p in listed - still),
                    overwrite=any(f.path in listed for f in missing),
                )
            )
        finally:
            for leftover in incoming.glob("*"):
                leftover.unlink()
        self._note_mirror(target, user, new.manifest.generation)

    def _note_mirror(self, target: Remote, user: str, generation: int) -> None:
        if target is self.mirror:
            self._mirrored[user] = generation

    # Status

    def status(self, user: str) -> RemoteStatus:
        """From what this instance knows: asks no remote."""
        known, mark = self.base(user), self.catalog.mark(user)
        error = self._errors.get(user)
        saved = known.generation if known else 0
        mirrored = self._mirrored.get(user)
        return RemoteStatus(
            saved_generation=saved,
            saved_at=known.created_at if known else None,
            unsaved=len(journal.pending(self.paths, user)) + mark.changes - mark.saved,
            published_generation=known.published.generation if known and known.published else None,
            primary=self.primary.name,
            mirror=self.mirror.name if self.mirror else None,
            lag=saved - mirrored if self.mirror and mirrored is not None else None,
            error=error.as_dict() if error else None,
        )

    def note(self, user: str, problem: QuireError | None) -> None:
        """What `status` tells as the last error; None: all is well."""
        if problem:
            self._errors[user] = problem
        else:
            self._errors.pop(user, None)

    @contextmanager
    def locked(self, user: str) -> Iterator[None]:
        """One change of a user's generations at a time in this process."""
        with self._guard:
            lock = self._locks.setdefault(user, threading.RLock())
        with lock:
            yield


def titles(catalog: Catalog, user: str) -> Mapping[str, str]:
    return {c.id: c.title for c in catalog.collections(user)}
