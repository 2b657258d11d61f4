"""A route of our own: who asks, what for, and an answer or an error in JSON.

Whatever changes something must carry a header that no other site's form can send. How large a body
may be is the guard's business.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errors import InputError, QuireError, Refused
from web.api import App
from web.arguments import Arguments
from web.http_status import refusal
from web.identity import Caller
from web.rate_limit import Turns

NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of a known caller; `hub_token` gives the Hub token that came with it, or Refused;
    `sign_out` ends the session that it came in."""

    caller: Caller
    path: Mapping[str, Any]
    query: Mapping[str, str]
    hub_token: Callable[[], str]
    sign_out: Callable[[], None]

    @property
    def user(self) -> str:
        return self.caller.key

    def number(self, name: str, default: int) -> int:
        text = self.query.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def route(
    app: App,
    path: str,
    answer: Callable[..., Any],
    methods: tuple[str, ...] = ("GET",),
    turns: Turns | None = None,
) -> Route:
    """`answer(asked, …)` runs in a thread, when it is the caller's turn, and gives a Response or
    something for JSON. Its parameters after the first are what the body may have."""
    takes = Arguments.after_first(answer)

    def found(request: Request, caller: Caller, given: Mapping[str, Any]) -> Any:
        asked = Asked(
            caller=caller,
            path=request.path_params,
            query=request.query_params,
            hub_token=lambda: app.identity.hub_token(request),
            sign_out=lambda: app.identity.sign_out(request),
        )
        return answer(asked, **given)

    async def endpoint(request: Request) -> Response:
        try:
            body = {} if request.method in {"GET", "HEAD"} else await json_body(request)
            caller = await run_in_threadpool(app.caller, request)
            given = takes.named(body)
            async with (turns or app.turns).turn(caller.share):
                value = await run_in_threadpool(found, request, caller, given)
        except QuireError as problem:
            return refusal(problem)
        return value if isinstance(value, Response) else JSONResponse(value, headers=NO_STORE)

    return Route(path, endpoint, methods=list(methods))


async def json_body(request: Request) -> Mapping[str, Any]:
    """What the page sent, and no other site."""
    if request.headers.get("x-quire") != "1":
        raise Refused("cross_site", "That request did not come from the page.", "Reload it.")
    if not await request.body():
        return {}
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("bad_body", "That is not a JSON object.", "Send one.")
    return found
