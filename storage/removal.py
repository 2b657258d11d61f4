"""The files of a document that no collection lists any more: what they took is given back.

All goes at once but the crops. These are named by their content, so that several documents and imported
collections share them: what a deleted one named is put aside, and one pass over all documents and records
finds those that nobody names, however many were deleted. Knows nothing of jobs but whether they run.
"""

import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from storage.atomic_write import atomic_write
from storage.catalog.catalog import ACTIVE, Catalog
from storage.files import crops_of
from storage.live.open_stores import Workspaces
from storage.live.workspace import Workspace
from storage.names import CropName, is_one
from storage.paths import Paths

_AT_ONCE = 500


def crops_in(workspace: Workspace, collection: str, source_id: str | None = None) -> set[CropName]:
    """Names of the crops that records of a collection, or of one of its sources, point to."""
    kinds = {"element_type": {"$in": ["Table", "Image"]}}
    where = {"$and": [kinds, {"source_id": source_id}]} if source_id else kinds
    named = (r.metadata.get("image") for r in workspace.get(collection, where=where))
    return {CropName(name) for name in named if is_one(CropName, name)}


def put_aside(paths: Paths, user: str, crops: Iterable[str]) -> None:
    """These crops go with the next `sweep`, unless somebody else names them."""
    told = "\n".join(sorted(crops))
    if told:
        atomic_write(paths.deleted(user) / f"{time.time_ns()}.crops", told.encode("ascii"))


def remove_source(
    paths: Paths, catalog: Catalog, workspaces: Workspaces, user: str, collection: str, sha256: str
) -> tuple[int, int]:
    """A document of a collection goes: how many records it had, and the bytes given back. In this order
    a second call removes what a kill in between left."""
    with workspaces.open(user) as workspace:
        put_aside(paths, user, crops_in(workspace, collection, sha256))
        records = workspace.delete_where(collection, {"source_id": sha256})
    catalog.drop_source(user, collection, sha256)
    return records, remove_files(paths, catalog, user, sha256)


def remove_files(paths: Paths, catalog: Catalog, user: str, sha256: str) -> int:
    """Bytes given back, without its crops, which are put aside; nothing while a collection lists that
    document or a job reads it."""
    if catalog.sources(user, sha256=sha256) or catalog.jobs(user, ACTIVE, 1, sha256=sha256):
        return 0
    elements = paths.user(user) / "elements"
    folders = [p for p in elements.glob(f"{sha256}-*") if p.is_dir()]
    put_aside(paths, user, _listed(folders))
    gone = [
        paths.source(user, sha256),
        *elements.glob(f".{sha256}-*.zip"),  # that a kill left
        *(p for folder in folders for p in folder.glob("*")),
    ]
    freed = 0
    for path in gone:
        if path.is_file():
            freed += path.stat().st_size
            path.unlink()
    for folder in (*folders, paths.page_images(user, sha256)):
        shutil.rmtree(folder, ignore_errors=True)
    return freed


def remove_batch(paths: Paths, user: str, checkpoint: Path, since: float) -> None:
    """A batch that there is no room for, and the crops that were made for it since then (epoch)."""
    listed = checkpoint.with_suffix(".crops")
    for name in crops_of(listed):
        crop = paths.crop(user, name)
        if crop.exists() and crop.stat().st_mtime >= since:
            crop.unlink()
    for path in (checkpoint, listed):
        path.unlink()


def sweep(paths: Paths, workspace: Workspace, user: str) -> None:
    """What was put aside goes, but for what a document or a record still names."""
    asides = list(paths.deleted(user).glob("*.crops"))
    names: set[str] = {name for aside in asides for name in crops_of(aside)}
    if names:
        names -= _listed(p for p in (paths.user(user) / "elements").glob("*") if p.is_dir())
        names -= _pointed_to(workspace, names)
    for name in names:
        paths.crop(user, name).unlink(missing_ok=True)
    for aside in asides:
        aside.unlink()


def _listed(folders: Iterable[Path]) -> set[str]:
    """The crops that these checkpoints name."""
    files = (path for folder in folders for path in folder.glob("*.crops"))
    return {name for path in files for name in crops_of(path)}


def _pointed_to(workspace: Workspace, names: set[str]) -> set[str]:
    """Those of them that a record still points to."""
    ordered = sorted(names)
    return {
        str(record.metadata["image"])
        for start in range(0, len(ordered), _AT_ONCE)
        for collection in workspace.collections()
        for record in workspace.get(
            collection, where={"image": {"$in": ordered[start : start + _AT_ONCE]}}
        )
    }
