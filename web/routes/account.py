"""The caller's own corner: who they are, until when, what is stored, API tokens.

A token is made by a person at the page only, never by another token, and its text is told once.
"""

from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errors import NotFound, QuireError, Refused
from storage.catalog.tokens import Token
from web import addresses
from web.api import App, about
from web.http_status import refusal
from web.identity import PASSWORD_FOR, SESSION, Caller
from web.json_route import NO_STORE, Asked, json_body, route


def routes(app: App) -> list[Route]:
    accounts = app.identity.accounts

    def account(asked: Asked) -> dict[str, Any]:
        held = accounts.tokens(asked.user) if asked.caller.in_person else []
        mine = addresses.listed(app, asked.user) if asked.caller.in_person else []
        return {**about(app, asked.caller), "tokens": [_shown(t) for t in held], "addresses": mine}

    def make(asked: Asked, label: str = "") -> dict[str, Any]:
        who = _in_person(asked.caller)
        token, text = accounts.mint(who.key, label, name=who.name, orgs=who.orgs)
        return {**_shown(token), "token": text}

    def revoke(asked: Asked, id: str = "") -> dict[str, Any]:
        accounts.revoke(_in_person(asked.caller).key, id)
        return {"revoked": True}

    def ask_address(asked: Asked, address: str = "") -> dict[str, Any]:
        addresses.ask(app, _in_person(asked.caller), address)
        return {"sent": True}

    def confirm_address(asked: Asked, address: str = "", code: str = "") -> dict[str, Any]:
        addresses.confirm(app, _in_person(asked.caller), address, code)
        return {"confirmed": True}

    def remove_address(asked: Asked, address: str = "") -> dict[str, Any]:
        addresses.remove(app, _in_person(asked.caller), address)
        return {"removed": True}

    async def sign_in(request: Request) -> Response:
        """By the password, where one is set."""
        try:
            if not app.settings.asks_password:
                raise NotFound("route_closed", "There is no such route.", "Reload the page.")
            given = str((await json_body(request)).get("password", ""))
            secret = await run_in_threadpool(app.identity.by_password, given, request)
        except QuireError as problem:
            return refusal(problem)
        answer = JSONResponse({"signed_in": True}, headers=NO_STORE)
        secure = request.headers.get("x-forwarded-proto", request.url.scheme) == "https"
        answer.set_cookie(
            SESSION, secret, int(PASSWORD_FOR), httponly=True, samesite="lax", secure=secure
        )
        return answer

    def sign_out(asked: Asked) -> dict[str, Any]:
        asked.sign_out()
        return {"signed_out": True}

    return [
        route(app, "/account", account),
        Route("/sign-in", sign_in, methods=["POST"]),
        route(app, "/account/sign-out", sign_out, ("POST",)),
        route(app, "/account/addresses", ask_address, ("POST",)),
        route(app, "/account/addresses/confirm", confirm_address, ("POST",)),
        route(app, "/account/addresses/remove", remove_address, ("POST",)),
        route(app, "/account/tokens", make, ("POST",)),
        route(app, "/account/tokens/revoke", revoke, ("POST",)),
    ]


def _shown(token: Token) -> dict[str, Any]:
    """A token without what lets anybody in."""
    told = {"id", "label", "created_at", "expires_at"}
    return {name: value for name, value in asdict(token).items() if name in told}


def _in_person(caller: Caller) -> Caller:
    if not caller.in_person:
        raise Refused("sign_in", "Only a person can do that.", "Sign in with Hugging Face.")
    return caller
