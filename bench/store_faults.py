"""Every remote call × every failure, and two writers in any order, against the stores' protocol.

`python -m bench.store_faults [--seeds 3] [--pairs 2000]` runs the whole campaign, then the broken
variants of the protocol that it must catch; a line for each hundred runs. `bench/store_world.py` is
the world in which it happens.
"""

import argparse
import functools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest import mock

from bench.store_broken import BROKEN
from bench.store_world import (
    MODES,
    OTHER,
    USER,
    Faults,
    Instance,
    Killed,
    State,
    Violation,
    World,
    restores,
    row,
)
from errors import QuireError
from storage.generations import compose, reader
from storage.generations.compose import Wish
from storage.generations.replication import Replication
from storage.live import journal
from storage.live.closed_copy import Copy
from storage.live.segments import Row


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
    with mock.patch.object(compose, "COMPACT_ABOVE", 3):
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
        restores(world, state, {c.id for c in one.catalog.collections(USER)})
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
    restores(world, expected, collections)
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
        found = reader.read(world.hub, USER)
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
    """Two writers and one by turns: whatever breaks first is found soon."""
    two = (functools.partial(pair, seed=seed) for seed in range(pairs))
    for both in zip_longest(two, _scenarios(seeds, every)):
        yield from (work for work in both if work)


def _scenarios(seeds: int, every: int) -> Iterator[Callable[[Path], int]]:
    """Each seed without a fault first, which tells how many calls there are to break."""
    for seed in range(seeds):
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
