"""What a job does, stage by stage: plain functions over artifacts, each idempotent.

A result is an artifact written once, so that a stage that is repeated after a crash costs nothing and
changes nothing. `answer` gives errors as values: the workflow decides on their `code` and
`permanent`, never on text. Knows nothing of DBOS.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from errors import Corrupt, InputError, NotFound, QuireError, Refused, Unavailable
from pipeline.ingest import checkpoints
from pipeline.ingest.checkpoints import read_batch, read_json, write_batch, write_json
from pipeline.ingest.chunk import Chunk, ChunkOptions, chunk_batch
from pipeline.ingest.embed import Encoder, records
from pipeline.ingest.endings import (
    clean,
    discard,
    keep,
    list_elements,
    list_source,
    notify,
    save,
    undo,
)
from pipeline.ingest.partition import Batch, partition_batch, style_of
from pipeline.ingest.place import Json, Place
from pipeline.models.gpu import Spent
from pipeline.pdf.page import PageRecord
from pipeline.pdf.probe import look
from storage.live.workspace import Space, bytes_of
from storage.removal import crops_in, put_aside, remove_batch
from storage.scarce import known

log = logging.getLogger(__name__)
# Seconds of work for each page of these, whatever is on it.
_EACH = {"ocr_only": 1.0, "hi_res": 2.0, "reference": 2.0}


def probe_source(place: Place) -> Json:
    """What is in the file; written once beside its elements, and told in the job's row."""
    tools, spec = place.tools, place.spec
    tools.stores.committer.touch(spec["user"])  # the job and its original are saved soon
    target, secret = place.elements / checkpoints.PROBE, place.password
    # Before the answer is looked for: another run of this stage takes it away after it has written that.
    password = secret.read_text(encoding="utf-8") if secret.exists() else None
    with contextlib.suppress(NotFound, Corrupt):  # read before, on a disk that is gone or damaged
        tools.stores.restore.elements(spec["user"], spec["sha256"], place.options.version())
    original = tools.stores.restore.original(spec["user"], spec["sha256"])
    told: Json = read_json(target) or {}
    if not told or (told["copy"] and not checkpoints.copy_is_whole(place.elements)):
        place.grow()
        if spec["locked"] and password is None:
            raise InputError(
                "password_lost", "The password is no longer there.", "Submit the file again."
            )
        try:
            found = look(
                place.pool,
                original,
                place.copy,
                password=password,
                max_pages=tools.settings.max_pages,
                cancelled=place.cancelled(),
            )
        except InputError:
            secret.unlink(missing_ok=True)
            raise
        if found.copy:
            _keep_if_room(place, place.copy.unlink)
        if place.options.strategy != "reference":
            style_of(place.pool, place.readable, place.elements, cancelled=place.cancelled())
        if found.copy:
            checkpoints.note_copy(place.elements)
        write_json(target, asdict(found))
        told = read_json(target)
    secret.unlink(missing_ok=True)
    told["seconds"] = max(told["seconds"], told["pages"] * _EACH.get(place.options.strategy, 0.0))
    kept = ("lock", "text_share", "scan_share", "languages", "scripts")
    tools.catalog.update_job(
        spec["job"],
        summary={
            "pages": told["pages"],
            "estimate": told["seconds"],
            "version": place.options.version(),
            "probe": {name: told[name] for name in kept if name in told},
        },
    )
    return told


def _keep_if_room(place: Place, undo: Callable[[], None]) -> None:
    """What was written stays when there is room for it."""
    try:
        place.grow()
    except QuireError:
        undo()
        raise


def read_pages(place: Place, batch: Batch) -> Json:
    """Partition one batch; its page records."""
    tools, spent = place.tools, Spent()
    target = place.elements / f"batch-{batch.index:05d}.jsonl"
    fresh, began = not checkpoints.is_whole(target), time.time() - 1
    if fresh:
        place.grow()
    result = partition_batch(
        place.pool,
        place.readable,
        batch,
        place.options,
        out=place.elements,
        crops=tools.paths.crops(place.spec["user"]),
        detector=place.detector(spent),
        cancelled=place.cancelled(),
    )
    if fresh:
        _keep_if_room(place, lambda: remove_batch(tools.paths, place.spec["user"], target, began))
    return {"pages": [asdict(record) for record in result.pages], **spent.as_dict()}


def reread_pages(place: Place, batch: Batch) -> Json:
    """Pages asked for again, with their own strategy, put in the place of what the batch had. What
    was read before stays where the new reader fails."""
    again = place.spec["again"]
    numbers, asked = range(batch.first, batch.last + 1), set(again["pages"])
    wanted = [p for p in numbers if p in asked]
    if not wanted:
        return read_pages(place, batch)
    target = place.elements / f"batch-{batch.index:05d}.jsonl"
    if len(wanted) < len(numbers):  # the others stay; a cancelled attempt may not have read them
        read_pages(place, batch)
    found = _by_page(target) if checkpoints.is_whole(target) else {}
    told: dict[int, PageRecord] = {}
    options = replace(place.options, strategy=again["strategy"])
    aside = place.work / f"again-{place.spec['attempt']}"
    style = read_json(place.elements / checkpoints.STYLE)
    if style is not None:  # not read by `reference` before
        write_json(aside / checkpoints.STYLE, style)
    spent = Spent()
    for page in wanted:
        result = partition_batch(
            place.pool,
            place.readable,
            Batch(index=page, first=page, last=page),
            options,
            out=aside,
            crops=place.tools.paths.crops(place.spec["user"]),
            detector=place.detector(spent),
            cancelled=place.cancelled(),
        )
        (record,) = result.pages
        if record.error and page in found and not found[page][0].error:
            told[page] = replace(record, reason=f"{record.reason} What it had stays.")
        else:
            found |= _by_page(result.path)
    pages = [found[n][0] for n in numbers]
    write_batch(target, pages, [e for n in numbers for e in found[n][1]])
    return {"pages": [asdict(told.get(r.page, r)) for r in pages], **spent.as_dict()}


def _by_page(checkpoint: Path) -> dict[int, tuple[PageRecord, list[Json]]]:
    pages, elements = read_batch(checkpoint)
    return {
        r.page: (r, [e for e in elements if e["metadata"].get("page_number") == r.page])
        for r in pages
    }


def index_batch(place: Place, batch: Batch) -> Json:
    """Chunk, embed and index one batch; records that are there already keep their vectors."""
    spec = place.spec
    folder = place.chunks
    done = folder / f"ids-{batch.index:05d}.json"
    if (indexed := read_json(done)) is not None:
        return {"records": len(indexed)}
    before = folder / f"carry-{batch.index - 1:05d}.json"
    title = ""
    if batch.index:
        if not before.exists():  # that one failed while this one was in the queue
            raise Unavailable(
                "index_early", "The pages before are not indexed.", "They come first."
            )
        title = (read_json(before) or {}).get("title") or ""  # damaged: the next one is found again
    read_pages(place, batch)  # of another model or version by now: it is read here
    _, elements = read_batch(place.elements / f"batch-{batch.index:05d}.jsonl")
    made, title = chunk_batch(title, elements, ChunkOptions(**spec["chunk"]))
    ids, spent = _index(place, made)
    write_json(folder / f"carry-{batch.index:05d}.json", {"title": title})
    write_json(done, ids)
    return {"records": len(ids), **spent.as_dict()}


def _index(place: Place, made: list[Chunk]) -> tuple[list[str], Spent]:
    tools, spec = place.tools, place.spec
    user, collection = spec["user"], spec["collection"]
    space, encoder = _space(place)
    ids = list(dict.fromkeys(c.record_id(spec["sha256"]) for c in made))
    with tools.stores.workspaces.open(user) as workspace:
        there = workspace.ids(collection)
    spent = Spent()

    def encode(texts: Sequence[str]) -> list[list[float]]:
        return spent.add(tools.borrower.encode(place.ask, texts, encoder))

    fresh = records(
        [c for c in made if c.record_id(spec["sha256"]) not in there],
        encode,
        source_id=spec["sha256"],
        filename=spec["filename"],
    )
    place.raise_if_cancelled()  # vectors may have taken an hour
    tools.catalog.find_collection(user, collection)
    place.grow(bytes_of(fresh))
    with tools.stores.workspaces.open(user) as workspace:
        workspace.upsert(space, fresh)
    tools.catalog.set_model(user, collection, space.model, unless_set=True)
    return ids, spent


def _space(place: Place) -> tuple[Space, Encoder]:
    """The collection and its model; a new one gets the model of this Quire."""
    tools, spec = place.tools, place.spec
    found = tools.catalog.find_collection(spec["user"], spec["collection"])
    with tools.stores.workspaces.open(spec["user"]) as workspace:
        model = workspace.model(found.id) or found.model
    encoder = tools.encoder(model)
    space = Space(
        collection=found.id, title=found.title, model=model or encoder.name,
        dimension=encoder.dimension,
    )  # fmt: skip
    with tools.stores.workspaces.open(spec["user"]) as workspace:
        if workspace.model(found.id) == space.model and not workspace.fits(space):
            raise Refused(
                "model_mismatch",
                f"{space.model} gives {space.dimension} numbers now, the collection has others.",
                "Set the model back, or index the collection again.",
            )
    return space, encoder


def finish_index(place: Place, pages: int, batches: int) -> Json:
    """Records of this source that its chunks no longer make are removed, as far as all of its chunks
    are known; the source is listed."""
    spec, tools = place.spec, place.tools
    list_elements(place, changed=bool(spec["again"].get("pages")))
    told = [ids for p in place.chunks.glob("ids-*.json") if (ids := read_json(p)) is not None]
    current = {i for ids in told for i in ids}
    if len(told) == batches:
        with tools.stores.workspaces.open(spec["user"]) as workspace:
            held = workspace.ids(spec["collection"], {"source_id": spec["sha256"]})
            stale = sorted(held - current)
            if stale:  # of their pictures those go that no other record shows
                shown = crops_in(workspace, spec["collection"], spec["sha256"])
                put_aside(tools.paths, spec["user"], shown)
            workspace.delete(spec["collection"], stale)
    else:
        log.warning(
            "no old records are removed: what was indexed is not known", extra={"job": spec["job"]}
        )
    list_source(place, pages)
    return {"records": len(current)}


STAGES: dict[str, Callable[[Place, Batch, Json], Json]] = {
    "probe": lambda place, _, __: probe_source(place),
    "partition": lambda place, batch, _: read_pages(place, batch),
    "reread": lambda place, batch, _: reread_pages(place, batch),
    "index": lambda place, batch, _: index_batch(place, batch),
    "finish": lambda place, _, value: finish_index(place, **value),
    "save": lambda place, _, value: save(place, value),
    "keep": lambda place, _, __: keep(place),
    "undo": lambda place, _, __: undo(place),
    "discard": lambda place, _, __: discard(place),
    "notify": lambda place, _, value: notify(place, value),
    "clean": lambda place, _, value: clean(place, value),
}


_AFTER_ALL = {"keep", "undo", "discard", "clean"}  # of a job that was cancelled, too


def answer(name: str, place: Place, batch: Json, value: Json) -> Json:
    """A stage's result, or its error as a value."""
    spec = place.spec
    what = {"job": spec["job"], "attempt": spec["attempt"], "stage": name, "batch": batch["index"]}
    log.info("stage started", extra=what)
    began = time.monotonic()
    code = None
    try:
        if name not in _AFTER_ALL:
            place.raise_if_cancelled()
        return STAGES[name](place, Batch(**batch), value)
    except QuireError as problem:
        code = problem.code
        return {"error": {**problem.as_dict(), "permanent": problem.permanent}}
    except Exception as problem:  # a job never hangs on what nobody thought of
        error = _unexpected(problem, place.tools.paths.root)
        code = error["code"]
        log.exception("stage broke", extra={**what, "code": code})
        return {"error": error}
    finally:
        seconds = round(time.monotonic() - began, 3)
        log.info("stage ended", extra={**what, "seconds": seconds, "code": code})


def _unexpected(problem: Exception, root: Path) -> Json:
    advice = "Retry the job; if it stays, report the time and the version."
    found = known(problem, root, advice)
    return {**found.as_dict(), "permanent": found.permanent}
