"""Questions to a collection, and its tables and figures."""

from typing import Any

from starlette.routing import Route

from web.api import App
from web.json_route import Asked, route


def routes(app: App) -> list[Route]:
    def search(
        asked: Asked,
        query: str = "",
        top_k: int = 20,
        mode: str = "hybrid",
        where: dict[str, Any] | None = None,
        group: str = "page",
        offset: int = 0,
    ) -> Any:
        return app.link.call(
            "search",
            asked.user,
            query=query,
            collection=asked.path["collection"],
            top_k=top_k,
            mode=mode,
            where=where,
            group=group,
            offset=offset,
        )

    def gallery(asked: Asked) -> Any:
        return app.link.call("gallery", asked.user, collection=asked.path["collection"], limit=500)

    return [
        route(app, "/collections/{collection}/search", search, ("POST",)),
        route(app, "/collections/{collection}/gallery", gallery),
    ]
