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


def sign_in_page() -> str:
    """For whoever has to say the password first; Gradio's page is theirs only then."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quire</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{url("page.css")}">'
        f'<script type="module" src="{url("sign-in.js")}"></script>'
        '<body style="margin:0"><div id="quire"></div></body></html>'
    )


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
