"""The named endpoints: `gradio_client`, HTTP and MCP call these, and so does the page.

Each finds the caller, checks, makes one call inward and shapes the reply. Errors reach the client
with a stable code as their title.
"""

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gradio as gr
from gradio.events import api as gradio_api
from starlette.concurrency import run_in_threadpool

from errors import InputError, NotFound, QuireError, Refused, Unavailable
from pipeline.ingest.chunk import ChunkOptions
from pipeline.jobs.health import Health
from pipeline.jobs.notify import checked as notify_address
from pipeline.jobs.service import EXPORTS, Jobs, Request
from pipeline.models import gpu as borrow
from pipeline.options import PartitionOptions
from pipeline.processes.rpc import Link
from pipeline.transfers.push_tokens import dataset_name
from settings import Settings
from storage.catalog.catalog import ACTIVE, FINISHED
from web.arguments import Arguments, Calls
from web.identity import Caller, Identity
from web.job_feed import Hub
from web.rate_limit import AtOnce, Turns
from web.uploads import uploaded

VERSION = "0.1.0"
Told = TypeVar("Told")


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What the web side works with; made once by `app.py`."""

    settings: Settings
    identity: Identity
    jobs: Jobs
    link: Link
    hub: Hub
    health: Health
    saw: Callable[[str, Any], None] = lambda _user, _request: None  # the GPU broker's, where one is
    turns: Turns = field(  # of whatever takes a thread
        default_factory=lambda: Turns(each=2, visitors=2, person=16, most=100, crowd=160)
    )
    drawing: Turns = field(
        default_factory=lambda: Turns(each=1, visitors=2, person=8, most=100, crowd=160)
    )
    waiting: AtOnce = field(  # for a job
        default_factory=lambda: AtOnce(each=24, visitors=80, person=100)
    )

    def caller(self, request: Any, token: str | None = None) -> Caller:
        """Who asks; the broker learns that they are there."""
        found = self.identity.of(request, token)
        self.saw(found.key, request)
        return found


def shown(problem: QuireError) -> gr.Error:
    return gr.Error(str(problem), title=problem.code, print_exception=False, duration=8)


def endpoint(app: App, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(caller, …)` as Gradio calls it: the caller is found from the request, and their Hub
    token where it is a parameter; errors get their code as title, and a tool call gets JSON text, of
    which Gradio would show the `repr`."""
    own = inspect.signature(function)
    given = [p for p in list(own.parameters.values())[1:] if p.name != "hub_token"]
    lends = "hub_token" in own.parameters
    special = [
        inspect.Parameter(
            "request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request
        ),
        inspect.Parameter(
            "oauth_token",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=gr.OAuthToken | None,
        ),
    ]
    takes = Arguments({p.name: p for p in given})
    needed = [p for p in given if p.default is p.empty]
    seen = own.replace(
        parameters=[*needed, special[0], *(p for p in given if p not in needed), special[1]]
    )

    def taken(args: Any, kwargs: Any) -> tuple[dict[str, Any], Any, Any, bool]:
        arguments = dict(seen.bind(*args, **kwargs).arguments)
        request, token = arguments.pop("request"), arguments.pop("oauth_token", None)
        return arguments, request, token, request.headers.get("x-gradio-user") == "mcp"

    def checked(arguments: dict[str, Any], request: Any, token: Any) -> dict[str, Any]:
        given = takes.named(arguments)
        if lends:
            given["hub_token"] = lambda: app.identity.hub_token(request, token and token.token)
        return given

    def found(request: Any, token: Any) -> Caller:
        return app.caller(request, token.token if token else None)

    def told(value: Any, by_tool: bool) -> Any:
        return json.dumps(value, ensure_ascii=False) if by_tool else value

    def refused(problem: QuireError, by_tool: bool) -> gr.Error:
        error = shown(problem)
        if by_tool:  # which sees the message only
            error.message = f"{problem.code}: {problem}"
        return error

    if inspect.isasyncgenfunction(function):

        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            arguments, request, token, by_tool = taken(args, kwargs)
            try:
                arguments = checked(arguments, request, token)
                caller = await run_in_threadpool(found, request, token)
                with app.waiting.one(caller.share):
                    async for item in function(caller, **arguments):
                        yield told(item, by_tool)
            except QuireError as problem:
                raise refused(problem, by_tool) from problem

        made: Callable[..., Any] = stream
    else:
        waits = inspect.iscoroutinefunction(function)

        async def call(*args: Any, **kwargs: Any) -> Any:
            arguments, request, token, by_tool = taken(args, kwargs)
            try:
                arguments = checked(arguments, request, token)
                caller = await run_in_threadpool(found, request, token)
                if waits:
                    with app.waiting.one(caller.share):
                        return told(await function(caller, **arguments), by_tool)
                async with app.turns.turn(caller.share):
                    value = await run_in_threadpool(function, caller, **arguments)
                return told(value, by_tool)
            except QuireError as problem:
                raise refused(problem, by_tool) from problem

        made = call
    made.takes = takes  # type: ignore[attr-defined]
    made.__name__, made.__doc__ = function.__name__, function.__doc__
    made.__signature__ = seen  # type: ignore[attr-defined]
    made.__annotations__ = {n: p.annotation for n, p in seen.parameters.items()} | {
        "return": own.return_annotation
    }
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """What all files of one submit have in common, as the caller said it."""

    collection: str = ""
    strategy: str = ""
    languages: tuple[str, ...] = ()
    notify: str = ""
    password: str = ""
    gpu: str = ""
    chunk: ChunkOptions = field(default_factory=ChunkOptions)


def submit_files(app: App, caller: Caller, files: list[Any], options: SubmitOptions) -> list[Any]:
    """One job per file, in order; a refused file is a failed job and harms no other."""
    if not isinstance(files, list) or not files:  # an endpoint's are not looked at before
        raise InputError("no_files", "There is no file.", "Give at least one PDF.")
    address = notify_address(options.notify, private=app.settings.webhook_private)
    if address and "://" not in address:
        app.identity.may_mail(caller, address)
    requests = [
        Request(
            path=path,
            filename=name,
            collection=options.collection or "default",
            partition=PartitionOptions(
                strategy=options.strategy or "auto", languages=options.languages
            ),
            chunk=options.chunk,
            gpu=options.gpu or "auto",
            notify=address,
            password=options.password or None,
        )
        for path, name in [uploaded(file, caller) for file in files]
    ]
    settle(app, caller.key)
    return [app.jobs.submit(caller.key, one, address=caller.address) for one in requests]


def start_export(app: App, caller: Caller, collection: str, format: str) -> dict[str, Any]:
    """The job that writes it, or the one that is writing it already."""
    if format not in EXPORTS:
        raise InputError("format_unknown", "There is no such format.", f"Use {', '.join(EXPORTS)}.")
    found = known(app, app.jobs.catalog.find_collection, caller.key, collection)
    spec = {"collection": found.id, "title": found.title, "format": format}
    return app.jobs.transfer(caller.key, "export", spec, address=caller.address)


def start_reembed(
    app: App, caller: Caller, collection: str, model: str = "", gpu: str = ""
) -> dict[str, Any]:
    """The job that makes the collection anew for a model of this Quire, the default one if none is
    named; or the one that does so already."""
    user = caller.key
    found = known(app, app.jobs.catalog.find_collection, user, collection)
    wanted = model or app.settings.embedding_model
    if wanted not in app.settings.models:
        raise Refused(
            "model_not_offered",
            f"The model {wanted} is not offered here.",
            f"Use one of: {', '.join(app.settings.models)}.",
        )
    policy = borrow.checked(gpu or "auto")
    working = app.jobs.catalog.jobs(user, ACTIVE, 1000, collection=found.id)
    models = {r.spec["model"] for r in working if r.kind == "reembed"}
    if models - {wanted}:
        raise Refused(
            "reembed_running",
            "The collection is being made anew for another model.",
            "Cancel that job first, or wait.",
        )
    spec = {"collection": found.id, "title": found.title, "model": wanted, "gpu": policy}
    return app.jobs.transfer(user, "reembed", spec, address=caller.address)


async def export_of(app: App, caller: Caller, collection: str, format: str) -> dict[str, Any]:
    """What that job has written, once it has."""
    job = await run_in_threadpool(start_export, app, caller, collection, format)
    while job["status"] not in FINISHED:
        await asyncio.sleep(0.2)
        job = await run_in_threadpool(app.jobs.job, caller.key, job["id"])
    if job["status"] != "succeeded":
        problem = job["error"] or {"code": "cancelled", "message": "The job was cancelled."}
        raise Refused(problem["code"], problem["message"], problem.get("advice", ""))
    return {"job": job["id"], **job["result"]}


def start_push(
    app: App, caller: Caller, collection: str, dataset: str, hub_token: Callable[[], str]
) -> dict[str, Any]:
    """The job that pushes there; the same one when it waits for its owner, and then goes on."""
    token = hub_token()
    found = known(app, app.jobs.catalog.find_collection, caller.key, collection)
    whole = dataset_name(caller.name, found.title, str(dataset or ""))
    spec = {"collection": found.id, "title": found.title, "dataset": whole}
    job = app.jobs.transfer(caller.key, "push", spec, address=caller.address)
    app.link.call("lend", caller.key, job=job["id"], token=token)
    return app.jobs.hurry(caller.key, job["id"])


def start_import(app: App, caller: Caller, file: Any, title: str) -> dict[str, Any]:
    """The job that makes a collection of an uploaded zip."""
    path, name = uploaded(file, caller)
    spec = {"title": title[:200], "filename": name}
    return app.jobs.transfer(caller.key, "import", spec, path, address=caller.address)


def register(app: App) -> None:
    """Declare every endpoint inside the current Blocks."""

    def submit(
        caller: Caller,
        files: list[gr.FileData],
        collection: str = "default",
        strategy: str = "auto",
        languages: list[str] | None = None,
        notify: str | None = None,
        password: str | None = None,
        gpu: str = "auto",
    ) -> list[dict]:  # type: ignore[type-arg]
        """Put PDFs into a collection. Returns one job per file at once; follow it with /watch.

        Args:
            files: PDF files, uploaded.
            collection: name or id; made when it is not there.
            strategy: auto, fast, ocr_only, hi_res or reference.
            languages: languages of scanned pages, as ISO codes.
            notify: a mail address that you confirmed at the page, or an https URL, told when the job is done.
            gpu: auto borrows one where that pays, never does not, wait waits up to an hour for it.
            password: opens encrypted files; kept only until the file is read.
        """
        options = SubmitOptions(
            collection=collection,
            strategy=strategy,
            languages=tuple(languages or ()),
            notify=notify or "",
            password=password or "",
            gpu=gpu,
        )
        return submit_files(app, caller, files, options)

    async def watch(caller: Caller, job_id: str, after: int = 0) -> AsyncIterator[dict]:  # type: ignore[type-arg]
        """Follow a job: every event after number `after`, then those to come. The last one has
        the final status. Come back at any time with the last `seq` you saw.

        Args:
            job_id: from /submit or /jobs.
            after: the last event number already seen.
        """
        await run_in_threadpool(known, app, app.jobs.job, caller.key, job_id)
        async for event in app.jobs.watch(caller.key, job_id, int(after or 0)):
            yield event

    def job(caller: Caller, job_id: str) -> dict:  # type: ignore[type-arg]
        """One job: status, stages with done and total, position, error with code and advice."""
        return known(app, app.jobs.job, caller.key, job_id)

    def jobs(caller: Caller, status: str | None = None, limit: int = 50) -> list[dict]:  # type: ignore[type-arg]
        """Your jobs, newest first; `status` filters by queued, running, waiting, succeeded,
        partial, failed or cancelled."""
        listed = app.jobs.list_jobs(caller.key, status, int(limit))
        if not listed:  # perhaps on a new disk
            settle(app, caller.key)
            listed = app.jobs.list_jobs(caller.key, status, int(limit))
        return listed

    def cancel(caller: Caller, job_id: str, keep: bool = True) -> dict:  # type: ignore[type-arg]
        """Stop a job. What it has indexed stays and /retry goes on from there, or is removed when
        `keep` is false; a document that was there before, whole, stays."""
        return known(app, app.jobs.cancel, caller.key, job_id, keep=bool(keep))

    def retry(
        caller: Caller,
        job_id: str,
        pages: list[int] | None = None,
        strategy: str | None = None,
    ) -> dict:  # type: ignore[type-arg]
        """Run a finished job again, from where it stopped; or only some pages with another
        strategy, whose records are then replaced."""
        return known(app, app.jobs.retry, caller.key, job_id, pages, strategy)

    def collections(caller: Caller) -> list[dict]:  # type: ignore[type-arg]
        """Your collections with their counts, size and model."""
        return list(app.link.call("collections", caller.key))

    def create_collection(caller: Caller, title: str) -> dict:  # type: ignore[type-arg]
        """Make a collection, or return the one of that name."""
        return dict(app.link.call("create_collection", caller.key, title=title))

    def delete_collection(caller: Caller, collection: str) -> dict:  # type: ignore[type-arg]
        """Delete a collection, its sources and records. Returns a receipt at once; see /receipt."""
        return dict(app.link.call("delete_collection", caller.key, collection=collection))

    def sources(caller: Caller, collection: str = "default") -> list[dict]:  # type: ignore[type-arg]
        """The PDFs of a collection."""
        return list(app.link.call("sources", caller.key, collection=collection))

    def delete_source(caller: Caller, source_id: str, collection: str = "default") -> dict:  # type: ignore[type-arg]
        """Delete one PDF and its records from a collection. Returns a receipt at once; see /receipt."""
        return dict(
            app.link.call("delete_source", caller.key, collection=collection, source_id=source_id)
        )

    def receipt(caller: Caller, receipt: str) -> dict:  # type: ignore[type-arg]
        """What became of a deletion since: whether it is saved and erased, and by when it is gone from
        each place, histories included.

        Args:
            receipt: from /delete_source or /delete_collection.
        """
        return dict(app.link.call("receipt", caller.key, receipt=receipt))

    def search(
        caller: Caller,
        query: str,
        collection: str = "default",
        top_k: int = 10,
        mode: str = "hybrid",
        where: dict | None = None,  # type: ignore[type-arg]
        group: str = "page",
        offset: int = 0,
    ) -> list[dict]:  # type: ignore[type-arg]
        """Search a collection. Each hit has its text, score, page, boxes and, for tables and
        figures, the HTML or the image; `more` has what else was found on its page. None when nothing
        is nearer to the question than to nonsense.

        Args:
            query: a question or words; "words in quotation marks" stand one after another, -word does not.
            collection: name or id.
            top_k: how many hits, 1 to 100.
            mode: hybrid, dense or keyword.
            where: {"source_id": id, "filename": name, "pages": [first, last], "element_type": "Table"}.
            group: page, document or passage: of what a hit is the best part.
            offset: how many hits are left out before the first one, 0 to 100.
        """
        return list(
            app.link.call(
                "search",
                caller.key,
                query=query,
                collection=collection,
                top_k=top_k,
                mode=mode,
                where=where,
                group=group,
                offset=offset,
            )
        )

    async def export(caller: Caller, collection: str, format: str = "parquet") -> dict:  # type: ignore[type-arg]
        """A collection as a zip to take away: parquet, chroma, json or markdown. Waits until it is
        written, as a job that goes on without you (kind "export" in /jobs), and returns name, bytes
        and the URL path from which its owner downloads it.

        Args:
            collection: name or id.
            format: parquet (a dataset folder with vectors), chroma, json (elements) or markdown.
        """
        return await export_of(app, caller, collection, format)

    def push(
        caller: Caller,
        collection: str,
        dataset: str = "",
        *,
        hub_token: Callable[[], str],
    ) -> dict:  # type: ignore[type-arg]
        """Push a collection, as its Parquet export, to a private dataset of yours on the Hub. Needs a
        Hugging Face token that may make repositories, or a sign-in that may; it is used for this and
        kept nowhere. Returns a job at once; its `result` has the dataset's address. When the job
        waits for you after a restart, the same call lets it go on.

        Args:
            collection: name or id.
            dataset: name or owner/name; default: yours, named like the collection.
        """
        return start_push(app, caller, collection, dataset, hub_token)

    def import_collection(caller: Caller, file: gr.FileData, title: str = "") -> dict:  # type: ignore[type-arg]
        """Make a new collection from a zip that /export wrote as parquet or chroma. Returns a job at
        once; follow it with /watch, its `result` names the collection.

        Args:
            file: the zip, uploaded.
            title: the new collection's name; default: the one it had.
        """
        return start_import(app, caller, file, str(title or ""))

    def reembed(
        caller: Caller, collection: str, model: str | None = None, gpu: str = "auto"
    ) -> dict:  # type: ignore[type-arg]
        """Have a collection searched by another embedding model, without reading its PDFs again.
        Returns a job at once; follow it with /watch. Until it has ended the old model answers, and
        cancelling it leaves everything as it was.

        Args:
            collection: name or id.
            model: one of the `models` of /status; default: the one of new collections.
            gpu: auto, never or wait, as in /submit.
        """
        return start_reembed(app, caller, collection, model or "", gpu)

    def status(caller: Caller) -> dict:  # type: ignore[type-arg]
        """Versions, queue, remotes and their lag, device. `restart_loses` says what a restart now would
        take: `everything` (a Space without a dataset or bucket) with its unfinished `jobs`, else
        `changes` not yet in the stores (None: the worker is away); jobs go on from there.
        `message` says it plainly. Your own machine's disk stays: all of it is none."""
        return status_of(app, caller)

    calls: tuple[Callable[..., Any], ...] = (
        submit, job, jobs, cancel, retry, collections, create_collection, delete_collection, sources,
        delete_source, receipt, search, reembed, status, export, push, import_collection, watch,
    )  # fmt: skip
    for call in calls:  # whose turn it is is told by shares, not by the order of the calls
        gradio_api(endpoint(app, call), api_name=call.__name__, concurrency_limit=None)


def calls(demo: gr.Blocks) -> Calls:
    """What the endpoints of the page take."""
    names = {number: str(event.api_name) for number, event in demo.fns.items()}
    takes = {names[number]: getattr(event.fn, "takes", None) for number, event in demo.fns.items()}
    return Calls({name: found for name, found in takes.items() if found}, names)


def hide_the_rest(demo: gr.Blocks) -> None:
    """What Gradio's own components declare is no endpoint of ours, and no tool."""
    for event in demo.fns.values():
        if isinstance(event.api_name, str) and event.api_name.startswith("_"):
            event.api_visibility = "private"


def about(app: App, caller: Caller) -> dict[str, Any]:
    """Who the caller is to Quire, what is stored for them, and until when."""
    usage = app.jobs.usage(caller.key)
    return {
        "name": caller.name,
        "kind": caller.kind,
        "may_push": caller.may_push,
        "expires_at": caller.expires_at,
        "storage": usage,
        "jobs": {"active": app.jobs.active(caller.key), "limit": app.settings.max_jobs},
    }


def settle(app: App, user: str) -> None:
    """What the stores know of that person is in the rows here, also on a new disk."""
    if not app.jobs.proved(user):
        app.link.call("settle", user)


def known(app: App, ask: Callable[..., Told], user: str, *given: Any, **options: Any) -> Told:
    """What is answered of a job or collection, also of one that only the stores know."""
    try:
        return ask(user, *given, **options)
    except NotFound:
        settle(app, user)
        return ask(user, *given, **options)


def status_of(app: App, caller: Caller) -> dict[str, Any]:
    """Also when the worker is away: then it says so."""
    you = about(app, caller)
    counts = Counter(row.status for row in app.jobs.catalog.jobs(caller.key, None, 200))
    found: dict[str, Any] = {"version": VERSION, "gradio": gr.__version__, "jobs": counts}
    found["models"] = list(app.settings.models)
    try:
        found |= {"worker": "ready", **app.link.call("status", caller.key)}
    except Unavailable as problem:
        found["worker"] = problem.message
    unsaved = found.get("remotes", {}).get("unsaved")
    loses = restart_loses(app.settings, unsaved, you["jobs"]["active"])
    return {**found, "restart_loses": loses, "you": you}


def restart_loses(settings: Settings, unsaved: int | None, jobs: int) -> dict[str, Any]:
    """What a restart now would take with it, and that as a sentence. A Space's disk does not
    outlive its restart; `unsaved` are changes that no store holds yet, None while not known."""
    if not settings.space_id:
        kept = "Nothing: this machine's disk stays."
        return {"everything": False, "changes": 0, "jobs": 0, "message": kept}
    everything = not (settings.hub_dataset or settings.s3_bucket)
    if everything:
        message = (
            "Everything: no dataset or bucket is set up, and a restart wipes this Space's disk."
        )
    elif unsaved is None:
        message = "Not known while Quire is starting."
    else:
        lost = f"Changes not yet saved: {unsaved}." if unsaved else "Nothing: all is saved."
        message = f"{lost} Unfinished jobs go on by themselves: {jobs}." if jobs else lost
    lost_jobs = jobs if everything else 0
    return {"everything": everything, "changes": unsaved, "jobs": lost_jobs, "message": message}
