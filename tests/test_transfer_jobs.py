"""What a transfer does to its owner's things whatever ends it: a kill between any two lines, a full disk,
a reader that has been taken over, an owner who changes what it is about."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from errors import PageProcessDied, QuireError, Unavailable
from pipeline.jobs.service import Jobs
from pipeline.processes.pool import Pool
from pipeline.transfers import incoming, outgoing, unzip, workflow
from pipeline.transfers.export import export
from pipeline.transfers.job import Job, Tools
from pipeline.transfers.push_tokens import Lent
from pipeline.transfers.workflow import run
from settings import Settings
from storage.catalog.catalog import JobRow, SourceRow
from storage.live.workspace import Space
from tests import in_child
from tests.house import USER, House, record

SHA = "a" * 64


class Model:
    name, dimension, device = "m", 3, "cpu"


class Room:
    """There is always room."""

    bytes = 1 << 30

    @contextmanager
    def promised(self, *_: Any) -> Iterator["Room"]:
        yield self

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@dataclass
class Reader:
    """Reads in this process; `then` is done before it answers."""

    then: Callable[[Path], None] = lambda _: None
    written: tuple[Path, ...] = ()

    def of(self, **_: Any) -> "Reader":
        return self

    def within(self, read: Any, write: tuple[Path, ...]) -> "Reader":
        self.written = write
        return self

    def run(self, function: Any, archive: Path, folder: Path, most: int, **_: Any) -> Any:
        answer = function(archive, folder, most)
        self.then(folder)
        return answer


@dataclass
class Desk:
    """A house, and transfers that are run as the engine runs them."""

    house: House
    reader: Reader = field(default_factory=Reader)
    number: int = 1

    def job(self, kind: str, attempt: int = 1, **spec: Any) -> Job:
        settings = Settings(data_dir=self.house.paths.root, secret=b"s" * 32, database_url="",
                            embedding_model="m")  # fmt: skip
        given = {name: None for name in Tools.__slots__} | {
            "settings": settings, "paths": self.house.paths, "catalog": self.house.catalog,
            "stores": self.house.stores, "encoder": lambda _: Model(), "reader": self.reader,
            "lent": Lent(), "admission": Room(),
        }  # fmt: skip
        spec = {"user": USER, "job": f"t{self.number}", "kind": kind, "attempt": attempt, **spec}
        self.house.catalog.put_job(
            JobRow(
                id=spec["job"], user=USER, collection="", sha256="", filename="", status="queued", spec=spec,
                summary={"kind": kind, "attempt": 1}, created_at=5.0, started_at=None, finished_at=None,
            )
        )  # fmt: skip
        return Job(cast(Any, Tools)(**given), spec)

    def importing(self, **entries: bytes) -> Job:
        job = self.job("import", title="")
        job.work.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(job.work / "archive.zip", "w") as made:
            for name, content in (archive() | entries).items():
                made.writestr(name, content)
        return job

    def titles(self) -> list[str]:
        return [c.title for c in self.house.catalog.collections(USER)]

    def records(self) -> dict[str, dict[str, Any]]:
        with self.house.workspaces.open(USER) as workspace:
            return {
                r.id: dict(r.metadata) for c in workspace.collections() for r in workspace.get(c)
            }


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    house = House(tmp_path / "data")
    monkeypatch.setattr(
        type(house.committer), "save", lambda self, user: house.replication.save(user)
    )
    yield Desk(house)
    house.close()


def archive(**metadata: Any) -> dict[str, bytes]:
    told = {
        "source_id": SHA,
        "filename": "f.pdf",
        "page": 1,
        "element_type": "Text",
        "model": "m",
        **metadata,
    }
    rows = pa.table({
        "id": ["a", "b"], "document": ["x", "y"], "metadata": [json.dumps(told)] * 2,
        "embedding": pa.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], pa.list_(pa.float32())),
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    source = {"sha256": SHA, "filename": "f.pdf", "pages": 1, "bytes": 0}
    facts = {"format": 1, "title": "theirs", "model": "m", "sources": [source]}
    return {"quire.json": json.dumps(facts).encode(), "data/a.parquet": sink.getvalue()}


@pytest.mark.parametrize("listed", [True, False])
def test_an_imported_document_is_exported_with_what_its_records_say(
    desk: Desk, listed: bool
) -> None:
    """It came without elements; and it is one that can be deleted, also where only its records name it."""
    box = {"page": 3, "x0": 1, "y0": 2, "x1": 30, "y1": 40, "w": 600, "h": 800}
    given = archive(
        page=3, element_type="Table", element_types=["Table"], table_html="<table><tr><td>&lt;b></table>",
        boxes=json.dumps([box, {**box, "x1": 50}, {**box, "page": 4, "x0": 0}]),
    )  # fmt: skip
    if not listed:
        facts = {**json.loads(given["quire.json"]), "sources": []}
        given["quire.json"] = json.dumps(facts).encode()
    assert run(desk.importing(**given)) == {"status": "succeeded"}
    (made,) = desk.house.catalog.collections(USER)
    (source,) = desk.house.catalog.sources(USER, made.id)
    assert (source.sha256, source.filename, source.pages) == (SHA, "f.pdf", 1 if listed else 3)
    shelf = outgoing._shelf(desk.job("export", collection=made.id, format="json"))
    held = {}
    for kind in ("json", "markdown"):
        target = desk.house.paths.root / f"{kind}.zip"
        export(shelf, kind, target, lambda done, total: None)
        with zipfile.ZipFile(target) as written:
            (name,) = [n for n in written.namelist() if n.startswith("0000-")]
            held[kind] = written.read(name).decode()
    first, second = json.loads(held["json"])
    assert (first["text"], second["text"], first["type"]) == ("x", "y", "Table")
    assert first["metadata"]["page_number"] == 3
    assert first["metadata"]["coordinates"]["points"] == [[1, 2], [1, 40], [50, 40], [50, 2]]
    assert held["markdown"].count("| ") >= 2


class Killed(BaseException):
    """As a process ends: nothing after it is done."""


@pytest.mark.parametrize("moment", ["before it is told", "before it is noted", "after its archive"])
def test_an_import_killed_at_its_end_stays_what_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The engine runs it again when the answer of its run was not kept."""
    job = desk.importing()
    with monkeypatch.context() as patch:
        if moment == "before it is told":
            patch.setattr(Job, "note", lambda self, message, *_, **changes: dying(changes))
        if moment == "before it is noted":
            patch.setattr(workflow, "_end", lambda *_: dying({"status": "succeeded"}))
        if moment == "after its archive":
            patch.setattr(workflow.shutil, "rmtree", lambda path, **_: half_removed(job, path))
        with pytest.raises(Killed):
            run(job)
    assert run(job) == {"status": "succeeded"}
    assert desk.titles() == ["theirs"]
    assert set(desk.records()) == {"a", "b"}
    row = desk.house.catalog.job(USER, "t1")
    assert (row.status, row.summary.get("error")) == ("succeeded", None)
    assert not job.work.exists()


def dying(changes: dict[str, Any]) -> None:
    if changes.get("status") == "succeeded":
        raise Killed


def half_removed(job: Job, path: Path) -> None:
    if path == job.work:
        (path / "archive.zip").unlink()
        raise Killed


def test_a_failed_import_takes_no_document_of_its_owner_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was added to the collection while it was made."""
    job, catalog = desk.importing(), desk.house.catalog

    def added(*_: Any) -> None:
        (made,) = catalog.collections(USER)
        space = Space(collection=made.id, title=made.title, model="m", dimension=3)
        with desk.house.workspaces.open(USER) as workspace:
            workspace.upsert(space, [record(7, source_id="b" * 64)])
        own = SourceRow(collection=made.id, sha256="b" * 64, filename="mine", bytes=1, pages=1,
                        version="v1", created_at=1.0)  # fmt: skip
        catalog.put_source(USER, own)
        raise QuireError("quota_exceeded", "Full.", "Delete.")

    monkeypatch.setattr(incoming, "_files", added)
    assert run(job) == {"status": "failed"}
    assert set(desk.records()) == {"id7"}
    assert [s.filename for s in catalog.sources(USER)] == ["mine"]


def test_a_collection_that_is_deleted_while_it_is_imported_stays_deleted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, catalog = desk.importing(), desk.house.catalog

    def deleted(user: str, size: int) -> None:
        (made,) = catalog.collections(USER)
        catalog.drop_collection(user, made.id)

    monkeypatch.setattr(Room, "grow", lambda self, user, size: deleted(user, size), raising=False)
    assert run(job) == {"status": "failed"}
    assert (desk.titles(), desk.records(), catalog.sources(USER)) == ([], {}, [])


@pytest.mark.parametrize("said", ["someone/elses@model", ""])
def test_a_record_says_nothing_of_its_model_but_what_is_so(desk: Desk, said: str) -> None:
    """Else the collection has that model once it is built anew from what is saved."""
    assert run(desk.importing(**archive(model=said))) == {"status": "succeeded"}
    desk.house.workspaces.forget(USER)
    (made,) = desk.house.catalog.collections(USER)
    with desk.house.workspaces.open(USER) as workspace:
        assert workspace.model(made.id) == "m"


def test_a_reader_that_was_taken_over_harms_nothing_of_its_owner(desk: Desk) -> None:
    """It writes into its own folder alone, and is not believed about what lies there."""
    good = desk.house.paths.source(USER, SHA)
    good.parent.mkdir(parents=True)
    good.write_bytes(b"%PDF")
    desk.house.put(1)

    def lies(folder: Path) -> None:
        for sha256 in (SHA, "c" * 64):
            forged = folder / "in" / "sources" / f"{sha256}.pdf"
            forged.parent.mkdir(exist_ok=True)
            forged.write_bytes(b"forged")

    class Lying(Reader):
        def run(self, *given: Any, **more: Any) -> Any:
            return {**super().run(*given, **more), "files": [SHA, "c" * 64]}

    desk.reader = Lying(lies)
    job = desk.importing()
    assert run(job) == {"status": "succeeded"}
    assert good.read_bytes() == b"%PDF"
    assert not desk.house.paths.source(USER, "c" * 64).exists()
    (written,) = desk.reader.written
    assert written.parent == job.work  # where its archive is, and what is noted of the job, is not
    assert "id1" in desk.records()


def test_what_nobody_could_delete_is_not_taken_in(desk: Desk) -> None:
    """A PDF that no source lists, a picture that no record shows."""
    extra = {f"sources/{hash_of(b'pdf')}.pdf": b"pdf", f"figures/{hash_of(b'jpg')}.jpg": b"jpg"}
    assert run(desk.importing(**extra)) == {"status": "succeeded"}
    mine = desk.house.paths.user(USER)
    assert not [p for top in ("sources", "crops") for p in (mine / top).glob("*")]


def test_imported_pictures_are_saved_and_come_back_after_a_wipe(desk: Desk) -> None:
    house, pictures = desk.house, [b"one", b"two"]
    for n, content in enumerate(pictures):  # the same document twice, with other pictures
        name = f"{hash_of(content)}.jpg"
        given = archive(image=name, source_id=SHA) | {f"figures/{name}": content}
        assert run(desk.importing(**given)) == {"status": "succeeded"}
        desk.number += 1
        assert house.replication.status(USER).saved_generation == n + 1
    shutil.rmtree(house.paths.crops(USER))
    shutil.rmtree(house.paths.user(USER) / "elements")
    for content in pictures:
        assert Path(house.library.crop(USER, f"{hash_of(content)}.jpg")).read_bytes() == content


def test_an_archive_of_too_many_documents_is_refused_whole(desk: Desk) -> None:
    one = {"sha256": SHA, "filename": "f", "pages": 1}
    facts = {"title": "t", "model": "m", "sources": [one] * 10_001}
    assert run(desk.importing(**{"quire.json": json.dumps(facts).encode()})) == {"status": "failed"}
    assert not desk.titles()


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_full_disk_passes(tmp_path: Path) -> None:
    """Nothing is wrong with an archive, or with a page, that there was no room for."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("a", b"x" * 9000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").symlink_to("/dev/full")
    with pytest.raises(Unavailable) as caught:
        unzip.unpack(tmp_path / "a.zip", tmp_path / "in", 1 << 20)
    assert caught.value.code == "disk_full"


@pytest.mark.slow
def test_a_page_process_tells_what_the_machine_lacks() -> None:
    with Pool(1) as pool:
        with pytest.raises(Unavailable) as caught:
            pool.run(in_child.written, "/dev/full", seconds=60)
        assert caught.value.code == "disk_full"
        with pytest.raises(PageProcessDied):
            pool.run(in_child.written, "/nowhere/at/all", seconds=60)


@dataclass
class Told:
    """An engine that only notes what it is to begin."""

    begun: list[str]

    def start(self, spec: Any, workflow: str, queue: str, name: str, *_: Any, **__: Any) -> None:
        self.begun.append(name)

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.mark.parametrize("kind", ["export", "push", "import"])
def test_what_a_cancelled_job_had_written_goes(desk: Desk, kind: str) -> None:
    """Also of one that was waiting: it is run once more for that. A kept import can go on."""
    job = desk.job(kind)
    (job.work / "push").mkdir(parents=True)
    job.tools.lent.lend("t1", "hf_secret")
    jobs = Jobs(job.tools.settings, desk.house.paths, desk.house.catalog)
    begun: list[str] = []
    jobs.engine = cast(Any, Told(begun))
    jobs.cancel(USER, "t1")
    assert len(begun) == (kind != "import")
    assert run(job) == {"status": "cancelled"}
    assert job.work.exists() is (kind == "import")
    with pytest.raises(Unavailable):
        job.tools.lent.take("t1", 0)


def test_a_push_sends_what_is_in_the_collection_when_it_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may wait for the Hub for hours, and its owner deletes something meanwhile."""
    desk.house.put(1, 2)
    job = desk.job("push", collection="papers", dataset="ada/papers")
    monkeypatch.setattr(outgoing, "_TOKEN_SECONDS", 0.0)
    assert run(job)["error"]["code"] == "push_needs_owner"
    job.tools.lent.lend("t1", "hf_secret")
    sent: list[list[str]] = []

    def push(folder: Path, *_: Any) -> Any:
        shards = sorted(folder.glob("data/*.parquet"))
        sent.append([i for s in shards for i in pq.read_table(s).column("id").to_pylist()])
        if len(sent) == 1:
            raise Unavailable("hub_unavailable", "Away.", "Later.")
        return type("Made", (), {"url": "", "commit": ""})

    monkeypatch.setattr("storage.remotes.push.push", push)
    assert run(job)["status"] == "waiting"
    with desk.house.workspaces.open(USER) as workspace:
        workspace.delete(desk.house.space().collection, ["id2"])
    assert run(job) == {"status": "succeeded"}
    assert sent == [["id1", "id2"], ["id1"]]
