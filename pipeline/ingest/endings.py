"""How a job ends: saved, told, listed or taken back, and cleaned up. Each may come more than once, and after
the job was put in the queue again: then it takes nothing from the later attempt.
"""

import contextlib
import shutil
import time

from errors import Corrupt, InputError
from pipeline.ingest.place import Json, Place
from pipeline.jobs.notify import unsealed
from storage import elements_folder
from storage.catalog.catalog import FINISHED, SourceRow
from storage.removal import remove_source


def list_source(place: Place, pages: int) -> None:
    """NotFound when its collection was deleted meanwhile."""
    spec, catalog = place.spec, place.tools.catalog
    catalog.find_collection(spec["user"], spec["collection"])
    source = SourceRow(
        collection=spec["collection"],
        sha256=spec["sha256"],
        filename=spec["filename"],
        bytes=spec["bytes"],
        pages=pages,
        version=place.options.version(),
        created_at=time.time(),
    )
    catalog.put_source(spec["user"], source)


def list_elements(place: Place, *, changed: bool = False) -> None:
    """All that was read is there; `changed`: what was saved of it before is not what it is now."""
    spec, restore = place.spec, place.tools.stores.restore
    saved = restore.edition(spec["user"], spec["sha256"], place.options.version())
    elements_folder.list_files(place.elements, saved=saved, changed=changed)


def save(place: Place, outcome: Json) -> Json:
    """One confirmed generation of this user: once it stands, so does the job's outcome."""
    place.tools.catalog.update_job(
        place.spec["job"], summary={"outcome": {**outcome, "at": time.time()}}
    )
    return {"generation": place.tools.stores.committer.save(place.spec["user"])}


def keep(place: Place) -> Json:
    """What a cancelled job had indexed is listed: its source, of which some pages are searchable."""
    spec, tools = place.spec, place.tools
    row = place.row
    with tools.stores.workspaces.open(spec["user"]) as workspace:
        held = workspace.ids(spec["collection"], {"source_id": spec["sha256"]})
    if row.status == "cancelled" and place.is_latest:
        place.password.unlink(missing_ok=True)
    if held and row.status == "cancelled":
        with contextlib.suppress(Corrupt):  # a retry reads it again
            list_elements(place)
        list_source(place, int(row.summary.get("pages", 0)))
        tools.stores.committer.touch(spec["user"])
    return {"records": len(held)}


def undo(place: Place) -> Json:
    """What a cancelled job had read and indexed is removed again, with its files: not what was whole in
    the collection before, nor anything once the job runs again."""
    if place.row.status != "cancelled" or not place.is_latest or _was_complete(place):
        return {}
    return _remove(place)


def discard(place: Place) -> Json:
    """A job that failed or was cancelled is off its owner's list: what it left goes, unless the
    document is in the collection, or the job was put back meanwhile."""
    row = place.row
    if row.status not in FINISHED or not row.summary.get("dismissed") or _listed(place):
        return {}
    return _remove(place)


def _remove(place: Place) -> Json:
    spec, tools = place.spec, place.tools
    user, sha256 = spec["user"], spec["sha256"]
    gone, _ = remove_source(
        tools.paths, tools.catalog, tools.stores.workspaces, user, spec["collection"], sha256
    )
    shutil.rmtree(place.work, ignore_errors=True)
    tools.stores.committer.touch(user)
    return {"records": gone}


def _was_complete(place: Place) -> bool:
    """Whether an earlier attempt, or another job, had the whole document in the collection."""
    spec, catalog = place.spec, place.tools.catalog
    same = {"collection": spec["collection"], "sha256": spec["sha256"]}
    done = catalog.jobs(spec["user"], ("succeeded", "partial"), 1, **same)
    listed = any(s.created_at < spec["came"] for s in _listed(place))
    return listed and bool(done or place.row.summary.get("saved_generation"))


def _listed(place: Place) -> list[SourceRow]:
    spec = place.spec
    return place.tools.catalog.sources(spec["user"], spec["collection"], sha256=spec["sha256"])


def notify(place: Place, result: Json) -> Json:
    """Tell whoever asked. An error that may pass is raised while there are tries left; every other
    end is told in the job's row."""
    address = place.spec.get("notify")
    if not address:
        return {}
    try:
        told = place.tools.notifier.send(
            unsealed(place.tools.settings.secret, address), place.spec, result
        )
    except InputError as problem:
        told = {"state": "failed", "reason": str(problem)}
    place.tools.catalog.update_job(place.spec["job"], summary={"notified": told})
    return told


def clean(place: Place, result: Json) -> Json:
    """The job's own artifacts go once nothing can need them again: no later attempt is at work. Of one
    that failed they stay for a retry, but for its password."""
    if not place.is_latest:
        return {}
    place.password.unlink(missing_ok=True)
    if result["status"] in {"succeeded", "partial"}:
        shutil.rmtree(place.work, ignore_errors=True)
    return {}
