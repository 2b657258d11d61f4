"""A sign-in provider on loopback for the real OAuth routes: discovery, keys, authorize, token, whoami.

`with Provider() as provider: provider.person = "ada"`. Whoever is `person` has just agreed; every
access token it gives out, and `hf_<name>` for each of its people, is known to `/api/whoami-v2`.
"""

import asyncio
import secrets
import socket
import threading
import time
from typing import Any
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT, SECRET = "quire-client", "quire-client-secret"
PEOPLE = {"ada": ("aaaa1111", ["engines"]), "bob": ("bbbb2222", []), "eve": ("eeee3333", [])}


class Provider:
    """`asked` counts the whoami requests; `down` makes it answer 503."""

    def __init__(self) -> None:
        self.person = "ada"
        self.scopes = "openid profile contribute-repos"
        self.asked = 0
        self.down = False
        self._key = RSAKey.generate_key(2048, {"kid": "1", "alg": "RS256", "use": "sig"})
        self._codes: dict[str, tuple[str, str, str]] = {}
        self.tokens: dict[str, str] = {f"hf_{name}": name for name in PEOPLE}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/jwks", self._jwks),
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/api/whoami-v2", self._whoami),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Provider":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(5)

    def environment(self) -> dict[str, str]:
        """What the platform sets on a Space with `hf_oauth`."""
        return {
            "SYSTEM": "spaces", "SPACE_ID": "ada/quire", "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_SCOPES": self.scopes,
            "OPENID_PROVIDER_URL": self.url, "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0",
            "QUIRE_EMBEDDING_MODEL": "", "QUIRE_SECRET": "a secret of the tests",
        }  # fmt: skip

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    async def _discovery(self, _: Request) -> Response:
        return JSONResponse({
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/oauth/authorize",
            "token_endpoint": f"{self.url}/oauth/token",
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })

    async def _jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        code = secrets.token_hex(8)
        allowed = " ".join(s for s in asked["scope"].split() if s in self.scopes.split())
        self._codes[code] = (self.person, asked.get("nonce", ""), allowed)
        back = asked["redirect_uri"]
        joined = "&" if "?" in back else "?"
        return RedirectResponse(
            f"{back}{joined}{urlencode({'code': code, 'state': asked['state']})}"
        )

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        name, nonce, allowed = self._codes.pop(str(form["code"]))
        token = f"hf_oauth_{secrets.token_hex(8)}"
        self.tokens[token] = name
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 600, "nonce": nonce,
            **self._claims(name),
        }  # fmt: skip
        return JSONResponse(
            {
                "access_token": token, "token_type": "bearer", "scope": allowed,
                "expires_in": 3600,
                "id_token": jwt.encode({"alg": "RS256", "kid": "1"}, claims, self._key),
            }
        )  # fmt: skip

    def _claims(self, name: str) -> dict[str, Any]:
        sub, orgs = PEOPLE[name]
        return {
            "sub": sub, "name": name.title(), "preferred_username": name,
            "profile": f"{self.url}/{name}", "picture": "",
            "orgs": [{"sub": f"org-{o}", "name": o.title(), "preferred_username": o} for o in orgs],
        }  # fmt: skip

    async def _whoami(self, request: Request) -> Response:
        self.asked += 1
        if self.down:
            return JSONResponse({"error": "away"}, 503)
        name = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if name is None:
            return JSONResponse({"error": "Invalid credentials"}, 401)
        sub, orgs = PEOPLE[name]
        return JSONResponse({
            "type": "user",
            "id": sub,
            "name": name,
            "orgs": [{"name": o} for o in orgs],
        })
