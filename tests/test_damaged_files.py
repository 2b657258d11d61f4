"""Whatever a disk or a store damages or loses of a document: whoever needs it has it from where it is whole,
or is told. Files are drawn at random, and what happens to each."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import Corrupt, NotFound
from pipeline.ingest.checkpoints import write_batch
from storage.catalog.catalog import JobRow
from storage.elements_folder import is_listed, list_files
from storage.generations import verify
from storage.generations.repair import repair
from storage.remotes.local import LocalRemote
from storage.remotes.remote import Change
from tests.house import USER, House
from tests.sequences import limit, sequences

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "cut": lambda held: held[:-1],
    "flipped": lambda held: bytes([held[0] ^ 1]) + held[1:] if held else b"x",
    "a flipped end": lambda held: held[:-1] + bytes([held[-1] ^ 1]) if held else b"x",
    "other bytes": lambda _: b"other bytes",
}
pytestmark = pytest.mark.timeout(limit(300))
HARM = st.tuples(st.integers(0, 1 << 20), st.sampled_from(sorted(DAMAGES)))
some = settings(
    max_examples=sequences(6),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass(slots=True)
class World:
    """A copy of a directory with everything of one person, on two remotes; `here` is this machine's."""

    root: Path
    mirrored: bool = True
    house: House = field(init=False)

    def __post_init__(self) -> None:
        mirror = self.root / "mirror" if self.mirrored else None
        self.house = House(self.root / "data", mirror=mirror)

    def verified(self) -> list[verify.Damage]:
        replication = self.house.replication
        saved = [d for r in replication.remotes for d in verify.verify(r, USER)]
        return [*saved, *verify.local(replication, USER)]

    def repaired(self) -> list[verify.Damage]:
        return repair(self.house.stores.restore, self.house.workspaces, USER)


def told(house: House) -> dict[str, Any]:
    """All that a person can get."""
    found: dict[str, Any] = {"records": house.ids()}
    for source in house.catalog.sources(USER):
        found[source.sha256] = house.library.elements(USER, source.sha256)
        original = house.stores.restore.original(USER, source.sha256)
        found[f"{source.sha256}.pdf"] = original.read_bytes()
        for element in found[source.sha256]:
            if name := element["metadata"].get("image_path"):
                found[name] = Path(house.library.crop(USER, name)).read_bytes()
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several generations, a published one among them, of two documents and a job that is over."""
    root = tmp_path_factory.mktemp("whole")
    house = House(root / "data", mirror=root / "mirror")
    house.document("one")
    house.put(1, 2)
    house.replication.save(USER)
    house.publish()
    house.document("two")
    house.put(3)
    house.catalog.put_job(
        JobRow(
            id="j1", user=USER, collection=house.space().collection, sha256="", filename="f",
            status="succeeded", spec={}, summary={"kind": "export", "attempt": 1}, created_at=1.0,
            started_at=1.0, finished_at=2.0,
        )
    )  # fmt: skip
    house.replication.save(USER)
    house.close()
    return root


def copied(template: Path, tmp_path: Path, *, mirrored: bool = True) -> World:
    root = tmp_path / "world"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template, root)
    return World(root, mirrored)


def harmed(folders: list[Path], harm: list[tuple[int, str]]) -> list[Path]:
    """Files below these folders, each damaged once."""
    files = sorted(p for top in folders for p in top.rglob("*") if p.is_file())
    chosen = {files[n % len(files)]: how for n, how in harm}
    for path, how in chosen.items():
        held = DAMAGES[how](path.read_bytes())
        path.unlink() if held is None else path.write_bytes(held)
    return sorted(chosen)


@pytest.mark.slow
@some
@given(harm=st.lists(HARM, min_size=1, max_size=8), mirrored=st.booleans())
def test_a_whole_machine_repairs_whatever_its_stores_lost(
    template: Path, tmp_path: Path, harm: list[tuple[int, str]], mirrored: bool
) -> None:
    world = copied(template, tmp_path, mirrored=mirrored)
    whole = told(world.house)
    world.house.workspaces.close()
    roots = [world.root / name for name in (("remote", "mirror") if mirrored else ("remote",))]
    harmed([root / "users" for root in roots], harm)
    assert world.repaired() == []
    assert world.verified() == []
    assert told(world.house) == whole
    world.house.close()
    for root in roots:  # each of them is enough
        shutil.rmtree(world.root / "data")
        again = House(world.root / "data", primary=LocalRemote(root))
        again.replication.adopt(USER)
        assert told(again) == whole
        again.close()


@pytest.mark.slow
@some
@given(harm=st.lists(HARM, min_size=1, max_size=6))
def test_what_is_damaged_on_this_machine_comes_from_the_stores(
    template: Path, tmp_path: Path, harm: list[tuple[int, str]]
) -> None:
    world = copied(template, tmp_path)
    whole = told(world.house)
    mine = world.house.paths.user(USER)
    damaged = harmed([mine / kind for kind in ("sources", "elements", "crops")], harm)
    there = {p for p in damaged if p.exists()}
    named = {mine / d.path for d in world.verified()}
    assert all(p in named or p.parent in named for p in there)
    assert told(world.house) == whole
    world.repaired()
    assert world.verified() == []
    assert told(world.house) == whole
    world.house.close()


@pytest.mark.slow
@some
@given(harm=st.lists(HARM, min_size=1, max_size=4))
def test_what_was_never_saved_is_told_by_its_name_and_not_saved(
    tmp_path: Path, harm: list[tuple[int, str]]
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    house = House(tmp_path / "data")
    sha256 = house.document()
    whole, mine = told(house), house.paths.user(USER)
    pdf, folder = mine / "sources", house.paths.elements(USER, sha256, "v1")
    damaged = harmed([pdf, folder], harm)
    try:
        assert house.library.elements(USER, sha256) == whole[sha256] or not is_listed(folder)
    except Corrupt as problem:
        assert problem.code == "elements_corrupt"
        assert any(p.parent == folder for p in damaged)
    if any(p.parent == pdf for p in damaged):
        with pytest.raises((Corrupt, NotFound)) as lost:
            house.stores.restore.original(USER, sha256)
        assert lost.value.code in {"original_corrupt", "not_in_store"}
    house.replication.save(USER)
    codes = {d.code for d in verify.verify(house.replication.primary, USER)}
    assert ("original_missing" in codes) == any(p.parent == pdf for p in damaged)
    assert codes <= {"original_missing", "elements_missing"}
    house.close()


# One at a time


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "data")
    yield made
    made.close()


def folder_of(house: House, sha256: str) -> Path:
    return house.paths.elements(USER, sha256, "v1")


def crop_of(house: House) -> Path:
    (path,) = house.paths.crops(USER).iterdir()
    return path


def old(folder: Path) -> None:
    """As a version wrote it whose files do not say what they are."""
    (folder / "files.json").unlink()
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
    (folder / "probe.json").write_text('{"sha256": "' + "a" * 64 + '", "pages": 2}')


def test_a_deleted_document_does_not_come_back_with_a_picture_that_is_asked_for(
    house: House,
) -> None:
    sha256 = house.document()
    house.replication.save(USER)
    name = crop_of(house).name
    house.library.delete_source(USER, "papers", sha256)
    crop_of(house).unlink()
    for asked in (name, f"{'b' * 64}.png"):
        with pytest.raises(NotFound):
            house.library.crop(USER, asked)
    assert not folder_of(house, sha256).exists()


@pytest.mark.parametrize("saved", [True, False])
def test_what_an_older_version_wrote_is_read_and_saved(house: House, saved: bool) -> None:
    sha256 = house.document()
    folder, whole = folder_of(house, sha256), house.library.elements(USER, sha256)
    old(folder)
    if saved:
        house.replication.save(USER)
        shutil.rmtree(house.paths.root.parent / "remote")  # which is away
    assert list(verify.files_here(house.paths, USER)) == []
    assert house.library.elements(USER, sha256) == whole
    if not saved:
        house.replication.save(USER)
        shutil.rmtree(folder)
        assert house.library.elements(USER, sha256) == whole


def test_pages_read_again_by_an_older_version_are_not_taken_back(house: House) -> None:
    sha256 = house.document()
    folder = folder_of(house, sha256)
    old(folder)
    house.replication.save(USER)
    batch = folder / "batch-00000.jsonl"
    again = batch.read_text(encoding="utf-8").replace("and so on", "read again")
    batch.write_text(again, encoding="utf-8")
    (folder / "edition.json").write_text("1", encoding="ascii")
    assert house.library.elements(USER, sha256)[0]["text"] == "read again"
    house.replication.save(USER)
    shutil.rmtree(folder)
    assert house.library.elements(USER, sha256)[0]["text"] == "read again"


def test_what_was_saved_stays_where_its_next_edition_is_damaged(house: House) -> None:
    sha256 = house.document()
    folder, whole = folder_of(house, sha256), house.library.elements(USER, sha256)
    house.replication.save(USER)
    list_files(folder, saved=0, changed=True)
    (folder / "batch-00001.jsonl").write_bytes(b"damaged")
    house.put(1)
    house.replication.save(USER)
    shutil.rmtree(folder)
    assert house.library.elements(USER, sha256) == whole


def test_pages_that_were_read_after_a_first_part_was_saved_are_saved(house: House) -> None:
    sha256 = house.document()
    folder, whole = folder_of(house, sha256), house.library.elements(USER, sha256)
    late = {p: p.read_bytes() for p in folder.glob("batch-00001.*")}
    for path in (*late, folder / "files.json"):
        path.unlink()
    list_files(folder)  # it was cancelled, and what was read was kept
    house.replication.save(USER)
    for path, content in late.items():
        path.write_bytes(content)
    list_files(folder)
    house.replication.save(USER)
    shutil.rmtree(folder)
    assert house.library.elements(USER, sha256) == whole


def test_a_machine_that_is_behind_repairs_with_nothing_of_its_own(tmp_path: Path) -> None:
    remote = LocalRemote(tmp_path / "remote")
    here = House(tmp_path / "here", primary=remote)
    here.source("a" * 64)
    here.replication.save(USER)
    here.close()
    ahead = House(tmp_path / "ahead", primary=remote)
    ahead.replication.adopt(USER)
    for n in (1, 2):
        ahead.put(n)
        ahead.replication.save(USER)
    ahead.close()
    segments = sorted((tmp_path / "remote" / "users" / USER / "segments").iterdir())
    segments[0].write_bytes(b"damaged")
    behind = House(tmp_path / "here", primary=remote)
    left = repair(behind.stores.restore, behind.workspaces, USER)
    assert "stored_file_corrupt" in {d.code for d in left}
    assert all(p.exists() for p in segments)
    behind.close()


def test_a_damaged_manifest_that_was_kept_is_gone_after_a_repair(
    house: House, tmp_path: Path
) -> None:
    for n in (1, 2):
        house.put(n)
        house.replication.save(USER)
    kept = sorted((tmp_path / "remote" / "users" / USER / "manifests").iterdir())[0]
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert repair(house.stores.restore, house.workspaces, USER) == []
    assert not kept.exists()


def test_what_cannot_be_mended_costs_no_older_generation(house: House, tmp_path: Path) -> None:
    sha256 = house.document()
    house.replication.save(USER)
    house.paths.source(USER, sha256).unlink()
    (tmp_path / "remote" / "users" / USER / "sources" / f"{sha256}.pdf").unlink()
    for _ in range(3):
        (left,) = repair(house.stores.restore, house.workspaces, USER)
        assert left.code == "not_in_store"
    assert house.replication.status(USER).saved_generation == 1


def test_a_name_that_is_used_again_has_its_new_bytes(tmp_path: Path) -> None:
    """A bucket does not write over what is there unless it is told to."""

    class Bucket(LocalRemote):
        def commit(self, change: Change) -> None:
            new = {n: c for n, c in change.files.items() if n not in set(self.names("users"))}
            super().commit(change if change.overwrite else replace(change, files=new))

    house = House(tmp_path / "data", primary=Bucket(tmp_path / "remote"))
    sha256 = house.document()
    house.replication.save(USER)
    house.library.delete_source(USER, "papers", sha256)
    house.replication.save(USER)
    house.document()
    write_batch(folder_of(house, sha256) / "batch-00001.jsonl", [], [])  # read otherwise
    house.replication.save(USER)
    assert list(verify.verify(house.replication.primary, USER)) == []
    house.close()
