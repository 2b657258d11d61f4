"""Middleware in front of every route: who may ask at all, how often, how much, and from where.

Gradio's own routes are closed unless named here; what a queue or an event stream holds is given only
to the caller that began it. Knows nothing of jobs or pages.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import InputError, NotFound, QuireError, Refused
from settings import Settings
from web.identity import COOKIES, Identity, Remembered, modest
from web.rate_limit import Buckets

MAX_BODY = 4 << 20  # of a call; uploads have limits of their own
_DAY = 86400.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_GRADIO = re.compile(
    r"/gradio_api/(info/?|openapi\.json|startup-events|theme\.css|app_id/?|queue/(join|data)|call/.+"
    r"|run/[^/]+/?|cancel|reset/?|heartbeat/[^/]+|upload|upload_progress|mcp/?|mcp/schema)"
)
_CLOSED = re.compile(r"/(monitoring.*|login/?|token/?|openapi\.json|gradio_api|docs|redoc)")
_FREE = re.compile(
    r"/(static|assets|svelte|page)/.*|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|healthz|readyz)"
)
_ARRIVALS = {"/", "/config", "/config/"}
_PICTURES = re.compile(r"/(pages|figures)/.*")
_CALL = re.compile(r"/gradio_api/(queue/join|call/.+|run/.+|cancel|reset/?)")
_EVENT = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([^/]+)")
_SIGN_IN = "/login/huggingface"
_SESSION = re.compile(r"/gradio_api/heartbeat/([^/]+)")
_SCRIPTS = "'self' 'unsafe-inline' 'unsafe-eval' blob: https://cdnjs.cloudflare.com"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Content-Security-Policy": "; ".join([
        "default-src 'self'",
        f"script-src {_SCRIPTS}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob: https://huggingface.co https://*.huggingface.co",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self' https://huggingface.co",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    ]),
}


@dataclass(slots=True)
class Limits:
    """Requests of one caller, and arrivals from one address; the page stays far below."""

    calls: Buckets = field(default_factory=lambda: Buckets(rate=20, burst=200))
    pictures: Buckets = field(default_factory=lambda: Buckets(rate=40, burst=400))
    arrivals: Buckets = field(default_factory=lambda: Buckets(rate=1, burst=60))


class Guard:
    """Pure ASGI, so that streams pass through untouched."""

    def __init__(
        self, app: ASGIApp, *, settings: Settings, identity: Identity, limits: Limits | None = None
    ) -> None:
        self.app = app
        self.settings = settings
        self.identity = identity
        self.limits = (limits or Limits()) if settings.space_id else None
        self.begun: Remembered[str] = Remembered(20_000)  # session or event → who began it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        cookie: list[str] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                for value in cookie:
                    out.append("set-cookie", value)
                if scope["path"] == _SIGN_IN and "push" not in request.query_params:
                    out["location"] = modest(out.get("location", "/"))
            await send(message)

        request = Request(scope, receive)
        try:
            self._from_where(request.headers, scope["method"])
            _open(scope["path"])
            who = await self._who(request)
            cookie += self._arrival(request)
            receive = await self._within_limits(request, who, receive)
        except QuireError as problem:
            await refusal(problem)(scope, receive, guarded)
            return
        if scope["method"] == "POST" and _CALL.fullmatch(scope["path"]):
            await self.app(scope, receive, self._noting(guarded, _beginner(request, who)))
        else:
            await self.app(scope, receive, guarded)

    # From where

    def _from_where(self, headers: Headers, method: str) -> None:
        if foreign(headers, method):
            raise Refused("cross_site", "That request did not come from the page.", "Reload it.")
        if self.settings.space_id or self.settings.host not in _LOOPBACK:
            return
        named = urlsplit(f"//{headers.get('host', '')}").hostname
        known = {*_LOOPBACK, urlsplit(self.settings.public_url or "").hostname}
        if named not in known:  # another site's name that was pointed at this machine
            raise Refused(
                "host_unknown",
                "Quire is not known under that name.",
                "Open it at 127.0.0.1, or set QUIRE_PUBLIC_URL.",
            )

    # Who

    async def _who(self, request: Request) -> str:
        """The caller's key, kept for the route; the address of somebody who is not known."""
        if _FREE.fullmatch(request.url.path):
            return ""
        try:
            caller = await run_in_threadpool(self.identity.of, request)
        except QuireError:
            return f"address {self._address(request)}"  # the route refuses with its reason
        request.scope["quire_caller"] = caller
        return caller.key

    def _address(self, request: Request) -> str:
        forwarded = request.headers.get("x-forwarded-for", "").split(",")[-1].strip()
        return forwarded or (request.client.host if request.client else "")

    def _arrival(self, request: Request) -> list[str]:
        """The cookies of a visitor whose page is loaded; none for anybody else."""
        settings, path = self.settings, request.scope["path"]
        if path not in _ARRIVALS or not settings.space_id or settings.allowed:
            return []
        caller = request.scope.get("quire_caller")
        tools = request.headers.get("x-gradio-user") == "mcp"
        if not settings.visitor_hours or tools or (caller and caller.kind != "visitor"):
            return []
        if caller is None:
            value = self.identity.new_visitor()
        else:
            value = next(v for n in COOKIES if (v := request.cookies.get(n)))
        ends = f"Path=/; Max-Age={settings.visitor_hours * 3600}; HttpOnly; Secure; SameSite=None"
        return [f"{COOKIES[0]}={value}; {ends}", f"{COOKIES[1]}={value}; {ends}; Partitioned"]

    # How often, how much, and only one's own

    async def _within_limits(self, request: Request, who: str, receive: Receive) -> Receive:
        path = request.scope["path"]
        if self.limits and who and not _inside(request):
            bucket = self.limits.calls
            if path in _ARRIVALS and who.startswith("address "):
                bucket = self.limits.arrivals
            elif _PICTURES.fullmatch(path):
                bucket = self.limits.pictures
            wait = bucket.wait(who)
            if wait:
                raise Refused(
                    "too_many_requests", "Too many requests.", f"Wait {wait:.0f} s.", wait=wait
                )
        who = _beginner(request, who)
        names = [request.query_params.get(n, "") for n in ("session_hash", "upload_id")]
        if found := _SESSION.fullmatch(path):
            names.append(found[1])
        event = _EVENT.fullmatch(path) if request.method == "GET" else None
        if event and self.begun.get(event[1]) != who:
            raise NotFound("event_not_found", "There is no such event.", "Call again.")
        multipart = request.headers.get("content-type", "").startswith("multipart/")
        if request.method in {"POST", "PUT", "PATCH"} and not multipart:
            body = await _read(receive)
            receive = _again(body, receive)
            if _CALL.fullmatch(path):
                names += _names(body)
        for name in filter(None, names):
            self._begin(name, who)
        return receive

    def _begin(self, name: str, who: str) -> None:
        """The first to name a session owns it."""
        if self.begun.get(name) not in {None, who}:
            raise Refused("not_yours", "That belongs to somebody else.", "Reload the page.")
        self.begun.put(name, who, _DAY)

    def _noting(self, send: Send, who: str) -> Send:
        """Remember whose event the answer names."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.body":
                for name in _names(message.get("body", b"")):
                    self.begun.put(name, who, _DAY)
            await send(message)

        return noting


def _beginner(request: Request, who: str) -> str:
    """Tool calls of everybody share one session, under a random name that only the app knows."""
    return "tools" if request.headers.get("x-gradio-user") == "mcp" else who


def _inside(request: Request) -> bool:
    """A tool call's second way, from the app to itself: its first one was counted."""
    host = request.client.host if request.client else ""
    return host in _LOOPBACK and request.headers.get("x-gradio-user") == "mcp"


def foreign(headers: Mapping[str, str], method: str) -> bool:
    """Whether a browser says that another site asked, other than by following a link."""
    site = headers.get("sec-fetch-site")
    if site:
        followed = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
        return site in {"cross-site", "same-site"} and not followed
    origin = headers.get("origin")
    return bool(origin) and urlsplit(origin or "").netloc != headers.get("host")


_STATUS: dict[type[QuireError], int] = {InputError: 400, NotFound: 404, Refused: 403}
_STATUS_OF = {
    "too_many_requests": 429, "body_too_large": 413, "file_too_large": 413, "sign_in": 401,
    "token_refused": 401,
}  # fmt: skip


def _status(problem: QuireError) -> int:
    by_kind = next((s for kind, s in _STATUS.items() if isinstance(problem, kind)), None)
    return _STATUS_OF.get(problem.code) or by_kind or (500 if problem.permanent else 503)


def refusal(problem: QuireError) -> Response:
    """An error of ours as the JSON that every route of ours answers with."""
    headers = {"Cache-Control": "no-store"}
    if "wait" in problem.details:
        headers["Retry-After"] = str(int(problem.details["wait"]) + 1)
    return JSONResponse({"error": problem.as_dict()}, _status(problem), headers)


def _open(path: str) -> None:
    """Gradio's routes that Quire does not use are not there."""
    inside = path.startswith("/gradio_api/")
    if (inside and not _GRADIO.fullmatch(path)) or _CLOSED.fullmatch(path):
        raise NotFound("route_closed", "There is no such route.", "See /gradio_api/openapi.json.")


async def _read(receive: Receive) -> bytes:
    """The body; one that is too large is read to its end, so that the sender hears why."""
    parts, size, more = [], 0, True
    while more and size < 8 * MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        size += len(message.get("body", b""))
        if size <= MAX_BODY:
            parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    if size > MAX_BODY:
        raise InputError("body_too_large", "The request is too large.", "Upload files as files.")
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes (a disconnect)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _names(body: bytes) -> list[str]:
    """Sessions and events that a small JSON body names."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return []
    if not isinstance(found, dict):
        return []
    return [str(v) for n in ("session_hash", "event_id") if (v := found.get(n))]
