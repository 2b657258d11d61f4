"""Verify, repair, erase, import, and manifests that mean harm: on real files."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from errors import Corrupt, InputError, NotFound, Refused, Unavailable
from pipeline.__main__ import main
from pipeline.admin import import_chroma
from pipeline.models.cache import Encoders
from storage.catalog.tokens import Accounts
from storage.generations import erase, reader, verify
from storage.generations import manifest as manifests
from storage.generations.committer import Pace
from storage.generations.compose import Wish
from storage.generations.manifest import File
from storage.generations.reader import digest
from storage.generations.repair import repair
from storage.live.chroma import VectorStore
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Change
from tests.contracts.stores import dataset
from tests.house import OTHER, USER, House, record
from tests.hub.server import Hub
from tests.poison import journal, revived, unpickled


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data", mirror=tmp_path / "mirror")
    yield made
    made.close()


def stored(root: Path, kind: str) -> list[Path]:
    return sorted(p for p in (root / "users" / USER).glob(kind) if p.is_file())


def damage(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << (at % 8)
    path.write_bytes(bytes(content))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["manifest.json", "segments/*", "chroma/*/*.sqlite3", "manifests/*"]
)
def test_a_hundred_flipped_bytes_are_all_found(house: House, tmp_path: Path, kind: str) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    house.publish()
    path = stored(tmp_path / "remote", kind)[-1 if kind != "manifests/*" else 0]
    whole, found = path.read_bytes(), 0
    for n in range(100):
        damage(path, n * len(whole) // 100 + n % 7)
        try:
            found += any(verify.verify(house.replication.primary, USER))
        finally:
            path.write_bytes(whole)
    assert found == 100
    assert not list(verify.verify(house.replication.primary, USER))


@pytest.mark.slow
def test_a_remote_is_repaired_from_the_other_one(house: House, tmp_path: Path) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    house.publish()
    damage(stored(tmp_path / "remote", "segments/*")[0], 9)
    stored(tmp_path / "remote", "manifests/*")[0].unlink()
    damage(stored(tmp_path / "mirror", "chroma/*/*.sqlite3")[0], 9)
    damage(tmp_path / "mirror/users" / USER / "manifest.json", 99)
    assert any(verify.verify(house.replication.primary, USER))
    assert repair(house.stores.restore, house.workspaces, USER) == []
    for remote in house.replication.remotes:
        assert not list(verify.verify(remote, USER))


def test_a_lost_manifest_comes_back_from_its_kept_copy(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    house.replication.mirror = None
    damage(tmp_path / "remote/users" / USER / "manifest.json", 50)
    with pytest.raises(Corrupt):
        house.replication.head(USER)
    repair(house.stores.restore, house.workspaces, USER)
    found = house.replication.head(USER)
    assert found
    assert found.manifest.generation == 1


@pytest.mark.slow
def test_what_no_remote_has_is_saved_again_from_the_live_store(
    house: House, tmp_path: Path
) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    house.workspaces.close()
    for root in ("remote", "mirror"):
        damage(stored(tmp_path / root, "segments/*")[0], 9)
    assert repair(house.stores.restore, house.workspaces, USER) == []
    house.workspaces.forget(USER)
    assert house.ids() == ["id1", "id2"]


def test_a_source_that_came_without_its_original_keeps_nobody_from_repairing(
    house: House, tmp_path: Path
) -> None:
    house.source("a" * 64)
    house.replication.save_all({USER: Wish()})  # and the mirror does not have it
    told = repair(house.stores.restore, house.workspaces, USER)
    assert {(d.remote, d.code) for d in told} == {
        (remote, code)
        for remote in ("local", "mirror")
        for code in ("original_missing", "elements_missing")
    }
    held = [reader.read_raw(remote, USER) for remote in house.replication.remotes]
    assert held[0] == held[1]


@pytest.mark.slow
def test_what_is_erased_is_nowhere(house: House, tmp_path: Path) -> None:
    house.put(1, 2)
    house.replication.save(USER)
    house.publish()
    with house.workspaces.open(USER) as workspace:
        workspace.delete(house.space().collection, ["id1"])
    house.committer.ask(USER, Wish(erase=True))
    house.committer.close()
    for root in ("remote", "mirror"):
        everything = b"".join(p.read_bytes() for p in stored(tmp_path / root, "**/*"))
        rows = [r.id for r in house.replication.rows(USER, house.replication.base(USER).segments)]  # type: ignore[union-attr]
        assert rows == ["id2"]
        assert b"number1" not in everything
        assert len(stored(tmp_path / root, "segments/*")) == 1
        assert not stored(tmp_path / root, "chroma/**/*")
    assert house.ids() == ["id2"]


@pytest.mark.slow
def test_an_erased_user_leaves_an_empty_generation_that_no_laggard_undoes(
    house: House, tmp_path: Path
) -> None:
    house.put(1)
    house.replication.save(USER)
    laggard = House(tmp_path / "other", primary=house.replication.primary)
    with laggard.workspaces.open(USER):
        pass
    laggard.put(2)
    gone = erase.erase_user(house.replication, house.workspaces, USER)
    assert [g.where for g in gone] == ["live", "mirror", "local"]
    assert all(g.by for g in gone)
    assert house.catalog.collections(USER) == []
    assert house.ids() == []
    laggard.replication.save(USER)
    assert laggard.catalog.collections(USER) == []
    for root in ("remote", "mirror"):
        assert not stored(tmp_path / root, "segments/*")
    laggard.close()


@pytest.mark.slow
def test_the_hubs_history_forgets_what_was_erased(tmp_path: Path) -> None:
    with Hub() as hub:
        remote = dataset(hub)
        remote.check()
        house = House(tmp_path / "data", primary=remote, mirror=tmp_path / "mirror")
        house.put(1)
        house.replication.save(USER)
        house.catalog.create_collection(OTHER, "other")
        house.replication.save(OTHER)
        segment = next(iter(remote.names(f"users/{USER}/segments")))
        content = remote.read(segment)
        assert digest(content) in {
            f.file_oid for f in remote.api.list_lfs_files(remote.repo, repo_type="dataset")
        }
        gone = erase.erase_user(house.replication, house.workspaces, USER)
        assert {g.where: g.by is not None for g in gone} == {
            "live": True,
            "mirror": True,
            "hub": True,
        }
        assert len(remote.api.list_repo_commits(remote.repo, repo_type="dataset")) == 1
        assert digest(content) not in {
            f.file_oid for f in remote.api.list_lfs_files(remote.repo, repo_type="dataset")
        }
        assert house.replication.head(OTHER)
        house.put(2)
        assert house.replication.save(USER) == 3
        house.close()


@pytest.mark.slow
def test_history_stays_until_the_mirror_is_equal(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    shutil.rmtree(tmp_path / "mirror")
    (tmp_path / "mirror").write_text("away", encoding="ascii")
    gone = erase.erase_user(house.replication, house.workspaces, USER)
    told = {g.where: g.by for g in gone}
    assert told["local"] is None
    assert told["mirror"] is None
    (tmp_path / "mirror").unlink()
    house.replication.catch_up(USER, *house.replication.remotes)
    assert all(g.by for g in erase.forget(house.replication, [USER]))


@pytest.mark.slow
def test_a_long_history_goes_once_the_mirror_is_equal(tmp_path: Path) -> None:
    with Hub() as hub:
        remote = dataset(hub)
        remote.check()
        house = House(tmp_path / "data", primary=remote, mirror=tmp_path / "mirror")
        commits = hub.repos[remote.repo].commits
        house.committer.pace = Pace(history=len(commits) + 2, forget=0)
        house.put(1)
        house.replication.save(USER)
        house.catalog.create_collection(OTHER, "other")
        house.replication.save(OTHER)
        house.committer._forget()
        assert len(commits) > 1  # not yet long
        house.put(2)
        house.replication.save_all({USER: Wish()})  # and the mirror does not have it
        before = remote.history()
        house.put(3)
        house.replication.save_all({USER: Wish()})
        assert not erase.squash(house.replication, before)
        assert remote.history() == before + 1
        house.replication.to_mirror([USER])
        (segment,) = stored(tmp_path / "mirror", "segments/*")[:1]
        content = segment.read_bytes()
        segment.unlink()
        assert not erase.squash(house.replication, before)
        segment.write_bytes(content)
        house.committer._forgot = 0
        house.committer._forget()
        assert remote.history() == 0
        assert house.replication.head(OTHER)
        assert house.ids() == ["id1", "id2", "id3"]
        house.put(4)
        assert house.replication.save(USER) == 4
        house.close()


# A store that was put back, or is gone


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose store has gone back to the first of three generations."""
    root = tmp_path / "data"
    monkeypatch.setenv("QUIRE_DATA_DIR", str(root))
    monkeypatch.setenv("QUIRE_SECRET", "s" * 32)
    for name in ("QUIRE_HUB_DATASET", "QUIRE_S3_BUCKET", "QUIRE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    house = House(root, primary=LocalRemote(root / "remote"))
    house.document()
    house.put(1)
    house.replication.save(USER)
    shutil.copytree(root / "remote", tmp_path / "before")
    house.put(2)
    house.replication.save(USER)
    house.put(3)
    house.replication.save(USER)
    house.close()
    shutil.rmtree(root / "remote")
    shutil.copytree(tmp_path / "before", root / "remote")
    return root


@pytest.mark.parametrize("gone", [False, True])
def test_a_store_that_went_back_is_written_again_from_this_machine(
    here: Path, capsys: pytest.CaptureFixture[str], gone: bool
) -> None:
    if gone:
        shutil.rmtree(here / "remote")
    for command in ("verify", "restore"):  # neither changes what `repair` needs
        assert main([command]) == 1
        assert "store_went_back" in capsys.readouterr().out
    assert main(["repair"]) == 0
    assert f"{USER} whole" in capsys.readouterr().out
    assert main(["verify"]) == 0
    shutil.rmtree(here / "users")
    assert main(["restore"]) == 0
    assert "generation 4, 3 records" in capsys.readouterr().out
    house = House(here, primary=LocalRemote(here / "remote"))
    house.put(4)
    house.workspaces.forget(USER)
    assert house.ids() == ["id1", "id2", "id3", "id4"]
    assert house.replication.save(USER) == 5
    house.close()


def test_what_cannot_be_written_again_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "users" / USER / "CLEAN").unlink()
    for _ in range(2):
        assert main(["repair"]) == 1
        assert "store_went_back" in capsys.readouterr().out


def test_repair_goes_on_from_a_mirror_that_is_ahead(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    house.workspaces.forget(USER)
    shutil.rmtree(tmp_path / "remote")
    assert repair(house.stores.restore, house.workspaces, USER) == []
    held = [reader.read_raw(remote, USER) for remote in house.replication.remotes]
    assert held[0] == held[1]
    assert house.ids() == ["id1"]


def test_a_mirror_that_was_away_has_all_that_is_named(house: House) -> None:
    away, house.replication.mirror = house.replication.mirror, None
    for n in range(3):
        house.put(n)
        house.replication.save(USER)
    house.replication.mirror = away
    house.put(4)
    house.replication.save(USER)
    assert [d for r in house.replication.remotes for d in verify.verify(r, USER)] == []


def test_a_repair_that_could_not_save_can_be_repeated(here: Path) -> None:
    """However it ended: the live store stays closed and proved."""
    remote = LocalRemote(here / "remote")

    class Full(LocalRemote):
        def commit(self, change: Change) -> None:
            raise Unavailable("down", "The store is down.")

    house = House(here, primary=Full(here / "remote"))
    with pytest.raises(Unavailable):
        repair(house.stores.restore, house.workspaces, USER)
    assert house.paths.clean(USER).exists()
    house.catalog.close()  # as a kill leaves it
    again = House(here, primary=remote)
    assert repair(again.stores.restore, again.workspaces, USER) == []
    assert again.ids() == ["id1", "id2", "id3"]
    again.close()


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_nothing_is_saved_for_nobody(
    here: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "--user", OTHER]) == 1
    told = capsys.readouterr().out
    assert "nothing saved for it" in told
    assert "whole" not in told
    assert not (here / "users" / OTHER).exists()


# Somebody else's directory


def foreign(folder: Path, model: str | None) -> Path:
    store = VectorStore(folder)
    store.ensure("theirs", model=model or "", dimension=3, title="t")
    store.upsert("theirs", [record(n, source_id="a" * 64) for n in range(5)])
    store.close()
    return folder


@pytest.mark.slow
def test_a_foreign_directory_becomes_a_collection(house: House, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "theirs", "m")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert import_chroma(house.stores, house.catalog, USER, "papers", folder) == 5
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert house.ids() == [f"id{n}" for n in range(5)]
    assert house.replication.status(USER).saved_generation == 1


@pytest.mark.slow
def test_a_damaged_or_nameless_directory_is_refused_with_its_code(
    house: House, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    torn = foreign(tmp_path / "torn", "m")
    (torn / "chroma.sqlite3").write_bytes(b"SQLite format 3\0 and then nothing of the kind")
    nameless = foreign(tmp_path / "nameless", None)
    for folder, code in (
        (tmp_path / "none", "not_chroma"),
        (torn, "chroma_damaged"),
    ):
        with pytest.raises((InputError, Corrupt)) as caught:
            import_chroma(house.stores, house.catalog, USER, "papers", folder)
        assert caught.value.code == code
    assert import_chroma(house.stores, house.catalog, USER, "papers", nameless, "m") == 5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["m", "/etc", "evil/model@main"])
def test_a_poisoned_directory_stays_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Its embedding function is not revived, and its model not loaded."""
    monkeypatch.setenv("QUIRE_DATA_DIR", str(tmp_path / "data"))
    folder, marker = foreign(tmp_path / "theirs", model), tmp_path / "revived"
    revived(folder, marker)
    assert main(["import", "--user", USER, "--collection", "papers", str(folder)]) == 0
    house = House(tmp_path / "data", primary=LocalRemote(tmp_path / "data" / "remote"))
    with house.workspaces.open(USER) as workspace:
        (collection,) = workspace.collections()
        workspace.upsert(replace(house.space(), collection=collection, model=model), [record(9)])
        assert workspace.count(collection) == 6
    asked: list[str] = []
    encoders = Encoders(asked.append, ["m"])  # type: ignore[arg-type,func-returns-value]
    if model != "m":
        with pytest.raises(Refused):
            encoders(model)
    house.close()
    assert not asked
    assert not marker.exists()
    store = VectorStore(house.paths.chroma(USER))
    assert store.is_inert()
    store.close()


@pytest.mark.slow
def test_a_directory_that_runs_or_deletes_something_is_refused(
    house: House, tmp_path: Path
) -> None:
    """A pickle that is more than data, a journal that names a file, a link."""
    victim, marker = tmp_path / "victim", tmp_path / "revived"
    victim.write_text("precious", encoding="ascii")
    for n, harm in enumerate((
        lambda folder: unpickled(folder, marker),
        lambda folder: journal(folder, victim),
        lambda folder: (folder / "x").symlink_to(victim),
    )):  # fmt: skip
        folder = foreign(tmp_path / str(n), "m")
        harm(folder)
        with pytest.raises(Corrupt):
            import_chroma(house.stores, house.catalog, USER, "papers", folder)
    assert victim.read_text(encoding="ascii") == "precious"
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("image", "/etc/passwd"), ("page", "iv"), ("boxes", "{"), ("filename", 7), ("page", 1 << 40)],
)
def test_a_foreign_record_that_says_what_it_should_not_is_refused(
    house: House, tmp_path: Path, key: str, value: object
) -> None:
    store = VectorStore(tmp_path / "theirs")
    store.ensure("theirs", model="m", dimension=3, title="t")
    source = {"source_id": "a" * 64}
    store.upsert("theirs", [record(1, **source), record(2, **{**source, key: value})])
    store.close()
    with pytest.raises(InputError) as caught:
        import_chroma(house.stores, house.catalog, USER, "papers", tmp_path / "theirs")
    assert caught.value.code == "import_unreadable"
    assert f"record's {key} is" in str(caught.value)
    assert house.catalog.collections(USER) == []


# Manifests that mean harm


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ({"path": "segments/../../x"}, "fields"),
        ({"path": "/etc/passwd"}, "fields"),
        ({"path": "segments/.hidden"}, "fields"),
        ({"path": "elsewhere/x"}, "fields"),
        ({"path": "segments/a\\b"}, "fields"),
        ({"sha256": "A" * 64}, "fields"),
        ({"bytes": -1}, "fields"),
        ({"bytes": 1 << 40}, "larger"),
        ({"bytes": 1 << 40, "path": "chroma/00000001/a/link_lists.bin"}, "larger"),
        ({"rows": "many"}, "fields"),
    ],
)
def test_a_hostile_file_is_refused_before_anything_is_read(
    harm: dict[str, object], why: str
) -> None:
    file = {"path": "segments/a.parquet", "sha256": "a" * 64, "bytes": 1, **harm}
    made = replace(empty(), segments=(File(**file),))  # type: ignore[arg-type]
    with pytest.raises(Corrupt) as caught:
        manifests.load(manifests.dump(made), user=USER)
    assert why in str(caught.value)


def empty() -> manifests.Manifest:
    return manifests.Manifest(user=USER, generation=1, parent=None, created_at=1.0)


def test_two_paths_that_differ_by_case_and_too_many_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifests, "_MAX_FILES", 20)
    twins = tuple(File(path=f"segments/{n}", sha256="a" * 64, bytes=1) for n in ("a", "A"))
    many = File(path="segments/a", sha256="a" * 64, bytes=1)
    for files in (twins, (many,) * 21):
        with pytest.raises(Corrupt):
            manifests.load(manifests.dump(replace(empty(), files=files)), user=USER)


def formatted(content: bytes, version: object) -> bytes:
    body = {**json.loads(content)["body"], "format": version}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f'{{"sha256":"{digest(text.encode())}","body":{text}}}\n'.encode()


def test_an_unknown_version_and_another_users_manifest_are_refused() -> None:
    made = manifests.dump(empty())
    for content, user in ((formatted(made, "x"), USER), (formatted(made, 0), USER), (made, OTHER)):
        with pytest.raises(Corrupt):
            manifests.load(content, user=user)


def test_what_a_newer_version_saved_is_told_and_not_written_over(
    house: House, tmp_path: Path
) -> None:
    """The mirror still has what this version can read: that is no reason to go on from it."""
    house.put(1)
    house.replication.save(USER)
    path = tmp_path / "remote" / "users" / USER / "manifest.json"
    newer = formatted(path.read_bytes(), 99)
    path.write_bytes(newer)
    house.put(2)
    tries = (
        lambda: house.replication.save(USER),
        lambda: house.replication.save(USER, Wish(erase=True)),
        lambda: repair(house.stores.restore, house.workspaces, USER),
    )
    for attempt in tries:
        with pytest.raises(Refused) as caught:
            attempt()
        assert caught.value.code == "manifest_newer"
    assert path.read_bytes() == newer
    assert house.replication.status(USER).unsaved == 1


def test_a_sparse_terabyte_is_not_read(house: House, tmp_path: Path) -> None:
    house.put(1)
    house.replication.save(USER)
    house.replication.mirror = None
    with stored(tmp_path / "remote", "segments/*")[0].open("r+b") as file:
        file.truncate(1 << 40)
    house.workspaces.forget(USER)
    with pytest.raises(Corrupt) as caught:
        house.ids()
    assert caught.value.code == "stored_file_too_large"


def test_what_has_no_room_on_the_disk_is_not_begun(tmp_path: Path) -> None:
    """Sparse files are as small as they are large."""
    remote, name = LocalRemote(tmp_path / "remote"), f"users/{USER}/sources/a.pdf"
    path = tmp_path / "remote" / name
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free + (1 << 30))
    named = File(path="sources/a.pdf", sha256="a" * 64, bytes=path.stat().st_size)
    with pytest.raises(Unavailable) as caught:
        reader.fetch([remote], USER, named, tmp_path / "here")
    assert caught.value.code == "disk_full"
    assert [p.name for p in tmp_path.iterdir()] == ["remote"]


# The commands


@pytest.mark.slow
def test_the_commands_tell_and_exit_as_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    monkeypatch.setenv("QUIRE_DATA_DIR", str(root))
    for name in ("QUIRE_HUB_DATASET", "QUIRE_S3_BUCKET", "QUIRE_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    root.mkdir()
    folder = foreign(tmp_path / "theirs", "m")
    assert main(["import", str(folder), "--user", USER, "--collection", "papers"]) == 0
    assert main(["verify"]) == 0
    shutil.rmtree(root / "users")
    assert main(["restore", "--from", "local"]) == 0
    assert "generation 1, 5 records" in capsys.readouterr().out
    segment = stored(root / "remote", "segments/*")[0]
    damage(segment, 40)
    assert main(["verify"]) == 1
    assert "stored_file_corrupt" in capsys.readouterr().out
    assert main(["repair"]) == 0
    assert main(["verify"]) == 0
    assert main(["prune"]) == 0
    with closing(Accounts(f"sqlite:///{root}/catalog.sqlite")) as accounts:
        accounts.mint(USER, "laptop", name="ada", orgs=())
        assert main(["erase", "--user", USER]) == 0
        assert accounts.tokens(USER) == []
    assert not stored(root / "remote", "segments/*")
    with pytest.raises(NotFound):
        main(["verify", "--from", "s3"])
    with pytest.raises(InputError):
        main(["erase", "--user", "../x"])
