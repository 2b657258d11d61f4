"""The named endpoints: `gradio_client`, HTTP and MCP call these, and so does the page.

Each finds the caller, checks, makes one call inward and shapes the reply. Errors reach the client
with a stable code as their title.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import api as gradio_api

from errors import InputError, QuireError, Unavailable
from pipeline.chunk import ChunkOptions
from pipeline.jobs import Jobs, Request
from pipeline.link import Link
from pipeline.notify import checked as notify_address
from pipeline.partition import PartitionOptions
from settings import Settings
from web.guard import uploaded
from web.identity import Identity
from web.watch import Hub

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What the web side works with; made once by `app.py`."""

    settings: Settings
    identity: Identity
    jobs: Jobs
    link: Link
    hub: Hub
    saw: Callable[[str, Any], None] = lambda _user, _request: None  # the GPU broker's, where one is


def shown(problem: QuireError) -> gr.Error:
    return gr.Error(str(problem), title=problem.code, print_exception=False, duration=8)


def coded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Our errors as what Gradio shows; the signature stays, Gradio reads it."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for item in function(*args, **kwargs):
                    yield item
            except QuireError as problem:
                raise shown(problem) from problem

        return stream

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except QuireError as problem:
            raise shown(problem) from problem

    return call


def submit_files(app: App, user: str, files: list[Any], options: dict[str, Any]) -> list[Any]:
    """One job per file, in order; a refused file is a failed job and harms no other."""
    if not isinstance(files, list) or not files:
        raise InputError("no_files", "There is no file.", "Give at least one PDF.")
    if len(files) > 500:
        raise InputError("too_many_files", "There are too many files.", "Use 500 at most.")
    languages = options.get("languages") or ()
    if isinstance(languages, str):
        languages = languages.replace(",", " ").split()
    address = notify_address(options.get("notify"))
    made = []
    for file in files:
        path, name = uploaded(file)
        request = Request(
            path=path,
            filename=name,
            collection=options.get("collection") or "default",
            partition=PartitionOptions(
                strategy=options.get("strategy") or "auto", languages=tuple(languages)
            ),
            chunk=ChunkOptions(**(options.get("chunk") or {})),
            notify=address,
            password=options.get("password") or None,
        )
        made.append(app.jobs.submit(user, request))
    return made


def register(app: App) -> None:
    """Declare every endpoint inside the current Blocks."""

    def key(request: gr.Request) -> str:
        user = app.identity.of(request).key
        app.saw(user, request)
        return user

    def submit(
        files: list[gr.FileData],
        request: gr.Request,
        collection: str = "default",
        strategy: str = "auto",
        languages: list[str] | None = None,
        notify: str | None = None,
        password: str | None = None,
    ) -> list[dict]:  # type: ignore[type-arg]
        """Put PDFs into a collection. Returns one job per file at once; follow it with /watch.

        Args:
            files: PDF files, uploaded.
            collection: name or id; made when it is not there.
            strategy: auto, fast, ocr_only, hi_res or reference.
            languages: languages of scanned pages, as ISO codes.
            notify: a mail address or https URL that is told when the job is done.
            password: opens encrypted files; kept only until the file is read.
        """
        options = {
            "collection": collection,
            "strategy": strategy,
            "languages": languages,
            "notify": notify,
            "password": password,
        }
        return submit_files(app, key(request), files, options)

    async def watch(job_id: str, request: gr.Request, after: int = 0) -> AsyncIterator[dict]:  # type: ignore[type-arg]
        """Follow a job: every event after number `after`, then those to come. The last one has
        the final status. Come back at any time with the last `seq` you saw.

        Args:
            job_id: from /submit or /jobs.
            after: the last event number already seen.
        """
        async for event in app.jobs.watch(key(request), job_id, int(after or 0)):
            yield event

    def job(job_id: str, request: gr.Request) -> dict:  # type: ignore[type-arg]
        """One job: status, stages with done and total, position, error with code and advice."""
        return app.jobs.job(key(request), job_id)

    def jobs(request: gr.Request, status: str | None = None, limit: int = 50) -> list[dict]:  # type: ignore[type-arg]
        """Your jobs, newest first; `status` filters by queued, running, waiting, succeeded,
        partial, failed or cancelled."""
        return app.jobs.list_jobs(key(request), status, int(limit))

    def cancel(job_id: str, request: gr.Request) -> dict:  # type: ignore[type-arg]
        """Stop a job. What it has indexed stays; /retry goes on from there."""
        return app.jobs.cancel(key(request), job_id)

    def retry(
        job_id: str,
        request: gr.Request,
        pages: list[int] | None = None,
        strategy: str | None = None,
    ) -> dict:  # type: ignore[type-arg]
        """Run a finished job again, from where it stopped; or only some pages with another
        strategy, whose records are then replaced."""
        return app.jobs.retry(key(request), job_id, pages, strategy)

    def collections(request: gr.Request) -> list[dict]:  # type: ignore[type-arg]
        """Your collections with their counts, size and model."""
        return list(app.link.call("collections", key(request)))

    def create_collection(title: str, request: gr.Request) -> dict:  # type: ignore[type-arg]
        """Make a collection, or return the one of that name."""
        return dict(app.link.call("create_collection", key(request), title=title))

    def delete_collection(collection: str, request: gr.Request) -> dict:  # type: ignore[type-arg]
        """Delete a collection, its sources and records. Returns a receipt of what is gone."""
        return dict(app.link.call("delete_collection", key(request), collection=collection))

    def sources(request: gr.Request, collection: str = "default") -> list[dict]:  # type: ignore[type-arg]
        """The PDFs of a collection."""
        return list(app.link.call("sources", key(request), collection=collection))

    def delete_source(source_id: str, request: gr.Request, collection: str = "default") -> dict:  # type: ignore[type-arg]
        """Delete one PDF and its records from a collection. Returns a receipt."""
        return dict(
            app.link.call("delete_source", key(request), collection=collection, source_id=source_id)
        )

    def search(
        query: str,
        request: gr.Request,
        collection: str = "default",
        top_k: int = 10,
        mode: str = "hybrid",
        where: dict | None = None,  # type: ignore[type-arg]
    ) -> list[dict]:  # type: ignore[type-arg]
        """Search a collection. Each hit has its text, score, page, box and, for tables and
        figures, the HTML or the image.

        Args:
            query: a question or words.
            collection: name or id.
            top_k: how many hits, 1 to 100.
            mode: hybrid, dense or keyword.
            where: {"source_id": id, "pages": [first, last], "element_type": "Table"}.
        """
        return list(
            app.link.call(
                "search",
                key(request),
                query=query,
                collection=collection,
                top_k=top_k,
                mode=mode,
                where=where,
            )
        )

    def export(collection: str, request: gr.Request, format: str = "parquet") -> dict:  # type: ignore[type-arg]
        """A collection as a zip to take away: parquet, chroma, json or markdown. Returns the URL
        path from which its owner downloads it."""
        path = str(app.link.call("export", key(request), collection=collection, format=format))
        name = path.rsplit("/", 1)[-1]
        return {"name": name, "url": f"/exports/{name}"}

    def status(request: gr.Request) -> dict:  # type: ignore[type-arg]
        """Versions, queue, remotes and their lag, device."""
        return status_of(app, key(request))

    for endpoint in (
        submit, job, jobs, cancel, retry, collections, create_collection, delete_collection,
        sources, delete_source, search, export, status,
    ):  # fmt: skip
        gradio_api(coded(endpoint), api_name=endpoint.__name__, concurrency_limit=16)
    gradio_api(coded(watch), api_name="watch", concurrency_limit=None)


def status_of(app: App, user: str) -> dict[str, Any]:
    """Also when the worker is away: then it says so."""
    active = app.jobs.list_jobs(user, None, 200)
    counts: dict[str, int] = {}
    for one in active:
        counts[one["status"]] = counts.get(one["status"], 0) + 1
    found: dict[str, Any] = {"version": VERSION, "gradio": gr.__version__, "jobs": counts}
    try:
        found |= {"worker": "ready", **app.link.call("status", user)}
    except Unavailable as problem:
        found["worker"] = problem.message
    return found
