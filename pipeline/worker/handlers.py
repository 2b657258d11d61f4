"""What the worker does for the page besides jobs: search, collections, sources, pages, export.

Each public method is one call of `rpc.py`; the first argument is always the caller's user key.
Runs in the worker process. Knows nothing of HTTP, Gradio or DBOS.
"""

import contextlib
import hashlib
import hmac
import inspect
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from errors import Conflict, InputError, NotFound, QuireError
from pipeline import search
from pipeline.ingest import checkpoints
from pipeline.ingest.assemble import document_elements
from pipeline.ingest.checkpoints import read_head
from pipeline.ingest.embed import Encoder
from pipeline.jobs import notify
from pipeline.jobs.uploads import Admission
from pipeline.options import PartitionOptions
from pipeline.pdf import markdown, pdfium
from pipeline.processes.pool import Pools
from pipeline.processes.sandbox import Confined
from pipeline.search import Query
from pipeline.transfers.push_tokens import Lent
from settings import Settings
from storage import sealed_text
from storage.atomic_write import atomic_write
from storage.catalog import sqlite_file
from storage.catalog.catalog import FINISHED, Catalog, JobRow, SourceRow
from storage.live.workspace import Workspace
from storage.names import CropName, UserKey, is_one, number, text
from storage.paths import Paths
from storage.removal import crops_in, put_aside, remove_files, remove_source
from storage.stores import Stores

Json = dict[str, Any]
_RECEIPT = re.compile(r"([0-9]{1,18})-([0-9]{1,18})-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    settings: Settings
    paths: Paths
    catalog: Catalog
    stores: Stores
    viewer: Pools
    confined: Callable[[], Confined]
    encoder: Callable[[str | None], Encoder]
    loaded: Callable[[], Encoder | QuireError | None]
    lent: Lent
    admission: Admission

    def search(
        self,
        user: str,
        query: Any,
        collection: str = "default",
        top_k: Any = 10,
        mode: Any = "hybrid",
        where: Any = None,
        group: Any = "page",
        offset: Any = 0,
    ) -> list[Json]:
        asked = search.checked(
            query,
            collection=collection,
            top_k=top_k,
            mode=mode,
            where=where,
            group=group,
            offset=offset,
        )
        found = self.catalog.held_collection(user, collection)
        if found is None:
            return []
        asked = replace(asked, collection=found.id)
        if asked.filenames:
            named = {
                s.sha256
                for s in self.catalog.sources(user, found.id)
                if s.filename in asked.filenames
            }
            named &= set(asked.where.sources) or named
            if not named:
                return []
            asked = replace(asked, where=replace(asked.where, sources=tuple(sorted(named))))
        with self.stores.workspaces.open(user) as workspace:
            try:
                return self._hits(workspace, asked)
            except Conflict:  # it changed its model between question and answer
                return self._hits(workspace, asked)

    def collections(self, user: str) -> list[Json]:
        with self.stores.workspaces.open(user) as workspace:
            return [{**c, "records": workspace.count(c["id"])} for c in self.catalog.shelf(user)]

    def settle(self, user: str) -> None:
        """The rows of that user hold what the stores do; whoever calls anything has that first."""

    def create_collection(self, user: str, title: str) -> Json:
        return self._shown(user, self.catalog.create_collection(user, title).id)

    def rename_collection(self, user: str, collection: str, title: str) -> Json:
        found = self.catalog.find_collection(user, collection)
        self.catalog.rename_collection(user, found.id, title)
        return self._shown(user, found.id)

    def delete_collection(self, user: str, collection: str) -> Json:
        found = self.catalog.find_collection(user, collection)
        sources = self.catalog.sources(user, found.id)
        with self.stores.workspaces.open(user) as workspace:
            put_aside(self.paths, user, crops_in(workspace, found.id))
            records = workspace.drop(found.id)
        self.catalog.drop_collection(user, found.id)
        freed = sum(remove_files(self.paths, self.catalog, user, s.sha256) for s in sources)
        return {
            "collection": found.id,
            "title": found.title,
            "sources": len(sources),
            "records": records,
            "bytes": freed,
            **self._receipt(user),
        }

    def receipt(self, user: str, receipt: str) -> Json:
        """What became of a deletion since."""
        change, at = _read_receipt(self.settings.secret, user, receipt)
        mark, base = self.catalog.mark(user), self.stores.replication.base(user)
        known = mark.changes >= change  # else the rows were restored from what was saved
        saved = mark.saved >= change if known else bool(base and base.created_at > at)
        erased = saved and not self.stores.committer.erases(user)
        return {
            "receipt": receipt,
            "deleted_at": at,
            "saved": saved,
            "saved_generation": mark.generation if saved else None,
            "erased": erased,
            "gone": [asdict(g) for g in self.stores.committer.gone_by(at)],
        }

    def _receipt(self, user: str) -> Json:
        """Of what was deleted just now: it lies in the journal, and is in the next save."""
        self.stores.committer.touch(user)
        change = self.catalog.mark(user).changes
        at = int(1000 * time.time())
        return self.receipt(user, receipt_text(self.settings.secret, user, change, at))

    def sources(self, user: str, collection: str = "default") -> list[Json]:
        found = self.catalog.held_collection(user, collection)
        if found is None:
            return []
        cut = self.catalog.cancelled(user, found.id)
        return [
            {**s.shown(), "partial": s.sha256 in cut} for s in self.catalog.sources(user, found.id)
        ]

    def delete_source(self, user: str, collection: str, source_id: str) -> Json:
        found = self.catalog.find_collection(user, collection)
        source = self._source(user, source_id, found.id)
        records, freed = remove_source(
            self.paths, self.catalog, self.stores.workspaces, user, found.id, source_id
        )
        return {
            "source_id": source_id,
            "filename": source.filename,
            "records": records,
            "bytes": freed,
            **self._receipt(user),
        }

    def page_image(
        self, user: str, source_id: str, page: int, width: int = 800, *, visitor: bool = False
    ) -> str:
        """The path of a WebP; rendered once per width."""
        source = self._source(user, source_id)
        if not 1 <= page <= source.pages:
            raise NotFound("page_not_found", "There is no such page.", f"1 to {source.pages}.")
        target = self.paths.page_image(user, source_id, page, width)
        if not target.exists():
            pdf = self._readable(user, source)
            viewer = self.viewer.of(visitor=visitor).within(*self.paths.for_pages(user))
            picture = viewer.run(pdfium.page_image, pdf, page, width, seconds=30)
            self.admission.picture(user, len(picture))
            atomic_write(target, picture)
        return str(target)

    def crop(self, user: str, name: str) -> str:
        """The path of a figure's or table's picture."""
        path = self.stores.restore.crop(user, name)
        if path is None:
            raise NotFound("figure_not_found", "There is no such figure.", "Search again.")
        return str(path)

    def elements(self, user: str, source_id: str, page: int | None = None) -> list[Json]:
        """Unstructured's element dicts of a source, or of one of its pages."""
        batches = self._batches(user, self._source(user, source_id))
        if page is not None:  # a page is read whole in one batch
            batches = [b for b in batches if any(r["page"] == page for r in read_head(b))]
        found = document_elements(batches)
        return [e for e in found if page is None or e["metadata"].get("page_number") == page]

    def markdown(self, user: str, source_id: str, page: int) -> str:
        """One of its pages as Markdown; pictures by their name only."""
        found = self.elements(user, source_id, page)
        return markdown.document(found, lambda n: str(n) if is_one(CropName, n) else None)

    def pages(self, user: str, source_id: str) -> list[Json]:
        """How each page of a source was read so far."""
        batches = self._batches(user, self._source(user, source_id))
        return [record for path in batches for record in read_head(path)]

    def gallery(self, user: str, collection: str = "default", limit: int = 60) -> list[Json]:
        """Tables and figures as hits without a rank; one in several records is there once."""
        found = self.catalog.held_collection(user, collection)
        if found is None:
            return []
        with self.stores.workspaces.open(user) as workspace:
            held = workspace.get(found.id, where={"element_type": {"$in": ["Table", "Image"]}})
        hits = [search.hit(r, 0.0, {}) for r in held]
        hits.sort(key=lambda h: (h["filename"] or "", h["page"] or 0))
        pictured = {h["image_url"]: h for h in reversed(hits) if h["image_url"]}
        return list(reversed(pictured.values()))[: min(number(limit, 1 << 31, 1), 500)]

    def lend(self, user: str, job: str, token: str) -> None:
        """The owner's Hub token, for that push only."""
        if self.catalog.job(user, job).status not in FINISHED:
            self.lent.lend(job, token)

    def send_code(self, user: str, address: str, code: str) -> None:
        """By the operator's mail server; who may is asked by the app (`web/addresses.py`)."""
        del user
        notify.send_code(self.settings, address, code)

    def status(self, user: str) -> Json:
        found = self.loaded()
        problem = found.as_dict() if isinstance(found, QuireError) else None
        encoder = None if isinstance(found, QuireError) else found
        return {
            "remotes": {
                **asdict(self.stores.replication.status(user)),
                "restoring": self.stores.workspaces.restoring(user),
            },
            "set_aside": sqlite_file.damaged(self.paths.root),
            "model": self.settings.embedding_model,
            "model_error": problem,
            "device": encoder.device if encoder else "none" if problem else "loading",
            "gpu": encoder.device if encoder and encoder.device != "cpu" else None,
            "sandbox": self.confined()._asdict(),
        }

    # Inside

    def _hits(self, workspace: Workspace, asked: Query) -> list[Json]:
        """By the collection's own model."""
        model = workspace.model(asked.collection)

        def encode(text: str) -> list[float]:
            return self.encoder(model).encode_query(text)

        return search.search(workspace, asked, encode, model)

    def _shown(self, user: str, collection: str) -> Json:
        return next(c for c in self.collections(user) if c["id"] == collection)

    def _source(self, user: str, source_id: str, collection: str | None = None) -> SourceRow:
        """A source; also one whose pages are still being read, unless a collection is named."""
        for source in self.catalog.sources(user, collection, sha256=source_id):
            return source
        jobs = self.catalog.jobs(user, None, 1, sha256=source_id) if source_id else []
        if collection is None and jobs and jobs[0].summary.get("pages"):
            return _being_read(jobs[0], self.settings)
        raise NotFound("source_not_found", "There is no such source.", "See /sources.")

    def _elements(self, user: str, source: SourceRow) -> Path:
        """The folder of its elements; after a wipe they come from the store."""
        with contextlib.suppress(NotFound):  # a job that was never saved has none yet
            self.stores.restore.elements(user, source.sha256, source.version)
        return self.paths.elements(user, source.sha256, source.version)

    def _batches(self, user: str, source: SourceRow) -> list[Path]:
        return sorted(self._elements(user, source).glob("batch-*.jsonl"))

    def _readable(self, user: str, source: SourceRow) -> Any:
        folder = self.paths.elements(user, source.sha256, source.version)
        copy = folder / checkpoints.COPY
        if not copy.exists():
            return self.stores.restore.original(user, source.sha256)
        if not checkpoints.copy_is_whole(folder):
            raise sealed_text.damaged(copy)
        return copy


def receipt_text(secret: bytes, user: str, change: int, at: int) -> str:
    """The number of the change, when it was made in Unix milliseconds, and a proof that this user was
    given both."""
    said = f"receipt {user} {change}-{at}".encode()
    return f"{change}-{at}-{hmac.new(secret, said, hashlib.sha256).hexdigest()[:32]}"


def _read_receipt(secret: bytes, user: str, text: str) -> tuple[int, float]:
    """The number of the change, and when it was made in Unix seconds; NotFound unless that user was
    given it."""
    found = _RECEIPT.fullmatch(text)
    if found:
        change, at = int(found[1]), int(found[2])
        if hmac.compare_digest(text, receipt_text(secret, user, change, at)):
            return change, at / 1000
    raise NotFound("receipt_not_found", "There is no such receipt.", "Use one from a deletion.")


def _being_read(job: JobRow, settings: Settings) -> SourceRow:
    options = PartitionOptions.of(job.spec, settings.layout_model, settings.table_model)
    return SourceRow(
        collection=job.collection,
        sha256=job.sha256,
        filename=job.filename,
        bytes=job.spec["bytes"],
        pages=job.summary["pages"],
        version=options.version(),
        created_at=job.created_at,
    )


CALLS = {
    name: {n: p.annotation for n, p in inspect.signature(call).parameters.items()}
    for name, call in vars(Library).items()
    if not name.startswith("_") and callable(call)
}


def dispatch(library: Library, body: bytes) -> Any:
    """A call of `rpc.py`, checked against the names above; each argument is of its parameter's type."""
    request = json.loads(body)
    types = CALLS.get(request["call"])
    if types is None:
        raise InputError("call_unknown", "There is no such call.", "Update the app.")
    user = UserKey(request["user"])
    call = getattr(library, request["call"])
    arguments = {n: _argument(types.get(n), v) for n, v in request["arguments"].items()}
    if request["call"] != "status":  # which tells, also when the remotes are away
        library.stores.replication.adopt(user)
    return call(user, **arguments)


def _argument(kind: Any, given: Any) -> Any:
    """Values from outside: text that can be stored, numbers that fit."""
    if given is None and kind in {str | None, int | None}:
        return None
    if kind in {str, str | None}:
        return text(given)
    if kind in {int, int | None}:
        return number(given, (1 << 31) - 1)
    return given
