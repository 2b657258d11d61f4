"""Every remote call × every failure, and two writers in any order, against the stores' protocol.

`python -m bench.store_faults [--seeds 3] [--pairs 2000]` runs the whole campaign, then the broken
variants of the protocol that it must catch; a line for each hundred runs. The remotes are in
memory: a dataset whose commits are atomic, and the real S3 code over a client of our own. What runs
is the product's own code.
"""

import argparse
import contextlib
import functools
import hashlib
import io
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from botocore.exceptions import ClientError, EndpointConnectionError

from errors import Conflict, NotFound, QuireError, Unavailable
from storage import draft, generations, journal, replication, segments
from storage import manifest as manifests
from storage.catalog import Catalog
from storage.draft import Wish
from storage.paths import Paths
from storage.published import Copy
from storage.remote import SMALL, Change, changed_elsewhere, too_large
from storage.replication import Replication
from storage.s3 import S3Remote
from storage.segments import Row

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
        return generations.digest(self.files[name]) if name in self.files else None


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
        found = generations.read(remote, user)
        if found is None:
            return 0, {}, set()
        return found.manifest.generation, *self.held(remote, found.manifest)

    def held(self, remote: Any, found: manifests.Manifest) -> tuple[State, set[str]]:
        rows: list[Row] = []
        for file in (*found.segments, *found.files):
            content = remote.read(generations.named(found.user, file.path))
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
        found = generations.read(remote, USER)
        for kept in found.manifest.kept if found else ():
            raw = remote.read(generations.named(USER, kept.path))
            if generations.digest(raw) != kept.sha256:
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


def step(instance: Instance, rng: random.Random, n: int, state: State, prefix: str = "") -> Wish:
    """One change of a user's records or catalogue; `state` is what it should come to."""
    kind = rng.choice(("put", "put", "put", "delete", "drop", "catalog", "publish", "erase"))
    wish = Wish()
    rows: list[Row] = []
    if kind == "delete" and state.get("c-1"):
        identity = rng.choice(sorted(state["c-1"]))
        rows = [row(identity, "", op="delete")]
    elif kind == "drop" and not prefix:
        rows = [row("", "", collection="c-2", op="drop"), row("z", f"{n}", "c-2")]
    elif kind == "catalog":
        instance.catalog.create_collection(USER, f"{prefix}title {n}")
    elif kind == "publish" and not prefix:
        wish = Wish(copy=copied(instance))
    elif kind == "erase" and not prefix:
        wish = Wish(erase=True)
    if kind in {"put", "delete", "drop"} and not rows:
        rows = [row(f"{prefix}{rng.randrange(6)}", f"{prefix}{n}.{i}") for i in range(2)]
    if rows:
        instance.apply(rows)
        kept: dict[str, dict[str, Any]] = {c: dict(r) for c, r in state.items()}
        for r in rows:
            if r.op == "put":
                kept.setdefault(r.collection, {})[r.id] = (r.document, tuple(r.embedding))
            elif r.op == "delete":
                kept.get(r.collection, {}).pop(r.id, None)
            else:
                kept.pop(r.collection, None)
        state.clear()
        state.update({c: r for c, r in kept.items() if r})
    return wish


def copied(instance: Instance) -> Copy:
    folder = instance.paths.copy(USER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chroma.sqlite3").write_bytes(b"copy")
    pending = tuple(journal.pending(instance.paths, USER))
    return Copy(directory=folder, journal=pending, records=0)


def scenario(root: Path, seed: int, at: int, mode: str, saves: int = 9) -> int:
    """One writer, `saves` changes, one fault; returns how many remote calls there were."""
    world = World(root, Faults(at, mode))
    one, other = Instance(world, "one"), Instance(world, "other")
    rng = random.Random(seed)
    state: State = {}
    acknowledged = 0
    with mock.patch.object(draft, "COMPACT_ABOVE", 5):
        for n in range(saves):
            if rng.random() < 0.4:
                with world.calm():
                    other.catalog.create_collection(OTHER, f"{n}")
                    other.replication.save(OTHER)
            wish = step(one, rng, n, state)
            acknowledged = max(acknowledged, _attempt(world, one, state, wish))
            world.check()
        for _ in range(2):  # the fault may still be to come
            acknowledged = max(acknowledged, _attempt(world, one, state, Wish()))
            world.check()
        world.faults.at = 0
        one.start()
        one.save()
        world.check()
        if world.mirrored != acknowledged:
            raise Violation("the mirror did not catch up")
        _restores(world, state, {c.id for c in one.catalog.collections(USER)})
    return world.faults.calls


def _attempt(world: World, one: Instance, state: State, wish: Wish) -> int:
    try:
        generation = one.save(wish)
        _acknowledged(world, generation, state)
        return generation
    except Killed:
        one.start()
    except QuireError:
        _not_a_lie(world, state)
    return 0


def _acknowledged(world: World, generation: int, state: State) -> None:
    with world.calm():
        there, held, _ = world.state(world.hub)
    if there < generation or held != state:
        raise Violation(f"generation {generation} was acknowledged and is not there")


def _not_a_lie(world: World, state: State) -> None:
    """An error may be told only while the change is not there."""
    with world.calm():
        generation, held, _ = world.state(world.hub)
    if generation not in world.seen and held == state:
        raise Violation("a save that landed was told as failed")


def _restores(world: World, state: State, collections: set[str]) -> None:
    """Somebody who has nothing gets everything, from either remote, and damage is noticed."""
    with world.calm():
        for alone in (world.hub, world.s3):
            fresh = Instance(world, f"fresh-{alone.name}")
            fresh.replication = Replication(fresh.paths, fresh.catalog, alone)
            _same_as(fresh, state, collections)
        found = generations.read(world.hub, USER)
        if found and found.manifest.segments:
            name = generations.named(USER, found.manifest.segments[-1].path)
            world.hub.files[name] = world.hub.files[name][:-1] + b"\0"
            fresh = Instance(world, "fresh-damaged")
            fresh.start()
            _same_as(fresh, state, collections)


def _same_as(fresh: Instance, state: State, collections: set[str]) -> None:
    try:
        found = fresh.replication.restored(USER)
        rows = fresh.replication.rows(USER, found.manifest.segments) if found else iter(())
        if plain(segments.fold(rows)) != state:
            raise Violation("the restored records differ")
    except QuireError as problem:
        raise Violation(f"not restored: {problem.code}") from problem
    if {c.id for c in fresh.catalog.collections(USER)} != collections:
        raise Violation("the restored collections differ")


def pair(root: Path, seed: int, steps: int = 12) -> int:
    """Two instances change and save the same user in any order, with errors and kills; -1."""
    rng = random.Random(seed)
    world = World(root)
    writers = [Instance(world, "one"), Instance(world, "two")]
    expected: State = {}
    waiting: list[list[Row]] = [[], []]
    made: set[str] = set()
    for n in range(steps):
        which = rng.randrange(2)
        writer = writers[which]
        rows = [row(str(rng.randrange(4)), f"{which}.{n}")]
        if rng.random() < 0.3:
            rows = [row(str(rng.randrange(4)), "", op="delete")]
        if rng.random() < 0.8:
            writer.apply(rows)
            waiting[which] += rows
        if rng.random() < 0.3:
            writer.catalog.create_collection(USER, f"{which}.{n}")
        if rng.random() < 0.7:
            if rng.random() < 0.5:
                world.faults.at = world.faults.calls + rng.choice((1, 2, 2, 2, 3, 5, 8))
                world.faults.mode = rng.choice(MODES)
            own = {c.id for c in writer.catalog.collections(USER)}
            other = 1 - which
            between = _between(world, writers[other]) if rng.random() < 0.5 else []
            with mock.patch.object(
                Replication, "to_mirror", _late if rng.random() < 0.5 else Replication.to_mirror
            ):
                outcome = _try_save(writer)
            world.faults.at, world.hub.before = 0, None
            if between:
                expected, waiting[other] = after(expected, waiting[other]), []
            with world.calm():
                held = world.state(world.hub)[1]
            wanted = after(expected, waiting[which])
            if outcome == "saved":
                if held != wanted:
                    raise Violation("a saved write was lost")
                made |= own
            if outcome == "saved" or (held == wanted and _shipped(world, writer)):
                expected, waiting[which] = wanted, []
        world.check()
        with world.calm():
            if world.state(world.hub)[1] != expected:
                raise Violation("the records are not what was saved")
    for which, writer in enumerate(writers):
        writer.save()
        world.check()
        expected = after(expected, waiting[which])
        waiting[which] = []
        made |= {c.id for c in writer.catalog.collections(USER)}
    world.check()
    with world.calm():
        _, held, collections = world.state(world.hub)
    if held != expected or not made <= collections:
        raise Violation("something saved is gone")
    writers[0].replication.catch_up(USER, world.hub, world.s3)
    world.check()
    _restores(world, expected, collections)
    return -1


def _between(world: World, other: Instance) -> list[int]:
    """The other one saves after this one has read the head and before it commits."""
    done: list[int] = []

    def save() -> None:
        world.hub.before = None
        with world.calm():
            done.append(other.save())
            world.check()

    world.hub.before = save
    return done


def _late(_self: Replication, _users: Any) -> None:
    """The mirror's turn has not come yet."""


def _try_save(writer: Instance) -> str | None:
    try:
        writer.save()
    except Killed:
        writer.start()
        return None
    except QuireError:
        return "failed"
    return "saved"


def _shipped(world: World, writer: Instance) -> bool:
    """After a kill: whether the commit that nobody heard of holds this writer's journal."""
    with world.calm():
        found = generations.read(world.hub, USER)
    last = max((p.name for p in journal.pending(writer.paths, USER)), default="")
    name = journal.instance(writer.paths)
    return not last or (found is not None and found.manifest.shipped_by(name) >= last)


def after(state: State, rows: list[Row]) -> State:
    kept: State = {c: dict(r) for c, r in state.items()}
    for r in rows:
        if r.op == "put":
            kept.setdefault(r.collection, {})[r.id] = (r.document, tuple(r.embedding))
        else:
            kept.get(r.collection, {}).pop(r.id, None)
    return {c: r for c, r in kept.items() if r}


# Deliberately broken variants: the suite must catch each


def _blind(remotes: Any, user: str, file: Any) -> bytes:
    return bytes(remotes[0].read(generations.named(user, file.path), 1 << 30))


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
    found = generations.read(source, user)
    raw = stale.read_bytes() if stale.exists() else found.raw if found else b""
    if found:
        stale.write_bytes(found.raw)
        copied_over(self, user, source, target, at_hand)
        head = target._newest(generations.named(user, "manifest.json"))
        target.client.objects[head] = raw


whole, looked, committed = S3Remote.commit, Replication._landed, Replication._commit
retired, copied_over = draft._retire, Replication._copy

BROKEN: dict[str, Callable[[], Any]] = {
    "no parent check": lambda: mock.patch.object(MemoryHub, "_moved", lambda *_: []),
    "the mirror's manifest before its files": lambda: mock.patch.object(
        S3Remote, "commit", _manifest_first
    ),
    "bytes used without their hash": lambda: mock.patch.object(generations, "content", _blind),
    "prune what the newest does not need": lambda: mock.patch.object(draft, "_retire", _prune_all),
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


@dataclass
class Result:
    runs: int = 0
    pairs: int = 0
    violations: list[str] = field(default_factory=list)


def campaign(
    seeds: int,
    pairs: int,
    every: int = 1,
    *,
    first: bool = False,
    tell: Callable[[Result], None] = lambda _: None,
) -> Result:
    """`every`: only each n-th fault of the scenarios; `first`: stop at the first violation; `tell`
    is given what there is after each run."""
    result = Result()
    for work in _works(seeds, pairs, every):
        _run(result, work)
        tell(result)
        if first and result.violations:
            break
    return result


def _works(seeds: int, pairs: int, every: int) -> Iterator[Callable[[Path], int]]:
    for seed in range(max(seeds, pairs)):
        if seed < pairs:
            yield functools.partial(pair, seed=seed)
        if seed >= seeds:
            continue
        calls: list[int] = []
        yield lambda root, s=seed, c=calls: c.append(scenario(root, s, 0, "")) or 0
        for at in range(1, max(calls, default=0) + 1):
            for m, mode in enumerate(MODES):
                if (at * len(MODES) + m) % every == 0:
                    yield functools.partial(scenario, seed=seed, at=at, mode=mode)


def _run(result: Result, work: Callable[[Path], int]) -> None:
    root = Path(tempfile.mkdtemp(prefix="quire-faults-"))
    try:
        result.pairs += 1 if work(root) < 0 else 0
    except (Violation, QuireError) as problem:
        result.violations.append(f"{type(problem).__name__}: {problem}")
    finally:
        result.runs += 1
        shutil.rmtree(root, ignore_errors=True)


def _line(found: Result, began: float) -> str:
    return (
        f"{found.runs - found.pairs} scenarios, {found.pairs} pairs of writers, "
        f"{len(found.violations)} violations, {time.monotonic() - began:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2000)
    options = parser.parse_args()
    with mock.patch("os.fsync"):
        began = time.monotonic()

        def tell(so_far: Result) -> None:
            if so_far.runs % 100 == 0:
                print(_line(so_far, began), flush=True)

        found = campaign(options.seeds, options.pairs, tell=tell)
        print(f"All: {_line(found, began)}")
        for text in sorted(set(found.violations)):
            print(f"  {text}")
        for name, broken in BROKEN.items():
            with broken():
                caught = campaign(1, 100, every=5)
            print(f"{name:45s} {len(caught.violations):5d} of {caught.runs} runs", flush=True)


if __name__ == "__main__":
    main()
