"""The stages of a job that was cancelled, retried or deleted from beside them: what a later attempt, an
earlier job or the owner has made is none of theirs to remove or to bring back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.ingest.checkpoints import write_batch, write_json
from pipeline.ingest.place import Place, Tools
from pipeline.ingest.stages import answer
from pipeline.jobs.queue import NO_BATCH
from pipeline.jobs.uploads import Admission, write_private
from pipeline.processes.pool import Pool, Pools
from settings import Settings
from storage.atomic_write import atomic_write
from storage.catalog.catalog import JobRow, SourceRow
from storage.removal import crops_in, sweep
from tests.house import USER, House, record

SHA = "a" * 64
ONE = {"index": 0, "first": 1, "last": 1}


class Model:
    name, dimension, device = "m", 3, "cpu"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.close()


def place(house: House, attempt: int = 1, **changes: Any) -> Place:
    """A job of one batch, which has that attempt now."""
    settings = Settings(data_dir=house.paths.root, secret=b"s" * 32, database_url="")
    given = {name: None for name in Tools.__slots__} | {
        "settings": settings, "paths": house.paths, "catalog": house.catalog, "stores": house.stores,
        "encoder": lambda _: Model(), "pool": Pools(Pool(1), Pool(1)), "admission": Admission(settings, house.paths, house.catalog),
    }  # fmt: skip
    spec = {
        "user": USER, "job": "j", "attempt": attempt, "collection": house.space().collection,
        "sha256": SHA, "bytes": 1, "filename": "f", "chunk": {}, "strategy": "fast", "languages": [],
        "came": 10.0, "again": {},
    }  # fmt: skip
    house.catalog.put_job(
        JobRow(
            id="j", user=USER, collection=spec["collection"], sha256=SHA, filename="f",
            status="running", spec=spec, summary={}, created_at=5.0, started_at=None, finished_at=None,
        )
    )  # fmt: skip
    house.catalog.update_job("j", summary={"attempt": attempt}, **changes)
    return Place(cast(Any, Tools)(**given), spec)


def put(house: House, *numbers: int) -> None:
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(house.space(), [record(n, source_id=SHA) for n in numbers])


def source(house: House, at: float) -> None:
    row = SourceRow(
        collection=house.space().collection, sha256=SHA, filename="f", bytes=1, pages=1,
        version="v1", created_at=at,
    )  # fmt: skip
    house.catalog.put_source(USER, row)


@pytest.mark.parametrize(
    ("stage", "value"), [("undo", {}), ("clean", {"status": "succeeded"}), ("keep", {})]
)
def test_an_earlier_attempt_takes_nothing_from_a_later_one(
    house: House, stage: str, value: dict[str, Any]
) -> None:
    """Cancelled and retried at once, or retried while its mail still waits."""
    earlier = place(house, 1, status="cancelled")
    later = place(house, 2, status="queued")
    put(house, 1, 2)
    write_json(later.chunks / "ids-00000.json", [])
    answer(stage, earlier, NO_BATCH, value)
    assert house.ids() == ["id1", "id2"]
    assert (later.chunks / "ids-00000.json").exists()
    assert not house.catalog.sources(USER)


@pytest.mark.parametrize(
    ("stage", "value"),
    [("keep", {}), ("clean", {"status": "failed"}), ("clean", {"status": "partial"})],
)
def test_a_password_does_not_outlive_its_attempt(
    house: House, stage: str, value: dict[str, Any]
) -> None:
    here = place(house, 1, status="cancelled" if stage == "keep" else "running")
    write_private(here.work / "password", "secret")
    answer(stage, here, NO_BATCH, value)
    assert not (here.work / "password").exists()


@pytest.mark.parametrize("before", ["this job", "another job", "kept", "nothing"])
def test_what_is_removed_of_a_cancelled_job_is_no_document_that_was_there(
    house: House, before: str
) -> None:
    put(house, 1, 2)
    if before != "nothing":
        source(house, 8.0)
    if before == "another job":
        row = place(house).tools.catalog.job(USER, "j")
        values = {name: getattr(row, name) for name in JobRow.__slots__}
        house.catalog.put_job(JobRow(**{**values, "id": "k", "status": "partial"}))
    done = {"saved_generation": 3} if before == "this job" else {}
    cancelled = place(house, 2, status="cancelled")
    house.catalog.update_job("j", summary=done)
    answer("undo", cancelled, NO_BATCH, {})
    stays = before in {"this job", "another job"}
    assert house.ids() == (["id1", "id2"] if stays else [])
    assert bool(house.catalog.sources(USER)) is stays


@pytest.mark.parametrize(("lost", "left"), [(False, ["id1"]), (True, ["id1", "id2"])])
def test_records_go_only_when_all_that_was_made_is_known(
    house: House, lost: bool, left: list[str]
) -> None:
    """A damaged disk may have lost what a batch says it has indexed."""
    here = place(house)
    put(house, 1, 2)
    write_json(here.chunks / "ids-00000.json", ["id1"])
    found = answer("finish", here, NO_BATCH, {"pages": 9, "batches": 2 if lost else 1})
    assert "error" not in found
    assert house.ids() == left


def test_pictures_go_with_the_records_that_showed_them(house: House) -> None:
    """A page that is read again has other pictures than before."""
    here = place(house)
    names = [f"{c * 64}.jpg" for c in "de"]
    with house.workspaces.open(USER) as workspace:
        made = [record(n, source_id=SHA, element_type="Table", image=names[n]) for n in (0, 1)]
        workspace.upsert(house.space(), made)
    for name in names:
        atomic_write(house.paths.crop(USER, name), b"jpg")
    write_json(here.chunks / "ids-00000.json", ["id1"])
    assert "error" not in answer("finish", here, NO_BATCH, {"pages": 1, "batches": 1})
    with house.workspaces.open(USER) as workspace:
        sweep(house.paths, workspace, USER)
    assert [p.name for p in house.paths.crops(USER).iterdir()] == [names[1]]


def test_a_document_whose_picture_has_no_proper_name_can_be_removed(house: House) -> None:
    """A page process that was taken over may say anything."""
    with house.workspaces.open(USER) as workspace:
        names = ["../../secret", "élan.jpg", f"{'d' * 64}.jpg"]
        made = [
            record(n, source_id=SHA, element_type="Image", image=name)
            for n, name in enumerate(names)
        ]
        workspace.upsert(house.space(), made)
        assert crops_in(workspace, house.space().collection) == {names[2]}
    assert "error" not in answer("undo", place(house, status="cancelled"), NO_BATCH, {})
    assert house.ids() == []


def test_a_collection_that_was_deleted_meanwhile_does_not_come_back(house: House) -> None:
    """While the model computes, or between the last batch and the end."""
    here = place(house)
    collection = here.spec["collection"]
    here.elements.mkdir(parents=True)
    told = {
        "type": "NarrativeText",
        "element_id": "e",
        "text": "words",
        "metadata": {"page_number": 1},
    }
    write_batch(here.elements / "batch-00000.jsonl", [], [told])

    class Slow:
        def encode(self, *_: Any) -> Any:
            house.catalog.drop_collection(USER, collection)
            return type("Made", (), {"made": [[1.0, 0.0, 0.0]], "notes": (), "seconds": 0.0})()

    object.__setattr__(here.tools, "borrower", Slow())
    assert answer("index", here, ONE, {"last": True})["error"]["code"] == "collection_not_found"
    assert answer("finish", here, NO_BATCH, {"pages": 1, "batches": 1})["error"]["code"] == (
        "collection_not_found"
    )
    with house.workspaces.open(USER) as workspace:
        assert not workspace.collections()
    assert not house.catalog.sources(USER)
