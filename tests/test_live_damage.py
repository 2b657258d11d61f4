"""Files of a live store lost, rolled back, truncated or flipped: nothing is opened, saved or published
that is not what it should be, and everything that can be built again is."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import Corrupt, QuireError, Unavailable
from storage.generations.compose import Wish
from storage.generations.restore import Restore
from storage.live import journal, seal
from storage.live.chroma import VectorStore
from storage.live.closed_copy import Copy
from storage.live.seal import Seal
from storage.live.workspace import sealed
from tests.house import OTHER, USER, House, record

pytestmark = pytest.mark.slow
MANY = 40
LAST = {"id2000", "id2001"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cleanly closed: records that are saved, two that are not yet, and an earlier copy beside."""
    root = tmp_path_factory.mktemp("closed")
    house = House(root / "data")
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(house.space(), [record(n) for n in range(MANY)])
    house.replication.save(USER)
    house.workspaces.close()
    shutil.copytree(house.paths.user(USER), root / "earlier")
    house.put(2000)
    house.put(2001)
    house.close()
    return root


@pytest.fixture
def house(closed: Path, tmp_path: Path) -> Iterator[House]:
    shutil.copytree(closed, tmp_path, dirs_exist_ok=True)
    made = House(tmp_path / "data")
    yield made
    made.close()


WANTED = {f"id{n}" for n in range(MANY)} | LAST


def found(house: House) -> None:
    """Every record, by every way."""
    collection = house.space().collection
    with house.workspaces.open(USER) as workspace:
        assert {r.id for r in workspace.get(collection, vectors=True)} == WANTED
        assert workspace.keyword(collection, "number2001", limit=1)[0][0] == "id2001"
        assert workspace.keyword(collection, "number7", limit=1)[0][0] == "id7"
        assert len(workspace.query(collection, [1.0, 0.7, 0.0], limit=5)) == 5


def whole(house: House) -> None:
    """A copy holds every record, and so does a wiped disk."""
    found(house)
    house.workspaces.mend(USER)
    house.replication.save(USER)
    house.publish()
    base = house.replication.base(USER)
    assert base
    assert base.published
    assert base.published.records == len(WANTED)
    house.close()
    fresh = House(house.paths.root.parent / "fresh", primary=house.replication.primary)
    assert set(fresh.ids()) == WANTED
    fresh.close()


def harm(how: str, path: Path, earlier: Path) -> None:
    if how == "lost":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif how == "back" and path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(earlier, path)
    elif how == "back":
        shutil.copyfile(earlier, path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        content = bytearray(path.read_bytes())
        for place in range(0, len(content), max(1, len(content) // 50)):
            content[place] ^= 0x10
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["lost", "back", "cut", "flip"])
@pytest.mark.parametrize("name", ["chroma.sqlite3", "data_level0.bin", "fulltext.sqlite", "CLEAN"])
def test_a_damaged_file_of_a_closed_store_is_built_again(
    house: House, tmp_path: Path, name: str, how: str
) -> None:
    path = next(house.paths.user(USER).rglob(name))
    earlier = next((tmp_path / "earlier").rglob(name))
    harm(how, path, earlier)
    found(house)


@pytest.mark.parametrize("how", ["lost", "back"])
def test_a_directory_that_is_gone_is_not_opened_as_empty(
    house: House, tmp_path: Path, how: str
) -> None:
    harm(how, house.paths.chroma(USER), tmp_path / "earlier" / "chroma")
    assert set(house.ids()) >= LAST
    error = house.replication.status(USER).error
    assert error
    assert error["code"] == "index_rebuilt"
    whole(house)


def test_an_earlier_store_with_an_earlier_seal_is_not_believed(
    house: House, tmp_path: Path
) -> None:
    for name in ("chroma", "fulltext.sqlite", "CLEAN"):
        harm("back", house.paths.user(USER) / name, tmp_path / "earlier" / name)
    whole(house)


@pytest.mark.parametrize("how", ["lost", "cut", "flip"])
@pytest.mark.parametrize("which", [0, 1])
def test_the_index_gives_back_what_the_journal_has_lost(house: House, which: int, how: str) -> None:
    path = journal.pending(house.paths, USER, house.replication.shipped(USER))[which]
    harm(how, path, path)
    if how != "lost":  # whatever is asked first
        with pytest.raises(Corrupt) as caught:
            house.replication.save(USER)
        assert caught.value.code == "journal_damaged"
    whole(house)


def test_the_index_gives_it_back_while_it_is_open(house: House) -> None:
    house.put(5)
    for path in journal.pending(house.paths, USER):
        path.unlink()
    threading.Thread(target=house.committer.run, daemon=True).start()
    house.committer.save(USER)
    house.committer.close()
    whole(house)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.house import USER, House
house = House(Path(sys.argv[1]))
house.put(1)
house.put(2)
house.put(3)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["lost", "cut", "flip"])
def test_after_a_kill_what_the_journal_has_lost_is_told_and_the_rest_kept(
    tmp_path: Path, how: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(root)], cwd=Path(__file__).parent.parent, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    house = House(root)
    path = journal.pending(house.paths, USER)[1]
    harm(how, path, path)
    assert house.ids() == ["id1", "id3"]
    error = house.replication.status(USER).error
    assert error
    assert error["code"] == "journal_lost"
    assert house.replication.save(USER) == 1
    assert bool(list(house.paths.pending(USER).glob("*.damaged"))) == (how != "lost")
    house.close()


@pytest.mark.parametrize("name", ["chroma", "chroma.sqlite3", "fulltext.sqlite"])
@pytest.mark.parametrize("how", ["lost", "back"])
def test_what_is_harmed_while_it_is_open_is_never_sealed(
    house: House, tmp_path: Path, name: str, how: str
) -> None:
    with house.workspaces.open(USER):
        pass
    path = house.paths.user(USER) / name
    if not path.exists():
        path = next(house.paths.user(USER).rglob(name))
    harm(how, path, next((tmp_path / "earlier").rglob(name)))
    house.close()
    again = House(house.paths.root)
    whole(again)


def test_a_torn_database_under_an_open_store_is_built_again_once(house: House) -> None:
    with house.workspaces.open(USER):
        pass
    path = house.paths.chroma(USER) / "chroma.sqlite3"
    path.write_bytes(b"torn" * 5000)
    with pytest.raises(Unavailable) as caught, house.workspaces.open(USER) as workspace:
        workspace.get(house.space().collection)
    assert caught.value.code == "restoring"
    assert set(house.ids()) >= LAST
    path.write_bytes(b"torn" * 5000)
    with pytest.raises(Unavailable):
        house.ids()
    with pytest.raises(Corrupt) as told:  # it does not go on like this for ever
        house.ids()
    assert told.value.code == "index_damaged"
    house.close()
    whole(House(house.paths.root))


def test_an_error_that_nobody_thought_of_reaches_who_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def live(_self: Restore, _user: str) -> Seal:
        raise ZeroDivisionError

    house.paths.clean(USER).unlink()
    monkeypatch.setattr(Restore, "live", live)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            house.ids()
    monkeypatch.undo()
    assert set(house.ids()) >= LAST


def test_a_disk_that_fails_is_told_with_a_code(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def live(_self: Restore, _user: str) -> Seal:
        raise OSError(28, "No space left on device")

    house.paths.clean(USER).unlink()
    monkeypatch.setattr(Restore, "live", live)
    with pytest.raises(Unavailable) as caught:
        house.ids()
    assert caught.value.code == "live_store_failed"


def test_a_store_that_lacks_a_record_is_not_published(house: House) -> None:
    """Sealed so, as a fault that nobody knows of would have it."""
    store = VectorStore(house.paths.chroma(USER))
    store.delete(house.space().collection, ["id5"])
    store.close()
    held = seal.read(house.paths.clean(USER))
    assert held
    seal.write(house.paths.clean(USER), sealed(house.paths, USER, held.base, held.journal))
    with pytest.raises(Corrupt) as caught:
        house.publish()
    assert caught.value.code == "index_damaged"
    whole(house)


def test_a_store_away_while_a_copy_is_proved_harms_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(_self: Restore, _user: str, _files: object = None) -> None:
        raise Unavailable("away", "The store is away.")

    monkeypatch.setattr(Restore, "saved", saved)
    with pytest.raises(Unavailable):
        house.publish()
    assert house.paths.clean(USER).exists()
    found(house)


def test_a_published_directory_that_lacks_records_is_not_restored_from(
    house: House, tmp_path: Path
) -> None:
    """Many saves ago somebody published it: it is what its manifest says, and not what was saved."""
    house.replication.save(USER)
    poor = House(tmp_path / "poor", primary=house.replication.primary)
    with poor.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, [f"id{n}" for n in range(MANY)])
    poor.workspaces.close()
    copied = Copy(directory=poor.paths.chroma(USER), journal=(), records=2)
    house.replication.save(USER, Wish(copy=copied))
    poor.close()
    house.workspaces.forget(USER)
    assert len(house.ids()) == MANY + 2


def test_one_persons_damage_is_that_persons_alone(house: House, tmp_path: Path) -> None:
    house.replication.save(USER)
    for path in (tmp_path / "remote" / "users" / USER / "segments").glob("*"):
        harm("flip", path, path)
    harm("lost", house.paths.chroma(USER), tmp_path)
    with house.workspaces.open(OTHER) as workspace:
        assert workspace.collections() == []
    for _ in range(2):
        with pytest.raises(QuireError) as caught:
            house.ids()
        assert caught.value.code == "stored_file_corrupt"
    with house.workspaces.open(OTHER):
        pass
