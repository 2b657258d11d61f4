"""Catalogue, live store, journal, generations: on real files."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from errors import Conflict, Corrupt, InputError, NotFound, Unavailable
from pipeline.jobs.uploads import keep
from storage.catalog.catalog import JobRow
from storage.catalog.tokens import Accounts
from storage.live.chroma import VectorStore
from storage.live.journal import pending
from storage.live.keyword_index import Entry, Filter, Fulltext
from storage.paths import user_key
from storage.remotes.local import LocalRemote
from tests.house import OTHER, USER, House, record


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    (tmp_path / "data").mkdir()
    made = House(tmp_path / "data", mirror=tmp_path / "mirror")
    yield made
    made.workspaces.close()


def test_a_user_key_is_stable_and_tells_nothing() -> None:
    assert user_key(b"secret", "ada") == USER != OTHER
    assert user_key(b"other", "ada") != USER


def test_collections_belong_to_their_user(house: House) -> None:
    for unseen in ("", " \n", "\u202e\u200b", "\ufeff \u2060"):
        with pytest.raises(InputError) as caught:
            house.catalog.create_collection(USER, unseen)
        assert caught.value.code == "title_empty"
    made = house.catalog.create_collection(USER, "  Papers\n of  2026 ")
    assert made.title == "Papers of 2026"
    assert house.catalog.create_collection(USER, "Papers of 2026") == made
    assert house.catalog.find_collection(USER, made.id) == made
    with pytest.raises(NotFound):
        house.catalog.find_collection(OTHER, made.id)
    house.catalog.create_collection(USER, "b")
    with pytest.raises(InputError):
        house.catalog.rename_collection(USER, made.id, "b")
    assert house.catalog.rename_collection(USER, made.id, "c").title == "c"


def a_job(job_id: str, summary: dict[str, object] | None = None) -> JobRow:
    return JobRow(
        id=job_id, user=USER, collection="c", sha256="", filename="f", status="queued", spec={},
        summary=summary or {}, created_at=1.0, started_at=None, finished_at=None,
    )  # fmt: skip


def test_a_final_status_stays_until_a_retry(house: House) -> None:
    row = a_job("j", {"a": 1})
    assert house.catalog.put_job(row)
    assert not house.catalog.put_job(row)
    house.catalog.update_job("j", status="cancelled")
    house.catalog.update_job("j", status="running", summary={"b": 2})
    found = house.catalog.job(USER, "j")
    assert (found.status, found.summary) == ("cancelled", {"a": 1, "b": 2})
    house.catalog.update_job("j", status="queued")
    assert house.catalog.job(USER, "j").status == "queued"
    with pytest.raises(NotFound):
        house.catalog.job(OTHER, "j")


def test_an_event_counts_once(house: House) -> None:
    house.catalog.put_job(a_job("j"))
    for seq, word in ((1, "a"), (2, "b"), (2, "again"), (3, "c")):
        house.catalog.record("j", 1, seq, {"message": word}, status="running")
    assert [e["message"] for e in house.catalog.events("j")] == ["a", "b", "c"]
    assert [e["seq"] for e in house.catalog.events("j", after=2)] == [3]
    assert house.catalog.events("j", after=99) == []
    assert house.catalog.job(USER, "j").status == "running"
    assert house.catalog.append_event("j", {"message": "d"}, status="cancelled") == 4
    house.catalog.record("j", 1, 5, {"message": "late"}, status="running")
    assert house.catalog.last_event("j") == 4
    house.catalog.update_job("j", status="queued", summary={"attempt": 2})
    house.catalog.record("j", 1, 5, {"message": "of an attempt that is over"})
    house.catalog.record("j", 2, 5, {"message": "e"}, summary={"n": 1})
    assert [e["message"] for e in house.catalog.events("j", after=3)] == ["d", "e"]


def test_a_delivery_is_claimed_once_unless_nothing_was_sent(house: House) -> None:
    assert house.catalog.claim_delivery("d", "j")
    assert not house.catalog.claim_delivery("d", "j")
    assert house.catalog.delivery_state("d") == "unanswered"
    house.catalog.end_delivery("d", "waiting", "away")
    assert house.catalog.claim_delivery("d", "j")
    house.catalog.end_delivery("d", "sent")
    assert not house.catalog.claim_delivery("d", "j")
    assert house.catalog.delivery_state("d") == "sent"


def test_of_two_first_writes_at_once_the_later_one_stays(tmp_path: Path) -> None:
    one, two = (Accounts(f"sqlite:///{tmp_path}/rows.sqlite") for _ in range(2))

    def first(_db: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT"):
            two.own_address("ada", "digest", "earlier")

    event.listen(one._engine, "before_cursor_execute", first)
    one.own_address("ada", "digest", "later")
    assert two.addresses("ada") == {"digest": "later"}


def test_the_model_of_a_collection_is_checked(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "chroma")
    store.ensure("c-1234", model="a", dimension=3, title="t")
    store.ensure("c-1234", model="a", dimension=3, title="t")
    with pytest.raises(Conflict) as caught:
        store.ensure("c-1234", model="b", dimension=3, title="t")
    assert caught.value.code == "model_mismatch"
    store.close()


def test_an_upsert_replaces_metadata_and_batches(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "chroma")
    store.ensure("c-1234", model="m", dimension=3, title="t")
    store.upsert("c-1234", [record(n, caption="old") for n in range(1201)])
    store.upsert("c-1234", [record(1)])
    assert "caption" not in store.get("c-1234", ids=["id1"])[0].metadata
    assert store.count("c-1234") == 1201
    near = store.query("c-1234", [1.0, 0.5, 0.0], limit=1, where={"page": {"$lte": 9}})
    assert near[0].id == "id5"
    store.close()


@pytest.mark.slow
def test_an_id_given_twice_counts_once(house: House) -> None:
    """Chroma refuses such a batch, which is in the journal by then."""
    space = house.space()
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [record(1), record(2), replace(record(1), document="the last")])
        assert [r.document for r in workspace.get(space.collection, ids=["id1"])] == ["the last"]
        assert workspace.delete(space.collection, ["id1", "id1"]) == 1
    assert house.ids() == ["id2"]
    house.workspaces.forget(USER)
    assert house.ids() == ["id2"]


def test_keywords_are_found_filtered_and_forgotten(tmp_path: Path) -> None:
    words = Fulltext(tmp_path / "w.sqlite")
    words.upsert(
        "c",
        [
            Entry(id="1", text="Größe der Brücke", source="a", page=1, kind="Text"),
            Entry(id="2", text="bridge table", source="b", page=7, kind="Table"),
            Entry(id="3", text="東京の橋の長さ", source="b", page=8, kind="Text"),
        ],
    )
    assert words.search("c", "grosse brucke", limit=5)[0][0] == "1"
    assert [i for i, _ in words.search("c", "bridge", limit=5, where=Filter(first_page=8))] == []
    assert [i for i, _ in words.search("c", "bridge", limit=5, where=Filter(kinds=("Table",)))] == [
        "2"
    ]
    assert [i for i, _ in words.search("c", "橋の長", limit=5)] == ["3"]
    assert words.search("other", "bridge", limit=5) == []
    words.delete("c", ["2"])
    assert words.search("c", "bridge", limit=5) == []
    words.close()


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("the birds are singing", "bird"),
        ("one bird", "Birds"),
        ("in all 1,089,400 pieces", "1089400"),
        ("in all 1089400 pieces", "1,089,400"),
        ("Preis 12.500 Euro", "12500"),
        ("cafe\u0301 au lait", "café"),
        ("café au lait", "cafe"),
        ("the ﬁle of ﬂowers", "flower file"),
        ("part AB-123/4 is spare", "AB-123/4"),
        ("part AB-123/4 is spare", "123"),
        ("東京の橋の長さ", "橋"),
        ("東京の橋の長さ", "さ"),
        ("東京の橋の長さ", "東京 bridge"),
        ("the bridge 橋 of Tokyo", "tokyo"),
        ("the bridge 橋 of Tokyo", "橋 tokyo"),
        ("한국어 문서", "문서"),
        ("ภาษาไทยง่าย", "ไทย"),
        ("Привет мир", "привет"),
        ("ΚΑΛΗΜΕΡΑ", "καλημερα"),
    ],
)
def test_words_are_found_however_they_are_written(tmp_path: Path, text: str, asked: str) -> None:
    words = Fulltext(tmp_path / "w.sqlite")
    put = [("1", text), *((f"other{n}", "nothing of it") for n in range(5))]
    words.upsert("c", [Entry(id=i, text=t, source="a", page=1, kind="Text") for i, t in put])
    assert [i for i, _ in words.search("c", asked, limit=9)] == ["1"]
    words.close()


@pytest.mark.parametrize(
    ("phrase", "found"), [("東京の", ["1"]), ("京の橋", ["1"]), ("東の京", [])]
)
def test_a_phrase_of_a_script_without_spaces(tmp_path: Path, phrase: str, found: list[str]) -> None:
    words = Fulltext(tmp_path / "w.sqlite")
    words.upsert("c", [Entry(id="1", text="東京の橋", source="a", page=1, kind="Text")])
    asked = words.search("c", phrase, limit=9, where=Filter(phrases=(phrase,)))
    assert (
        [i for i, _ in asked]
        == found
        == sorted(words.allowed("c", ["1"], Filter(phrases=(phrase,))))
    )
    words.close()


def test_a_common_word_counts_where_there_is_no_rarer_one(tmp_path: Path) -> None:
    words = Fulltext(tmp_path / "w.sqlite")
    texts = [f"the storm of {n}" for n in range(200)]
    words.upsert(
        "c",
        [Entry(id=t, text=t, source="a", page=1, kind="Text") for t in [*texts, "a storm surge"]],
    )
    assert [i for i, _ in words.search("c", "the storm surge", limit=9)] == ["a storm surge"]
    assert len(words.search("c", "the storm", limit=9)) == 9
    words.close()


def test_an_index_that_tells_words_apart_otherwise_is_made_anew(house: House) -> None:
    house.put(1, 2)
    house.workspaces.close()
    with closing(sqlite3.connect(house.paths.fulltext(USER))) as db:
        db.execute("PRAGMA user_version=1")
        db.commit()
    house.paths.clean(USER).unlink()
    with house.workspaces.open(USER) as workspace:
        collection = house.space().collection
        assert [i for i, _ in workspace.keyword(collection, "number2", limit=9)] == ["id2"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 1500])  # Chroma fills an index from a thousand records on
def test_a_closed_index_holds_nothing_of_the_memory_that_it_was_made_in(
    tmp_path: Path, count: int
) -> None:
    store = VectorStore(tmp_path / "chroma")
    store.ensure("c-1", model="m", dimension=2, title="t")
    store.upsert("c-1", [replace(record(n), embedding=[1.0, n / 7 + 1]) for n in range(count)])
    near = [n.id for n in store.query("c-1", [1.0, 9.0], limit=20)]
    store.close()
    for name, size in (("data_level0.bin", None), ("length.bin", 4)):
        (path,) = (tmp_path / "chroma").glob(f"*/{name}")
        content = path.read_bytes()
        (header,) = (tmp_path / "chroma").glob("*/header.bin")
        taken = int.from_bytes(header.read_bytes()[20:28], "little")
        each = size or int.from_bytes(header.read_bytes()[28:36], "little")
        assert (taken > 0) == (count > 1000)
        assert len(content) >= taken * each
        assert not any(content[taken * each :])
    again = VectorStore(tmp_path / "chroma")
    assert len(again.ids("c-1")) == count
    assert [n.id for n in again.query("c-1", [1.0, 9.0], limit=20)] == near
    again.upsert(
        "c-1", [replace(record(count + n), embedding=[1.0, n / 7 + 1]) for n in range(1100)]
    )
    again.close()
    last = VectorStore(tmp_path / "chroma")
    assert len(last.query("c-1", [1.0, 9.0], limit=count)) == count
    last.close()


@pytest.mark.slow
def test_a_clean_store_is_opened_as_it_is(house: House) -> None:
    house.put(1, 2, 3)
    house.workspaces.close()
    assert house.paths.clean(USER).exists()
    assert house.ids() == ["id1", "id2", "id3"]
    assert not house.paths.clean(USER).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.house import USER, House
house = House(Path(sys.argv[1]))
house.put(1, 2, 3)
house.put(2, 4)
os.kill(os.getpid(), signal.SIGKILL)
"""


HOLDING = """
import sys, threading
from pathlib import Path
from errors import Unavailable
from storage.live import open_stores as workspaces
from tests.house import OTHER, USER, House

workspaces.OPEN_AT_ONCE = 1
house = House(Path(sys.argv[1]))

def say(word):
    print(word, flush=True)
    sys.stdin.readline()

with house.workspaces.open(USER):
    say("open")
with house.workspaces.open(OTHER):
    [t.join() for t in threading.enumerate() if "_ready" in t.name]
    say("another instead")
try:
    with house.workspaces.open(USER):
        say("two writers")
except Unavailable as problem:
    say(problem.code)
"""


@pytest.mark.slow
def test_one_process_at_a_time_has_a_store_open(tmp_path: Path) -> None:
    house = House(tmp_path / "data")
    house.put(1)
    house.workspaces.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "data")],
        cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        talk, heard = other.stdin, other.stdout
        assert talk
        assert heard

        def told() -> str:
            return heard.readline().strip()

        def go_on() -> None:
            talk.write("\n")
            talk.flush()

        assert told() == "open"
        for touch in (house.ids, lambda: house.workspaces.discard(USER)):
            with pytest.raises(Unavailable) as caught:
                touch()
            assert caught.value.code == "store_in_use"
            assert not caught.value.permanent
        go_on()
        assert told() == "another instead"
        assert house.ids() == ["id1"]  # it was closed there: the lock is free
        go_on()
        assert told() == "store_in_use"
        go_on()
    house.close()


@pytest.mark.slow
def test_a_killed_store_is_never_opened_but_rebuilt(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root)], cwd=Path(__file__).parent.parent, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    house = House(root)
    torn = [p for p in house.paths.chroma(USER).rglob("*") if p.is_file()]
    assert torn
    for path in torn:
        path.write_bytes(b"torn")
    assert house.ids() == ["id1", "id2", "id3", "id4"]
    with house.workspaces.open(USER) as workspace:
        assert workspace.keyword(house.space().collection, "number2", limit=1)[0][0] == "id2"
    house.workspaces.close()


@pytest.mark.slow
def test_a_generation_restores_on_a_wiped_disk(house: House) -> None:
    house.put(1, 2)
    assert house.replication.save(USER) == 1
    assert pending(house.paths, USER) == []
    house.put(3)
    with house.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, ["id1"])
    assert house.replication.save(USER) == 2
    assert house.replication.save(USER) == 2  # nothing changed
    house.workspaces.close()
    house.catalog.close()
    shutil.rmtree(house.paths.root)
    house.paths.root.mkdir()
    fresh = House(house.paths.root)
    with fresh.workspaces.open(USER):
        pass
    assert [c.title for c in fresh.catalog.collections(USER)] == ["papers"]
    assert fresh.ids() == ["id2", "id3"]
    fresh.workspaces.close()


@pytest.mark.slow
def test_the_mirror_catches_up_and_takes_over(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    (tmp_path / "mirror").rename(tmp_path / "away")
    (tmp_path / "mirror").write_text("not a folder", encoding="ascii")
    house.put(2)
    assert house.replication.save(USER) == 2
    status = house.replication.status(USER)
    assert status.error is not None
    (tmp_path / "mirror").unlink()
    (tmp_path / "away").rename(tmp_path / "mirror")
    house.put(3)
    house.replication.save(USER)
    status = house.replication.status(USER)
    assert (status.saved_generation, status.lag, status.error) == (3, 0, None)
    shutil.rmtree(tmp_path / "remote")
    house.workspaces.forget(USER)
    assert house.ids() == ["id1", "id2", "id3"]


@pytest.mark.slow
def test_a_wiped_primary_goes_on_from_the_mirror(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    house.put(2)
    house.replication.save(USER)
    for expected, added in ((["id1", "id2"], 3), (["id1", "id2", "id3"], 4)):
        house.workspaces.close()
        house.catalog.close()
        shutil.rmtree(tmp_path / "remote")
        shutil.rmtree(house.paths.root)
        house.paths.root.mkdir()
        house = House(house.paths.root, mirror=tmp_path / "mirror")
        with house.workspaces.open(USER):
            pass
        assert house.ids() == expected
        house.put(added)
        house.replication.save(USER)
        assert house.replication.status(USER).lag == 0
    house.workspaces.close()


@pytest.mark.slow
def test_a_collection_made_right_after_a_wipe_hides_nothing(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    house.workspaces.close()
    house.catalog.close()
    shutil.rmtree(house.paths.root)
    house.paths.root.mkdir()
    fresh = House(house.paths.root, mirror=tmp_path / "mirror")
    made = fresh.catalog.create_collection(USER, "papers")
    with fresh.workspaces.open(USER):
        pass
    fresh.replication.save(USER)
    titles_now = {c.title: c.id for c in fresh.catalog.collections(USER)}
    assert titles_now["papers"] == made.id
    with fresh.workspaces.open(USER) as workspace:
        assert workspace.count(titles_now["papers (2)"]) == 1
    fresh.workspaces.close()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segments/*", "manifest.json"])
def test_a_flipped_byte_is_never_served(house: House, tmp_path: Path, kind: str) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    flip(next((tmp_path / "remote" / "users" / USER).glob(kind)))
    shutil.rmtree(tmp_path / "mirror")
    house.workspaces.forget(USER)
    with pytest.raises(Corrupt):
        house.ids()


def test_nothing_is_opened_while_no_store_answers(house: House) -> None:
    class Away(LocalRemote):
        def read(self, name: str, at_most: int = 0) -> bytes:
            raise Unavailable("away", "The store is away.")

    house.put(1)
    house.workspaces.forget(USER)
    house.replication.primary = Away(Path("/nowhere"))
    house.replication.mirror = None
    with pytest.raises(Unavailable):
        house.ids()


@pytest.mark.slow
def test_two_instances_lose_no_saved_write(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    remote = tmp_path / "remote" / "users" / USER / "manifest.json"
    before = remote.read_bytes()

    class Late(LocalRemote):
        def read(self, name: str, at_most: int = 1 << 20) -> bytes:
            return before if name.endswith("manifest.json") else super().read(name, at_most)

    house.put(2)
    house.replication.save(USER)
    house.put(3)
    house.replication.primary = Late(tmp_path / "remote")
    with pytest.raises(Conflict):
        house.replication.save(USER)
    assert len(pending(house.paths, USER)) == 1
    house.replication.primary = LocalRemote(tmp_path / "remote")
    assert house.replication.save(USER) == 3
    house.workspaces.forget(USER)
    assert house.ids() == ["id1", "id2", "id3"]


@pytest.mark.slow
def test_many_saves_are_compacted(house: House) -> None:
    for n in range(35):
        house.put(n)
        house.replication.save(USER)
    found = house.replication.current(USER)
    assert found
    segments = found.manifest.segments
    assert len(segments) < 33
    house.workspaces.forget(USER)
    assert len(house.ids()) == 35


def test_sources_and_elements_go_with_the_save(house: House, tmp_path: Path) -> None:
    sha = house.document()
    house.replication.save(USER)
    back = tmp_path / "back" / "x.pdf"
    house.replication.fetch(USER, f"sources/{sha}.pdf", back)
    assert back.read_bytes() == house.paths.source(USER, sha).read_bytes()
    house.catalog.drop_source(USER, house.space().collection, sha)
    house.replication.save(USER)
    with pytest.raises(NotFound):
        house.replication.fetch(USER, f"sources/{sha}.pdf", back)


def test_a_name_is_one_collection_s(house: House) -> None:
    """Neither cut to that of another one, nor the id of another one."""
    made = house.catalog.create_collection(USER, "x" * 200)
    with pytest.raises(InputError) as long:
        house.catalog.find_collection(USER, "x" * 201)
    with pytest.raises(InputError) as taken:
        house.catalog.create_collection(USER, made.id)
    with pytest.raises(InputError) as renamed:
        house.catalog.rename_collection(USER, made.id, made.id)
    codes = [c.value.code for c in (long, taken, renamed)]
    assert codes == ["title_too_long", "title_taken", "title_taken"]


def test_an_original_that_comes_again_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    target = tmp_path / "sources" / "kept.pdf"
    for damaged in (None, b"", b"%PDF-", b"%PDX-1.7 whole"):
        if damaged is not None:
            target.write_bytes(damaged)
        upload = tmp_path / "upload.pdf"
        upload.write_bytes(b"%PDF-1.7 whole")
        keep(upload, target)
        assert target.read_bytes() == b"%PDF-1.7 whole"
