"""The caller's own corner: who they are, until when, what is stored, API tokens.

A token is made by a person at the page only, never by another token, and its text is told once.
"""

from dataclasses import asdict
from typing import Any

from starlette.routing import Route

from errors import Refused
from storage.catalog.tokens import Token
from web.api import App, about
from web.identity import Caller
from web.json_route import Asked, route


def routes(app: App) -> list[Route]:
    accounts = app.identity.accounts

    def account(asked: Asked) -> dict[str, Any]:
        held = accounts.tokens(asked.user) if asked.caller.in_person else []
        return {**about(app, asked.caller), "tokens": [_shown(t) for t in held]}

    def make(asked: Asked) -> dict[str, Any]:
        who = _in_person(asked.caller)
        label = asked.body.get("label", "")
        token, text = accounts.mint(who.key, label, name=who.name, orgs=who.orgs)
        return {**_shown(token), "token": text}

    def revoke(asked: Asked) -> dict[str, Any]:
        accounts.revoke(_in_person(asked.caller).key, str(asked.body.get("id", "")))
        return {"revoked": True}

    def sign_out(asked: Asked) -> dict[str, Any]:
        asked.sign_out()
        return {"signed_out": True}

    return [
        route(app, "/account", account),
        route(app, "/account/sign-out", sign_out, ("POST",)),
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
