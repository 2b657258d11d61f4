"""One flipped bit in each kind of stored object: `python -m bench.store_flips [--flips 100]`.

For every flip: `verify` tells it, a reader who has this remote alone gets an error and no file, and
a reader with a sound mirror gets the right bytes. For some of them, spread over the object, a
machine that has nothing restores the user: from this remote alone it has every record or an error
with a code, with the mirror every record. Remotes are directories; what is read is hashed above them.
"""

import argparse
import contextlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.records import difference, made, scratch
from errors import Corrupt, QuireError
from storage.generations import manifest as manifests
from storage.generations import reader, verify
from storage.generations.compose import elements_path
from storage.generations.manifest import File
from storage.remotes.local import LocalRemote
from tests.house import USER, House

RECORDS = 1_200  # above the thousand at which Chroma writes its index
SHA, VERSION = "5" * 64, "v1"
CROP = b"a picture of a table, "
PICTURE = f"{'c' * 64}.webp"
CHROMA = ("chroma.sqlite3", "header.bin", "data_level0.bin", "length.bin", "link_lists.bin",
          "index_metadata.pickle")  # fmt: skip


@dataclass(slots=True)
class Result:
    """Of `flips` of one kind, those that `verify` told."""

    flips: int = 0
    detected: int = 0
    restores: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kind:
    """One stored object: its path in the user's folder, and which of its bytes are meant."""

    path: str
    first: int
    size: int


class World:
    """A user with everything that a remote can hold, in a primary and an equal mirror."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.primary = LocalRemote(root / "primary")
        self.mirror = LocalRemote(root / "mirror", "mirror")
        house = House(root / "data", primary=self.primary, mirror=self.mirror)
        records = made([f"id{n}" for n in range(RECORDS)], np.random.default_rng(1), dimension=3)
        self.records = {r.id: r for r in records}
        with house.workspaces.open(USER) as workspace:
            workspace.upsert(house.space(), records[: RECORDS - 20])
        self.collection = house.space().collection
        self._source(house)
        house.replication.save(USER)
        house.publish()
        with house.workspaces.open(USER) as workspace:
            workspace.upsert(house.space(), records[RECORDS - 20 :])
        house.replication.save(USER)
        house.close()
        found = reader.read(self.primary, USER)
        assert found
        self.found = found

    def _source(self, house: House) -> None:
        pdf, folder = house.paths.source(USER, SHA), house.paths.elements(USER, SHA, VERSION)
        for made_folder in (pdf.parent, folder, house.paths.crops(USER)):
            made_folder.mkdir(parents=True)
        pdf.write_bytes(random.Random(2).randbytes(100_000))
        (folder / "batch-00000.jsonl").write_text('{"pages": []}\n' * 500, encoding="ascii")
        (folder / "batch-00000.crops").write_text(PICTURE, encoding="ascii")
        house.paths.crop(USER, PICTURE).write_bytes(CROP * 500)
        house.source(SHA)

    def kinds(self) -> dict[str, Kind]:
        elements = self.whole(elements_path(SHA, VERSION))
        crop = elements.index(CROP * 500)
        paths = {
            "manifest": "manifest.json",
            "older manifest": self.found.manifest.kept[-1].path,
            "segment": self.found.manifest.segments[0].path,
            "source": f"sources/{SHA}.pdf",
            "elements": elements_path(SHA, VERSION),
        }
        published = self.found.manifest.published
        assert published
        for name in CHROMA:
            paths[name] = next(f.path for f in published.files if f.path.endswith(name))
        kinds = {k: Kind(p, 0, len(self.whole(p))) for k, p in paths.items()}
        return kinds | {"crop": Kind(paths["elements"], crop, len(CROP) * 500)}

    def whole(self, path: str) -> bytes:
        return (self.mirror.root / "users" / USER / path).read_bytes()

    @contextlib.contextmanager
    def flipped(self, kind: Kind, at: int, bit: int) -> Iterator[None]:
        content = bytearray(self.whole(kind.path))
        content[kind.first + at] ^= 1 << bit
        path = self.primary.root / "users" / USER / kind.path
        path.write_bytes(content)
        try:
            yield
        finally:
            path.write_bytes(self.whole(kind.path))

    def file(self, path: str) -> File | None:
        """None: the manifest itself."""
        named = (*self.found.manifest.needs(), *self.found.manifest.kept)
        return next((f for f in named if f.path == path), None)


def look(world: World, kind: Kind, result: Result) -> None:
    """Somebody verifies, and somebody reads."""
    result.flips += 1
    result.detected += any(d.path == kind.path for d in verify.verify(world.primary, USER))
    file, to = world.file(kind.path), world.root / "read"
    right = world.whole(kind.path)
    try:
        if file is None:
            raw = reader.read_raw(world.primary, USER) or b""
            if manifests.load(raw, user=USER) != world.found.manifest:
                result.violations.append("another manifest was read")
        else:
            reader.fetch([world.primary], USER, file, to)
            result.violations.append("wrong bytes were served")
    except Corrupt:
        if to.exists():
            result.violations.append("a refused file was left")
    if file is not None:
        reader.fetch([world.primary, world.mirror], USER, file, to)
        if to.read_bytes() != right:
            result.violations.append("the mirror's bytes were not served")
    to.unlink(missing_ok=True)


def restore(world: World, kind: Kind, result: Result) -> None:
    """A machine that has nothing, with this remote alone and then with the mirror."""
    for mirror in (None, world.mirror):
        result.restores += 1
        house = House(world.root / "fresh", primary=world.primary, mirror=mirror)
        try:
            with house.workspaces.open(USER) as workspace:
                if why := difference(workspace, world.collection, world.records):
                    result.violations.append(f"restored: {why}")
            if mirror and kind.path.startswith(("sources", "elements")):
                house.stores.restore.original(USER, SHA)
                house.stores.restore.elements(USER, SHA, VERSION)
                if house.paths.crop(USER, PICTURE).read_bytes() != CROP * 500:
                    result.violations.append("another picture was restored")
        except QuireError as problem:
            if mirror or kind.path.startswith("chroma"):  # the segments are sound
                result.violations.append(f"not restored: {problem.code}")
        finally:
            house.close()
            shutil.rmtree(house.paths.root)


def campaign(
    flips: int,
    restores: int,
    *,
    seed: int = 1,
    tell: Callable[[str, Result], None] = lambda *_: None,
) -> dict[str, Result]:
    """By kind; `tell` is given each one when it is done."""
    rng, results = random.Random(seed), {}
    with scratch("flips") as root:
        world = World(Path(root))
        for name, kind in world.kinds().items():
            results[name] = result = Result()
            for n in range(flips):
                at = (n * kind.size + rng.randrange(kind.size)) // flips
                with world.flipped(kind, at, rng.randrange(8)):
                    look(world, kind, result)
                    if restores and n % -(-flips // restores) == 0:
                        restore(world, kind, result)
            tell(name, result)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--restores", type=int, default=3)
    asked = parser.parse_args()
    print(f"{'kind':24s} flips  detected  restores  violations", flush=True)

    def tell(name: str, found: Result) -> None:
        print(
            f"{name:24s} {found.flips:5d} {found.detected:9d} {found.restores:9d}"
            f" {len(found.violations):11d}",
            flush=True,
        )
        for text in sorted(set(found.violations)):
            print(f"  {text}")

    found = campaign(asked.flips, asked.restores, tell=tell)
    return int(any(r.violations or r.detected < r.flips for r in found.values()))


if __name__ == "__main__":
    sys.exit(main())
