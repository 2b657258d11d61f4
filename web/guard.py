"""Middleware in front of every route: who may ask at all, how often, how much, and from where.

Gradio's own routes are closed unless named here; what a queue or an event stream holds is given only
to the caller that began it. Knows nothing of jobs or pages.
"""

import base64
import contextlib
import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import InputError, NotFound, QuireError, Refused
from settings import LOOPBACK, Settings
from web import body
from web.arguments import Calls
from web.assets import sign_in_page
from web.begun import Begun
from web.http_status import refusal
from web.identity import COOKIES, Caller, Identity, address, modest
from web.rate_limit import AtOnce, Buckets, Share, network, too_many

_GRADIO = re.compile(
    r"/gradio_api/(info/?|openapi\.json|startup-events|theme\.css|app_id/?|queue/(join|data)|call/.+"
    r"|run/[^/]+/?|cancel|reset/?|heartbeat/[^/]+|upload|upload_progress|mcp/?|mcp/schema)"
)
_CLOSED = re.compile(
    r"/(monitoring.*|login/?|logout/?|token/?|openapi\.json|gradio_api|docs|redoc)"
)
_FREE = re.compile(
    r"/(static|assets|svelte|page)/.*|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|healthz|readyz|metrics|sign-in)"
)
_ARRIVALS = {"/", "/config", "/config/"}
_PICTURES = re.compile(r"/(pages|figures)/.*")
_CALL = re.compile(r"/gradio_api/(queue/join|call/.+|run/.+|cancel|reset/?)")
_EVENT = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([^/]+)")
_SIGN_IN, _CALLBACK = "/login/huggingface", "/login/callback"
_UPLOAD = "/gradio_api/upload"
_TOOLS = re.compile(r"/gradio_api/mcp/?")
_NAME = re.compile(r"[!-~]{1,100}")  # of a session, an event or an upload; Gradio's are shorter
_SESSION = re.compile(r"/gradio_api/heartbeat/([^/]+)")
_INLINE = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.S | re.I)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(slots=True)
class Limits:
    """Requests of one person, or of all visitors at one address; the page stays far below."""

    calls: Buckets = field(default_factory=lambda: Buckets(rate=20, burst=200))
    queued: Buckets = field(default_factory=lambda: Buckets(rate=5, burst=100))  # of visitors
    visitors: Buckets = field(default_factory=lambda: Buckets(rate=60, burst=1000))  # all together
    pictures: Buckets = field(default_factory=lambda: Buckets(rate=40, burst=400))
    arrivals: Buckets = field(default_factory=lambda: Buckets(rate=1, burst=60))
    open: AtOnce = field(default_factory=lambda: AtOnce(each=60, visitors=1200, person=300))
    nobody: AtOnce = field(default_factory=lambda: AtOnce(each=20, visitors=200, person=20))
    uploads: AtOnce = field(default_factory=lambda: AtOnce(each=3, visitors=96, person=16))


class Guard:
    """Pure ASGI, so that streams pass through untouched."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        identity: Identity,
        calls: Calls | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.identity = identity
        self.calls = calls
        self.limits = (limits or Limits()) if settings.space_id else None
        self.begun = Begun()

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
                out.setdefault("Content-Security-Policy", policy())
                for name, value in _HEADERS.items():
                    out.setdefault(name, value)
                if not _FREE.fullmatch(scope["path"]):  # it may be somebody's
                    out.setdefault("Cache-Control", "no-store")
                for value in cookie:
                    out.append("set-cookie", value)
                if scope["path"] == _CALLBACK:
                    await run_in_threadpool(self.identity.sign_in, scope.get("session") or {})
                if scope["path"] == _SIGN_IN and "push" not in request.query_params:
                    out["location"] = modest(out.get("location", "/"))
            await send(message)

        request = Request(scope, receive)
        async with contextlib.AsyncExitStack() as held:
            try:
                self._from_where(request.headers, scope["method"])
                _open(scope["path"])
                if moved := _moved(request):
                    await moved(scope, receive, guarded)
                    return
                caller = await self._caller(request)
                self._proved(request)
                cookie += self._arrival(request)
                self._within_limits(request, caller, held)
                receive, who = await self._body(request, caller, receive)
                if scope["method"] == "GET" and _TOOLS.fullmatch(scope["path"]):
                    raise _no_stream()
            except QuireError as problem:
                if "quire_counted" in scope and scope["path"] == _UPLOAD:
                    await body.read_on(body.paced(request.stream()), body.READ_ON)
                at_door = problem.code == "sign_in" and scope["path"] == "/"
                answer = HTMLResponse(sign_in_page(), 401) if at_door else refusal(problem)
                await answer(scope, receive, guarded)
                return
            if scope["method"] == "POST" and _CALL.fullmatch(scope["path"]):
                share = self._share(request, caller).key
                await self.app(scope, receive, self._noting(guarded, who, share))
            else:
                await self.app(scope, receive, _with_policy(guarded))

    # From where

    def _from_where(self, headers: Headers, method: str) -> None:
        if foreign(headers, method):
            raise Refused("cross_site", "That request did not come from the page.", "Reload it.")
        if self.settings.space_id:
            return
        try:
            named = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:  # half an address
            named = None
        public = urlsplit(self.settings.public_url or "").hostname
        ours = named in {*LOOPBACK, self.settings.host, public} or _is_address(named)
        if not named or not ours:  # another site's name that was pointed at this machine
            raise Refused(
                "host_unknown",
                "Quire is not known under that name.",
                "Open it at its address, or set QUIRE_PUBLIC_URL.",
            )

    # Who

    async def _caller(self, request: Request) -> Caller | None:
        """Kept for the route, as is why nobody is known: then the route refuses with that reason."""
        if _FREE.fullmatch(request.url.path):
            return None
        try:
            caller = await run_in_threadpool(self.identity.of, request)
        except QuireError as problem:
            if problem.code == "too_many_requests":
                raise
            request.scope["quire_refused"] = problem
            return None
        request.scope["quire_caller"] = caller
        return caller

    def _proved(self, request: Request) -> None:
        """Where a password is asked for, Gradio's own routes are nobody else's either."""
        refused: QuireError | None = request.scope.get("quire_refused")
        starts = request.url.path == "/gradio_api/startup-events"
        if self.settings.asks_password and refused and not starts:
            raise refused

    def _share(self, request: Request, caller: Caller | None) -> Share:
        """What this request is counted with; an address stands for all that nobody is known of."""
        if caller:
            return caller.share
        return Share(f"at {network(address(request, self.settings))}", visitor=True)

    def _who(self, request: Request, caller: Caller | None, session: str) -> str:
        """Whose a session, an event or an upload is. Tool calls of everybody share one session, under
        a random name that only the app knows: that proves that the app asks, the header does not."""
        if session and request.headers.get("x-gradio-user") == "mcp":
            return f"tools {session}"
        return caller.key if caller else self._share(request, None).key

    def _arrival(self, request: Request) -> list[str]:
        """The cookies of a visitor whose page is loaded; none for anybody else."""
        settings, path = self.settings, request.scope["path"]
        if path not in _ARRIVALS or not settings.visitors:
            return []
        caller = request.scope.get("quire_caller")
        tools = request.headers.get("x-gradio-user") == "mcp"
        if tools or (caller and caller.kind != "visitor"):
            return []
        value = self.identity.cookie(request) or self.identity.new_visitor()
        ends = f"Path=/; Max-Age={settings.visitor_hours * 3600}; HttpOnly; Secure; SameSite=None"
        return [f"{COOKIES[0]}={value}; {ends}", f"{COOKIES[1]}={value}; {ends}; Partitioned"]

    # How often, how much, and only one's own

    def _within_limits(
        self, request: Request, caller: Caller | None, held: contextlib.AsyncExitStack
    ) -> None:
        path, share = request.scope["path"], self._share(request, caller)
        nobody = caller is None and path not in _ARRIVALS  # takes no room of visitors
        if self.limits is None or _FREE.fullmatch(path) or _inside(request):
            return
        bucket = self.limits.calls
        if path in _ARRIVALS and caller is None:
            bucket = self.limits.arrivals
        elif _PICTURES.fullmatch(path):
            bucket = self.limits.pictures
        wait = bucket.wait(share.key)
        if share.visitor and not wait:
            wait = self.limits.visitors.wait("nobody" if nobody else "visitors")
        if share.visitor and not wait and request.method == "POST" and _CALL.fullmatch(path):
            wait = self.limits.queued.wait(share.key)  # a call by the queue costs twenty by a route
        if wait:
            raise too_many(wait)
        held.enter_context((self.limits.nobody if nobody else self.limits.open).one(share))
        request.scope["quire_counted"] = True
        if path == _UPLOAD:
            held.enter_context(self.limits.uploads.one(share))

    async def _body(
        self, request: Request, caller: Caller | None, receive: Receive
    ) -> tuple[Receive, str]:
        """What the app reads, a body that was read and looked at and that names only the caller's; and
        whose what it begins is."""
        path, query = request.scope["path"], request.query_params
        names: list[tuple[str, Any]] = []
        if _GRADIO.fullmatch(path):
            names += [(name, query.get(name, "")) for name in ("session_hash", "upload_id")]
        if found := _SESSION.fullmatch(path):
            names.append(("session_hash", found[1]))
        value: Any = None
        called = request.method == "POST" and _CALL.fullmatch(path)
        if path != _UPLOAD and (called or body.announced(request.headers)):
            text = await body.read(request.headers, receive, json_only=bool(called))
            receive = body.again(text, receive)
            if text or called:
                value = body.parsed(text)
                by_token = isinstance(value, dict) and value.get("oauth_token")
                body.check_files(value, caller.key if caller and not by_token else None)
                if _CALL.fullmatch(path):
                    names += _names(value)
        given = [_name(v) for _, v in names if v]
        session = next((v for name, v in names if name == "session_hash" and v), "")
        who = self._who(request, caller, session)
        event = _EVENT.fullmatch(path) if request.method == "GET" else None
        if event and self.begun.get(event[1]) != who:
            raise NotFound("event_not_found", "There is no such event.", "Call again.")
        owners = {self.begun.get(name) for name in given}
        if owners - {None, who}:
            raise Refused("not_yours", "That belongs to somebody else.", "Reload the page.")
        if called or None in owners:
            await self._known(request, value)
        if called and self.calls:
            self.calls.check(path, value)
        for name in given:  # the first to name one owns it
            self.begun.put(name, who, self._share(request, caller).key)
        return receive, who

    async def _known(self, request: Request, value: Any) -> None:
        """Nobody begins anything, save by a good token in the body."""
        refused: QuireError | None = request.scope.get("quire_refused")
        if refused is None or _inside(request):
            return
        token = value.get("oauth_token") if isinstance(value, dict) else None
        if not isinstance(token, str) or not token:
            raise refused
        await run_in_threadpool(self.identity.of, request, token)

    def _noting(self, send: Send, who: str, share: str) -> Send:
        """Remember whose event the answer names."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.body":
                with contextlib.suppress(ValueError):
                    for _, name in _names(json.loads(message.get("body", b""))):
                        self.begun.put(name, who, share)
            await send(message)

        return noting


def _inside(request: Request) -> bool:
    """A tool call's second way, from the app to itself: its first one was counted."""
    host = request.client.host if request.client else ""
    return host in LOOPBACK and request.headers.get("x-gradio-user") == "mcp"


def _is_address(named: str | None) -> bool:
    """Names can be pointed at this machine by anybody; an address is what it is."""
    try:
        return bool(ipaddress.ip_address(named or ""))
    except ValueError:
        return False


def policy(page: bytes = b"") -> str:
    """What a page may load: the app's own files, and of scripts that stand in the page those that the
    server wrote into it. Nothing is evaluated; nobody but the Hub may frame it."""
    written = {base64.b64encode(hashlib.sha256(s).digest()).decode() for s in _INLINE.findall(page)}
    return "; ".join([
        "default-src 'self'",
        " ".join(["script-src 'self'", *(f"'sha256-{digest}'" for digest in sorted(written))]),
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob: https://huggingface.co https://*.huggingface.co",
        "font-src 'self' data:",
        "media-src 'self' blob:",
        "worker-src 'self'",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co",
    ])


def _with_policy(send: Send) -> Send:
    """Holds a page back until it is whole, since its policy names the scripts in it."""
    held: list[Message] = []
    parts: list[bytes] = []

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            html = Headers(scope=message).get("content-type", "").startswith("text/html")
            if html:
                held.append(message)
            else:
                await send(message)
            return
        if not held:
            await send(message)
            return
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            start, body = held.pop(), b"".join(parts)
            MutableHeaders(scope=start)["Content-Security-Policy"] = policy(body)
            await send(start)
            await send({"type": "http.response.body", "body": body})

    return sending


def foreign(headers: Mapping[str, str], method: str) -> bool:
    """Whether a browser says that another site asked, other than by following a link."""
    site = headers.get("sec-fetch-site")
    if site:
        followed = headers.get("sec-fetch-mode") == "navigate" and method in {"GET", "HEAD"}
        return site in {"cross-site", "same-site"} and not followed
    origin = headers.get("origin") or ""
    return bool(origin) and origin.partition("://")[2] != headers.get("host")


def _moved(request: Request) -> Response | None:
    """A page's address in today's words: `page` and `deep_link` are Gradio's own. A link on another
    site leads to the page; signing in is begun there."""
    asked, path = request.query_params, request.scope["path"]
    if path == _SIGN_IN and foreign(request.headers, "POST"):
        return RedirectResponse("/", 303)
    if path != "/" or not {"page", "deep_link"} & set(asked):
        return None
    kept = {"p": asked["page"], **asked} if "page" in asked else dict(asked)
    query = urlencode({name: kept[name] for name in kept if name not in {"page", "deep_link"}})
    return RedirectResponse(f"/?{query}" if query else "/", 307)


def _open(path: str) -> None:
    """Gradio's routes that Quire does not use are not there."""
    inside = path.startswith("/gradio_api/")
    if (inside and not _GRADIO.fullmatch(path)) or _CLOSED.fullmatch(path):
        raise NotFound("route_closed", "There is no such route.", "See /gradio_api/openapi.json.")


def _names(value: Any) -> list[tuple[str, Any]]:
    """Sessions and events that a small JSON object names, each with what it is."""
    found = value if isinstance(value, dict) else {}
    return [(n, v) for n in ("session_hash", "event_id") if (v := found.get(n))]


def _name(given: Any) -> str:
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise InputError("bad_id", "That id is not one of ours.", "Use an id that Quire returned.")
    return given


def _no_stream() -> Refused:
    return Refused("tools_by_post", "Tools are called by POST.", "Give this address to an agent.")
