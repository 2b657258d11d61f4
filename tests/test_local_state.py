"""A save proves local state before it believes it: whatever of it is lost, put back, cut or flipped
between two operations, nothing that was saved is dropped, and nothing that was deleted comes back."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from errors import Corrupt, InputError, Refused
from settings import Settings
from storage import backup
from storage.catalog import sqlite_file
from storage.catalog.catalog import Catalog, JobRow, SourceRow
from storage.generations import reader, saved_jobs, verify
from storage.generations.base import users_here
from storage.generations.compose import Wish
from storage.generations.lease import Lease
from storage.generations.manifest import Manifest
from storage.live import journal, segments
from storage.live.segments import Row
from storage.paths import Paths
from storage.remotes.local import LocalRemote
from storage.stores import open_stores
from tests.conftest import ROOT
from tests.house import OTHER, USER, House
from tests.postgres import postgres
from tests.sequences import sequences

FILES = (
    "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm",
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
@pytest.mark.parametrize("seed", range(sequences(5, share=30)))
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
@pytest.mark.parametrize("seed", range(sequences(5, share=30)))
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


# What each kind of loss comes to


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data", primary=LocalRemote(tmp_path / "data" / "remote"))
    yield made
    made.close()


def again(house: House) -> House:
    house.close()
    return House(house.paths.root, primary=house.replication.primary)


def job(house: House, n: int) -> JobRow:
    path = house.paths.source(USER, sha256(b"%d" % n).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"%d" % n)
    made = JobRow(
        id=f"j{n}", user=USER, collection=house.space().collection, sha256=path.stem, filename="f",
        status="queued", spec={"user": USER}, summary={"kind": "ingest"}, created_at=time.time(),
        started_at=None, finished_at=None,
    )  # fmt: skip
    assert house.catalog.put_job(made)
    return made


def named(house: House) -> set[str]:
    found = reader.read(house.replication.primary, USER)
    return {f.path for f in found.manifest.files} if found else set()


def test_a_lost_catalogue_shows_again_and_the_next_save_changes_nothing(house: House) -> None:
    house.source("a" * 64)
    assert house.replication.save(USER) == 1
    for path in house.paths.root.glob("catalog.sqlite*"):
        path.unlink()
    back = again(house)
    back.replication.adopt(USER)
    assert [c.title for c in back.catalog.collections(USER)] == ["papers"]
    assert [s.sha256 for s in back.catalog.sources(USER)] == ["a" * 64]
    assert back.replication.save(USER) == 1
    back.close()


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda catalog, row: catalog.drop_source(USER, row.collection, row.sha256), ""),
        (lambda catalog, row: catalog.drop_collection(USER, row.collection), ""),
        (lambda catalog, row: catalog.put_source(USER, replace(row, sha256="b" * 64)), "ab"),
    ],
    ids=["drop a source", "drop its collection", "add a source"],
)
def test_what_changes_at_any_moment_of_a_save_stays_so(
    house: House, act: Callable[[Catalog, SourceRow], None], left: str
) -> None:
    """Before each of the calls that a save makes of the catalogue."""
    catalog, moment = house.catalog, 0
    while True:
        made = catalog.create_collection(USER, f"title {moment}").id
        row = SourceRow(
            collection=made, sha256="a" * 64, filename="f", bytes=1, pages=1, version="v1",
            created_at=1.0,
        )  # fmt: skip
        catalog.put_source(USER, row)
        house.replication.save(USER)
        catalog.rename_collection(USER, made, f"other {moment}")
        watched = Moments(catalog, moment, partial(act, catalog, row))
        house.replication.catalog = cast(Catalog, watched)
        house.replication.save(USER)
        house.replication.catalog = catalog
        if watched.left >= 0:  # a save makes no more calls
            break
        assert {s.sha256[0] for s in catalog.sources(USER, made)} == set(left)
        house.replication.save(USER)
        found = reader.read(house.replication.primary, USER)
        assert found
        assert {s.sha256[0] for s in found.manifest.sources if s.collection == made} == set(left)
        moment += 1
    assert moment > 5


class Moments:
    """A catalogue that something happens to before one of its calls."""

    def __init__(self, inner: Catalog, moment: int, act: Callable[[], object]) -> None:
        self.inner, self.left, self.act = inner, moment, act

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                self.act()
            return getattr(self.inner, name)(*arguments, **options)

        return called


@pytest.mark.slow
def test_an_empty_postgres_gets_its_rows_from_the_store(house: House) -> None:
    """The variable is set on a Quire that has had its rows in SQLite; its BASE.json is there."""
    house.source("a" * 64)
    job(house, 1)
    house.catalog.drop_collection(USER, house.catalog.create_collection(USER, "gone").id)
    house.replication.save(USER)
    before = reader.read(house.replication.primary, USER)
    assert before
    with postgres() as url:
        catalog = Catalog(f"postgresql+psycopg://{url.split('://', 1)[1]}")
        stores = open_stores(house.paths, catalog, house.replication.primary)
        stores.replication.adopt(USER)
        assert [c.title for c in catalog.collections(USER)] == ["papers"]
        assert [s.sha256 for s in catalog.sources(USER)] == ["a" * 64]
        assert [row.id for row in catalog.jobs(USER)] == ["j1"]
        assert stores.replication.status(USER).unsaved  # until it is known to be equal
        stores.replication.save(USER)
        after = reader.read(house.replication.primary, USER)
        assert after
        assert after.manifest.sources == before.manifest.sources
        assert catalog.tombstones(USER) == house.catalog.tombstones(USER)
        assert stores.replication.status(USER).unsaved == 0
        catalog.close()


def test_what_is_only_in_the_catalogue_asks_for_a_save_by_itself(house: House) -> None:
    """Nobody calls `touch`; a step looks at what the rows say."""
    now = house.committer.schedule.now
    house.committer.clock = lambda: now
    made = house.catalog.create_collection(USER, "one")
    for change in (
        lambda: None,
        lambda: house.catalog.rename_collection(USER, made.id, "two"),
        lambda: house.catalog.set_model(USER, made.id, "m"),
        lambda: job(house, 1),
        lambda: house.catalog.update_job("j1", status="cancelled", finished_at=1.0),
        lambda: house.catalog.drop_collection(USER, made.id),
    ):
        change()
        assert house.replication.status(USER).unsaved
        now += 1000
        assert not house.committer.step()  # it waits for others, one interval
        now += 1000
        assert house.committer.step()
        assert house.replication.status(USER).unsaved == 0
        assert not house.committer.step()


def test_what_was_accepted_before_a_death_is_saved_by_the_next_worker(house: House) -> None:
    accepted = job(house, 1)
    back = again(house)
    assert back.replication.status(USER).unsaved
    now = back.committer.schedule.now
    back.committer.clock = lambda: now
    back.committer.step()
    now += 1000
    assert back.committer.step()
    assert f"sources/{accepted.sha256}.pdf" in named(back)
    back.close()


def test_the_end_saves_every_original_that_was_accepted(house: House) -> None:
    """More than one save takes."""
    rows = [job(house, n) for n in range(saved_jobs.ORIGINALS_AT_ONCE + 3)]
    house.committer.close()
    assert {f"sources/{row.sha256}.pdf" for row in rows} <= named(house)
    assert house.replication.status(USER).unsaved == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b'{"sha256":"x","body":{}}'])
def test_a_persons_bad_base_is_read_from_the_store_again(house: House, content: bytes) -> None:
    house.source("a" * 64)
    house.replication.save(USER)
    house.paths.base(USER).write_bytes(content)
    (house.paths.root / "users" / ".DS_Store").write_bytes(b"")
    (house.paths.root / "users" / "lost+found").mkdir()
    (house.paths.root / "users" / OTHER).symlink_to("/nowhere")
    back = again(house)
    assert users_here(back.paths) == [USER]
    running = threading.Thread(target=back.committer.run)
    running.start()
    back.replication.adopt(USER)
    back.committer.close()
    running.join()
    assert back.replication.proved(USER)
    assert back.replication.status(USER).saved_generation == 1
    back.close()


@pytest.mark.parametrize("how", ["header", "middle", "short"])
def test_a_damaged_catalogue_is_set_aside_and_made_from_the_store(house: House, how: str) -> None:
    house.source("a" * 64)
    house.replication.save(USER)
    house.close()
    content = bytearray(house.paths.catalog.read_bytes())
    if how == "short":
        del content[len(content) // 2 :]
    else:
        content[slice(0, 100) if how == "header" else slice(4096, 12288)] = os.urandom(
            100 if how == "header" else 8192
        )
    house.paths.catalog.write_bytes(content)
    back = again(house)
    back.replication.adopt(USER)
    assert [s.sha256 for s in back.catalog.sources(USER)] == ["a" * 64]
    assert sqlite_file.damaged(back.paths.root)
    back.close()


def test_a_catalogue_that_is_closed_is_whole_without_what_lies_beside_it(house: House) -> None:
    """Also while the app still has it open."""
    app = Catalog(f"sqlite:///{house.paths.catalog}")
    house.catalog.create_collection(USER, "papers")
    assert app.collections(USER)
    house.close()
    beside = house.paths.root / "catalog.sqlite-wal"
    assert not beside.exists() or not beside.stat().st_size
    copy = Catalog(f"sqlite:///{shutil.copy(house.paths.catalog, house.paths.root / 'copy')}")
    assert [c.title for c in copy.collections(USER)] == ["papers"]
    copy.close()
    app.close()


def test_a_store_that_lacks_what_it_names_is_not_whole(house: House) -> None:
    house.source("a" * 64)  # with neither an original nor elements
    house.replication.save(USER)
    told = {d.code for d in verify.verify(house.replication.primary, USER)}
    assert told == {"original_missing", "elements_missing"}
    assert not list(verify.local(house.replication, USER))
    house.paths.base(USER).write_bytes(b"")
    assert {d.code for d in verify.local(house.replication, USER)} == {"mark_differs"}


def test_an_original_that_was_damaged_before_its_first_save_is_told(house: House) -> None:
    path = house.paths.source(USER, "a" * 64)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other bytes than those of that name")
    house.source("a" * 64)
    house.replication.save(USER)
    told = {d.code for d in verify.verify(house.replication.primary, USER)}
    assert told == {"original_missing", "elements_missing"}


# The secret


def test_another_secret_is_refused_and_a_lost_one_is_not_made_anew(tmp_path: Path) -> None:
    asked = {"QUIRE_DATA_DIR": str(tmp_path)}
    first = Settings.from_env(asked)
    paths = Paths(tmp_path)
    paths.key_id.write_text(first.key_id, encoding="ascii")
    assert Settings.from_env(asked).secret == first.secret
    kept = (tmp_path / "secret").read_bytes()
    for content, code in (
        (None, "secret_lost"),
        (b"", "secret_lost"),
        (b"other", "secret_changed"),
    ):
        (tmp_path / "secret").unlink()
        if content is not None:
            (tmp_path / "secret").write_bytes(content)
        with pytest.raises(InputError) as caught:
            Settings.from_env(asked)
        assert caught.value.code == code
        (tmp_path / "secret").write_bytes(kept)
    with pytest.raises(InputError) as caught:
        Settings.from_env({**asked, "QUIRE_SECRET": "another"})
    assert caught.value.code == "secret_changed"
    paths.key_id.unlink()
    (tmp_path / "secret").unlink()
    paths.user(USER).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        Settings.from_env(asked)
    assert caught.value.code == "secret_lost"


def test_a_store_of_another_secret_is_not_taken(house: House) -> None:
    """The disk is gone, the store is not."""

    def lease(name: str, key: str) -> Lease:
        return Lease(name, 60.0, lambda: [USER], house.paths.root / name, key=key)

    first = house.replication.lease = lease("one", "key")
    assert house.replication.take() is None
    house.catalog.create_collection(USER, "papers")
    house.replication.save(USER)
    house.replication.release()
    second = house.replication.lease = lease("two", "other key")
    found = house.replication.take()
    assert found
    assert not second.fits(found)
    assert first.fits(found)
    assert not second.taken


def test_a_container_that_comes_back_beside_its_successor_waits(house: House) -> None:
    clock = 1000.0

    def lease(name: str) -> Lease:
        kept = house.paths.root / f"{name}.json"
        return Lease(name, 60.0, lambda: [USER], kept, clock=lambda: clock)

    house.catalog.create_collection(USER, "papers")
    house.replication.lease = lease("one")
    assert house.replication.take() is None
    house.replication.save(USER)  # until 1060
    successor = lease("two")
    successor.term = successor.look([house.replication.primary])
    successor.write(house.replication.primary, successor.next())
    ahead = house.replication.lease
    assert ahead.overtaken(house.replication.primary)  # seen without a save
    house.replication.lease = lease("one")  # killed, and back within its own term
    assert house.replication.take() is not None
    assert not house.replication.lease.taken


def test_a_container_that_takes_over_from_an_idle_one_is_not_overtaken(house: House) -> None:
    """It writes no term of its own before it saves: the last one that stands there is over."""
    store = house.replication.primary
    house.replication.lease = Lease("one", 60.0, tuple, house.paths.root / "one.json")
    assert house.replication.take() is None
    house.catalog.create_collection(USER, "papers")
    house.replication.save(USER)
    house.replication.release()
    idle = house.replication.lease
    second = house.replication.lease = Lease("two", 60.0, tuple, house.paths.root / "two.json")
    assert house.replication.take() is None
    assert not second.overtaken(store)
    house.catalog.create_collection(USER, "more")
    house.replication.save(USER)
    assert not second.overtaken(store)
    assert idle.overtaken(store)


# The drill


def test_a_save_at_any_moment_of_a_backup_leaves_it_whole(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each database and each file that is copied."""
    moment, left = 0, 0

    def copied(copy: Callable[[Path, Path], None], path: Path, to: Path) -> None:
        nonlocal left
        if path.parent.name != "manifests":  # they are many
            left -= 1
            if left == -1:
                house.source(f"{moment:064x}")
                house.replication.save(USER)
        copy(path, to)

    for name in ("_copy_database", "_copy"):
        monkeypatch.setattr(backup, name, partial(copied, getattr(backup, name)))
    house.source("a" * 64)
    house.replication.save(USER)
    while left <= 0:
        saved = {s.sha256 for s in house.catalog.sources(USER)}
        left, to = moment, tmp_path / f"backup-{moment}"
        backup.backup(house.paths, None, to)
        backup.restore(Paths(tmp_path / f"{moment}"), None, to)
        back = House(tmp_path / f"{moment}", primary=LocalRemote(tmp_path / f"{moment}" / "remote"))
        assert list(verify.local(back.replication, USER)) == []
        back.replication.adopt(USER)
        assert saved <= {s.sha256 for s in back.catalog.sources(USER)}
        assert back.replication.proved(USER)
        back.close()
        moment += 1
    assert moment > 5


def test_a_backup_is_restored_over_no_job_database(house: House, tmp_path: Path) -> None:
    jobs, to = tmp_path / "jobs.sqlite", tmp_path / "backup"
    sqlite3.connect(jobs).close()
    backup.backup(house.paths, jobs, to)
    jobs.write_bytes(b"of another Quire")
    with pytest.raises(Refused):
        backup.restore(Paths(tmp_path / "restored"), jobs, to)
    assert jobs.read_bytes() == b"of another Quire"


@pytest.mark.slow
def test_the_drill_of_the_docs_works_word_for_word_while_quire_writes(
    house: House, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    drill = text.split("```sh\n")[1].split("```")[0]
    for name in ("backup", "restored"):
        drill = drill.replace(f"/tmp/{name}", str(tmp_path / name))
    drill = drill.replace("python -m", f"{sys.executable} -m")
    settings = Settings.from_env({"QUIRE_DATA_DIR": str(house.paths.root)})
    house.paths.key_id.write_text(settings.key_id, encoding="ascii")
    house.put(1, 2)
    accepted = job(house, 1)
    house.replication.save(USER)
    house.put(3)  # in the journal only
    stop = threading.Event()

    def write() -> None:
        n = 100
        while not stop.is_set():
            house.put(n := n + 1)
            house.replication.save(USER)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        done = subprocess.run(
            ["bash", "-e", "-c", drill],
            cwd=ROOT,
            env={**os.environ, "QUIRE_DATA_DIR": str(house.paths.root)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stop.set()
        writing.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"local {USER} whole" in done.stdout
    restored = tmp_path / "restored"
    assert (restored / "secret").stat().st_mode & 0o777 == 0o600
    back = House(restored, primary=LocalRemote(restored / "remote"))
    assert {"id1", "id2", "id3"} <= set(back.ids())
    assert [row.id for row in back.catalog.jobs(USER)] == [accepted.id]
    assert back.paths.source(USER, accepted.sha256).read_bytes() == b"1"
    back.close()
    (tmp_path / "backup" / "secret").write_bytes(b"flipped")
    with pytest.raises(Corrupt):
        backup.restore(Paths(tmp_path / "third"), None, tmp_path / "backup")
    assert not (tmp_path / "third").exists()
