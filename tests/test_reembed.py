"""Another model for a collection: the old index answers until the new one is whole, whatever happens
meanwhile, and a killed worker leaves one or the other."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from gradio_client.exceptions import AppError

from errors import Cancelled, Conflict, QuireError
from pipeline.ingest.checkpoints import write_batch
from pipeline.ingest.place import Place, Tools
from pipeline.ingest.stages import answer
from pipeline.processes.pool import Pool, Pools
from pipeline.transfers import reembed as module
from pipeline.transfers.reembed import reembed
from quire_client import Quire
from settings import Settings
from storage.catalog.catalog import JobRow
from storage.live.chroma import VectorStore
from storage.live.workspace import Space
from tests.conftest import ROOT, SAMPLES, once_restored, start_app
from tests.house import USER, House, record

Vectors = list[list[float]]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.close()


def new(house: House) -> Space:
    old = house.space()
    return Space(collection=old.collection, title=old.title, model="n", dimension=5)


def vectors(texts: Sequence[str]) -> Vectors:
    """Of length 1, different for each text."""
    made = []
    for text in texts:
        draw = random.Random(text)
        raw = [draw.uniform(-1, 1) for _ in range(5)]
        long = sum(x * x for x in raw) ** 0.5
        made.append([x / long for x in raw])
    return made


def change(
    house: House,
    encode: Callable[[Sequence[str]], Vectors] = vectors,
    report: Callable[[int, int], None] = lambda _, __: None,
) -> int:
    kept = house.paths.work(USER, "t1")
    return reembed(house.workspaces, USER, new(house), encode, kept, report)


def held(house: House) -> dict[str, tuple[str, dict[str, Any], list[float]]]:
    with house.workspaces.open(USER) as workspace:
        return {
            r.id: (r.document, dict(r.metadata), list(r.embedding))
            for r in workspace.get(house.space().collection, vectors=True)
        }


def is_new(house: House, *numbers: int) -> None:
    """Those records, with vectors of the new model, and nothing left of the making."""
    found = held(house)
    assert sorted(found) == sorted(f"id{n}" for n in numbers)
    for document, metadata, vector in found.values():
        assert metadata["model"] == "n"
        assert vector == pytest.approx(vectors([document])[0], abs=1e-6)
    with house.workspaces.open(USER) as workspace:
        collection = house.space().collection
        assert workspace.model(collection) == "n"
        assert not workspace.preparing
        assert [i for i, _ in workspace.keyword(collection, f"number{numbers[0]}", limit=9)]


def is_old(house: House, *numbers: int) -> None:
    found = held(house)
    assert sorted(found) == sorted(f"id{n}" for n in numbers)
    assert {len(v) for _, _, v in found.values()} == {3}
    with house.workspaces.open(USER) as workspace:
        near = workspace.query(house.space().collection, [1.0, 0.0, 0.0], limit=3, model="m")
    assert near


def rebuilt(house: House) -> None:
    house.workspaces.forget(USER)


@pytest.mark.slow
def test_the_old_index_answers_until_the_new_one_is_whole(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 4)
    numbers = list(range(1, 11))
    house.put(*numbers)
    house.replication.save(USER)
    house.publish()
    told: list[tuple[int, int]] = []

    def encode(texts: Sequence[str]) -> Vectors:
        is_old(house, *numbers)
        assert house.workspaces.copy(USER) is None  # nothing half-made is published
        return vectors(texts)

    assert change(house, encode, lambda done, total: told.append((done, total))) == 10
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10), (10, 10)]
    is_new(house, *numbers)
    with house.workspaces.open(USER) as workspace, pytest.raises(Conflict):
        workspace.query(house.space().collection, [1.0, 0.0, 0.0], limit=3, model="m")
    rebuilt(house)  # from the published directory and the journal
    is_new(house, *numbers)
    house.replication.save(USER)
    rebuilt(house)  # from the published directory and a later segment
    is_new(house, *numbers)
    house.publish()
    rebuilt(house)
    is_new(house, *numbers)


def test_what_changes_meanwhile_is_in_the_new_index(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 3)
    house.put(*range(1, 10))
    collection = house.space().collection
    steps = iter(range(100))

    def encode(texts: Sequence[str]) -> Vectors:
        step = next(steps)
        if step == 1:
            house.put(20, 21)
            with house.workspaces.open(USER) as workspace:
                workspace.delete(collection, ["id1", "id9", "id2"])
                workspace.upsert(house.space(), [record(2, filename="renamed")])
        if step == 3:
            house.put(22)
        return vectors(texts)

    assert change(house, encode) == 10
    is_new(house, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22)
    assert held(house)["id2"][1]["filename"] == "renamed"


def test_a_change_in_the_moment_of_the_switch_is_not_lost(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put(1, 2)
    encode_parts = module.segments.encode_parts
    late = iter([lambda: house.put(3), lambda: None])

    def slowly(parts: Any) -> bytes:
        content = encode_parts(parts)
        next(late)()
        return content

    monkeypatch.setattr("storage.live.workspace.segments.encode_parts", slowly)
    monkeypatch.setattr("storage.live.workspace.segments.encode", lambda rows: encode_parts([rows]))
    assert change(house) == 3
    is_new(house, 1, 2, 3)


@pytest.mark.slow
def test_what_was_computed_is_not_computed_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 4)
    house.put(*range(1, 11))
    computed: list[str] = []

    def breaks(texts: Sequence[str]) -> Vectors:
        if len(computed) >= 8:
            raise QuireError("embedding_invalid", "No.", "Try another.")
        computed.extend(texts)
        return vectors(texts)

    with pytest.raises(QuireError):
        change(house, breaks)
    is_old(house, *range(1, 11))
    house.workspaces.close()
    store = VectorStore(house.paths.chroma(USER))
    assert store._names() == [house.space().collection]  # a clean store has no half-made index
    store.close()
    again: list[str] = []
    change(house, lambda texts: (again.extend(texts), vectors(texts))[1])
    assert len(again) == 2
    assert not set(again) & set(computed)
    is_new(house, *range(1, 11))


def test_vectors_of_another_commit_of_the_model_are_not_taken(house: House) -> None:
    house.put(1, 2)
    kept = house.paths.work(USER, "t1")
    module._write(kept, "n@before", {"id1": [1.0, 0, 0, 0, 0], "id2": [1.0, 0, 0, 0, 0]})
    change(house)
    is_new(house, 1, 2)


@pytest.mark.slow
def test_a_cancelled_one_leaves_everything_as_it_was(house: House) -> None:
    house.put(1, 2, 3)

    def report(done: int, _total: int) -> None:
        if done:
            raise Cancelled("cancelled", "The job was cancelled.", "Start it again.")

    with pytest.raises(Cancelled):
        change(house, report=report)
    is_old(house, 1, 2, 3)
    rebuilt(house)
    is_old(house, 1, 2, 3)
    assert house.workspaces.copy(USER)


def test_an_emptied_collection_gets_the_model_too(house: House) -> None:
    house.put(1)
    with house.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, ["id1"])
    assert change(house) == 0
    with house.workspaces.open(USER) as workspace:
        assert workspace.fits(new(house))
        with pytest.raises(Conflict):
            workspace.upsert(house.space(), [record(1)])


def test_a_model_of_another_length_is_refused_before_anything_is_computed(house: House) -> None:
    """As when a folder's files were exchanged under their name."""
    house.put(1, 2)

    class Exchanged:
        name, dimension, device = "m", 5, "cpu"

    tools = Tools(
        settings=Settings(data_dir=house.paths.root, secret=b"s" * 32, database_url=""), paths=house.paths, catalog=house.catalog, pool=Pools(Pool(1), Pool(1)), stores=house.stores,
        notifier=None, encoder=lambda _: Exchanged(), borrower=None, detector=None, admission=None,
    )  # type: ignore[arg-type]  # fmt: skip
    spec = {
        "user": USER, "job": "j", "attempt": 1, "collection": house.space().collection,
        "sha256": "a" * 64, "filename": "f", "chunk": {}, "strategy": "fast", "languages": [],
    }  # fmt: skip
    house.catalog.put_job(
        JobRow(
            id="j", user=USER, collection=spec["collection"], sha256=spec["sha256"], filename="f",
            status="running", spec={}, summary={}, created_at=0.0, started_at=None, finished_at=None,
        )
    )  # fmt: skip
    place = Place(tools, spec)
    place.elements.mkdir(parents=True)
    write_batch(place.elements / "batch-00000.jsonl", [], [])
    found = answer("index", place, {"index": 0, "first": 1, "last": 1}, {"last": True})
    assert (found["error"]["code"], found["error"]["permanent"]) == ("model_mismatch", True)
    is_old(house, 1, 2)

    # One that was in the queue behind it: it waits for what the first carries over.
    early = answer("index", place, {"index": 1, "first": 2, "last": 2}, {"last": True})
    assert (early["error"]["code"], early["error"]["permanent"]) == ("index_early", False)


KILLED = """
import os, signal, sys
from pathlib import Path
from storage.live import chroma, journal
from tests.house import House
from tests.test_reembed import change
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
house = House(Path(sys.argv[1]))
house.put(*range(1, 8))
if sys.argv[2] == "before":
    journal.write = die
elif sys.argv[2] == "after":
    chroma.VectorStore.replace = die
else:
    chroma.VectorStore.upsert = die
change(house)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "whole"), [("making", is_old), ("before", is_old), ("after", is_new)]
)
def test_killed_at_any_moment_one_of_both_is_there(
    tmp_path: Path, moment: str, whole: Callable[..., None]
) -> None:
    data = tmp_path / "data"
    child = subprocess.run([sys.executable, "-c", KILLED, str(data), moment], cwd=ROOT, check=False)
    assert child.returncode == -9
    house = House(data)
    whole(house, *range(1, 8))
    change(house)
    is_new(house, *range(1, 8))
    house.close()


@pytest.mark.slow
def test_a_collection_changes_its_model_over_a_killed_worker(tmp_path: Path) -> None:
    """Two models of unlike length; asked before, meanwhile, after, and from the store alone."""
    from tests.tiny_models import embedding_model

    first = str(embedding_model(tmp_path / "first"))
    second = str(embedding_model(tmp_path / "second", dimension=48))
    models = {"QUIRE_EMBEDDING_MODEL": first, "QUIRE_EMBEDDING_MODELS": f"{second}, {first}"}
    app = start_app(tmp_path / "data", **models)
    quire = Quire(app.url)
    added = quire.submit(SAMPLES / "report.pdf", collection="papers")[0]
    assert quire.wait(added["id"])["status"] == "succeeded"

    def asked() -> list[str]:
        hits = quire.search(
            "how much rain fell in April?", collection="papers", mode="dense", group="passage"
        )
        return [h["id"] for h in hits]

    before = asked()
    assert before
    assert quire.call("status")["models"] == [first, second]
    with pytest.raises(AppError) as refused:
        quire.reembed("papers", "evil/model")
    assert refused.value.title == "model_not_offered"

    app.freeze_worker()  # so that the job is not over before the kill
    job = quire.reembed("papers", second)
    assert (job["kind"], job["status"]) == ("reembed", "queued")
    assert quire.reembed("papers", second)["id"] == job["id"]
    with pytest.raises(AppError) as refused:
        quire.reembed("papers", first)
    assert refused.value.title == "reembed_running"
    app.kill_worker()
    done = quire.wait(job["id"])
    assert done["status"] == "succeeded", done
    assert done["result"]["records"] == len(before)
    assert done["stages"]["reembed"] == {"done": len(before), "total": len(before)}
    (made,) = quire.collections()
    assert (made["model"], made["records"]) == (second, len(before))
    after = asked()
    assert sorted(after) == sorted(before)

    # What is added later has the collection's model, whatever the default one is.
    more = quire.submit(SAMPLES / "greek.pdf", collection="papers")[0]
    assert quire.wait(more["id"])["status"] == "succeeded"
    whole = asked()
    assert len(whole) > len(after)
    assert app.stop() == 0
    for name in ("chroma", "fulltext.sqlite", "CLEAN"):
        (path,) = app.data.glob(f"users/*/{name}")
        path.rename(path.with_name(f"lost-{name}"))
    app = start_app(tmp_path / "data", **models)
    quire = Quire(app.url)
    assert once_restored(asked) == whole
    assert quire.collections()[0]["model"] == second
    assert app.stop() == 0
