"""What the page tells about the caller: who is signed in, until when, what is stored, API tokens.

A token is made by a person at the page only, never by another token, and its text is told once.
Knows nothing of jobs or documents.
"""

from dataclasses import asdict
from typing import Any

from starlette.routing import Route

from errors import Refused
from web import api
from web.answers import Asked, route
from web.api import App
from web.identity import Caller


def routes(app: App) -> list[Route]:
    accounts = app.identity.accounts

    def about(asked: Asked) -> Any:
        caller = asked.caller
        held = accounts.tokens(caller.key) if caller.in_person else []
        return {**api.about(app, caller), "tokens": [shown(t) for t in held]}

    def make(asked: Asked) -> Any:
        caller = _in_person(asked.caller)
        token, text = accounts.mint(
            caller.key, asked.body.get("label", ""), name=caller.name, orgs=caller.orgs
        )
        return {**shown(token), "token": text}

    def revoke(asked: Asked) -> Any:
        accounts.revoke(_in_person(asked.caller).key, str(asked.body.get("id", "")))
        return {"revoked": True}

    return [
        route(app, "/account", about),
        route(app, "/account/tokens", make, ("POST",)),
        route(app, "/account/tokens/revoke", revoke, ("POST",)),
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
