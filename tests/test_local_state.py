"""A save proves local state before it believes it: whatever of it is lost, put back, cut or flipped
between two operations, nothing that was saved is dropped, and nothing that was deleted comes back."""

import os
import random
import shutil
import time
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pytest

from storage.catalog.catalog import JobRow, SourceRow
from storage.generations import reader, saved_jobs, verify
from storage.generations.compose import Wish
from storage.generations.manifest import Manifest
from storage.live import journal, segments
from storage.live.segments import Row
from tests.house import USER, House

FILES = (
    "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "lease.json",
    f"users/{USER}/BASE.json", f"users/{USER}/pending",
)  # fmt: skip


@dataclass
class World:
    """A house that is opened and left again, copies of its files, and what was confirmed."""

    root: Path
    rng: random.Random
    house: House = field(init=False)
    copies: list[Path] = field(default_factory=list)
    saved: set[tuple[str, ...]] = field(default_factory=set)
    deleted: set[tuple[str, ...]] = field(default_factory=set)
    steps: int = 0

    def __post_init__(self) -> None:
        self.house = House(self.root / "data")

    @property
    def data(self) -> Path:
        return self.root / "data"

    def leave(self) -> None:
        """As a killed process leaves it: what SQLite keeps beside its file stays there."""
        copy = self.root / f"copy-{len(self.copies)}"
        shutil.copytree(self.data, copy, ignore=shutil.ignore_patterns("remote"))
        self.copies.append(copy)
        beside = {p: p.read_bytes() for p in self.data.glob("catalog.sqlite*")}
        self.house.close()
        for path, content in beside.items():
            path.write_bytes(content)

    def harm(self, name: str, how: str) -> None:
        path = self.data / name
        if how == "put back":
            old = self.rng.choice(self.copies) / name
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
            if old.is_dir():
                shutil.copytree(old, path)
            elif old.exists():
                shutil.copyfile(old, path)
            return
        for file in sorted(path.glob("*")) if path.is_dir() else [path]:
            content = bytearray(file.read_bytes() if file.exists() else b"")
            if not content or how == "delete":
                file.unlink(missing_ok=True)
            elif how == "cut":
                file.write_bytes(content[: self.rng.randrange(len(content))])
            else:
                content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
                file.write_bytes(content)

    def come_back(self) -> None:
        self.house = House(self.data)
        journal.set_aside(
            self.house.paths, USER
        )  # as `Workspaces.mend`, with no index to read from
        self.house.replication.adopt(USER)

    # What a person does

    def act(self) -> None:
        self.steps += 1
        catalog, collections = self.house.catalog, self.house.catalog.collections(USER)
        kind = self.rng.choice(("new", "document", "document", "job", "rename", "delete", "drop"))
        if kind == "new" or not collections:
            catalog.create_collection(USER, f"title {self.steps}")
            return
        chosen = self.rng.choice(collections).id
        sources = catalog.sources(USER, chosen)
        if kind == "document":
            self.document(chosen)
        elif kind == "job":
            self.job(chosen)
        elif kind == "rename":
            catalog.rename_collection(USER, chosen, f"other {self.steps}")
        elif kind == "drop" and len(collections) > 1:
            self.journal(Row(op="drop", collection=chosen, id=""))
            catalog.drop_collection(USER, chosen)
            self.deleted |= {h for h in self.saved if chosen in h}
            self.deleted |= {
                ("collection", chosen),
                *(("source", chosen, s.sha256) for s in sources),
            }
            self.save(Wish(erase=True))
        elif kind == "delete" and sources:
            sha = self.rng.choice(sources).sha256
            self.journal(Row(op="delete", collection=chosen, id=sha))
            catalog.drop_source(USER, chosen, sha)
            self.deleted |= {(k, chosen, sha) for k in ("source", "record", "original")}
            self.save(Wish(erase=True))

    def document(self, collection: str) -> None:
        sha = self.original()
        folder = self.house.paths.elements(USER, sha, "v1")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "batch-00000.jsonl").write_text("{}", encoding="ascii")
        self.journal(Row(op="put", collection=collection, id=sha, document="d", embedding=(1.0,)))
        self.house.catalog.put_source(
            USER,
            SourceRow(
                collection=collection, sha256=sha, filename="f", bytes=1, pages=1, version="v1",
                created_at=time.time(),
            ),
        )  # fmt: skip

    def journal(self, row: Row) -> None:
        shipped = self.house.replication.shipped(USER)
        journal.write(self.house.paths.pending(USER), segments.encode([row]), shipped)

    def job(self, collection: str) -> None:
        self.house.catalog.put_job(
            JobRow(
                id=f"j{self.steps}", user=USER, collection=collection, sha256=self.original(),
                filename="f", status="queued", spec={"user": USER}, summary={"kind": "ingest"},
                created_at=time.time(), started_at=None, finished_at=None,
            )
        )  # fmt: skip

    def original(self) -> str:
        content = f"document {self.steps}".encode()
        path = self.house.paths.source(USER, sha256(content).hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path.stem

    # What must hold

    def save(self, wish: Wish | None = None) -> None:
        self.house.replication.save(USER, wish)
        self.check()

    def rows(self) -> set[tuple[str, ...]]:
        catalog = self.house.catalog
        return {
            *(("collection", c.id) for c in catalog.collections(USER)),
            *(("source", s.collection, s.sha256) for s in catalog.sources(USER)),
            *(("job", j.collection, j.id) for j in catalog.jobs(USER)),
        }

    def held(self) -> set[tuple[str, ...]]:
        """Everything that the newest generation in the store holds."""
        found = reader.read(self.house.replication.primary, USER)
        if found is None:
            return set()
        new, told = found.manifest, self.house.replication
        state = segments.fold(told.rows(USER, new.segments))
        jobs = [
            j
            for f in new.files
            if f.path.startswith("jobs/")
            for j in saved_jobs.load(reader.content(told.remotes, USER, f), user=USER)
        ]
        return {
            *(("collection", c.id) for c in new.collections),
            *(("source", s.collection, s.sha256) for s in new.sources),
            *(("original", j.collection, j.sha256) for j in jobs if _names(new, j.sha256)),
            *(("original", s.collection, s.sha256) for s in new.sources if _names(new, s.sha256)),
            *(("record", c, i) for c, rows in state.items() for i in rows),
            *(("job", j.collection, j.id) for j in jobs),
        }

    def check(self) -> None:
        """Nothing is gone that nobody deleted, what was deleted is not back, the store is whole."""
        held = self.held()
        assert self.saved - self.deleted <= held
        assert not self.deleted & held
        assert not {d for d in self.deleted if d[0] != "job"} & self.rows()
        assert not list(verify.verify(self.house.replication.primary, USER))
        self.saved = held

    def confirmed(self) -> None:
        """What a person sees without a further save."""
        wanted = {h for h in self.saved - self.deleted if h[0] in {"collection", "source", "job"}}
        assert wanted <= self.rows()


def _names(found: Manifest, sha: str) -> bool:
    return any(f.path == f"sources/{sha}.pdf" for f in found.files)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("QUIRE_TEST_LOCAL_STATES", "25"))))
def test_what_was_saved_outlives_any_damage_to_local_files(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World(tmp_path, rng)
    for _ in range(rng.randrange(3, 9)):
        for _ in range(rng.randrange(1, 4)):
            world.act()
            if rng.random() < 0.4:
                world.save()
        before = world.rows()
        world.leave()
        harmed = [name for name in FILES if rng.random() < 0.35]
        how = {name: rng.choice(("delete", "put back", "cut")) for name in harmed}
        for name, kind in how.items():
            world.harm(name, kind)
        world.come_back()
        world.confirmed()
        if not any("catalog" in name for name in harmed):
            assert before <= world.rows()
        if rng.random() < 0.7:
            world.save()
    world.save()
    world.house.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(int(os.environ.get("QUIRE_TEST_LOCAL_STATES", "25"))))
def test_a_flipped_bit_drops_nothing_that_was_saved(tmp_path: Path, seed: int) -> None:
    """What SQLite does not notice may change a row; none that the store holds is lost for it."""
    rng = random.Random(seed)
    world = World(tmp_path, rng)
    for _ in range(6):
        world.act()
    world.save()
    world.act()
    world.leave()
    for name in rng.sample(FILES, 2):
        world.harm(name, "flip")
    world.come_back()
    world.house.replication.save(USER)
    assert world.saved - world.deleted <= world.held()
    world.house.close()
