"""Who may come in besides people who sign in: own API tokens and anonymous visitors, as rows.

A token is known by its SHA-256 only, so that neither the database nor its backup lets anybody in.
Knows nothing of requests, cookies or the Hub.
"""

import hashlib
import json
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Column, Float, MetaData, String, Table, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from errors import InputError, NotFound, Refused
from storage.catalog.schema import connect

PREFIX = "quire_"
MAX_TOKENS = 20
TOKEN_DAYS = 180

_meta = MetaData()
_tokens = Table(
    "tokens",
    _meta,
    Column("id", String(16), primary_key=True),
    Column("user", String(32), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("label", String(120), nullable=False),
    Column("holder", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)
_visitors = Table(
    "visitors",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("seen_at", Float, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`name` and `orgs` are who minted it, as it was then; times are Unix seconds."""

    id: str
    user: str
    label: str
    name: str
    orgs: tuple[str, ...]
    created_at: float
    expires_at: float


class Accounts:
    """Tokens and visitors behind one database URL."""

    def __init__(self, url: str) -> None:
        self._engine = connect(url, _meta)

    def close(self) -> None:
        self._engine.dispose()

    def mint(self, user: str, label: str, *, name: str, orgs: tuple[str, ...]) -> tuple[Token, str]:
        """A new token and, this once, its text."""
        label = " ".join(str(label).split())[:120]
        if not label:
            raise InputError("label_empty", "A token needs a name.", "Say what it is for.")
        if len(self.tokens(user)) >= MAX_TOKENS:
            raise Refused(
                "too_many_tokens", f"You have {MAX_TOKENS} tokens.", "Revoke one that is not used."
            )
        text = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        made = Token(
            id=secrets.token_hex(8),
            user=user,
            label=label,
            name=name,
            orgs=orgs,
            created_at=now,
            expires_at=now + TOKEN_DAYS * 86400,
        )
        with self._engine.begin() as db:
            db.execute(
                insert(_tokens).values(
                    id=made.id,
                    user=user,
                    digest=_digest(text),
                    label=label,
                    holder=json.dumps({"name": name, "orgs": orgs}),
                    created_at=made.created_at,
                    expires_at=made.expires_at,
                )
            )
        return made, text

    def tokens(self, user: str) -> list[Token]:
        """Oldest first."""
        query = select(_tokens).where(_tokens.c.user == user).order_by(_tokens.c.created_at)
        with self._engine.connect() as db:
            return [_token(row) for row in db.execute(query)]

    def revoke(self, user: str, token_id: str) -> None:
        with self._engine.begin() as db:
            gone = db.execute(
                delete(_tokens).where(_tokens.c.user == user, _tokens.c.id == token_id)
            )
        if not gone.rowcount:
            raise NotFound("token_not_found", "There is no such token.", "Reload the page.")

    def holder(self, text: str) -> Token | None:
        """The token of that text while it is valid."""
        query = select(_tokens).where(_tokens.c.digest == _digest(text))
        with self._engine.connect() as db:
            row = db.execute(query).first()
        found = _token(row) if row else None
        return found if found and found.expires_at > time.time() else None

    def saw_visitor(self, user: str) -> None:
        """Puts off the end of that visitor's workspace."""
        now = time.time()
        with self._engine.begin() as db:
            known = db.execute(
                update(_visitors).where(_visitors.c.user == user).values(seen_at=now)
            )
        if known.rowcount:
            return
        try:
            with self._engine.begin() as db:
                db.execute(insert(_visitors).values(user=user, seen_at=now))
        except IntegrityError:
            return  # two first requests at once

    def visitors_unseen_since(self, moment: float) -> list[str]:
        query = select(_visitors.c.user).where(_visitors.c.seen_at < moment)
        with self._engine.connect() as db:
            return [row.user for row in db.execute(query)]

    def forget(self, user: str) -> None:
        """No token and no visit of that user is left."""
        with self._engine.begin() as db:
            db.execute(delete(_tokens).where(_tokens.c.user == user))
            db.execute(delete(_visitors).where(_visitors.c.user == user))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token(row: object) -> Token:
    holder = json.loads(row.holder)  # type: ignore[attr-defined]
    values = {n: getattr(row, n) for n in ("id", "user", "label", "created_at", "expires_at")}
    return Token(**values, name=holder["name"], orgs=tuple(holder["orgs"]))
