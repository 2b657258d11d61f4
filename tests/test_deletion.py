"""Many deletions cost no more than a save, lose nothing to a kill, and are erased once, for all of them."""

import errno
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from errors import NotFound, QuireError, Unavailable
from pipeline.__main__ import main
from pipeline.worker.handlers import receipt_text
from settings import Settings
from storage.catalog.catalog import JobRow, SourceRow
from storage.generations import compose, reader
from storage.generations.committer import UNLIMITED
from storage.generations.compose import Wish
from storage.generations.erase import forget
from storage.generations.reader import named
from storage.generations.replication import Replication
from storage.live import seal, segments
from storage.live.open_stores import Workspaces
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Change
from tests.conftest import ROOT
from tests.house import OTHER, USER, House, record

pytestmark = pytest.mark.slow
MANY, GONE = 24, 10


@dataclass
class Counting:
    """A directory that counts what it is asked."""

    inner: LocalRemote
    reads: list[str] = field(default_factory=list)
    commits: list[Change] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            if name in {"read", "fetch"}:
                self.reads.append(str(arguments[0]))
            if name == "commit":
                self.commits.append(arguments[0])
            return getattr(self.inner, name)(*arguments, **options)

        return counted if callable(getattr(self.inner, name)) else getattr(self.inner, name)


class Store:
    """A house under the worker's calls, with a clock that is set by hand."""

    def __init__(self, root: Path) -> None:
        self.remote = Counting(LocalRemote(root / "remote"))
        self.root, self.now = root / "data", 0.0
        self.open()
        self.collection = self.house.space().collection

    def open(self) -> None:
        """A process of its own, as after one that was killed."""
        self.house = House(self.root, primary=cast(Any, self.remote), pace=UNLIMITED)
        self.committer.clock = lambda: self.now
        self.committer.schedule.now = self.now
        self.library = self.house.library

    @property
    def committer(self) -> Any:
        return self.house.committer

    def goes_by(self, seconds: int) -> None:
        """As the committer's thread does, once a second."""
        for _ in range(seconds):
            self.now += 1.0
            self.committer.turn()

    def fill(self, count: int) -> None:
        with self.house.workspaces.open(USER) as workspace:
            workspace.upsert(
                self.house.space(), [record(n, source_id=digest(n)) for n in range(count)]
            )
        for n in range(count):
            source = row(self.collection, n)
            self.house.catalog.put_source(USER, source)
            folder = self.house.paths.elements(USER, source.sha256, source.version)
            folder.mkdir(parents=True)
            (folder / "batch-00000.jsonl").write_text("{}\n")
            pictures = (n, "c"), (n // 2, "d")  # the second of a pair of documents
            (folder / "batch-00000.crops").write_text(
                "".join(f"{digest(*p)}.jpg\n" for p in pictures)
            )
            for picture in pictures:
                path = self.house.paths.crop(USER, f"{digest(*picture)}.jpg")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content(*picture))
            original = self.house.paths.source(USER, source.sha256)
            original.parent.mkdir(exist_ok=True)
            original.write_bytes(content(n))

    def delete(self, n: int) -> dict[str, Any]:
        return self.library.delete_source(USER, "papers", digest(n))

    def rows(self) -> list[segments.Row]:
        base = self.house.replication.base(USER)
        assert base
        held = [self.remote.inner.read(named(USER, file.path)) for file in base.segments]
        return [row for content in held for row in segments.decode(content)]


def digest(n: int, letter: str = "a") -> str:
    """Of what that document, or that kind of picture of it, holds."""
    return reader.digest(content(n, letter))


def content(n: int, letter: str = "a") -> bytes:
    return f"{letter}{n}".encode()


def row(collection: str, n: int) -> SourceRow:
    return SourceRow(
        collection=collection, sha256=digest(n), filename=f"{n}.pdf", bytes=4, pages=1,
        version="v1", created_at=float(n + 1),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    made.fill(MANY)
    made.goes_by(10)
    made.remote.reads.clear()
    made.remote.commits.clear()
    yield made
    made.house.close()


def test_many_deletions_cost_one_save_and_one_that_erases(store: Store) -> None:
    receipts = [store.delete(n) for n in range(GONE)]
    assert store.remote.commits == []  # nobody waited for any
    assert not any(r["saved"] or r["erased"] for r in receipts)
    assert {r["records"] for r in receipts} == {1}
    store.goes_by(10)
    assert len(store.remote.commits) == 1
    assert [n for n in store.remote.reads if "segments" in n] == []  # nothing is written anew
    told = store.library.receipt(USER, receipts[0]["receipt"])
    assert (told["saved"], told["erased"]) == (True, False)
    assert told["saved_generation"] == store.house.replication.base(USER).generation  # type: ignore[union-attr]
    store.goes_by(150)
    saves = [c for c in store.remote.commits if not any("/chroma/" in f for f in c.files)]
    assert len(saves) == 2  # the others publish
    published = len(store.remote.commits) - len(saves)  # each of which compares
    assert len([n for n in store.remote.reads if "segments" in n]) <= 2 * (1 + published)
    assert all(store.library.receipt(USER, r["receipt"])["erased"] for r in receipts)
    left = {f"id{n}" for n in range(GONE, MANY)}
    assert {(r.op, r.id) for r in store.rows()} == {("put", i) for i in left}
    assert set(store.house.ids()) == left
    assert len(store.library.sources(USER, "papers")) == MANY - GONE


def test_a_document_without_records_is_erased_as_well(store: Store) -> None:
    """A blank one: nothing of it is in a segment, and its original is in the store."""
    source, remote = row(store.collection, MANY), store.remote.inner
    store.house.catalog.put_source(USER, source)
    store.house.paths.source(USER, source.sha256).write_bytes(content(MANY))
    store.goes_by(200)
    original = named(USER, f"sources/{source.sha256}.pdf")
    assert remote.read(original) == content(MANY)
    receipt = store.delete(MANY)["receipt"]
    store.goes_by(10)
    assert remote.read(original)
    assert not store.library.receipt(USER, receipt)["erased"]
    store.goes_by(200)
    assert store.library.receipt(USER, receipt)["erased"]
    with pytest.raises(NotFound):
        remote.read(original)


def test_a_picture_goes_with_the_last_document_that_shows_it(store: Store) -> None:
    pictures = store.house.paths.crops(USER)
    for n in (0, 1, 2):  # both of the first pair, one of the second
        store.delete(n)
    store.goes_by(150)
    there = {p.stem for p in pictures.iterdir()}
    assert there == {digest(n, "c") for n in range(3, MANY)} | {
        digest(n, "d") for n in range(1, MANY // 2)
    }
    assert not list(store.house.paths.deleted(USER).glob("*"))


def test_what_a_dead_process_had_deleted_is_gone_saved_and_erased(store: Store) -> None:
    receipt = store.delete(7)
    for _ in range(2):  # the second one finds it saved, and not erased: the manifest tells
        again(store)
        assert "id7" not in store.house.ids()
        store.goes_by(10)
        assert store.library.receipt(USER, receipt["receipt"])["saved"]
        assert "id7" in {r.id for r in store.rows()}
    store.goes_by(100)
    assert {r.op for r in store.rows()} == {"put"}
    assert "id7" not in {r.id for r in store.rows()}


def test_deletions_from_many_threads_all_count(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        receipts = list(threads.map(store.delete, range(GONE)))
    store.goes_by(10)
    assert all(store.library.receipt(USER, r["receipt"])["saved"] for r in receipts)
    with pytest.raises(NotFound):
        store.delete(0)


def test_what_is_no_receipt_of_that_user_is_refused(store: Store) -> None:
    """Also one that is made up, altered, or somebody else's: nothing was deleted by it."""
    given = store.delete(0)["receipt"]
    change, at, seal = given.split("-")
    assert store.library.receipt(USER, given)["receipt"] == given
    texts = [
        "",
        "x",
        "1",
        "1-",
        "-1",
        "1-2-3",
        "٣-1",
        "1-1.5",
        "9" * 400,
        "0-1",
        "00-00",
        f"{change}-{at}",
    ]
    texts += [f"{int(change) + 1}-{at}-{seal}", f"{change}-1-{seal}", f"0{given}", f"{given}-1"]
    texts += [
        f"{given}0",
        given[:-1],
        given.upper(),
        f"{given}\n",
        f"{change}-{at}-ü",
        "\ud800-1-1",
    ]
    asked = [(USER, text) for text in texts if text != given] + [(OTHER, given)]
    for user, text in asked:
        with pytest.raises(QuireError) as caught:
            store.library.receipt(user, text)
        assert caught.value.code == "receipt_not_found", text


def test_a_receipt_of_a_database_that_was_lost_goes_by_the_time(store: Store) -> None:
    later, earlier = int(1000 * (time.time() + 60)), 1000
    for at, saved in ((later, False), (earlier, True)):
        receipt = receipt_text(b"secret", USER, 10**9, at)
        assert store.library.receipt(USER, receipt)["saved"] is saved


def test_a_deletion_of_everything_in_a_save_that_compacts_is_saved_and_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "COMPACT_ABOVE", 2)
    store = Store(tmp_path)
    for n in range(2):
        store.house.put(n)
        store.house.replication.save(USER)
    with store.house.workspaces.open(USER) as workspace:
        workspace.drop(store.collection)
    assert store.house.replication.save(USER) == 3
    assert store.rows() == []
    assert list((tmp_path / "remote").rglob("segments/*"))  # kept for a while
    store.goes_by(150)
    assert not list((tmp_path / "remote").rglob("segments/*"))
    store.house.close()


def test_a_deletion_is_erased_once_and_not_again_at_each_start(store: Store) -> None:
    store.delete(7)
    store.goes_by(150)
    written = segments_of(store)
    again(store)
    store.goes_by(150)
    assert segments_of(store) == written
    assert not store.committer.erases(
        USER
    )  # nothing is left in the histories, which it cannot know


def test_what_was_deleted_is_erased_from_a_disk_that_is_new(store: Store) -> None:
    store.delete(7)
    store.goes_by(10)
    again(store, fresh=True)
    store.house.replication.adopt(USER)
    store.goes_by(100)
    assert "id7" not in {r.id for r in store.rows()}
    assert not store.committer.erases(USER)


def test_what_is_compacted_before_it_is_erased_is_erased_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compose, "COMPACT_ABOVE", 2)
    store.goes_by(100)  # published: what it holds stays in a segment of its own
    store.delete(7)
    store.goes_by(10)
    store.house.replication.keep = 1
    for n in range(3):
        store.house.put(n)
        store.house.replication.save(USER)
    assert "id7" in {r.id for r in store.rows() if r.op == "put"}
    again(store)
    assert store.house.replication.erasable == {USER}
    store.goes_by(100)
    assert "id7" not in {r.id for r in store.rows()}
    assert len(list((store.root.parent / "remote").rglob("*.parquet"))) == len(segments_of(store))


def test_what_is_erased_after_something_was_forgotten_is_still_to_be_forgotten(
    store: Store,
) -> None:
    replication = store.house.replication
    replication.save(USER, Wish(erase=True))
    assert all(g.by is not None for g in forget(replication, [USER]))
    replication.save(USER, Wish(erase=True))
    store.house.put(1)
    replication.save(USER)
    assert store.committer.erases(USER)
    store.goes_by(1)
    assert not store.committer.erases(USER)


def test_what_is_not_saved_yet_is_saved_once_the_stores_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("remote_unavailable", "Away.", "Later.")

    store.delete(7)
    store.house.close()
    store.house.paths.base(USER).unlink()
    store.open()
    monkeypatch.setattr(Replication, "current", away)
    running = Thread(target=store.committer.run)
    store.committer._stopping = True
    running.start()
    running.join()
    store.committer._stopping = False
    assert USER in store.committer.schedule.dirty()


def test_a_picture_that_a_job_may_want_stays_until_it_ends(store: Store) -> None:
    """It is there, so the job does not write it; and it names its pictures when a batch is done."""
    catalog, wanted = store.house.catalog, store.house.paths.crop(USER, f"{digest(0, 'c')}.jpg")
    job = JobRow(
        id="j1", user=USER, collection=store.collection, sha256=digest(99), filename="f",
        status="running", spec={"user": USER}, summary={"kind": "ingest"}, created_at=1.0,
        started_at=None, finished_at=None,
    )  # fmt: skip
    catalog.put_job(job)
    store.delete(0)
    store.goes_by(150)
    assert wanted.exists()
    catalog.update_job("j1", status="failed", finished_at=1.0)
    store.goes_by(150)
    assert not wanted.exists()


def test_a_save_opens_no_store_for_pictures_that_are_gone(store: Store) -> None:
    store.delete(0)
    store.goes_by(150)
    assert not list(store.house.paths.crops(USER).glob(f"{digest(0, 'c')}*"))
    store.house.workspaces.close()
    store.house.catalog.create_collection(USER, "more")
    store.goes_by(10)
    assert store.house.replication.status(USER).unsaved == 0
    assert not store.house.paths.opened(USER).exists()


def segments_of(store: Store) -> list[str]:
    base = store.house.replication.base(USER)
    return [file.path for file in base.segments] if base else []


@pytest.mark.parametrize("what", ["document", "collection"])
def test_a_deletion_whose_journal_is_lost_is_erased_all_the_same(store: Store, what: str) -> None:
    """The catalogue knows it: no record of what is gone outlives an erasure."""
    if what == "document":
        store.delete(3)
    else:
        store.library.delete_collection(USER, "papers")
    store.house.close()
    shutil.rmtree(store.house.paths.pending(USER))
    shutil.rmtree(store.house.paths.chroma(USER))
    store.open()
    store.committer.take_up()
    store.library.create_collection(USER, "another")  # something is to be saved
    store.goes_by(400)
    left = {(r.metadata or {}).get("source_id") for r in store.rows()}
    assert not left & ({digest(3)} if what == "document" else {digest(n) for n in range(MANY)})
    assert what == "collection" or digest(4) in left


def again(store: Store, *, fresh: bool = False) -> None:
    """Killed, and a new process: on the same disk, or on one that has nothing."""
    killed = store.house
    if fresh:
        killed.close()
        shutil.rmtree(store.root)
    store.open()
    killed.close()
    store.committer.take_up()


def test_an_erased_text_is_in_no_file_of_its_owner(store: Store) -> None:
    """Nor in what a database keeps of a deleted row: its queue, its free pages, its log."""
    text, house = "kermesite zinkenite", store.house
    record_of = replace(record(MANY, source_id=digest(3)), document=text)
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(house.space(), [record_of])
    (house.paths.pending(USER) / "1.damaged").write_text(text, encoding="ascii")  # set aside once
    store.goes_by(100)  # saved, and published
    receipts = [store.delete(n)["receipt"] for n in (3, 4)]
    store.goes_by(10)
    assert not store.library.receipt(USER, receipts[0])["erased"]
    for _ in range(200):
        store.goes_by(1)
        if store.library.receipt(USER, receipts[0])["erased"]:
            break
    else:
        raise AssertionError("never erased")
    house.workspaces.close()  # an open index file may hold what lay in the process's memory
    assert holders(store.root.parent, text) == []
    store.goes_by(100)  # published again
    assert house.replication.status(USER).published_generation
    house.workspaces.close()
    assert holders(store.root.parent, text) == []
    assert set(house.ids()) == {f"id{n}" for n in range(MANY)} - {"id3", "id4"}
    assert "id5" in keyword(house, "number5")


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from storage.live import chroma
from tests.conftest import ROOT
from tests.house import USER, House

ACTS = {"os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "sqlite3.connect"}

def die_at(moment):
    def hook(event, arguments):
        nonlocal moment
        if event in ACTS and "/" in str(arguments[0]):  # not each file below a folder
            moment -= 1
            if not moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

chroma.load()
root, status, moment = Path(sys.argv[1]), 1, 0
while status:
    moment += 1
    shutil.copytree(root / "made", root / str(moment))
    if not os.fork():
        house = House(root / str(moment) / "data")
        house.put(99)  # nobody has saved it
        house.workspaces.close()
        die_at(moment)
        house.workspaces.renew(USER)
        os._exit(0)
    status = os.wait()[1]
    assert status in {0, signal.SIGKILL}
"""


def test_a_kill_at_any_moment_of_a_renewal_leaves_no_remains_and_what_was_not_saved(
    tmp_path: Path,
) -> None:
    text = "kermesite"
    (tmp_path / "made").mkdir()
    house = House(tmp_path / "made" / "data")
    put_and_delete(house, text)
    house.replication.save(USER, Wish(erase=True))
    house.close()
    assert holders(tmp_path, text)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=True)
    moments = [p for p in tmp_path.iterdir() if p.name.isdigit()]
    assert len(moments) > 5
    for root in moments:
        back = House(root / "data")
        back.committer.take_up()
        back.committer.turn()
        assert not back.replication.to_renew
        assert back.ids() == ["id1", "id99"]
        back.close()
        assert holders(root, text) == []


def test_what_is_pruned_is_in_no_file_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, text = tmp_path / "data", "kermesite"
    monkeypatch.setenv("QUIRE_DATA_DIR", str(root))
    for name in ("QUIRE_HUB_DATASET", "QUIRE_S3_BUCKET", "QUIRE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    house = House(root, primary=LocalRemote(root / "remote"))
    settings = Settings.from_env({"QUIRE_DATA_DIR": str(root)})
    house.paths.key_id.write_text(settings.key_id, encoding="ascii")
    put_and_delete(house, text)
    house.close()
    assert holders(root, text)
    assert main(["prune"]) == 0
    assert holders(root, text) == []
    assert not house.paths.remains(USER).exists()
    assert main(["prune"]) == 0  # with no live store
    assert f"{USER} local: gone by" in capsys.readouterr().out


def test_what_another_instance_has_erased_leaves_this_one_as_well(store: Store) -> None:
    text, house = "kermesite", store.house
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(house.space(), [replace(record(3, source_id=digest(3)), document=text)])
    house.replication.save(USER)
    house.close()
    other = House(store.root.parent / "other", primary=cast(Any, store.remote))
    other.replication.adopt(USER)
    other.library.delete_source(USER, "papers", digest(3))
    other.replication.save(USER)
    other.replication.save(USER, Wish(erase=True))
    assert other.workspaces.renew(USER)
    other.close()
    assert {p.parts[-2] for p in holders(store.root.parent, text)} == {USER, "chroma"}
    store.open()
    store.house.replication.adopt(USER)
    assert store.committer.erases(USER)
    store.goes_by(5)
    assert holders(store.root.parent, text) == []
    assert not store.committer.erases(USER)


def test_a_live_store_is_renewed_once_for_many_deletions_and_not_at_every_erasure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[float] = []

    def removed(workspaces: Workspaces, user: str) -> None:
        renewed.append(store.now)
        remove(workspaces, user)

    remove = Workspaces._remove_live
    monkeypatch.setattr(Workspaces, "_remove_live", removed)
    for n in range(GONE):
        store.delete(n)
        store.goes_by(1)
    store.goes_by(100)
    assert len(renewed) == 1
    receipt = store.delete(GONE)["receipt"]
    store.goes_by(100)
    assert store.house.replication.erasable == set()
    assert len(renewed) == 1
    assert not store.library.receipt(USER, receipt)["erased"]
    store.goes_by(100)
    assert renewed[1] - renewed[0] == UNLIMITED.publish
    assert store.library.receipt(USER, receipt)["erased"]


def test_a_live_store_in_use_or_without_room_is_renewed_later_and_loses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, text = store.house, "kermesite"
    put_and_delete(house, text)
    house.replication.save(USER, Wish(erase=True))
    with monkeypatch.context() as patch:
        patch.setattr(Workspaces, "renew", lambda *_: False)
        store.goes_by(400)
    assert holders(store.root.parent / "remote", text) == []  # nor is it published meanwhile
    house.put(98)  # nobody has saved it
    with house.workspaces.open(USER):
        assert not house.workspaces.renew(USER)
    with house.workspaces.open(USER) as workspace:
        workspace.prepare(replace(house.space(), model="n", dimension=2), {"id98": [1.0, 2.0]})
    assert not house.workspaces.renew(USER)
    with house.workspaces.open(USER) as workspace:
        workspace.abandon(house.space().collection)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "atomic_write", full)
        store.goes_by(3)
    assert house.replication.to_renew == {USER}
    assert {"id98", "id5"} <= set(house.ids())
    store.goes_by(200)
    assert not house.replication.to_renew
    assert {"id98", "id5"} <= set(house.ids())
    house.workspaces.close()
    assert holders(store.root.parent, text) == []


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def put_and_delete(house: House, text: str) -> None:
    """Both saved, and a record that stays."""
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(house.space(), [record(1), replace(record(3), document=text)])
        house.replication.save(USER)
        workspace.delete(house.space().collection, ["id3"])
    house.replication.save(USER)


def holders(root: Path, text: str) -> list[Path]:
    """Files of the data directory and of the store that hold a word of it."""
    files = (p for p in root.rglob("*") if p.is_file())
    needles = [w.encode() for w in text.split()]
    return [p for p in files if any(n in p.read_bytes() for n in needles)]


def keyword(house: House, query: str) -> list[str]:
    with house.workspaces.open(USER) as workspace:
        return [i for i, _ in workspace.keyword(house.space().collection, query, limit=5)]
