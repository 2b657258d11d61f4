"""The world of `bench/store_faults.py`: two remotes in memory, machines, and what must always hold.

A dataset whose commits are atomic, and the real S3 code over a client of our own; each of their calls
may be broken. What runs on top is the product's own code.
"""

import contextlib
import functools
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError

from errors import NotFound, QuireError, Unavailable
from storage.catalog.catalog import Catalog
from storage.generations import manifest as manifests
from storage.generations import reader
from storage.generations.compose import Wish
from storage.generations.replication import Replication
from storage.live import journal, segments
from storage.live.segments import Row
from storage.paths import Paths
from storage.remotes.remote import SMALL, Change, changed_elsewhere, too_large
from storage.remotes.s3 import S3Remote

USER, OTHER = "a" * 32, "b" * 32
MODES = ("kill-before", "kill-after", "error-before", "error-after")
State = dict[str, dict[str, Any]]


class Killed(BaseException):
    """The process is gone; only its disk and the remotes are left."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Faults:
    """Breaks the `at`-th remote call; 0: none."""

    at: int = 0
    mode: str = ""
    calls: int = 0

    def call(self, work: Callable[[], Any], failure: Exception) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return work()
        if self.mode.endswith("after"):
            work()
        raise Killed if self.mode.startswith("kill") else failure


@dataclass
class MemoryHub:
    """Atomic commits with a parent check on each manifest."""

    faults: Faults
    files: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    name: str = "hub"

    def check(self) -> None: ...

    def read(self, name: str, at_most: int = SMALL) -> bytes:
        return self._call(lambda: self._get(name, at_most))

    def fetch(self, name: str, to: Path, at_most: int = SMALL) -> None:
        to.write_bytes(self.read(name, at_most))

    def names(self, prefix: str) -> Iterator[str]:
        return iter(sorted(n for n in self.files if n.startswith(prefix)))

    def commit(self, change: Change) -> None:
        if self.before:
            self.before()
        self._call(lambda: self._put(change))

    def history(self) -> int:
        return 0

    def forget(self, names: frozenset[str]) -> float:
        return 0.0

    def _call(self, work: Callable[[], Any]) -> Any:
        return self.faults.call(work, Unavailable("injected", "Injected."))

    def _get(self, name: str, at_most: int) -> bytes:
        if name not in self.files:
            raise NotFound("not_in_store", "Not there.")
        if len(self.files[name]) > at_most:
            raise too_large(name)
        return self.files[name]

    def _put(self, change: Change) -> None:
        if moved := self._moved(change):
            raise changed_elsewhere(moved)
        for name, content in (*change.files.items(), *change.manifests.items()):
            self.files[name] = content if isinstance(content, bytes) else content.read_bytes()
        for name in change.deletes:
            self.files.pop(name, None)

    def _moved(self, change: Change) -> list[str]:
        return [n for n, seen in change.expected.items() if self._digest(n) != seen]

    def _digest(self, name: str) -> str | None:
        return reader.digest(self.files[name]) if name in self.files else None


@dataclass
class MemoryClient:
    """The calls of boto3's client that `S3Remote` makes; each may be broken."""

    faults: Faults
    objects: dict[str, bytes] = field(default_factory=dict)

    def put_object(self, *, Bucket: str, Key: str, Body: Any, IfNoneMatch: str = "") -> None:
        def work() -> None:
            if IfNoneMatch and Key in self.objects:
                raise _client_error(412, "PreconditionFailed")
            self.objects[Key] = Body if isinstance(Body, bytes) else Body.read()

        self._call(work)

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            if Key not in self.objects:
                raise _client_error(404, "NoSuchKey")
            body = self.objects[Key]
            return {"Body": io.BytesIO(body), "ContentLength": len(body)}

        return dict(self._call(work))

    def list_objects_v2(self, *, Bucket: str, Prefix: str, MaxKeys: int) -> dict[str, Any]:
        found = lambda: sorted(k for k in self.objects if k.startswith(Prefix))[:MaxKeys]  # noqa: E731
        return {"Contents": [{"Key": k} for k in self._call(found)]}

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        self._call(lambda: self.objects.pop(Key, None))

    def _call(self, work: Callable[[], Any]) -> Any:
        return self.faults.call(work, EndpointConnectionError(endpoint_url="memory"))


def _client_error(status: int, code: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "call"
    )


@dataclass
class World:
    """Two remotes, what they were seen to hold, and what was promised."""

    root: Path
    faults: Faults = field(default_factory=Faults)
    seen: dict[int, tuple[State, set[str]]] = field(default_factory=lambda: {0: ({}, set())})
    mirrored: int = 0

    def __post_init__(self) -> None:
        self.hub = MemoryHub(self.faults)
        self.client = MemoryClient(self.faults)
        self.s3 = S3Remote(self.client, "b")

    @contextlib.contextmanager
    def calm(self) -> Iterator[None]:
        """The checks look without being counted or broken."""
        at, calls, self.faults.at = self.faults.at, self.faults.calls, 0
        try:
            yield
        finally:
            self.faults.at, self.faults.calls = at, calls

    def state(self, remote: Any, user: str = USER) -> tuple[int, State, set[str]]:
        """Generation, rows and collections of the newest generation; every byte is hashed here."""
        found = reader.read(remote, user)
        if found is None:
            return 0, {}, set()
        return found.manifest.generation, *self.held(remote, found.manifest)

    def held(self, remote: Any, found: manifests.Manifest) -> tuple[State, set[str]]:
        rows: list[Row] = []
        for file in (*found.segments, *found.files):
            content = remote.read(reader.named(found.user, file.path))
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise Violation(f"{file.path} has other bytes")
            if file.path.startswith("segments/"):
                rows.extend(decoded(content))
        return plain(segments.fold(rows)), {c.id for c in found.collections}

    def check(self) -> None:
        """The primary only grows; the mirror is a whole generation that the primary had, and never
        goes back; every kept generation can be read."""
        with self.calm():
            try:
                generation, state, collections = self.state(self.hub)
                known = self.seen.setdefault(generation, (state, collections))
                if known != (state, collections):
                    raise Violation(f"generation {generation} has changed")
                if generation < max(self.seen):
                    raise Violation("the primary went back")
                self._check_kept(self.hub)
                behind, copied, named = self.state(self.s3)
                if behind < self.mirrored or behind > generation:
                    raise Violation(f"the mirror went from {self.mirrored} to {behind}")
                if self.seen.get(behind, ({}, set())) != (copied, named):
                    raise Violation("the mirror holds what the primary never held")
                self.mirrored = behind
            except QuireError as problem:
                raise Violation(f"{problem.code}: {problem}") from problem

    def _check_kept(self, remote: Any) -> None:
        found = reader.read(remote, USER)
        for kept in found.manifest.kept if found else ():
            raw = remote.read(reader.named(USER, kept.path))
            if reader.digest(raw) != kept.sha256:
                raise Violation("a kept manifest has other bytes")
            older = manifests.load(raw, user=USER)
            if self.seen.get(older.generation, ({}, set())) != self.held(remote, older):
                raise Violation("a kept generation has changed")


@functools.lru_cache(maxsize=4096)
def decoded(content: bytes) -> tuple[Row, ...]:
    return tuple(segments.decode(content))


def plain(state: dict[str, dict[str, Row]]) -> State:
    return {
        c: {i: (r.document, tuple(r.embedding)) for i, r in rows.items()}
        for c, rows in state.items()
        if rows
    }


class Instance:
    """A machine: its disk and catalogue outlive its process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.paths = Paths(world.root / name)
        self.paths.root.mkdir()
        self.catalog = Catalog("sqlite://")
        self.start()

    def start(self) -> None:
        self.replication = Replication(
            self.paths, self.catalog, self.world.hub, self.world.s3, keep=3
        )

    def apply(self, rows: list[Row]) -> None:
        journal.write(
            self.paths.pending(USER), segments.encode(rows), self.replication.shipped(USER)
        )

    def save(self, wish: Wish | None = None) -> int:
        return self.replication.save(USER, wish)


def row(identity: str, text: str, collection: str = "c-1", op: str = "put") -> Row:
    return Row(op=op, collection=collection, id=identity, document=text, embedding=(0.5, 1.0))


def restores(world: World, state: State, collections: set[str]) -> None:
    """Somebody who has nothing gets everything, from either remote, and damage is noticed."""
    with world.calm():
        for alone in (world.hub, world.s3):
            fresh = Instance(world, f"fresh-{alone.name}")
            fresh.replication = Replication(fresh.paths, fresh.catalog, alone)
            same_as(fresh, state, collections)
        found = reader.read(world.hub, USER)
        if found and found.manifest.segments:
            name = reader.named(USER, found.manifest.segments[-1].path)
            world.hub.files[name] = world.hub.files[name][:-1] + b"\0"
            fresh = Instance(world, "fresh-damaged")
            fresh.start()
            same_as(fresh, state, collections)


def same_as(fresh: Instance, state: State, collections: set[str]) -> None:
    try:
        found = fresh.replication.restored(USER)
        rows = fresh.replication.rows(USER, found.manifest.segments) if found else iter(())
        if plain(segments.fold(rows)) != state:
            raise Violation("the restored records differ")
    except QuireError as problem:
        raise Violation(f"not restored: {problem.code}") from problem
    if {c.id for c in fresh.catalog.collections(USER)} != collections:
        raise Violation("the restored collections differ")
