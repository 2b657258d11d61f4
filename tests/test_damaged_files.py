"""Whatever a disk or a store damages or loses of a document: whoever needs it has it from where it is whole,
or is told. Files are drawn at random, and what happens to each."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import Corrupt, NotFound
from storage.catalog.catalog import JobRow
from storage.generations import verify
from storage.generations.repair import repair
from storage.generations.saved_jobs import is_listed
from storage.remotes.local import LocalRemote
from tests.house import USER, House

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "cut": lambda held: held[:-1],
    "flipped": lambda held: bytes([held[0] ^ 1]) + held[1:] if held else b"x",
    "a flipped end": lambda held: held[:-1] + bytes([held[-1] ^ 1]) if held else b"x",
    "other bytes": lambda _: b"other bytes",
}
HARM = st.tuples(st.integers(0, 1 << 20), st.sampled_from(sorted(DAMAGES)))
some = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
