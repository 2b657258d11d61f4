"""The sidebar's part: collections with their counts, and what is saved where."""

import time
from collections import Counter
from typing import Any

from starlette.routing import Route

from errors import Unavailable
from pipeline.jobs.service import LISTED
from storage.catalog.catalog import ACTIVE
from web.api import (
    App,
    start_export,
    start_import,
    start_push,
    start_reembed,
    status_of,
)
from web.json_route import Asked, route

_SHOWN = 86_000.0  # seconds; an export's file is kept for a day
_SOON = 0.5  # seconds; rows need no worker, the number of their records does


def routes(app: App) -> list[Route]:
    def listed(asked: Asked) -> dict[str, Any]:
        """Also while the worker is away or busy: then without the numbers of records."""
        user, catalog = asked.user, app.jobs.catalog
        active = Counter(row.collection for row in catalog.jobs(user, ACTIVE, LISTED))
        here = app.jobs.proved(user)  # else the worker gets the rows from the stores
        worker = None
        try:
            held = app.link.call("collections", user, within=_SOON if here else None)
        except Unavailable as problem:
            held = [{**c, "records": None} for c in catalog.shelf(user)]
            worker = None if here and app.jobs.ready() else problem.as_dict()
        return {"collections": [{**c, "active": active[c["id"]]} for c in held], "worker": worker}

    def create(asked: Asked, title: str = "") -> Any:
        return app.link.call("create_collection", asked.user, title=title)

    def rename(asked: Asked, title: str = "") -> Any:
        named = asked.path["collection"]
        return app.link.call("rename_collection", asked.user, collection=named, title=title)

    def delete(asked: Asked) -> Any:
        return app.link.call("delete_collection", asked.user, collection=asked.path["collection"])

    def export(asked: Asked, format: str = "parquet") -> Any:
        """The job that writes it; its `result` has the address."""
        return start_export(app, asked.caller, asked.path["collection"], format)

    def reembed(asked: Asked, model: str = "") -> Any:
        return start_reembed(app, asked.caller, asked.path["collection"], model)

    def push(asked: Asked, dataset: str = "") -> Any:
        """The job that pushes it to a dataset of the caller's."""
        return start_push(app, asked.caller, asked.path["collection"], dataset, asked.hub_token)

    def take_in(asked: Asked, file: Any, title: str = "") -> Any:
        """The job that makes a collection of an exported zip."""
        return start_import(app, asked.caller, file, title)

    def transfers(asked: Asked) -> list[Any]:
        """Exports, pushes and imports of the last day that are on the list."""
        since = time.time() - _SHOWN
        return [
            job
            for job in app.jobs.list_jobs(asked.user, None, LISTED)
            if job["kind"] != "ingest" and not job["dismissed"] and job["created_at"] > since
        ]

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
        route(app, f"{one}/push", push, ("POST",)),
        route(app, "/import", take_in, ("POST",)),
        route(app, "/transfers", transfers),
        route(app, "/status", status),
    ]
