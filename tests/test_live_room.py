"""A live store on a disk that is full for a moment: nothing that was refused is done later, nothing that was
proved is made again, and it can still be removed."""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from errors import Unavailable
from storage.atomic_write import atomic_write
from storage.live import closed_copy, journal, seal
from storage.live.keyword_index import tells_damage
from tests.house import USER, House

Fill = Callable[[str], None]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    made.put(1, 2)
    made.committer.replication.save(USER)
    yield made
    made.close()


@pytest.fixture
def no_room_for(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """From now on no seal of that name can be written."""

    def fill(name: str) -> None:
        def write(path: Path, content: bytes) -> None:
            if path.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            atomic_write(path, content)

        monkeypatch.setattr(seal, "atomic_write", write)

    return fill


def builds(house: House, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of whom a live store was built since."""
    truth, built = house.workspaces.truth, list[str]()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            if name == "live":
                built.append(USER)
            return getattr(truth, name)

    monkeypatch.setattr(house.workspaces, "truth", Watched())
    return built


def test_a_copy_without_room_leaves_the_store_as_it_was(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = builds(house, monkeypatch)

    def copytree(_: Path, to: Path, **__: Any) -> None:
        to.mkdir(parents=True)
        (to / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(closed_copy.shutil, "copytree", copytree)
        with pytest.raises(Unavailable) as caught:
            house.workspaces.copy(USER)
    assert caught.value.code == "publish_failed"
    assert not house.paths.copy(USER).exists()
    assert house.ids() == ["id1", "id2"]
    assert not built


def test_a_store_that_cannot_be_sealed_is_copied_or_told_and_never_ends_the_worker(
    house: House, no_room_for: Fill
) -> None:
    base = seal.base(house.paths, USER)
    assert house.workspaces.copy(USER)
    no_room_for("CLEAN")
    house.workspaces.went_on(USER, base, "f" * 64)
    assert house.ids() == ["id1", "id2"]


def test_a_store_is_removed_from_a_full_disk(house: House, no_room_for: Fill) -> None:
    no_room_for("CLEAN")
    house.workspaces.discard(USER)
    assert not house.paths.chroma(USER).exists()
    assert not house.paths.fulltext(USER).exists()


def test_a_change_that_was_refused_is_in_no_later_save(house: House, no_room_for: Fill) -> None:
    no_room_for("OPEN")
    with pytest.raises(OSError, match="No space"):
        house.put(3)
    shipped = house.replication.shipped(USER)
    assert not journal.pending(house.paths, USER, shipped)
    house.workspaces.forget(USER)


def test_a_journal_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        journal.write(tmp_path / "pending", b"rows")
    assert not list((tmp_path / "pending").iterdir())


def test_a_machine_without_threads_is_told_and_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.workspaces.forget(USER)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Unavailable) as caught:
            house.ids()
    assert caught.value.code == "opening"
    assert house.ids() == ["id1", "id2"]


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_CORRUPT_VTAB, True),
        (sqlite3.SQLITE_NOTADB, True),
        (sqlite3.SQLITE_CANTOPEN, False),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, False),
        (sqlite3.SQLITE_NOMEM, False),
    ],
)
def test_a_keyword_index_is_thrown_away_for_its_damage_alone(code: int, damage: bool) -> None:
    problem = sqlite3.OperationalError("no")
    problem.sqlite_errorcode = code
    assert tells_damage(problem) is damage
