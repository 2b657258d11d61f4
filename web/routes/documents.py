"""The documents of a collection: one row per file, whether it waits, is read or is done; adding,
deleting, running again; how each page was read and what was found on it."""

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from pipeline.ingest.chunk import ChunkOptions
from pipeline.jobs.service import LISTED
from web.api import App, SubmitOptions, known, submit_files
from web.json_route import Asked, route


def routes(app: App) -> list[Route]:
    def listed(asked: Asked) -> list[dict[str, Any]]:
        held = app.jobs.catalog.held_collection
        found = known(app, held, asked.user, asked.path["collection"])
        return _rows(app, asked.user, found.id) if found else []

    def add(
        asked: Asked,
        files: list[Any],
        strategy: str = "auto",
        languages: str = "",
        notify: str = "",
        password: str = "",
        gpu: str = "auto",
        chunk_size: int = 512,
    ) -> list[Any]:
        options = SubmitOptions(
            collection=asked.path["collection"],
            strategy=strategy,
            languages=tuple(languages.replace(",", " ").split()),
            notify=notify,
            password=password,
            gpu=gpu,
            chunk=ChunkOptions.up_to(chunk_size),
        )
        return submit_files(app, asked.caller, files, options)

    def delete(asked: Asked) -> Any:
        return app.link.call(
            "delete_source",
            asked.user,
            collection=asked.path["collection"],
            source_id=asked.path["source"],
        )

    def job(asked: Asked) -> Any:
        return known(app, app.jobs.job, asked.user, asked.path["job"])

    def log(asked: Asked) -> dict[str, Any]:
        after = asked.number("after", 0)
        events, found = known(app, app.jobs.read_events, asked.user, asked.path["job"], after)
        return {"events": events, "job": found}

    def cancel(asked: Asked, keep: bool = True) -> Any:
        return known(app, app.jobs.cancel, asked.user, asked.path["job"], keep=keep)

    def dismiss(asked: Asked) -> Any:
        return known(app, app.jobs.dismiss, asked.user, asked.path["job"])

    def retry(asked: Asked, pages: list[int] | None = None, strategy: str = "") -> Any:
        return known(app, app.jobs.retry, asked.user, asked.path["job"], pages, strategy)

    def ledger(asked: Asked) -> Any:
        return app.link.call("pages", asked.user, source_id=asked.path["source"])

    def of_page(call: str) -> Callable[[Asked], Any]:
        def answer(asked: Asked) -> Any:
            source, page = asked.path["source"], asked.number("page", 1)
            return app.link.call(call, asked.user, source_id=source, page=page)

        return answer

    documents = "/collections/{collection}/documents"
    return [
        route(app, documents, listed),
        route(app, documents, add, ("POST",)),
        route(app, f"{documents}/{{source}}", delete, ("DELETE",)),
        route(app, "/jobs/{job}", job),
        route(app, "/jobs/{job}/log", log),
        route(app, "/jobs/{job}/cancel", cancel, ("POST",)),
        route(app, "/jobs/{job}/retry", retry, ("POST",)),
        route(app, "/jobs/{job}/dismiss", dismiss, ("POST",)),
        route(app, "/sources/{source}/pages", ledger),
        route(app, "/sources/{source}/elements", of_page("elements")),
        route(app, "/sources/{source}/markdown", of_page("markdown")),
    ]


def _rows(app: App, user: str, collection: str) -> list[dict[str, Any]]:
    """The newest job of each file, and the sources that no job is known of."""
    sources = {s.sha256: s for s in app.jobs.catalog.sources(user, collection)}
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    dismissed: set[str] = set()
    for job in app.jobs.list_jobs(user, None, LISTED, collection=collection):
        if job["kind"] != "ingest":
            continue  # an export or import is no document
        sha256 = job["source"]["sha256"]
        done = job["status"] in {"succeeded", "partial"}
        older = sha256 and (sha256 in seen or sha256 in dismissed)
        if older or (done and sha256 not in sources):  # which was deleted since
            continue
        if job["dismissed"]:
            dismissed.add(sha256)
            continue
        seen.add(sha256 or job["id"])
        held = sources.get(sha256)
        rows.append({"job": job, "source": held.shown() if held else None})
    rows += [{"job": None, "source": s.shown()} for i, s in sources.items() if i not in seen]
    return rows
