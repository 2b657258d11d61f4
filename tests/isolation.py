"""Who may reach which route and endpoint: the table that `test_isolation.py` holds the app to.

A route or endpoint that is not here fails the suite. `open` says nothing about anybody; `closed` is not
there for anybody; `owner` gives its owner's things to its owner; `begun` belongs to whoever began it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.middleware import Middleware

from pipeline.jobs.health import Health
from pipeline.jobs.service import Jobs
from pipeline.processes.rpc import Link
from settings import Settings
from storage.catalog.catalog import Catalog
from storage.paths import Paths
from web.identity import Identity

OPEN, CLOSED, OWNER, BEGUN = "open", "closed", "owner", "begun"

ROUTES = {
    # ours
    "/pages/{source}/{page:int}": OWNER,
    "/figures/{name}": OWNER,
    "/exports/{name}": OWNER,
    "/collections": OWNER,
    "/collections/{collection}": OWNER,
    "/collections/{collection}/export": OWNER,
    "/collections/{collection}/reembed": OWNER,
    "/collections/{collection}/push": OWNER,
    "/collections/{collection}/documents": OWNER,
    "/collections/{collection}/documents/{source}": OWNER,
    "/collections/{collection}/search": OWNER,
    "/collections/{collection}/gallery": OWNER,
    "/sources/{source}/pages": OWNER,
    "/sources/{source}/elements": OWNER,
    "/sources/{source}/markdown": OWNER,
    "/jobs/{job}": OWNER,
    "/jobs/{job}/log": OWNER,
    "/jobs/{job}/cancel": OWNER,
    "/jobs/{job}/retry": OWNER,
    "/jobs/{job}/dismiss": OWNER,
    "/import": OWNER,
    "/transfers": OWNER,
    "/status": OWNER,
    "/events": OWNER,
    "/account": OWNER,
    "/account/addresses": OWNER,
    "/account/addresses/confirm": OWNER,
    "/account/addresses/remove": OWNER,
    "/account/sign-out": OWNER,
    "/account/tokens": OWNER,
    "/account/tokens/revoke": OWNER,
    "/gradio_api/upload": OWNER,
    "/page/{version}/{name}": OPEN,
    "/healthz": OPEN,
    "/readyz": OPEN,
    "/metrics": OWNER,
    "/sign-in": OPEN,
    # Gradio's, which the page and the clients need
    "/": OPEN,
    "/config": OPEN,
    "/login/huggingface": OPEN,
    "/login/callback": OPEN,
    "/static/{path:path}": OPEN,
    "/assets/{path:path}": OPEN,
    "/svelte/{path:path}": OPEN,
    "/favicon.ico": OPEN,
    "/theme.css": OPEN,
    "/robots.txt": OPEN,
    "/manifest.json": OPEN,
    "/pwa_icon": OPEN,
    "/pwa_icon/{size}": OPEN,
    "/gradio_api/info": OPEN,
    "/gradio_api/openapi.json": OPEN,
    "/gradio_api/startup-events": OPEN,
    "/gradio_api/theme.css": OPEN,
    "/gradio_api/app_id": OPEN,
    "/gradio_api/mcp": OPEN,
    "/gradio_api/queue/join": BEGUN,
    "/gradio_api/queue/data": BEGUN,
    "/gradio_api/call/v2/{api_name}": BEGUN,
    "/gradio_api/call/{api_name}": BEGUN,
    "/gradio_api/call/v2/{api_name}/{event_id}": BEGUN,
    "/gradio_api/call/{api_name}/{event_id}": BEGUN,
    "/gradio_api/run/{api_name}": BEGUN,
    "/gradio_api/cancel": BEGUN,
    "/gradio_api/reset": BEGUN,
    "/gradio_api/heartbeat/{session_hash}": BEGUN,
    "/gradio_api/upload_progress": BEGUN,
    # Gradio's, which nobody needs here
    "/openapi.json": CLOSED,
    "/login": CLOSED,
    "/logout": CLOSED,
    "/monitoring": CLOSED,
    "/monitoring/summary": CLOSED,
    "/monitoring/{key}": CLOSED,
    "/gradio_api/user": CLOSED,
    "/gradio_api/login_check": CLOSED,
    "/gradio_api/token": CLOSED,
    "/gradio_api/dev/reload": CLOSED,
    "/gradio_api/runs": CLOSED,
    "/gradio_api/run-history/buckets": CLOSED,
    "/gradio_api/run-history/connect": CLOSED,
    "/gradio_api/run-history/records": CLOSED,
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}": CLOSED,
    "/gradio_api/deep_link": CLOSED,
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}": CLOSED,
    "/gradio_api/proxy={url_path:path}": CLOSED,
    "/gradio_api/file={path_or_url:path}": CLOSED,
    "/gradio_api/file/{path:path}": CLOSED,
    "/gradio_api/stream/{event_id}": CLOSED,
    "/gradio_api/stream/{event_id}/close": CLOSED,
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8": CLOSED,
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}": CLOSED,
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file": CLOSED,
    "/gradio_api/api/{api_name}": CLOSED,
    "/gradio_api/component_server": CLOSED,
    "/gradio_api/queue/status": CLOSED,
    "/gradio_api/process_recording": CLOSED,
    "/gradio_api/vibe-edit": CLOSED,
    "/gradio_api/undo-vibe-edit": CLOSED,
    "/gradio_api/vibe-code": CLOSED,
    "/gradio_api/vibe-starter-queries": CLOSED,
}

OWNERS = ("ada", "bob", "visitor")
REAL = (*OWNERS, "nobody")
CALLERS = (*REAL, "a made-up token", "a forged visitor", "a forged session")

# An argument, from what its owner has.
GIVEN: dict[str, Callable[[dict[str, str]], Any]] = {
    "files": lambda ids: [{"path": ids["upload"], "orig_name": "mine.pdf"}],
    "file": lambda ids: {"path": ids["upload"], "orig_name": "mine.zip"},
    "collection": lambda ids: ids["collection"],
    "job_id": lambda ids: ids["job"],
    "source_id": lambda ids: ids["source"],
    "id": lambda ids: ids.get("token_id", "x"),
    "query": lambda _: "plans for the coming year",
    "title": lambda _: "mine",
    "receipt": lambda ids: ids["receipt"],
}

# What the body of a route is to name; a body of any other is empty.
BODIES: dict[str, tuple[str, ...]] = {
    "/collections": ("title",),
    "/collections/{collection}": ("title",),
    "/collections/{collection}/documents": ("files",),
    "/collections/{collection}/search": ("query",),
    "/import": ("file",),
    "/account/tokens/revoke": ("id",),
}

# What each endpoint is tried with: somebody else's.
ENDPOINTS: dict[str, tuple[str, ...]] = {
    "submit": ("files", "collection"),
    "watch": ("job_id",),
    "job": ("job_id",),
    "jobs": (),
    "cancel": ("job_id",),
    "retry": ("job_id",),
    "collections": (),
    "create_collection": ("title",),
    "delete_collection": ("collection",),
    "sources": ("collection",),
    "delete_source": ("source_id", "collection"),
    "receipt": ("receipt",),
    "search": ("query", "collection"),
    "reembed": ("collection",),
    "export": ("collection",),
    "push": ("collection",),
    "import_collection": ("file",),
    "status": (),
}


def every_route(app: Any, prefix: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """Paths and methods of an application, routers within it included; a trailing slash is the same."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from every_route(inner, prefix)
        else:
            path = prefix + route.path
            yield (
                path.rstrip("/") or "/",
                frozenset(getattr(route, "methods", None) or {"GET", "POST"}),
            )


def space_app(settings: Settings, identity: Identity, guard: dict[str, Any] | None = None) -> Any:
    """The whole app as a Space has it, in this process, without a worker; behind a guard with these
    arguments, or none."""
    import gradio.oauth  # noqa: PLC0415
    from gradio.routes import App as GradioApp  # noqa: PLC0415

    from web import page  # noqa: PLC0415
    from web.api import App, calls  # noqa: PLC0415
    from web.guard import Guard  # noqa: PLC0415
    from web.job_feed import Hub  # noqa: PLC0415
    from web.routes.files import routes  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SYSTEM": "spaces", "SPACE_ID": "ada/quire"}.items():
            patch.setenv(name, value)
        for name in ("CLIENT_ID", "CLIENT_SECRET", "SCOPES"):
            patch.setattr(gradio.oauth, f"OAUTH_{name}", "x")
        patch.setattr(gradio.oauth, "OPENID_PROVIDER_URL", "http://127.0.0.1:9")
        paths = Paths(settings.data_dir)
        jobs = Jobs(settings, paths, Catalog(f"sqlite:///{settings.data_dir}/catalog.sqlite"))
        link = Link(paths)
        app = App(
            settings=settings, identity=identity, jobs=jobs, link=link, hub=Hub(jobs),
            health=Health(link),
        )  # fmt: skip
        demo = page.build(app)
        demo.queue(api_open=False)
        app_kwargs: dict[str, Any] = {"routes": routes(app)}
        if guard is not None:
            guard["calls"] = calls(demo)
            app_kwargs["middleware"] = [Middleware(Guard, **guard)]
        return GradioApp.create_app(demo, app_kwargs=app_kwargs, mcp_server=True)
