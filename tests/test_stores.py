"""Saving at a pace, publishing, restoring and several instances: on real files and a real Hub client."""

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from errors import Corrupt, Unavailable
from storage import sealed_text
from storage.catalog.catalog import JobRow
from storage.elements_folder import EDITION
from storage.generations import manifest as manifests
from storage.generations import reader, replication, saved_jobs
from storage.generations.committer import Pace, Schedule
from storage.generations.compose import Wish
from storage.generations.manifest import File
from storage.generations.restore import Restore
from storage.live import closed_copy as published
from storage.live.chroma import VectorStore
from storage.live.journal import pending
from storage.live.open_stores import Workspaces
from storage.live.seal import Seal
from storage.paths import user_key
from storage.remotes.dataset_card import CARD
from storage.remotes.local import LocalRemote
from storage.remotes.remote import SMALL, Change
from tests.contracts.stores import dataset
from tests.house import OTHER, USER, House
from tests.hub.server import Fault, Hub
from tests.poison import journal, revived

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data", mirror=tmp_path / "mirror")
    yield made
    made.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as made:
        yield made


def wiped(house: House) -> House:
    """The same stores from a machine that has nothing."""
    house.close()
    shutil.rmtree(house.paths.root)
    return House(
        house.paths.root, primary=house.replication.primary, mirror=house.replication.mirror
    )


# The pace


def test_fifty_busy_users_make_at_most_seventy_commits_an_hour() -> None:
    """More than one commit has room for; `bench/store_pace.py` does the same with real ones."""
    rng = random.Random(7)
    schedule = Schedule(Pace(), 0.0)
    ends: dict[str, float] = {}
    published: set[str] = set()
    longest, commits = 0.0, 0
    for second in range(3600):
        for user in map(str, range(50)):
            busy = (second // 150 + int(user)) % 2
            if busy and rng.random() < 1 / 30:
                schedule.touch(user, second)
            if busy and rng.random() < 1 / 150:
                schedule.urge(user, second)
                ends.setdefault(user, second)
        due = schedule.due(second)
        if not due:
            continue
        commits += 1
        publish = set(schedule.publishable(second)) & set(due)
        schedule.started(due, second)
        schedule.charge(1)
        for user in due[:30]:
            longest = max(longest, second - ends.pop(user, second))
            schedule.saved(user, second, published=user in publish, records=100)
        published |= publish & set(due[:30])
        for user in set(due[30:]) - publish:
            schedule.put_off(user)
    assert 60 <= commits <= 70
    assert longest <= 120
    assert len(published) == 50


def test_a_job_that_ends_is_saved_at_once_and_a_change_within_the_interval() -> None:
    schedule = Schedule(Pace(), 0.0)
    schedule.touch("a", 10)
    assert not schedule.due(60)
    schedule.urge("b", 61)
    assert schedule.due(61) == ("b", "a")
    schedule.started("ab", 61)
    schedule.touch("a", 62)
    assert not schedule.due(121)
    assert schedule.due(122) == ("a",)


def test_the_hourly_limit_stops_all_commits_for_as_long_as_it_says() -> None:
    schedule = Schedule(Pace(), 0.0)
    schedule.urge("a", 0)
    schedule.started(schedule.due(0), 0)
    schedule.failed("a", 1, 900)
    schedule.urge("a", 2)
    assert not schedule.due(900)
    assert schedule.due(902) == ("a",)


def test_one_commit_saves_everybody_who_is_dirty(tmp_path: Path, hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    house = House(tmp_path / "data", primary=remote)
    began = house.committer.schedule.now  # the machine's own time, however long it has been up
    clock = iter(range(0, 10_000, 30))
    house.committer.clock = lambda: began + next(clock)
    before = len(hub.repos[remote.repo].commits)
    for user in (USER, OTHER):
        made = house.catalog.create_collection(user, "papers")
        house.committer.touch(user)
        assert made
    while not house.committer.step():
        pass
    assert len(hub.repos[remote.repo].commits) == before + 1
    assert house.replication.status(USER).saved_generation == 1
    assert house.replication.status(OTHER).saved_generation == 1
    house.close()


@pytest.mark.slow
def test_what_one_commit_has_no_room_for_is_first_in_the_next_one(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "_FILES_PER_COMMIT", 5)  # a user's save has two
    remote = dataset(hub)
    remote.check()
    house = House(tmp_path / "data", primary=remote)
    now = house.committer.schedule.now
    house.committer.clock = lambda: now
    users = [user_key(b"secret", str(n)) for n in range(5)]
    for user in users:
        house.catalog.create_collection(user, "papers")
    asked = [house.committer.ask(user, Wish()) for user in users]
    commits = hub.repos[remote.repo].commits
    for done in (2, 4, 5):
        before = len(commits)
        assert house.committer.step()
        assert len(commits) == before + 1
        assert [one.done() for one in asked] == [True] * done + [False] * (5 - done)
    assert not house.committer.step()
    before = len(commits)
    for user in users:
        house.catalog.create_collection(user, "more")
        house.committer.touch(user)
    house.committer.close()
    assert len(commits) == before + 3
    assert {house.replication.status(user).saved_generation for user in users} == {2}
    house.close()


def test_only_what_is_really_committed_is_charged(house: House) -> None:
    now = house.committer.schedule.now
    house.committer.clock = lambda: now
    pace = house.committer.schedule.pace = Pace(burst=2)
    house.committer.schedule = Schedule(pace, now)
    for _ in range(5):  # nothing has changed
        house.committer.ask(USER, Wish())
        assert house.committer.step()
    for title in ("one", "two"):
        house.catalog.create_collection(USER, title)
        house.committer.ask(USER, Wish())
        assert house.committer.step()
    house.committer.ask(USER, Wish())
    assert not house.committer.step()


def test_visitors_who_left_are_erased_in_one_commit(house: House) -> None:
    nobody = user_key(b"secret", "looked around")
    for user in (USER, OTHER):
        house.catalog.create_collection(user, "papers")
        house.replication.save(user)
    before = house.replication.commits
    with ThreadPoolExecutor(1) as threads:
        erasing = threads.submit(house.committer.erase, [USER, OTHER, nobody])
        while len(house.committer.schedule.dirty()) < 3:
            pass
        house.committer.step()
        assert erasing.result() == {USER: None, OTHER: None, nobody: None}
    assert house.replication.commits == before + 1
    assert house.replication.head(nobody) is None
    for user in (USER, OTHER):
        head = house.replication.head(user)
        assert head
        assert head.manifest.collections == ()


@pytest.mark.slow
def test_a_save_is_answered_once_it_is_confirmed_and_the_end_saves_the_rest(house: House) -> None:
    running = threading.Thread(target=house.committer.run)
    running.start()
    house.put(1)
    assert house.committer.save(USER) == 1
    house.put(2)
    house.committer.close()
    running.join()
    assert pending(house.paths, USER) == []
    assert house.replication.status(USER).saved_generation == 2
    assert house.replication.status(USER).lag == 0
    with pytest.raises(Unavailable):
        house.committer.save(USER)


@pytest.mark.slow
def test_while_the_hub_is_away_nothing_is_lost_and_it_is_told(tmp_path: Path, hub: Hub) -> None:
    remote = dataset(hub)
    remote.check()
    house = House(tmp_path / "data", primary=remote, mirror=tmp_path / "mirror")
    now = house.committer.schedule.now
    house.committer.clock = lambda: now
    house.put(1)
    house.replication.save(USER)
    saved_at = house.replication.status(USER).saved_at
    hub.faults = [Fault("*", "/api/|/resolve/", status=503, times=9999)]
    house.put(2)
    ended = house.committer.ask(USER, Wish())
    assert house.committer.step()
    with pytest.raises(Unavailable):
        ended.result()
    told = house.replication.status(USER)
    assert (told.saved_generation, told.saved_at, told.unsaved) == (1, saved_at, 1)
    assert told.error
    assert told.error["code"] == "hub_unavailable"
    house.workspaces.forget(USER)  # the live store may go as well: the journal is what counts
    hub.faults = []
    now += 60
    assert house.committer.step()
    told = house.replication.status(USER)
    assert (told.saved_generation, told.unsaved, told.error, told.lag) == (2, 0, None, 0)
    assert house.ids() == ["id1", "id2"]
    house.close()


# The published directory

STRANGER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from storage.remotes.dataset_card import CARD
DATASET, KEY = sys.argv[1:]
blocks = CARD.split("```python\\n")[1:]
exec(blocks[0].split("```")[0])
assert collection.metadata["model"] == "m" and collection.metadata["dimension"] == 3
got = collection.get(include=["documents", "metadatas", "embeddings"])
print(sorted(got["ids"]), len(got["embeddings"]), collection.query(query_embeddings=[[1, 0.2, 0]], n_results=1)["ids"])
SEGMENTS = sorted(map(str, (folder / "users" / KEY / "segments").glob("*.parquet")))
lines = blocks[1].split("```")[0].splitlines()
exec("\\n".join(l for l in lines if "load_dataset" not in l))  # a package that tests do without
print(list(frame["id"]))
print(table.aggregate("count(*), sum(len(embedding))").fetchall(), table.types[-1])
"""


@pytest.mark.slow
def test_a_stranger_opens_the_published_directory_by_the_lines_of_the_card(
    tmp_path: Path, hub: Hub
) -> None:
    remote = dataset(hub)
    remote.check()
    house = House(tmp_path / "data", primary=remote)
    house.put(1, 2, 3)
    house.replication.save(USER)
    assert house.publish() == 2
    house.put(4)
    house.replication.save(USER)
    house.close()
    code = STRANGER.format(root=str(ROOT)).replace("\\\\n", "\\n")
    found = subprocess.run(
        [sys.executable, "-c", code, remote.repo, USER],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_read", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "papers m 3" in found.stdout
    assert "['id1', 'id2', 'id3'] 3 [['id2']]" in found.stdout
    assert "['id1', 'id2', 'id3', 'id4']" in found.stdout
    assert "[(4, 12)] FLOAT[]" in found.stdout


def test_the_documentation_shows_the_lines_of_the_card() -> None:
    lines = CARD.split("```python\n")[1].split("```")[0]
    assert lines in (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_restore_is_the_published_directory_and_what_came_later(house: House) -> None:
    house.put(1, 2, 3)
    house.replication.save(USER)
    house.publish()
    house.put(4)
    with house.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, ["id1"])
    house.replication.save(USER)
    fresh = wiped(house)
    with fresh.workspaces.open(USER) as workspace:
        assert workspace.keyword(fresh.space().collection, "number4", limit=1)[0][0] == "id4"
        assert not workspace.keyword(fresh.space().collection, "number1", limit=1)
    assert fresh.ids() == ["id2", "id3", "id4"]
    fresh.close()


@pytest.mark.slow
def test_a_wiped_store_is_built_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    fresh = wiped(house)
    built: list[str] = []
    whole = Restore.live

    def live(restore: Restore, user: str) -> Seal:
        built.append(user)
        return whole(restore, user)

    monkeypatch.setattr(Restore, "live", live)
    assert fresh.ids() == ["id1", "id2"]
    assert fresh.ids() == ["id1", "id2"]
    assert built == [USER]
    fresh.close()


@pytest.mark.slow
def test_what_is_saved_while_a_store_is_built_is_in_it(tmp_path: Path) -> None:
    saves: list[str] = []

    class Meanwhile(LocalRemote):
        def read(self, name: str, at_most: int = SMALL) -> bytes:
            if saves and "segments" in name:
                house.replication.save(saves.pop())
            return super().read(name, at_most)

    house = House(tmp_path / "data", primary=Meanwhile(tmp_path / "remote"))
    house.put(1)
    house.replication.save(USER)
    house.put(2)
    house.workspaces.close()
    (house.paths.user(USER) / "CLEAN").unlink()
    saves.append(USER)
    assert house.ids() == ["id1", "id2"]
    assert saves == []
    assert pending(house.paths, USER) == []
    house.close()


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["flip", "remove", "none"])
def test_a_damaged_published_directory_is_not_used(house: House, tmp_path: Path, harm: str) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    house.publish()
    shutil.rmtree(tmp_path / "mirror")
    house.replication.mirror = None
    files = [p for p in (tmp_path / "remote/users" / USER / "chroma").rglob("*") if p.is_file()]
    assert any(p.name == "chroma.sqlite3" for p in files)
    for path in files:
        if harm == "flip" and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))
        elif harm == "remove":
            path.unlink()
    for segment in (tmp_path / "remote/users" / USER / "segments").glob("*"):
        if harm == "none":
            segment.unlink()  # nothing but the published directory is left, and it is enough
    fresh = wiped(house)
    assert fresh.ids() == ["id1", "id2"]
    fresh.close()


@pytest.mark.slow
@pytest.mark.parametrize("poison", [revived, journal])
def test_a_published_directory_that_somebody_has_poisoned_is_not_used(
    house: House, tmp_path: Path, poison: Callable[[Path, Path], None]
) -> None:
    """One that would make Chroma load a model, or SQLite delete a file, under a manifest that fits it: the
    records are right, nothing of it runs, and nothing of it is handed on."""
    victim = tmp_path / "victim"
    house.put(1, 2)
    house.publish()
    house.put(3)
    house.replication.save(USER)
    for remote in (tmp_path / "remote", tmp_path / "mirror"):
        top = remote / "users" / USER
        (database,) = top.glob("chroma/*/chroma.sqlite3")
        poison(database.parent, victim)
        newest = manifests.load((top / "manifest.json").read_bytes(), user=USER)
        assert newest.published
        files = []
        for name, path in published.members(database.parent).items():
            sha256, size = reader.measure(path)
            place = f"chroma/{newest.published.generation:08d}/{name}"
            files.append(File(path=place, sha256=sha256, bytes=size))
        made = replace(newest, published=replace(newest.published, files=tuple(files)))
        (top / "manifest.json").write_bytes(manifests.dump(made))
    fresh = wiped(house)
    if poison is journal:
        victim.touch()
    assert fresh.ids() == ["id1", "id2", "id3"]
    fresh.put(4)
    fresh.close()
    assert victim.exists() == (poison is journal)
    store = VectorStore(fresh.paths.chroma(USER))
    assert store.is_inert()
    store.close()


@pytest.mark.slow
def test_what_is_published_stays_right_over_many_saves(house: House) -> None:
    for n in range(50):
        house.put(n, n + 100)
        with house.workspaces.open(USER) as workspace:
            workspace.delete(house.space().collection, [f"id{n // 2}"])
        house.replication.save(USER)
        if n == 20:
            house.publish()
    wanted = house.ids()
    found = house.replication.current(USER)
    assert found
    assert found.manifest.published
    assert len(found.manifest.segments) < 33
    fresh = wiped(house)
    assert fresh.ids() == wanted
    shutil.rmtree(fresh.paths.root.parent / "remote/users" / USER / "chroma")
    shutil.rmtree(fresh.paths.root.parent / "mirror/users" / USER / "chroma")
    again = wiped(fresh)
    assert again.ids() == wanted
    again.close()


@pytest.mark.parametrize("part", ["mend", "copy"])
def test_a_full_disk_beside_a_save_is_told_and_ends_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Workspaces, part, full)
    noted: list[str] = []
    monkeypatch.setattr(
        replication.Replication,
        "note",
        lambda _self, _user, told: noted.append(getattr(told, "code", "")),
    )
    house.put(1)
    for now in (1e9, 2e9):  # the second one publishes
        house.committer.clock = lambda now=now: now  # type: ignore[misc]
        house.committer._commit([USER])
    assert "disk_full" in noted
    assert house.replication.base(USER)


def test_a_torn_index_is_never_copied(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "chroma")
    store.close()
    index = tmp_path / "chroma" / "0000"
    index.mkdir()
    (index / "data_level0.bin").write_bytes(b"x" * 1000)
    with (index / "link_lists.bin").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Corrupt) as caught:
        published.copy(tmp_path / "chroma", tmp_path / "copy")
    assert caught.value.code == "index_torn"
    assert not (tmp_path / "copy").exists()


# Restoring


@pytest.mark.slow
@pytest.mark.parametrize("code", ["opening", "restoring"])
def test_other_users_are_served_while_one_is_being_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """A new store, in which nothing is, is not said to be restored."""
    house = House(tmp_path / "data")
    if code == "restoring":
        house.put(1)
        house.replication.save(USER)
        house.workspaces.forget(USER)
    slow = threading.Event()
    whole = Restore.live

    def live(restore: Restore, user: str) -> Seal:
        if user == USER:
            slow.wait(60)
        return whole(restore, user)

    monkeypatch.setattr(Restore, "live", live)
    house.workspaces.patience = 0.05
    try:
        with pytest.raises(Unavailable) as caught, house.workspaces.open(USER):
            pass
        assert caught.value.code == code
        assert house.workspaces.restoring(USER) == (code == "restoring")
        house.workspaces.patience = 60
        with house.workspaces.open(OTHER):
            pass
    finally:
        slow.set()
    house.put(1)
    assert house.ids() == ["id1"]
    house.close()


@pytest.mark.slow
def test_a_save_that_landed_before_a_kill_is_not_repeated_over_others_work(
    house: House, tmp_path: Path
) -> None:
    house.put(1)
    house.replication.save(USER)
    with house.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, ["id1"])
    left = {p: p.read_bytes() for p in pending(house.paths, USER)}
    house.replication.save(USER)
    for path, content in left.items():  # killed before they were removed
        path.write_bytes(content)
    other = House(tmp_path / "other", primary=house.replication.primary)
    with other.workspaces.open(USER):
        pass
    other.put(1)
    other.replication.save(USER)
    other.close()
    house.put(2)
    house.replication.save(USER)
    house.workspaces.forget(USER)
    assert house.ids() == ["id1", "id2"]


@pytest.mark.slow
def test_two_instances_keep_each_others_collections_and_records(tmp_path: Path) -> None:
    one = House(tmp_path / "one")
    two = House(tmp_path / "two")
    one.put(1)
    one.replication.save(USER)
    with two.workspaces.open(USER):
        pass
    two.put(2)
    made = two.catalog.create_collection(USER, "mine")
    two.replication.save(USER)
    one.put(3)
    renamed = one.space().collection
    one.catalog.rename_collection(USER, renamed, "articles")
    one.replication.save(USER)
    assert {c.id for c in one.catalog.collections(USER)} == {renamed, made.id}
    with one.workspaces.open(USER) as workspace:  # rebuilt, with what the other one wrote
        assert sorted(r.id for r in workspace.get(renamed)) == ["id1", "id2", "id3"]
    two.catalog.create_collection(USER, "more")
    two.replication.save(USER)
    assert {c.title for c in two.catalog.collections(USER)} == {"articles", "mine", "more"}
    one.close()
    two.close()


def test_a_store_that_was_put_back_from_outside_is_not_written_over(
    house: House, tmp_path: Path
) -> None:
    house.put(1)
    house.replication.save(USER)
    shutil.copytree(tmp_path / "remote", tmp_path / "old")
    house.put(2)
    house.replication.save(USER)
    house.replication.mirror = None
    shutil.rmtree(tmp_path / "remote")
    shutil.copytree(tmp_path / "old", tmp_path / "remote")
    house.put(3)
    with pytest.raises(Corrupt) as caught:
        house.replication.save(USER)
    assert caught.value.code == "store_went_back"
    assert len(pending(house.paths, USER)) == 1


def test_a_commit_that_landed_without_an_answer_counts_once(tmp_path: Path) -> None:
    class Silent(LocalRemote):
        def commit(self, change: Change) -> None:
            super().commit(change)
            raise Unavailable("lost", "The answer was lost.")

    house = House(tmp_path / "data", primary=Silent(tmp_path / "remote"))
    house.put(1)
    assert house.replication.save(USER) == 1
    assert pending(house.paths, USER) == []
    assert house.replication.save(USER, Wish()) == 1
    house.close()


def test_elements_and_pictures_come_back_after_a_wipe(house: House) -> None:
    sha = house.document()
    there = house.paths.elements(USER, sha, "v1")
    before = {p: p.read_bytes() for p in (*there.iterdir(), *house.paths.crops(USER).iterdir())}
    house.replication.save(USER)
    fresh = wiped(house)
    fresh.replication.adopt(USER)
    fresh.stores.restore.elements(USER, sha, "v1")
    assert {p: p.read_bytes() for p in before} == before
    fresh.close()


def test_pages_that_were_read_again_come_back_as_they_were_read_last(house: House) -> None:
    sha = "a" * 64
    folder = house.paths.elements(USER, sha, "v1")
    folder.mkdir(parents=True)
    batch = folder / "batch-00000.jsonl"
    house.source(sha)
    for edition in range(3):
        batch.write_text(str(edition), encoding="ascii")
        if edition:
            (folder / EDITION).write_text(str(edition), encoding="ascii")
        assert house.replication.save(USER) == edition + 1
        assert house.replication.save(USER) == edition + 1  # nothing has changed
    fresh = wiped(house)
    fresh.replication.adopt(USER)
    assert fresh.replication.save(USER) == 3  # nor without the folder
    fresh.stores.restore.elements(USER, sha, "v1")
    assert sealed_text.read(batch) == "2"
    assert fresh.replication.save(USER) == 3
    sealed_text.write(folder / EDITION, "3")
    assert fresh.replication.save(USER) == 4
    names = {p.name for p in (fresh.paths.root.parent / "remote").rglob("elements/*")}
    assert names == {f"{sha}-v1{n}.zip" for n in ("", ".1", ".2", ".3")}  # older generations' too
    fresh.close()


def test_a_job_that_ended_elsewhere_ends_here_in_that_attempt(house: House) -> None:
    """So that what still runs of it here is told nowhere, and starts nothing."""
    here = JobRow(
        id="j", user=USER, collection="c", sha256="", filename="f", status="running", spec={},
        summary={"kind": "ingest", "attempt": 1}, created_at=1.0, started_at=1.0, finished_at=None,
    )  # fmt: skip
    assert house.catalog.put_job(here)
    there = replace(
        here, status="succeeded", finished_at=2.0, summary={**here.summary, "attempt": 2}
    )
    saved_jobs.put_back(house.catalog, USER, [there])
    found = house.catalog.job(USER, "j")
    assert (found.status, found.summary["attempt"]) == ("succeeded", 2)
    house.catalog.record("j", 1, 2, {"message": "late"}, status="failed")
    assert house.catalog.job(USER, "j").status == "succeeded"
    assert [e["seq"] for e in house.catalog.events("j")] == [1]
