"""An archive on its way in: checked by its reader, put into a collection of its own, taken back when that
fails. What the reader says is not believed.
"""

import contextlib
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from errors import Corrupt, NotFound, PageProcessDied, Refused
from pipeline.transfers.import_archive import Taken, take_in
from pipeline.transfers.job import Job, Json
from storage import elements_folder, sealed_text
from storage.catalog.catalog import ACTIVE, IMPORTED, Collection, SourceRow
from storage.files import crops_of, is_named_by_content
from storage.live import parquet_shards
from storage.live.workspace import Space, bytes_of
from storage.names import CropName, is_one, line
from storage.removal import crops_in, put_aside, remove_files

_READING_SECONDS = 900.0
_UNPACKED = 10  # an archive of ours unpacks to less than that many times its bytes
_UNPACKED_LEAST = 16 << 20


def run_import(job: Job) -> tuple[str, Json]:
    tools, user, spec = job.tools, job.user, job.spec
    archive, inside = job.work / "archive.zip", job.work / "taken"
    shutil.rmtree(inside, ignore_errors=True)  # of a run that was killed
    try:
        with job.promised() as promise:
            size = archive.stat().st_size
            promise.need(size, ahead=_UNPACKED * size + _UNPACKED_LEAST)
            reader = tools.reader.of(visitor="address" in spec).within((job.work,), (inside,))
            answer = reader.run(
                take_in,
                archive,
                inside,
                promise.bytes - size,
                seconds=_READING_SECONDS,
                cancelled=job.cancelled,
            )
            promise.settle()
    except PageProcessDied as problem:
        raise Refused(
            "import_too_much",
            "Reading the archive needed too much memory or time.",
            "Export the collection in parts, and import those.",
        ) from problem
    taken = Taken.of(answer, inside)
    encoder = tools.encoder(_named(job, taken.model))
    if (taken.model, taken.dimension) != (encoder.name, encoder.dimension):
        raise Refused(
            "import_model",
            f"The vectors were made with {taken.model} ({taken.dimension} numbers); "
            f"here questions are embedded with {encoder.name} ({encoder.dimension}).",
            "Name that model in QUIRE_EMBEDDING_MODELS, or submit the PDFs again.",
        )
    collection = _collection(job, line(spec["title"], 200) or taken.title or "Imported")
    space = Space(
        collection=collection, title=tools.catalog.find_collection(user, collection).title,
        model=encoder.name, dimension=encoder.dimension,
    )  # fmt: skip
    report, done = job.report("records are in"), 0
    shown: dict[str, set[str]] = {}
    for shard in sorted((inside / "rows").glob("*.parquet")):
        for batch in parquet_shards.read(shard):
            tools.catalog.find_collection(user, collection)  # NotFound: it was deleted meanwhile
            tools.admission.grow(user, bytes_of(batch))
            with tools.stores.workspaces.open(user) as workspace:
                workspace.upsert(space, batch)
            for record in batch:
                shown.setdefault(str(record.metadata["source_id"]), set()).add(
                    str(record.metadata.get("image"))
                )
            done += len(batch)
            report(done, taken.records)
    tools.catalog.find_collection(user, collection)
    tools.catalog.set_model(user, collection, encoder.name)
    for source in taken.sources:
        tools.catalog.put_source(
            user,
            SourceRow(
                collection=collection,
                version=IMPORTED,
                created_at=time.time(),
                **asdict(source),
            ),
        )
    _files(job, taken, inside / "in")
    for source in taken.sources:
        _pictures(job, source.sha256, shown.get(source.sha256, set()))
    generation = tools.stores.committer.save(user)
    result = {"collection": collection, "records": done, "saved_generation": generation}
    return f"{done:,} records are in {space.title}.", result


def _named(job: Job, model: str) -> str | None:
    """What to load, to compare it with what an archive says: only a model that settings name, or that
    a collection of this owner has. An archive's revision is never fetched."""
    offered = job.tools.settings.models
    held = {c.model for c in job.tools.catalog.collections(job.user)}
    if model in offered or model in held:
        return model
    base = model.partition("@")[0]
    return next((m for m in offered if m.partition("@")[0] == base), None)


def _collection(job: Job, title: str) -> str:
    """A new collection, the same one when the job begins again: its id is known before it is made. Its
    title gets a number if need be."""
    catalog = job.tools.catalog
    made = str(job.row.summary.get("made") or f"c-{secrets.token_hex(8)}")
    catalog.update_job(job.id, summary={"made": made})
    catalog.restore_collection(
        job.user, Collection(id=made, title=title, model=None, created_at=time.time())
    )
    return made


def _files(job: Job, taken: Taken, inside: Path) -> None:
    """Pictures and PDFs, whose names are their hashes, to where the user's others are; their reader is
    not believed that they have these."""
    paths, user = job.tools.paths, job.user
    places = {inside / "figures" / name: paths.crop(user, name) for name in taken.figures}
    places |= {inside / "sources" / f"{s}.pdf": paths.source(user, s) for s in taken.files}
    for path, target in places.items():
        if not is_named_by_content(target) and is_named_by_content(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)


def _pictures(job: Job, sha256: str, shown: set[str]) -> None:
    """Those of an imported document are its elements: saved with it, and given back after a wipe. It may
    have been imported before, with others."""
    restore, folder = job.tools.stores.restore, job.tools.paths.elements(job.user, sha256, IMPORTED)
    listed = folder / "batch-00000.crops"
    with contextlib.suppress(NotFound, Corrupt):
        restore.elements(job.user, sha256, IMPORTED)
    before = set(crops_of(listed))
    there = {n for n in shown if is_one(CropName, n) and job.tools.paths.crop(job.user, n).exists()}
    if there - before:
        sealed_text.write(listed, "\n".join(sorted(there | before)))
        saved = restore.edition(job.user, sha256, IMPORTED)
        elements_folder.list_files(folder, saved=saved, changed=bool(before) or saved >= 0)


def remove_import(job: Job, collection: str) -> None:
    """The collection of an import, but for the documents that its owner has added since."""
    tools, user = job.tools, job.user
    sources = tools.catalog.sources(user, collection)
    added = {s.sha256 for s in sources if s.version != IMPORTED}
    most = tools.settings.max_jobs
    coming = tools.catalog.jobs(user, ACTIVE, most, collection=collection)
    added |= {j.sha256 for j in coming if j.sha256}
    with tools.stores.workspaces.open(user) as workspace:
        put_aside(tools.paths, user, crops_in(workspace, collection))
        if added:
            workspace.delete_where(collection, {"source_id": {"$nin": sorted(added)}})
        else:
            workspace.drop(collection)
    gone = [s.sha256 for s in sources if s.sha256 not in added]
    if added:
        for sha256 in gone:
            tools.catalog.drop_source(user, collection, sha256)
    else:
        tools.catalog.drop_collection(user, collection)
    for sha256 in gone:
        remove_files(tools.paths, tools.catalog, user, sha256)
    tools.stores.committer.touch(user)
