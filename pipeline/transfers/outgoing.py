"""A collection on its way out: an export to fetch, a push to a dataset of its owner's."""

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from errors import NotFound
from pipeline.ingest.assemble import document_elements
from pipeline.jobs.uploads import Promise
from pipeline.transfers.export import Shelf, elements_of, export
from pipeline.transfers.job import Job, Json
from pipeline.transfers.push_tokens import dataset_name
from storage.catalog.catalog import IMPORTED, SourceRow
from storage.live.chroma import BATCH, Record

_TOKEN_SECONDS = 10.0  # seconds in which the owner's token follows the job


def run_export(job: Job) -> tuple[str, Json]:
    kind, collection = job.spec["format"], job.spec["collection"]
    name = f"{collection}-{kind}.zip"
    made, target = job.work / name, job.tools.paths.export(job.user, name)
    what = "records are written" if kind in {"parquet", "chroma"} else "documents"
    target.unlink(missing_ok=True)  # an older one is no reason to refuse this one
    with job.promised() as promise:
        _written(job, kind, made, promise, what)
        promise.settle()
        target.parent.mkdir(parents=True, exist_ok=True)
        made.replace(target)
    size = target.stat().st_size
    result = {"name": name, "url": f"/exports/{name}", "bytes": size}
    told = f"{size / 1048576:.1f} MB" if size > 100_000 else f"{size / 1024:.0f} kB"
    return f"It is ready: {told}.", result


def _written(job: Job, kind: str, target: Path, promise: Promise, what: str) -> None:
    """The export, which takes no more room than there is."""
    count = job.report(what)

    def report(done: int, total: int) -> None:
        promise.settle()
        count(done, total)

    export(_shelf(job), kind, target, report, promise.more)


def run_push(job: Job) -> tuple[str, Json]:
    """The Parquet export, unpacked, as a dataset of the owner's; written once for what the collection
    holds: nothing goes out that was deleted while the job waited."""
    token = job.tools.lent.take(job.id, _TOKEN_SECONDS)
    folder, name = job.work / _fingerprint(job), dataset_name("", "", str(job.spec["dataset"]))
    if not folder.exists():
        shutil.rmtree(job.work, ignore_errors=True)
        archive, aside = job.work / "push.zip", job.work / "unpacked"
        with job.promised() as promise:
            _written(job, "parquet", archive, promise, "records are written")
            with zipfile.ZipFile(archive) as written:
                promise.settle()
                promise.more(sum(entry.file_size for entry in written.infolist()))
                written.extractall(aside)
            promise.settle()
        archive.unlink()
        aside.replace(folder)
    from storage.remotes.push import push  # the Hub's client: a quarter of a second

    made = push(folder, name, token, job.report("files are sent"))
    result = {"dataset": name, "url": made.url, "commit": made.commit}
    return f"It is in the private dataset {name}.", result


def _fingerprint(job: Job) -> str:
    """A name for what the collection holds now."""
    tools, user = job.tools, job.user
    found = tools.catalog.find_collection(user, job.spec["collection"])
    with tools.stores.workspaces.open(user) as workspace:
        ids = sorted(workspace.ids(found.id))
    sources = [s.sha256 for s in tools.catalog.sources(user, found.id)]
    told = json.dumps([found.title, found.model, sources, ids])
    return f"push-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _shelf(job: Job) -> Shelf:
    tools, user = job.tools, job.user
    found = tools.catalog.find_collection(user, job.spec["collection"])
    with tools.stores.workspaces.open(user) as workspace:
        ids = sorted(workspace.ids(found.id))

    def records() -> Iterator[Sequence[Record]]:
        for start in range(0, len(ids), BATCH):
            with tools.stores.workspaces.open(user) as workspace:
                yield workspace.get(found.id, ids=ids[start : start + BATCH], vectors=True)

    def elements(source: SourceRow) -> list[Json]:
        if source.version == IMPORTED:
            with tools.stores.workspaces.open(user) as workspace:
                return elements_of(workspace.get(found.id, where={"source_id": source.sha256}))
        with contextlib.suppress(NotFound):
            tools.stores.restore.elements(user, source.sha256, source.version)
        folder = tools.paths.elements(user, source.sha256, source.version)
        return document_elements(sorted(folder.glob("batch-*.jsonl")))

    def original(source: SourceRow) -> Path | None:
        try:
            return tools.stores.restore.original(user, source.sha256)
        except NotFound:  # imported: it came without
            return None

    return Shelf(
        collection=found,
        count=len(ids),
        records=records,
        sources=tools.catalog.sources(user, found.id),
        elements=elements,
        original=original,
        crop=partial(tools.stores.restore.crop, user),
    )
