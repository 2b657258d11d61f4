"""Plain routes beside Gradio's: progress stream, page images, figures, downloads, health, and the
page's own views.

Every one but health and the page's own files finds the caller first and reaches files only in that
caller's folders.
"""

from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from errors import NotFound, QuireError
from pipeline.jobs.health import metrics
from storage.files import is_named_by_content
from web import assets
from web.api import App
from web.http_status import refusal
from web.json_route import NO_STORE, Asked, route
from web.routes import account, collections, documents, search
from web.uploads import upload

_PRIVATE = {"Cache-Control": "private, max-age=86400", "Vary": "Cookie, Authorization"}
WIDTHS = (200, 400, 800, 1200, 1700)


def routes(app: App) -> list[Route]:
    def page(asked: Asked) -> Response:
        """What was drawn before needs no worker: it lies in the caller's own folder."""
        source, number = asked.path["source"], asked.path["page"]
        width = min(WIDTHS, key=lambda w: abs(w - asked.number("w", 800)))
        path = app.jobs.paths.page_image(asked.user, source, number, width)
        if not path.is_file():
            visitor = asked.caller.kind == "visitor"
            path = Path(
                app.link.call(
                    "page_image", asked.user,
                    source_id=source, page=number, width=width, visitor=visitor,
                )
            )  # fmt: skip
        return FileResponse(path, media_type="image/webp", headers=_PRIVATE)

    def figure(asked: Asked) -> Response:
        path = app.jobs.paths.crop(asked.user, asked.path["name"])
        if not is_named_by_content(path):
            path = Path(app.link.call("crop", asked.user, name=asked.path["name"]))
        return FileResponse(path, headers=_PRIVATE)

    def download(asked: Asked) -> Response:
        path = app.jobs.paths.export(asked.user, asked.path["name"])
        if not path.is_file():
            raise NotFound("export_not_found", "There is no such export.", "Export it again.")
        return FileResponse(path, filename=path.name, headers=NO_STORE)

    async def events(request: Request) -> Response:
        try:
            caller = await run_in_threadpool(app.identity.of, request)
        except QuireError as problem:
            return refusal(problem)
        return StreamingResponse(
            _stream(app, caller.key),
            media_type="text/event-stream",
            headers={**NO_STORE, "X-Accel-Buffering": "no"},
        )

    async def uploads(request: Request) -> Response:
        return await upload(request, app.identity, app.jobs)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"ok": True})

    async def readyz(_: Request) -> Response:  # no thread is needed: they may all be waiting
        state = app.health.now()
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    def counts(request: Request) -> Response:
        try:
            app.identity.may_measure(request)
        except QuireError as problem:
            return refusal(problem)
        return PlainTextResponse(metrics(app.jobs, app.health.now()), headers=NO_STORE)

    return [
        route(app, "/pages/{source}/{page:int}", page, turns=app.drawing),
        route(app, "/figures/{name}", figure, turns=app.drawing),
        route(app, "/exports/{name}", download),
        Route("/events", events),
        Route("/gradio_api/upload", uploads, methods=["POST"]),
        *account.routes(app),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", counts),
        *collections.routes(app),
        *documents.routes(app),
        *search.routes(app),
        *assets.routes(),
    ]


async def _stream(app: App, user: str) -> AsyncIterator[str]:
    yield "retry: 1500\n\n"
    async for message in app.hub.watch(user):
        yield f"data: {message}\n\n" if message else "event: beat\ndata: {}\n\n"
