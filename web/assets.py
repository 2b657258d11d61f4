"""The page's own scripts and styles, under a name that changes with them: a browser asks once."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {p.name: p.read_bytes() for p in sorted(_FOLDER.iterdir()) if p.suffix in _TYPES}
VERSION = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]


def url(name: str) -> str:
    return f"/page/{VERSION}/{name}"


def routes() -> list[Route]:
    def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            return Response(status_code=404)
        fresh = request.path_params["version"] == VERSION
        return Response(
            _FILES[name],
            media_type=_TYPES[Path(name).suffix],
            headers={
                "Cache-Control": "public, max-age=31536000, immutable" if fresh else "no-cache"
            },
        )

    return [Route("/page/{version}/{name}", asset)]
