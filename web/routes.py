"""Plain routes beside Gradio's: progress stream, page images, figures, downloads, actions, health.

Every one but health finds the caller first and reaches files only through the worker's answer for
that caller.
"""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from errors import InputError, NotFound, QuireError, Refused
from web import account
from web.api import App
from web.guard import refusal
from web.uploads import upload

_PRIVATE = {"Cache-Control": "private, max-age=86400"}


def routes(app: App) -> list[Route]:
    def user(request: Request) -> str:
        return app.identity.of(request).key

    def route(
        path: str, answer: Callable[[Request], Response], methods: tuple[str, ...] = ("GET",)
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request)
            except QuireError as problem:
                return refusal(problem)

        return Route(path, endpoint, methods=list(methods))

    def page(request: Request) -> Response:
        path = app.link.call(
            "page_image",
            user(request),
            source_id=request.path_params["source"],
            page=int(request.path_params["page"]),
            width=_number(request.query_params.get("w"), 800),
        )
        return FileResponse(path, media_type="image/webp", headers=_PRIVATE)

    def figure(request: Request) -> Response:
        path = app.link.call("crop", user(request), name=request.path_params["name"])
        return FileResponse(path, headers=_PRIVATE)

    def download(request: Request) -> Response:
        path = app.jobs.paths.export(user(request), request.path_params["name"])
        if not path.is_file():
            raise NotFound("export_not_found", "There is no such export.", "Export it again.")
        return FileResponse(path, filename=Path(path).name, headers={"Cache-Control": "no-store"})

    def action(request: Request) -> Response:
        if request.headers.get("x-quire") != "1":
            raise Refused("cross_site", "That request did not come from the page.", "Reload it.")
        call = {"cancel": app.jobs.cancel, "retry": app.jobs.retry}[request.path_params["verb"]]
        return JSONResponse(call(user(request), request.path_params["job"]))

    def one(request: Request) -> Response:
        return JSONResponse(
            app.jobs.job(user(request), request.path_params["job"]),
            headers={"Cache-Control": "no-store"},
        )

    async def events(request: Request) -> Response:
        ids = [i for i in request.query_params.get("ids", "").split(",") if i][:100]
        try:
            caller = await run_in_threadpool(user, request)
            if not ids:
                raise InputError("no_ids", "There is no job to watch.", "Give ?ids=a,b.")
        except QuireError as problem:
            return refusal(problem)
        return StreamingResponse(
            _stream(app, caller, ids),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def uploads(request: Request) -> Response:
        return await upload(request, app.identity, app.jobs)

    def health(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def ready(_: Request) -> Response:
        state = app.jobs.ready()
        return JSONResponse({"ready": state}, status_code=200 if state else 503)

    return [
        route("/pages/{source}/{page:int}", page),
        route("/figures/{name}", figure),
        route("/exports/{name}", download),
        route("/jobs/{job}", one),
        route("/jobs/{job}/{verb:str}", action, ("POST",)),
        Route("/events", events),
        Route("/gradio_api/upload", uploads, methods=["POST"]),
        *account.routes(app),
        route("/healthz", health),
        route("/readyz", ready),
    ]


async def _stream(app: App, user: str, ids: list[str]) -> AsyncIterator[str]:
    yield "retry: 1500\n\n"
    async for snapshot in app.hub.many(user, ids):
        yield f"data: {json.dumps(snapshot)}\n\n" if snapshot else ": nothing new\n\n"


def _number(text: Any, default: int) -> int:
    return int(text) if isinstance(text, str) and text.isdigit() else default
