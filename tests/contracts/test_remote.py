"""What every Remote promises, on every server; see `conftest.py` for which."""

import concurrent.futures
import contextlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from errors import Conflict, Corrupt, InputError, NotFound, Refused, Unavailable
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Change, Remote
from storage.remotes.retrying import Proved, Retrying
from tests.contracts.conftest import HERE, UNFIT
from tests.contracts.stores import MANIFEST, change, digest

SAVES = 6


def test_a_commit_can_be_read_back(remote: Remote, tmp_path: Path) -> None:
    remote.commit(change(b"one", None, a=b"segment"))
    assert remote.read(MANIFEST) == b"one"
    remote.fetch("users/u/segments/a.parquet", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"segment"
    assert list(remote.names("users/u")) == [MANIFEST, "users/u/segments/a.parquet"]


def test_a_stale_commit_changes_nothing(remote: Remote) -> None:
    remote.commit(change(b"one", None))
    remote.commit(change(b"two", b"one"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", b"one", late=b"x"))
    with pytest.raises(Conflict):
        remote.commit(change(b"three", None))
    assert remote.read(MANIFEST) == b"two"
    assert "users/u/segments/late.parquet" not in list(remote.names("users/u"))


def test_what_is_not_there_is_not_found(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        remote.read("users/u/none")
    with pytest.raises(NotFound):
        remote.fetch("users/u/none", tmp_path / "none")
    assert list(remote.names("users/nobody")) == []


def test_names_of_any_kind_come_back(remote: Remote, tmp_path: Path) -> None:
    names = [
        f"users/u/sources/{odd}.pdf"
        for odd in ("Übersicht 100 %", "a+b=c&d", "日本", "q?#'\"", "%2e%2e", "x.log", "~$[1]{2}")
    ]
    files = {name: name.encode() for name in names}
    made = Change(files=files, manifests={MANIFEST: b"one"}, expected={MANIFEST: None})
    remote.commit(made)
    assert list(remote.names("users/u")) == sorted([*names, MANIFEST])
    assert [remote.read(name) for name in names] == [name.encode() for name in names]


def test_a_large_file_comes_back_from_a_path_and_from_bytes(remote: Remote, tmp_path: Path) -> None:
    """Above the 8 MB where uploads come in parts."""
    content = random.Random(3).randbytes((8 << 20) + 7)
    source = tmp_path / "source"
    source.write_bytes(content)
    names = ["users/u/sources/path.pdf", "users/u/sources/bytes.pdf"]
    files = {names[0]: source, names[1]: content + b"."}
    remote.commit(Change(files=files, manifests={MANIFEST: b"one"}, expected={MANIFEST: None}))
    remote.fetch(names[0], tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == content
    assert remote.read(names[1]) == content + b"."


def test_the_same_change_again_is_not_a_second_one(remote: Remote) -> None:
    """A caller that was never answered asks again, with the manifest it had seen before."""
    remote.commit(change(b"one", None, a=b"1"))
    with contextlib.suppress(Conflict):
        remote.commit(change(b"one", None, a=b"1"))
    assert remote.read(MANIFEST) == b"one"
    remote.commit(change(b"two", b"one"))
    assert remote.read(MANIFEST) == b"two"


def test_deletes_follow_the_commit(remote: Remote) -> None:
    remote.commit(change(b"one", None, a=b"1"))
    remote.commit(
        Change(
            files={},
            manifests={MANIFEST: b"two"},
            expected={MANIFEST: digest(b"one")},
            deletes=frozenset({"users/u/segments/a.parquet"}),
        )
    )
    assert list(remote.names("users/u")) == [MANIFEST]


def test_a_commit_of_two_users_tells_which_one_moved(remote: Remote) -> None:
    other = "users/v/manifest.json"
    both = Change(
        files={}, manifests={MANIFEST: b"u1", other: b"v1"}, expected={MANIFEST: None, other: None}
    )
    remote.commit(both)
    assert (remote.read(MANIFEST), remote.read(other)) == (b"u1", b"v1")
    seen = {n: digest(c) for n, c in ((MANIFEST, b"u1"), (other, b"else"))}
    with pytest.raises(Conflict) as caught:
        remote.commit(Change(files={}, manifests={MANIFEST: b"u2", other: b"v2"}, expected=seen))
    assert caught.value.details["names"] == (other,)
    assert (remote.read(MANIFEST), remote.read(other)) == (b"u1", b"v1")


def test_no_more_is_read_than_was_asked(remote: Remote, tmp_path: Path) -> None:
    remote.commit(change(b"one", None, a=b"x" * 100))
    name = "users/u/segments/a.parquet"
    assert remote.read(name, 100) == b"x" * 100
    with pytest.raises(Corrupt) as caught:
        remote.read(name, 99)
    assert caught.value.code == "stored_file_too_large"
    with pytest.raises(Corrupt):
        remote.fetch(name, tmp_path / "a", 99)


def test_a_repair_puts_bytes_in_the_place_of_others(remote: Remote) -> None:
    remote.commit(change(b"one", None, a=b"damaged"))
    remote.commit(replace(change(b"two", b"one", a=b"right"), overwrite=True))
    assert remote.read("users/u/segments/a.parquet") == b"right"


def test_a_name_cannot_leave_the_store(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"not ours")
    with pytest.raises((InputError, NotFound, Refused)):
        remote.read("../outside")


@pytest.mark.parametrize("remote", [n for n in HERE if n not in UNFIT], indirect=True)
def test_of_many_writers_one_wins(remote: Remote) -> None:
    remote.commit(change(b"one", None))

    def write(n: int) -> bool:
        try:
            remote.commit(change(b"two by %d" % n, b"one"))
        except Conflict:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        won = list(threads.map(write, range(6)))
    assert won.count(True) == 1
    assert remote.read(MANIFEST) == b"two by %d" % won.index(True)


def test_who_reads_during_saves_sees_whole_generations_in_order(remote: Remote) -> None:
    def body(number: int) -> bytes:
        return b"%d %s" % (number, str(digest(b"rows of %d" % number)).encode())

    def save(count: int) -> None:
        for number in range(count):
            name, seen = f"users/u/segments/{number}.parquet", body(number - 1) if number else None
            files = {name: b"rows of %d" % number}
            made = Change(
                files=files, manifests={MANIFEST: body(number)}, expected={MANIFEST: digest(seen)}
            )
            remote.commit(made)

    seen = [-1]
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        saving = threads.submit(save, SAVES)
        while seen[-1] < SAVES - 1 and (not saving.done() or saving.exception() is None):
            with contextlib.suppress(NotFound):  # before the first
                number, named = remote.read(MANIFEST).split()
                there = [
                    remote.read(f"users/u/segments/{n}.parquet") for n in range(int(number) + 1)
                ]
                assert digest(there[-1]) == named.decode()
                seen.append(int(number))
        saving.result()
    assert seen == sorted(seen)


def test_retrying_waits_as_asked_and_gives_up(tmp_path: Path) -> None:
    class Away(LocalRemote):
        def read(self, name: str, at_most: int = 0) -> bytes:
            raise Unavailable("away", "Away.", retry_after=3)

    waited: list[float] = []
    remote = Retrying(Away(tmp_path), waits=(1, 4), sleep=waited.append)
    with pytest.raises(Unavailable):
        remote.read("x")
    assert waited == [3, 4]


def test_retrying_begins_nothing_when_the_time_is_over(tmp_path: Path) -> None:
    now = [0.0]

    class Slow(LocalRemote):
        def read(self, name: str, at_most: int = 0) -> bytes:
            now[0] += 50
            raise Unavailable("away", "Away.")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    times = {"within": 60.0, "sleep": sleep, "clock": lambda: now[0]}
    with pytest.raises(Unavailable):
        Retrying(Slow(tmp_path), waits=(1, 1, 1, 1), **times).read("x")
    assert now[0] == 101


def test_an_unfit_remote_is_told_at_every_use_until_it_is_fit(tmp_path: Path) -> None:
    class Unfit(LocalRemote):
        def check(self) -> None:
            if not (self.root / "fit").exists():
                raise Refused("unfit", "Not fit.")

    remote = Proved(Unfit(tmp_path))
    for _ in range(2):
        with pytest.raises(Refused):
            remote.read(MANIFEST)
    (tmp_path / "fit").touch()
    with pytest.raises(NotFound):
        remote.read(MANIFEST)
