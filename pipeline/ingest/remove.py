"""The files of a document that no collection lists any more: what they took is given back.

Crops are named by their content, so that several documents and imported collections share them; those
that another one names stay. Knows nothing of jobs.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from storage.catalog.catalog import ACTIVE, Catalog
from storage.files import crops_of
from storage.live.workspace import Workspace
from storage.paths import Paths

_AT_ONCE = 500


def pictures(workspace: Workspace, collection: str, source_id: str | None = None) -> set[str]:
    """Names of the crops that records of a collection, or of one of its sources, point to."""
    kinds = {"element_type": {"$in": ["Table", "Image"]}}
    where = {"$and": [kinds, {"source_id": source_id}]} if source_id else kinds
    held = workspace.get(collection, where=where)
    return {str(r.metadata["image"]) for r in held if r.metadata.get("image")}


def remove_files(
    paths: Paths,
    catalog: Catalog,
    workspace: Workspace,
    user: str,
    sha256: str,
    crops: Iterable[str] = (),
) -> int:
    """Bytes given back; nothing while a collection lists that document or a job reads it. `crops` are
    those that its records pointed to."""
    if any(s.sha256 == sha256 for s in catalog.sources(user)):
        return 0
    if catalog.jobs(user, ACTIVE, 1, sha256=sha256):
        return 0
    elements = paths.user(user) / "elements"
    folders = [p for p in elements.glob(f"{sha256}-*") if p.is_dir()]
    names = {*crops, *_listed(folders)}
    names -= _listed(p for p in elements.glob("*") if p.is_dir() and p not in folders)
    names -= _pointed_to(workspace, names)
    crops_here = paths.crops(user)
    names &= {p.name for p in crops_here.iterdir()} if crops_here.is_dir() else set()
    gone = [
        paths.source(user, sha256),
        *(p for p in elements.glob(f"{sha256}-*.zip")),
        *(p for folder in folders for p in folder.glob("*")),
        *(crops_here / name for name in names),
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
