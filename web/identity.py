"""Who is calling → user key. One local user off Spaces; on a Space the signed-in Hugging Face user,
the owner of a Bearer token, or an anonymous visitor by a random cookie. Knows nothing of pages.
"""

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import whoami
from huggingface_hub.errors import HfHubHTTPError

from errors import Refused
from settings import Settings
from storage.paths import UserKey, user_key

COOKIE = "quire_visitor"
_REMEMBERED = 300.0


@dataclass(frozen=True, slots=True)
class Caller:
    """`name` is for display; `key` is the only thing that reaches a path or a row."""

    key: UserKey
    name: str
    signed_in: bool


@dataclass(slots=True)
class Identity:
    settings: Settings
    _known: dict[str, tuple[float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, request: Any) -> Caller:
        """From a Gradio or Starlette request."""
        if not self.settings.space_id:
            return self._caller("local", "local", signed_in=True)
        inner = getattr(request, "request", request)
        session = inner.scope.get("session") or {}
        profile = (session.get("oauth_info") or {}).get("userinfo") or {}
        if profile.get("sub"):
            name = str(profile.get("preferred_username", ""))
            return self._caller(f"hf:{profile['sub']}", name, signed_in=True)
        scheme, _, token = inner.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            identity = self._verified(token)
            return self._caller(identity, identity, signed_in=True)
        visitor = inner.cookies.get(COOKIE) or inner.scope.get("quire_visitor", "")
        if len(visitor) < 32:
            raise Refused("sign_in", "Nobody is signed in.", "Sign in with Hugging Face.")
        return self._caller(f"visitor:{visitor}", "visitor", signed_in=False)

    def _caller(self, identity: str, name: str, *, signed_in: bool) -> Caller:
        return Caller(user_key(self.settings.secret, identity), name, signed_in)

    def _verified(self, token: str) -> str:
        """The Hub's answer for a token, remembered for five minutes under the token's hash."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        with self._lock:
            at, identity = self._known.get(digest, (0.0, ""))
        if time.monotonic() - at < _REMEMBERED and identity:
            return identity
        try:
            found = whoami(token)
        except (HfHubHTTPError, OSError) as problem:
            raise Refused(
                "token_refused", "The token was not accepted.", "Use a valid Hugging Face token."
            ) from problem
        identity = f"hf:{found['id']}"
        with self._lock:
            self._known = {
                **dict(list(self._known.items())[-1000:]),
                digest: (time.monotonic(), identity),
            }
        return identity
