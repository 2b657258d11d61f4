"""When to save: dirty users together, at a pace that the Hub's hourly limit allows.

`Schedule` decides, told the time; `Committer` is the one thread that acts on it. A save at the end
of a job goes at once as long as there are tokens; else it waits for the next one, with the others.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from errors import QuireError, Unavailable
from storage.catalog.catalog import ACTIVE
from storage.generations.base import users_here
from storage.generations.compose import Wish
from storage.generations.erase import Gone, forget, squash, wipe
from storage.generations.replication import Replication
from storage.live import journal
from storage.live.closed_copy import Copy
from storage.live.open_stores import Workspaces
from storage.removal import sweep
from storage.scarce import scarcity

log = logging.getLogger(__name__)
HISTORY = 36 * 3600.0  # the Hub gives back the storage of a rewritten history within this time


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between commits that nobody waits for, commits per hour, and how many of these may
    come at once. A user is published when `quiet` seconds have passed since the last change, at
    most every `publish` seconds, or `publish_large` above `large` records; `publish_at_once` users
    with one commit, because their stores are closed and copied before it. As seldom is a live store
    built anew after an erasure. What is erased leaves the
    histories at most every `forget` seconds: on the Hub that is one rewrite for all users. So is
    a history of more than `history` states (0: there is none), also when nothing was erased."""

    interval: float = 60.0
    per_hour: float = 60.0
    burst: float = 10.0
    quiet: float = 60.0
    publish: float = 180.0
    publish_large: float = 900.0
    large: int = 10_000
    publish_at_once: int = 10
    forget: float = 3600.0
    history: int = 500

    def gap(self, records: int) -> float:
        """Seconds between two publications, or two renewals, of a store that large."""
        return self.publish_large if records > self.large else self.publish


# A directory has neither an hourly limit nor a history.
UNLIMITED = Pace(interval=5.0, per_hour=3600.0, burst=1000.0, forget=0.0, history=0)


@dataclass(slots=True)
class Schedule:
    """Who is dirty since when, who waits, and who may be published; knows no clock."""

    pace: Pace
    now: float
    _dirty: dict[str, float] = field(default_factory=dict)
    _urgent: set[str] = field(default_factory=set)
    _publish: dict[str, float] = field(default_factory=dict)
    _published: dict[str, float] = field(default_factory=dict)
    _tokens: float = -1.0
    _last: float = float("-inf")
    _paused: float = float("-inf")

    def __post_init__(self) -> None:
        self._tokens = self.pace.burst

    def touch(self, user: str, now: float) -> None:
        self._dirty.setdefault(user, now)
        if user in self._publish:
            self._publish[user] = max(self._publish[user], now + self.pace.quiet)

    def urge(self, user: str, now: float) -> None:
        self.touch(user, now)
        self._urgent.add(user)

    def due(self, now: float) -> tuple[str, ...]:
        """Whom to save now, in one commit, who waits longest first; empty when it is not yet time."""
        self._tokens = min(
            self.pace.burst, self._tokens + (now - self.now) * self.pace.per_hour / 3600.0
        )
        self.now = now
        if self._tokens < 1.0 or now < self._paused:
            return ()
        rested = now - self._last >= self.pace.interval
        publish = self.publishable(now) if rested else []
        old = min(self._dirty.values(), default=float("inf"))
        if self._urgent or rested and (publish or now - old >= self.pace.interval):
            return (*self.dirty(), *publish)
        return ()

    def dirty(self) -> list[str]:
        return sorted(self._dirty, key=lambda u: (u not in self._urgent, self._dirty[u]))

    def publishable(self, now: float) -> list[str]:
        due = [u for u, at in self._publish.items() if at <= now and u not in self._dirty]
        return sorted(due, key=lambda u: self._publish[u])[: self.pace.publish_at_once]

    def started(self, users: Sequence[str], now: float) -> None:
        """A commit for these users is on its way; what changes meanwhile is for the next one."""
        self._last = now
        for user in users:
            self._dirty.pop(user, None)
            self._urgent.discard(user)

    def charge(self, commits: int) -> None:
        """So many were really asked of the remote: none when nothing had changed."""
        self._tokens -= commits

    def saved(self, user: str, now: float, *, published: bool, records: int) -> None:
        if published:
            self._published[user] = now
            self._publish.pop(user, None)
            return
        earliest = self._published.get(user, float("-inf")) + self.pace.gap(records)
        self._publish[user] = max(now + self.pace.quiet, earliest)

    def failed(self, user: str, now: float, retry_after: float | None) -> None:
        """Again at the next interval, or when the remote allows it."""
        self._dirty.setdefault(user, now)
        if retry_after:
            self._paused = max(self._paused, now + retry_after)

    def put_off(self, user: str) -> None:
        """The commit had no room for what that user has to save: it is first in the next one."""
        self._dirty[user] = self._last
        self._urgent.add(user)

    def not_published(self, user: str, now: float) -> None:
        self._publish[user] = now + self.pace.quiet


@dataclass(slots=True)
class Committer:
    """Saves and publishes in the thread of `run`; the other methods may be called from any."""

    replication: Replication
    workspaces: Workspaces
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.monotonic
    schedule: Schedule = field(init=False)
    _waiting: "dict[str, list[Future[int]]]" = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wake: threading.Event = field(default_factory=threading.Event)
    _wishes: dict[str, Wish] = field(default_factory=dict)
    _forgot: float = float("-inf")
    _deleted: dict[str, float] = field(default_factory=dict)
    _erased: float = float("-inf")
    _renewed: dict[str, float] = field(default_factory=dict)
    _running: threading.Lock = field(default_factory=threading.Lock)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.pace, self.clock())

    def run(self) -> None:
        """Until `close`, or until another instance has taken the lease."""
        self.take_up()
        lease = self.replication.lease
        while not (self._stopping or (lease and lease.lost)):
            if not self.turn():
                self._wake.wait(1.0)
                self._wake.clear()

    def take_up(self) -> None:
        """What an earlier process left unsaved is dirty from the start."""
        self._touch_unfinished()
        for user in users_here(self.replication.paths):
            try:
                self._take_up(user)
            except QuireError as problem:  # one user's damage is nobody else's
                log.error("%s: %s", user, problem, extra={"code": problem.code})
                self.replication.note(user, problem)

    def turn(self) -> bool:
        """What is to be done now: a save, or else what was deleted is erased and leaves the histories.
        True when it saved."""
        if self.step():
            return True
        self._erase()
        self._renew()
        self._forget()
        return False

    def _take_up(self, user: str) -> None:
        if journal.pending(self.replication.paths, user):
            self.touch(user)
        if self.replication.paths.remains(user).exists():
            self.replication.to_renew.add(user)
        if not self.replication.proved(user):
            self.replication.adopt(user)
        self.replication.owe(user, self.replication.base(user))
        if self.replication.paths.clean(user).exists():
            with self._lock:
                self.schedule.not_published(user, self.clock())

    def _touch_unfinished(self) -> None:
        for user in self.replication.catalog.unfinished_users():
            self.touch(user)

    def look(self) -> None:
        """Whoever has rows that no generation holds is to be saved, whatever changed them."""
        for user in self.replication.unsaved():
            self.touch(user)

    def touch(self, user: str) -> None:
        """That user has something to save, within the interval."""
        with self._lock:
            self.schedule.touch(user, self.clock())

    def save(self, user: str, *, erase: bool = False) -> int:
        """That user's changes in a confirmed generation, its number; raises what stood in its
        way. With `erase` no older generation is kept."""
        return self.ask(user, Wish(erase=erase)).result()

    def ask(self, user: str, wish: Wish) -> "Future[int]":
        """The same without waiting for it; what several have wished for a user is done at once."""
        waiting: Future[int] = Future()
        with self._lock:
            if self._stopping:
                raise _stopping()
            self._wish(user, wish)
            self._waiting.setdefault(user, []).append(waiting)
            self.schedule.urge(user, self.clock())
        self._wake.set()
        return waiting

    def _wish(self, user: str, wish: Wish) -> None:
        old = self._wishes.get(user, Wish())
        self._wishes[user] = Wish(
            erase=wish.erase or old.erase, erase_user=wish.erase_user or old.erase_user
        )

    def erase(self, users: Sequence[str]) -> dict[str, QuireError | None]:
        """Everything of these users, from everywhere, in one commit when it has room for them; what
        stood in whose way."""
        told: dict[str, QuireError | None] = {}
        asked: dict[str, Future[int]] = {}
        for user in users:
            try:
                wipe(self.replication, self.workspaces, user)
                asked[user] = self.ask(user, Wish(erase_user=True))
            except QuireError as problem:
                told[user] = problem
        for user, waiting in asked.items():
            try:
                waiting.result()
                told[user] = None
            except QuireError as problem:
                told[user] = problem
        return told

    def close(self) -> None:
        """Take no more, and save whatever is unsaved, once; `run` ends first."""
        with self._lock:
            self._stopping = True
        self._wake.set()
        with self._running:
            self.look()
            self._touch_unfinished()
            with self._lock:
                left = self.schedule.dirty()
        while left:
            left = self._commit(left)

    def step(self) -> bool:
        """One look at who is unsaved, and at the schedule; True when it committed."""
        self.look()
        with self._lock:
            due = self.schedule.due(self.clock())
        if due:
            self._commit(due)
        return bool(due)

    def _commit(self, users: Sequence[str]) -> list[str]:
        """One commit; the users for whom it had no room, or not for all that they have."""
        with self._running:
            with self._lock:
                now = self.clock()
                publish = frozenset(users) & frozenset(self.schedule.publishable(now))
                self.schedule.started(users, now)
                waiting = {u: self._waiting.pop(u, []) for u in users}
                wished = {u: self._wishes.pop(u, Wish()) for u in users}
            try:
                self._mend(users)
                copies: dict[str, Copy | None] = {}
                remains = self.replication.to_renew | {u for u in users if wished[u].erase}
                for user in filter(self._behind, publish - remains):
                    with self._noted(user):
                        copies[user] = self.workspaces.copy(user)
                wishes = {u: replace(wished[u], copy=copies.get(u)) for u in users}
                before = self.replication.commits
                outcomes = self.replication.save_all(wishes)
                self.schedule.charge(self.replication.commits - before)
                late = [u for u in users if u not in outcomes and u not in publish]
                self._put_off(late, waiting, wished)
                self._plan(outcomes, wishes, publish)
                for user, outcome in outcomes.items():
                    for future in waiting[user]:
                        if isinstance(outcome, QuireError):
                            future.set_exception(outcome)
                        else:
                            future.set_result(outcome)
                self.replication.to_mirror(outcomes)
            finally:
                for future in (f for futures in waiting.values() for f in futures):
                    if not future.done():
                        future.set_exception(_stopping())
        saved = {u for u, outcome in outcomes.items() if not isinstance(outcome, QuireError)}
        return [*late, *(u for u in self.replication.unsaved() if u in saved)]

    def _put_off(
        self,
        users: Sequence[str],
        waiting: dict[str, list[Future[int]]],
        wished: Mapping[str, Wish],
    ) -> None:
        with self._lock:
            for user in users:
                self.schedule.put_off(user)
                self._wish(user, wished[user])
                self._waiting[user] = [*waiting.pop(user), *self._waiting.get(user, ())]

    def gone_by(self, at: float) -> list[Gone]:
        """When what was deleted then is gone, at the latest, from each remote: it is saved, erased with
        all that was deleted until then, and leaves the history."""
        pace = self.pace
        erased = at + 2 * pace.interval + pace.quiet + max(pace.forget, pace.quiet)
        history = pace.forget + HISTORY if pace.forget else 0.0
        places = [Gone(where="live", by=erased + pace.publish_large)]
        return places + [Gone(where=r.name, by=erased + history) for r in self.replication.remotes]

    def erases(self, user: str) -> bool:
        """Something that was deleted is still to be erased, or to leave the histories."""
        base, known = self.replication.base(user), self.replication
        if user in known.to_renew or known.paths.remains(user).exists():
            return True
        return bool(base and base.forgetting) and user not in known.forgotten

    def _erase(self) -> None:
        """What was deleted leaves the segments, too: a save that writes them anew, once for all that was
        deleted meanwhile, for all users."""
        now = self.clock()
        users = tuple(self.replication.erasable)
        self._deleted = {user: self._deleted.get(user, now) for user in users}
        due = any(now - at >= self.pace.quiet for at in self._deleted.values())
        if not due or now - self._erased < max(self.pace.forget, self.pace.quiet):
            return
        self._erased = now
        for user in users:
            self.ask(user, Wish(erase=True))

    def _renew(self) -> None:
        """What was erased leaves a live store as well, once for all of it: one at a time, because whoever
        had it open gets it back before the next save."""
        known = self.replication
        for user in sorted(known.to_renew - known.erasable):
            now = self.clock()
            if now < self._renewed.get(user, now):
                continue
            known.to_renew.discard(user)
            self._renewed[user] = now + self.pace.gap(known.rows_saved(user))
            try:
                if self.workspaces.renew(user):
                    return
                del self._renewed[user]  # it is in use: soon again
            except QuireError as problem:
                log.warning("a live store is not renewed: %s", problem, extra={"user": user})
            known.to_renew.add(user)

    def _forget(self) -> None:
        """What was erased leaves the histories, and a history that is too long goes; what cannot
        yet is tried again."""
        now = self.clock()
        if now - self._forgot < max(self.pace.forget, 1.0):
            return
        users = frozenset(self.replication.to_forget - self.replication.erasable)
        if not users and not self.pace.history:
            return
        self._forgot = now
        with self._running:
            if not users:
                squash(self.replication, self.pace.history)
            elif all(g.by is not None for g in forget(self.replication, users)):
                self.replication.to_forget -= users

    def _plan(
        self,
        outcomes: Mapping[str, int | QuireError],
        wishes: Mapping[str, Wish],
        publish: frozenset[str],
    ) -> None:
        saved = [u for u, outcome in outcomes.items() if not isinstance(outcome, QuireError)]
        records = {user: self.replication.rows_saved(user) for user in saved}
        with self._lock:
            now = self.clock()
            for user, outcome in outcomes.items():
                wish = wishes[user]
                if isinstance(outcome, QuireError):
                    again = outcome.retry_after if isinstance(outcome, Unavailable) else None
                    self.schedule.failed(user, now, again)
                    self._wish(user, wish)
                    continue
                if user in publish and wish.copy is None and self._behind(user):
                    self.schedule.not_published(user, now)
                else:
                    published = user in publish
                    self.schedule.saved(user, now, published=published, records=records[user])

    def _behind(self, user: str) -> bool:
        """The published directory lacks records that are saved."""
        base = self.replication.base(user)
        at = base.published.generation if base and base.published else 0
        return base is not None and any(f.generation > at for f in base.segments)

    def _mend(self, users: Sequence[str]) -> None:
        """Whose journal cannot be put right is not saved now; the save says so. Crops that nobody shows
        any more go, once for all that was deleted since the last save."""
        for user in users:
            with self._noted(user):
                self.workspaces.mend(user)
                paths, catalog = self.replication.paths, self.replication.catalog
                if any(paths.deleted(user).glob("*.crops")) and not catalog.jobs(user, ACTIVE, 1):
                    with self.workspaces.open(user) as workspace:
                        sweep(paths, workspace, user)

    @contextmanager
    def _noted(self, user: str) -> Iterator[None]:
        """What fails inside is that user's alone, and told by `status`."""
        try:
            with scarcity(self.replication.paths.root):
                yield
        except QuireError as problem:
            self.replication.note(user, problem)


def _stopping() -> Unavailable:
    return Unavailable(
        "worker_stopping", "The worker is stopping.", "What is unsaved is saved when it is back."
    )
