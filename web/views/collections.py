"""The sidebar's part: collections with their counts, and what is saved where."""

from collections import Counter
from typing import Any

from starlette.routing import Route

from errors import Unavailable
from storage.catalog import ACTIVE
from web.answers import Asked, route
from web.api import App, start_export, start_reembed, status_of

_MISSING = {"records": None, "bytes": None, "pages": None, "sources": None}


def routes(app: App) -> list[Route]:
    def listed(asked: Asked) -> dict[str, Any]:
        """Also while the worker starts: then without counts."""
        active = Counter(row.collection for row in app.jobs.catalog.jobs(asked.user, ACTIVE, 1000))
        try:
            held, worker = app.link.call("collections", asked.user), None
        except Unavailable as problem:
            rows = app.jobs.catalog.collections(asked.user)
            held = [{"id": c.id, "title": c.title, "model": c.model, **_MISSING} for c in rows]
            worker = problem.as_dict()
        return {"collections": [{**c, "active": active[c["id"]]} for c in held], "worker": worker}

    def create(asked: Asked) -> Any:
        return app.link.call("create_collection", asked.user, title=asked.body.get("title", ""))

    def rename(asked: Asked) -> Any:
        return app.link.call(
            "rename_collection",
            asked.user,
            collection=asked.path["collection"],
            title=asked.body.get("title", ""),
        )

    def delete(asked: Asked) -> Any:
        return app.link.call("delete_collection", asked.user, collection=asked.path["collection"])

    def export(asked: Asked) -> Any:
        """The job that writes it; its `result` has the address."""
        kind = asked.body.get("format", "parquet")
        return start_export(app, asked.user, asked.path["collection"], kind)

    def reembed(asked: Asked) -> Any:
        model = asked.body.get("model")
        return start_reembed(app, asked.user, asked.path["collection"], model, None)

    def status(asked: Asked) -> dict[str, Any]:
        return status_of(app, asked.caller)

    one = "/collections/{collection}"
    return [
        route(app, "/collections", listed),
        route(app, "/collections", create, ("POST",)),
        route(app, one, rename, ("PATCH",)),
        route(app, one, delete, ("DELETE",)),
        route(app, f"{one}/export", export, ("POST",)),
        route(app, f"{one}/reembed", reembed, ("POST",)),
        route(app, "/status", status),
    ]
