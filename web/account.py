"""What the page tells about the caller: who is signed in, until when, what is stored, API tokens.

A token is made by a person at the page only, never by another token, and its text is told once.
Knows nothing of jobs or documents.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errors import InputError, QuireError, Refused
from web import api
from web.api import App
from web.guard import refusal
from web.identity import Caller


def routes(app: App) -> list[Route]:
    accounts = app.identity.accounts

    def about(caller: Caller, _: Any) -> Any:
        held = accounts.tokens(caller.key) if caller.in_person else []
        return {**api.about(app, caller), "tokens": [shown(t) for t in held]}

    def make(caller: Caller, body: Any) -> Any:
        token, text = accounts.mint(
            _in_person(caller).key, body.get("label", ""), name=caller.name, orgs=caller.orgs
        )
        return {**shown(token), "token": text}

    def revoke(caller: Caller, body: Any) -> Any:
        accounts.revoke(_in_person(caller).key, str(body.get("id", "")))
        return {"revoked": True}

    def route(path: str, answer: Callable[[Caller, Any], Any], method: str) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                body = await _body(request) if method == "POST" else {}
                caller = await run_in_threadpool(app.identity.of, request)
                found = await run_in_threadpool(answer, caller, body)
            except QuireError as problem:
                return refusal(problem)
            return JSONResponse(found, headers={"Cache-Control": "no-store"})

        return Route(path, endpoint, methods=[method])

    return [
        route("/account", about, "GET"),
        route("/account/tokens", make, "POST"),
        route("/account/tokens/revoke", revoke, "POST"),
    ]


def shown(token: Any) -> dict[str, Any]:
    """A token without what lets anybody in."""
    return {
        k: v for k, v in asdict(token).items() if k in {"id", "label", "created_at", "expires_at"}
    }


def _in_person(caller: Caller) -> Caller:
    if not caller.in_person:
        raise Refused("sign_in", "Only a person can do that.", "Sign in with Hugging Face.")
    return caller


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("x-quire") != "1":
        raise Refused("cross_site", "That request did not come from the page.", "Reload it.")
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError("bad_body", "That is not a JSON object.", "Send one.")
    return found
