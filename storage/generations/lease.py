"""The lease: which instance runs the jobs of a store, and until when.

One object beside the users, written in the same commit as what it covers and only on top of what was
seen there before. A second container waits until it is over and then writes its own; the first one's
next save is a Conflict on it, and that instance stops. It is renewed with saves alone: one that
has run out does no harm as long as nobody else comes.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from errors import Conflict, InputError, NotFound, Unavailable
from storage.atomic_write import atomic_write
from storage.generations import reader
from storage.names import UserKey, moment, number, text
from storage.remotes.remote import Change, Remote

NAME = "jobs/manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """`instance` runs the jobs of these `users` until that time (seconds, epoch); a later term has
    a higher number. `key` says which secret the user keys are made with (empty: not known)."""

    number: int = 0
    instance: str = ""
    until: float = 0.0
    users: tuple[str, ...] = ()
    key: str = ""


@dataclass(slots=True)
class Lease:
    """One instance's view of it. `seconds` is how long a term lasts, `unfinished` tells whose jobs
    are not done; `kept` is a file of this instance's last term. `taken` says that this instance
    may run jobs, `lost` that another one has written its own term since; `key` as in a term."""

    instance: str
    seconds: float
    unfinished: Callable[[], Sequence[str]]
    kept: Path
    clock: Callable[[], float] = time.time
    key: str = ""
    taken: bool = False
    lost: bool = False
    term: Term = field(default_factory=Term)
    _seen: dict[str, bytes | None] = field(default_factory=dict)

    def goes_on(self, primary: Remote) -> bool:
        """After a restart on the same disk, within the own term, nobody has to be asked when the
        stores do not answer: the others wait until it is over."""
        raw = self.kept.read_bytes() if self.kept.exists() else b""
        term = load(raw)
        if term.instance != self.instance or term.until <= self.clock():
            return False
        self.term, self._seen[primary.name] = term, raw
        return True

    def look(self, remotes: Sequence[Remote]) -> Term:
        """The newest term of all remotes; raises what a remote answers that cannot be asked."""
        found = [self._read(remote) for remote in remotes]
        return max(found, key=lambda term: term.number)

    def next(self, *, over: bool = False) -> Term:
        """This instance's next term; one that covers nobody, or is `over`, is over at once."""
        users = tuple(sorted(self.unfinished()))
        until = self.clock() + self.seconds if users and not over else 0.0
        number = self.term.number + 1
        return Term(number=number, instance=self.instance, until=until, users=users, key=self.key)

    def added(self, change: Change, remote: Remote, term: Term) -> Change:
        """The same commit with that term in it, on top of what was seen there."""
        seen = self._seen.get(remote.name)
        expected = reader.digest(seen) if seen is not None else None
        return replace(
            change,
            manifests={NAME: dump(term), **change.manifests},
            expected={**change.expected, NAME: expected},
        )

    def stands(self, remote: Remote) -> bool:
        """This term is what that remote holds, as far as is known."""
        return self._seen.get(remote.name) == dump(self.term)

    def confirmed(self, remote: Remote, term: Term) -> None:
        self._seen[remote.name] = raw = dump(term)
        self.term = term
        atomic_write(self.kept, raw)

    def overtaken(self, remote: Remote) -> bool:
        """Whether another instance has written its own term since; raises when that cannot be asked."""
        term = load(remote.read(NAME)) if self.term.number else Term()
        return term.instance not in {"", self.instance} and term.number > self.term.number

    def fits(self, term: Term) -> bool:
        """Whether that term's user keys are made with the same secret."""
        return not (term.key and self.key) or term.key == self.key

    def look_again(self, remote: Remote) -> None:
        """After a commit that failed: what stands there now is ours, or the lease is lost."""
        term = self._read(remote)
        if term.instance not in {"", self.instance} and term.number >= self.term.number:
            self.lost = True
        elif term.number > self.term.number:
            self.term = term

    def write(self, remote: Remote, term: Term) -> None:
        """That term, by itself; `taken_over` when another instance was faster."""
        for last in (False, True):
            try:
                remote.commit(self.added(Change(files={}, manifests={}, expected={}), remote, term))
            except Conflict:
                self.look_again(remote)
                if self.lost:
                    raise taken_over() from None
                if last:
                    raise
            else:
                self.confirmed(remote, term)
                return

    def _read(self, remote: Remote) -> Term:
        try:
            raw = remote.read(NAME)
        except NotFound:
            self._seen[remote.name] = None
            return Term()
        self._seen[remote.name] = raw
        return load(raw)


def dump(term: Term) -> bytes:
    return json.dumps(asdict(term), sort_keys=True).encode()


def load(raw: bytes) -> Term:
    """What is not a term covers nobody: the next one is written over it."""
    try:
        told = json.loads(raw)
        return Term(
            number=number(told["number"], (1 << 53) - 1),
            instance=text(told["instance"], 64),
            until=moment(told["until"]),
            users=tuple(map(UserKey, told["users"])),
            key=text(told.get("key", ""), 64),
        )
    except (KeyError, TypeError, ValueError, RecursionError, InputError):
        return Term()


def taken_over() -> Unavailable:
    return Unavailable(
        "taken_over",
        "Another container of this Space has taken over.",
        "It goes on there; this one waits until the other ends.",
    )
