"""Who is calling → user key. One local user off Spaces; on a Space the person signed in with
Hugging Face, the owner of a Bearer token, or an anonymous visitor by a signed random cookie.

A Hub token is asked about once and then known by its hash for five minutes; it is never kept.
Knows nothing of pages or jobs.
"""

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.utils._headers import build_hf_headers

from errors import QuireError, Refused, Unavailable
from pipeline.jobs.notify import sealed
from settings import Settings
from storage.catalog.tokens import MEMBER_FOR, PREFIX, Accounts
from storage.paths import UserKey, user_key
from web.rate_limit import Breaker, Buckets, Share, network, too_many

COOKIES = (
    "quire_visitor",
    "quire_visitor_part",
)  # the second is partitioned: for a Hub page's frame
SESSION = "quire_session"  # of whoever knows QUIRE_PASSWORD
PASSWORD_FOR = 30 * 86400.0
_KNOWN_FOR, _REFUSED_FOR, _VISIT_EVERY = 300.0, 60.0, 300.0
_GOOD_FOR = 86_400.0  # a token that was good is no stranger's
_SIGNED_IN_FOR = MEMBER_FOR  # at most; the Hub's access tokens end earlier
_REMEMBERED = 4096
PUSH_SCOPES = {"contribute-repos", "write-repos", "manage-repos"}  # of a sign-in
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """`key` is the only thing that reaches a path or a row; `name` is for display. `kind` says how
    the caller is known; `expires_at` is when a visitor's workspace is erased (Unix seconds)."""

    key: UserKey
    name: str
    kind: Literal["local", "person", "token", "hub_token", "visitor"]
    orgs: tuple[str, ...] = ()
    expires_at: float | None = None
    uploader: UserKey | None = None  # under whose key the files of a token in the body came
    may_push: bool = False  # came with a Hub token that may make repositories
    address: UserKey | None = None  # of a visitor: the key of all visitors from there

    @property
    def share(self) -> Share:
        """What is counted together: a person's, or that of all visitors at one address."""
        return Share(self.address or self.key, visitor=self.kind == "visitor")

    @property
    def in_person(self) -> bool:
        """Sits at the page: may mint tokens, which a token may not."""
        return self.kind in {"local", "person"}


class Remembered(Generic[Kept]):
    """A bounded memory in which each entry has its own end; the least recently used goes first."""

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._size = size
        self._entries: OrderedDict[str, tuple[float, Kept]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Kept | None:
        with self._lock:
            until, value = self._entries.get(key, (0.0, None))
            if until < time.monotonic():
                self._entries.pop(key, None)
                return None
            self._entries.move_to_end(key)
            return value

    def put(self, key: str, value: Kept, seconds: float) -> None:
        with self._lock:
            self._entries[key] = (time.monotonic() + seconds, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)


@dataclass(slots=True)
class Identity:
    settings: Settings
    accounts: Accounts
    _hub: Remembered[Caller | QuireError] = field(default_factory=Remembered)
    _good: Remembered[bool] = field(default_factory=Remembered)
    _strangers: Buckets = field(default_factory=lambda: Buckets(rate=0.2, burst=20))
    _breaker: Breaker = field(
        default_factory=lambda: Breaker(at_once=8, failures=3, rest=15.0, away=_hub_away)
    )
    _visits: Remembered[bool] = field(default_factory=Remembered)

    def of(self, request: Any, oauth_token: str | None = None) -> Caller:
        """From a Gradio or Starlette request; `oauth_token` is what a script sent in the body."""
        if not (self.settings.space_id or self.settings.password):
            return self._local()
        inner = getattr(request, "request", None) or request
        seen: Caller | None = inner.scope.get("quire_caller")  # the guard has looked already
        if seen and (not oauth_token or seen.kind != "visitor"):
            return seen
        session = inner.scope.get("session") or {}
        person = self._signed_in(session)
        refused: QuireError | None = inner.scope.get("quire_refused")
        if refused and not oauth_token:
            raise refused
        if bearer := _bearer(inner):
            return self._admitted(self._by_token(bearer, inner))
        if self.settings.asks_password:
            if self.accounts.signed_in(inner.cookies.get(SESSION, "")):
                return self._local()
            raise Refused("sign_in", "Nobody is signed in.", "Sign in with QUIRE_PASSWORD.")
        if person:
            return self._admitted(self._person(person, _may_push(session)))
        if oauth_token:
            found = self._admitted(self._by_token(oauth_token, inner))
            return replace(found, uploader=seen.key) if seen else found
        return self._visitor(inner)

    def may_mail(self, caller: Caller, address: str) -> None:
        """Refused unless that address is the caller's, or the caller looks after this Quire."""
        if not self.settings.space_id:
            return
        if caller.kind == "visitor":
            raise Refused(
                "mail_sign_in", "Visitors get no mails.", "Sign in, or watch the job at the page."
            )
        if address_digest(self.settings, address) not in self.accounts.addresses(caller.key):
            raise Refused(
                "address_unconfirmed",
                "That mail address is not confirmed as yours.",
                "Confirm it once at the page, under Mail.",
            )

    def hub_token(self, request: Any, oauth_token: str | None = None) -> str:
        """The caller's Hub token that came with this very request, to write a dataset of theirs."""
        inner = getattr(request, "request", None) or request
        bearer = _bearer(inner)
        if bearer and not bearer.startswith(PREFIX) and not self.settings.asks_password:
            return bearer
        session = inner.scope.get("session") or {}
        if self._signed_in(session):
            oauth_token = session["oauth_info"]["access_token"] if _may_push(session) else None
        if not oauth_token:
            raise Refused(
                "push_sign_in",
                "That needs a sign-in that may make repositories.",
                "Sign in with Hugging Face and allow it, or send a Hugging Face token that may.",
            )
        return str(oauth_token)

    def sign_in(self, session: dict[str, Any]) -> None:
        """Somebody has just come back from the Hub: known from now on, until they sign out."""
        info = session.get("oauth_info") or {}
        token, told = info.get("access_token"), info.get("userinfo") or {}
        if not token or not told.get("sub") or self.accounts.signed_in(token) is not None:
            return  # nobody, or one who was there before: what is over does not begin again
        person = self._person(told, may_push=False)
        ends = float(info.get("expires_at") or time.time() + _SIGNED_IN_FOR)
        self.accounts.met(person.key, person.name, person.orgs)
        if told.get("email") and told.get("email_verified") is True:
            address = str(told["email"])
            digest = address_digest(self.settings, address)
            self.accounts.own_address(person.key, digest, sealed(self.settings.secret, address))
        self.accounts.sign_in(token, person.key, min(ends, time.time() + _SIGNED_IN_FOR))

    def by_password(self, given: str, request: Any) -> str:
        """What a cookie has to hold from now on, for whoever knows QUIRE_PASSWORD."""
        if given.startswith(PREFIX):
            raise _token_refused()
        caller, secret = self._by_token(given, request), secrets.token_urlsafe(32)
        self.accounts.sign_in(secret, caller.key, time.time() + PASSWORD_FOR)
        return secret

    def may_measure(self, request: Any) -> None:
        """Refused unless the caller has QUIRE_METRICS_TOKEN, or is the one user where there is one."""
        if _equal(_bearer(request), self.settings.metrics_token or ""):
            return
        if self.settings.space_id:
            raise Refused(
                "metrics_closed",
                "The numbers are for those who look after this Quire.",
                "Send QUIRE_METRICS_TOKEN as Bearer.",
            )
        self.of(request)

    def sign_out(self, request: Any) -> None:
        """Every copy of that session's cookie, and of the Hub token in it, is nobody's from now on."""
        self.accounts.sign_out(request.cookies.get(SESSION, ""))
        info = (request.scope.get("session") or {}).pop("oauth_info", None) or {}
        if info.get("access_token"):
            self.accounts.sign_out(info["access_token"])

    def new_visitor(self) -> str:
        """A cookie's value that only this Space can have made."""
        made = secrets.token_hex(16)
        return f"{made}.{self._signed(made)}"

    def cookie(self, request: Any) -> str | None:
        """The value by which a visitor is known: the first one that this Space has made."""
        for value in (str(request.cookies.get(name, "")) for name in COOKIES):
            made, _, signature = value.partition(".")
            if made and _equal(signature, self._signed(made)):
                return value
        return None

    # Inside

    def _local(self) -> Caller:
        return Caller(key=self._key("local"), name="local", kind="local")

    def _key(self, identity: str) -> UserKey:
        return user_key(self.settings.secret, identity)

    def _signed(self, made: str) -> str:
        seen = hmac.new(self.settings.secret, b"visitor cookie " + made.encode(), hashlib.sha256)
        return seen.hexdigest()[:32]

    def _signed_in(self, session: dict[str, Any]) -> dict[str, Any] | None:
        """The Hub's word on who signed in, until its access token ends or they sign out. A session
        that is over is emptied, so that Gradio does not go by it either."""
        info = session.get("oauth_info") or {}
        person = info.get("userinfo") or {}
        if person.get("sub") and self.accounts.signed_in(str(info.get("access_token", ""))):
            return dict(person)
        session.pop("oauth_info", None)
        return None

    def _person(self, info: dict[str, Any], may_push: bool) -> Caller:
        return Caller(
            key=self._key(f"hf:{info['sub']}"),
            name=str(info.get("preferred_username", "")),
            kind="person",
            orgs=_names(info.get("orgs"), "preferred_username"),
            may_push=may_push,
        )

    def _by_token(self, token: str, request: Any) -> Caller:
        """A token that was never good is asked about as often as its address may be wrong."""
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        own = token.startswith(PREFIX)
        if not own and self.accounts.signed_in(token) is False:  # of a sign-in that is over
            raise _token_refused()
        known = self._hub.get(digest)
        if isinstance(known, QuireError):
            raise Refused(known.code, known.message, known.advice)
        if known:
            return known
        place = network(address(request, self.settings))
        stranger = not self._good.get(digest)
        if stranger and (wait := self._strangers.wait(place)):
            raise too_many(wait)
        try:
            if own:
                found = self._by_own_token(token)
            elif self.settings.space_id:
                found = self._by_hub_token(token, digest)
            elif _equal(token, self.settings.password or ""):
                found = self._local()
            else:
                raise _token_refused()
        except Unavailable:
            self._strangers.give(place)
            raise
        if stranger:
            self._strangers.give(place)
        self._good.put(digest, True, _GOOD_FOR)
        return found

    def _by_own_token(self, token: str) -> Caller:
        found = self.accounts.holder(token)
        if found is None:
            raise _token_refused()
        known = Caller(key=UserKey(found.user), name=found.name, kind="token", orgs=found.orgs)
        old = found.read_at < time.time() - MEMBER_FOR
        if self.settings.allowed and old and found.name.lower() not in self.settings.allowed:
            raise Refused(
                "membership_old",
                "Whose organisations this token goes by was read too long ago.",
                "Sign in at the page once; the token goes on then.",
            )
        return known

    def _by_hub_token(self, token: str, digest: str) -> Caller:
        try:
            with self._breaker.asking():
                found = self._asked(token)
        except Refused as problem:
            self._hub.put(digest, problem, _REFUSED_FOR)
            raise
        self._hub.put(digest, found, _KNOWN_FOR)
        self.accounts.met(found.key, found.name, found.orgs)
        return found

    def _asked(self, token: str) -> Caller:
        """Who the Hub says that is: one request of ten seconds at most."""
        url = f"{constants.ENDPOINT}/api/whoami-v2"
        try:
            answer = get_session().get(url, headers=build_hf_headers(token=token), timeout=10)
        except (httpx2.HTTPError, OSError) as problem:
            raise _hub_away() from problem
        if answer.status_code in {400, 401, 403}:
            raise _token_refused()
        if answer.status_code != 200:
            raise _hub_away()
        found = answer.json()
        if found.get("type") != "user":
            raise Refused(
                "token_refused", "That token is not a person's.", "Use a token of your own."
            )
        return Caller(
            key=self._key(f"hf:{found['id']}"),
            name=str(found.get("name", "")),
            kind="hub_token",
            orgs=_names(found.get("orgs"), "name"),
            may_push=True,
        )

    def _admitted(self, caller: Caller) -> Caller:
        """On the list of those who may use this Space, where there is one."""
        allowed = self.settings.allowed
        if allowed and not allowed & {n.lower() for n in (caller.name, *caller.orgs)}:
            raise Refused(
                "not_allowed",
                "This Space is for some users and organisations only.",
                "Ask its owner, or duplicate it.",
            )
        return caller

    def _visitor(self, request: Any) -> Caller:
        if not self.settings.visitors:
            raise Refused("sign_in", "Nobody is signed in.", "Sign in with Hugging Face.")
        # A tool call comes from inside, with a cookie that all callers of tools share.
        value = None if request.headers.get("x-gradio-user") == "mcp" else self.cookie(request)
        if value is None:
            raise Refused(
                "sign_in",
                "Nobody is signed in, and there is no cookie of a visitor.",
                "Sign in, allow cookies, open the Space in its own tab, or send a token.",
            )
        key = self._key(f"visitor:{value.partition('.')[0]}")
        at = self._key(f"visitors at {network(address(request, self.settings))}")
        if not self._visits.get(key):
            self.accounts.saw_visitor(key, at)
            self._visits.put(key, True, _VISIT_EVERY)
        ends = time.time() + self.settings.visitor_hours * 3600
        return Caller(key=key, name="visitor", kind="visitor", expires_at=ends, address=at)


def _bearer(request: Any) -> str:
    """The token that was sent as Bearer, "" if none was."""
    scheme, _, token = str(request.headers.get("authorization", "")).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def address(request: Any, settings: Settings) -> str:
    """Where it came from. On a Space that is what the platform's proxy has added last; what stands
    before it is the caller's own word, also in a header line of its own, as is all of it anywhere else."""
    forwarded = request.headers.getlist("x-forwarded-for") if settings.space_id else []
    client: str = request.client.host if request.client else ""
    return ",".join(forwarded).split(",")[-1].strip() or client


def address_digest(settings: Settings, address: str) -> str:
    """By which a mail address is looked up; not to be guessed without QUIRE_SECRET."""
    said = b"mail " + address.strip().lower().encode(errors="replace")
    return hmac.new(settings.secret, said, hashlib.sha256).hexdigest()


def _equal(given: str, secret: str) -> bool:
    return bool(secret) and hmac.compare_digest(given.encode(errors="replace"), secret.encode())


def modest(redirect: str) -> str:
    """A sign-in's redirect to the Hub that asks for nothing which only a push needs."""
    whole = urlsplit(redirect)
    asked = dict(parse_qsl(whole.query, keep_blank_values=True))
    if "scope" in asked:
        asked["scope"] = " ".join(w for w in asked["scope"].split() if w not in PUSH_SCOPES)
    return urlunsplit(whole._replace(query=urlencode(asked)))


def _may_push(session: dict[str, Any]) -> bool:
    """Whether they allowed the Space to make repositories."""
    return bool(PUSH_SCOPES & set(str((session.get("oauth_info") or {}).get("scope", "")).split()))


def _names(orgs: Any, field_name: str) -> tuple[str, ...]:
    return tuple(str(o.get(field_name) or o.get("name")) for o in orgs or () if isinstance(o, dict))


def _token_refused() -> Refused:
    return Refused(
        "token_refused",
        "The token was not accepted.",
        "Make a new one on the page, or use a valid Hugging Face token.",
    )


def _hub_away() -> Unavailable:
    return Unavailable(
        "identity_unavailable", "The Hub cannot be asked whose token that is.", "Try again shortly."
    )
