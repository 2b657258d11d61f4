"""Middleware in front of every route, and checks of uploads. Knows nothing of jobs or pages."""

import secrets
from collections.abc import Mapping, MutableMapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio.utils import get_upload_folder
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import InputError
from web.identity import COOKIE

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
}


class CrossSiteGuard:
    """Refuses requests that another site makes in a visitor's browser; sets safe headers and, on a
    Space, a visitor cookie."""

    def __init__(self, app: ASGIApp, *, visitors: bool) -> None:
        self.app = app
        self.visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if foreign(headers):
            refusal = JSONResponse({"error": {"code": "cross_site"}}, status_code=403)
            await refusal(scope, receive, send)
            return
        fresh = self._visitor(scope, headers)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                if fresh:
                    out.append(
                        "set-cookie",
                        f"{COOKIE}={fresh}; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=None",
                    )
            await send(message)

        await self.app(scope, receive, guarded)

    def _visitor(self, scope: MutableMapping[str, Any], headers: Headers) -> str | None:
        if not self.visitors or COOKIE in SimpleCookie(headers.get("cookie", "")):
            return None
        made = secrets.token_hex(16)
        scope["quire_visitor"] = made
        return made


def foreign(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that another site asked, other than by following a link."""
    site = headers.get("sec-fetch-site")
    if site:
        navigating = headers.get("sec-fetch-mode") == "navigate"
        return site in {"cross-site", "same-site"} and not navigating
    origin = headers.get("origin")
    return bool(origin) and urlsplit(origin or "").netloc != headers.get("host")


def uploaded(file: Any) -> tuple[Path, str]:
    """The path and the shown name of an uploaded file; any other path is refused."""
    data = file if isinstance(file, Mapping) else getattr(file, "__dict__", {"path": str(file)})
    path = Path(str(data.get("path") or "")).resolve()
    folder = Path(get_upload_folder()).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InputError(
            "not_an_upload", "That is not an uploaded file.", "Upload the file itself."
        )
    return path, str(data.get("orig_name") or path.name)
