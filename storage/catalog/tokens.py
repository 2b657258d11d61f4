"""Who may come in, as rows: people who signed in and until when, their API tokens, visitors.

Tokens and sign-ins are known by their SHA-256 only, so that neither the database nor its backup lets
anybody in. A sign-in that has no row is none: a lost database signs everybody out.
Knows nothing of requests, cookies or the Hub.
"""

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from errors import InputError, NotFound, Refused
from storage.catalog.schema import PATIENCE, connect, upsert
from storage.catalog.schema import visitor_addresses as _addresses
from storage.catalog.schema import visitors as _visitors

PREFIX = "quire_"
MAX_TOKENS = 20
TOKEN_DAYS = 180
_KEPT_FOR = 90 * 86400.0  # the row of a sign-in that is over; the Hub's tokens end earlier
CODE_FOR = 3600.0  # seconds that a code for an address is good
_TRIES = 5
_MAILS = {
    "user": 5,
    "digest": 3,
    "": 200,
}  # with codes in a day: of one person, to one address, of all
MEMBER_FOR = 7 * 86400.0  # seconds after which organisations have to be read again

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
_sessions = Table(
    "sessions",
    _meta,
    Column("digest", String(64), primary_key=True),
    Column("user", String(32), nullable=False, index=True),
    Column("ends_at", Float, nullable=False, index=True),
    Column("ended", Boolean, nullable=False),
)
_people = Table(
    "people",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("read_at", Float, nullable=False),
)
_mail_addresses = Table(  # that their owners have confirmed
    "mail_addresses",
    _meta,
    Column("user", String(32), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("sealed", Text, nullable=False),
)
_codes = Table(  # a row for each mail with a code
    "mail_codes",
    _meta,
    Column("id", String(16), primary_key=True),
    Column("user", String(32), nullable=False, index=True),
    Column("digest", String(64), nullable=False, index=True),
    Column("code", String(64), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("sent_at", Float, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """`name` and `orgs` are its owner's, as they were at `read_at`; times are Unix seconds."""

    id: str
    user: str
    label: str
    name: str
    orgs: tuple[str, ...]
    read_at: float
    created_at: float
    expires_at: float


class Accounts:
    """Tokens and visitors behind one database URL."""

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self._engine = connect(url, _meta, patience=patience)

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
            read_at=now,
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
        """The token of that text while it is valid, with what was read of its owner last."""
        query = select(_tokens).where(_tokens.c.digest == _digest(text))
        with self._engine.connect() as db:
            row = db.execute(query).first()
            if row is None or row.expires_at < time.time():
                return None
            owner = db.execute(select(_people).where(_people.c.user == row.user)).first()
        found = _token(row)
        if owner is None or owner.read_at < found.read_at:
            return found
        known = json.loads(owner.holder)
        return replace(found, name=known["name"], orgs=tuple(known["orgs"]), read_at=owner.read_at)

    def met(self, user: str, name: str, orgs: tuple[str, ...]) -> None:
        """What the Hub has just said of somebody; their tokens go by it."""
        told = {"holder": json.dumps({"name": name, "orgs": orgs}), "read_at": time.time()}
        self._put(_people, {"user": user}, told)

    def sign_in(self, secret: str, user: str, ends_at: float) -> None:
        """From now on until then; `secret` is only its holder's."""
        with self._engine.begin() as db:
            db.execute(delete(_sessions).where(_sessions.c.ends_at < time.time() - _KEPT_FOR))
        made = {"user": user, "ends_at": ends_at, "ended": False}
        self._put(_sessions, {"digest": _digest(secret)}, made)

    def sign_out(self, secret: str) -> None:
        """Every copy of it is refused from now on."""
        with self._engine.begin() as db:
            db.execute(
                update(_sessions).where(_sessions.c.digest == _digest(secret)).values(ended=True)
            )

    def signed_in(self, secret: str) -> bool | None:
        """Whether that sign-in goes on; None when it never was."""
        query = select(_sessions).where(_sessions.c.digest == _digest(secret))
        with self._engine.connect() as db:
            row = db.execute(query).first()
        return None if row is None else not row.ended and row.ends_at > time.time()

    def expect_code(self, user: str, digest: str, code: str) -> None:
        """A mail with that code is about to go to that address, both by their hashes; Refused when too
        many went."""
        now = time.time()
        with self._engine.begin() as db:
            db.execute(delete(_codes).where(_codes.c.sent_at < now - 86400))
            for column, most in _MAILS.items():
                of = {"user": user, "digest": digest}.get(column)
                count = select(func.count()).select_from(_codes)
                these = count.where(_codes.c[column] == of) if column else count
                if (db.execute(these).scalar() or 0) >= most:
                    raise Refused(
                        "too_many_codes",
                        "Enough mails with a code went out for a day.",
                        "Use one of those, or try again tomorrow.",
                    )
            db.execute(
                insert(_codes).values(
                    id=secrets.token_hex(8),
                    user=user,
                    digest=digest,
                    code=code,
                    tries=0,
                    sent_at=now,
                )
            )

    def confirm(self, user: str, digest: str, code: str, sealed: str) -> None:
        """The address is that user's from now on, when the code is the one that went there last; it is
        used up, as it is by five wrong ones."""
        with self._engine.begin() as db:
            mine = (_codes.c.user == user, _codes.c.digest == digest)
            query = select(_codes).where(*mine, _codes.c.sent_at > time.time() - CODE_FOR)
            row = db.execute(query.order_by(_codes.c.sent_at.desc())).first()
            tried = row and db.execute(
                update(_codes)
                .where(_codes.c.id == row.id, _codes.c.tries < _TRIES)
                .values(tries=_codes.c.tries + 1)
            )
            right = row and tried and tried.rowcount and hmac.compare_digest(row.code, code)
            if right:
                db.execute(update(_codes).where(*mine).values(tries=_TRIES))
        if not right:
            raise InputError(
                "code_wrong", "That is not the code, or it is too old.", "Have another one sent."
            )
        self.own_address(user, digest, sealed)

    def own_address(self, user: str, digest: str, sealed: str) -> None:
        self._put(_mail_addresses, {"user": user, "digest": digest}, {"sealed": sealed})

    def addresses(self, user: str) -> dict[str, str]:
        """What is confirmed: sealed, by its hash."""
        query = select(_mail_addresses).where(_mail_addresses.c.user == user)
        with self._engine.connect() as db:
            return {row.digest: row.sealed for row in db.execute(query)}

    def drop_address(self, user: str, digest: str) -> None:
        with self._engine.begin() as db:
            db.execute(
                delete(_mail_addresses).where(
                    _mail_addresses.c.user == user, _mail_addresses.c.digest == digest
                )
            )

    def saw_visitor(self, user: str, address: str = "") -> None:
        """Puts off the end of that visitor's workspace; `address` stands for all visitors from there."""
        self._put(_visitors, {"user": user}, {"seen_at": time.time()})
        if address:
            self._put(_addresses, {"user": user}, {"address": address})

    def visitors_unseen_since(self, moment: float) -> list[str]:
        query = select(_visitors.c.user).where(_visitors.c.seen_at < moment)
        with self._engine.connect() as db:
            return [row.user for row in db.execute(query)]

    def forget(self, user: str) -> None:
        """No row of that user is left."""
        with self._engine.begin() as db:
            for table in (
                _tokens,
                _sessions,
                _people,
                _visitors,
                _addresses,
                _mail_addresses,
                _codes,
            ):
                db.execute(delete(table).where(table.c.user == user))

    def _put(self, table: Table, key: dict[str, str], values: dict[str, Any]) -> None:
        """The row of that key, made or changed."""
        with self._engine.begin() as db:
            upsert(db, table, key, values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token(row: object) -> Token:
    holder = json.loads(row.holder)  # type: ignore[attr-defined]
    values = {n: getattr(row, n) for n in ("id", "user", "label", "created_at", "expires_at")}
    return Token(
        **values, name=holder["name"], orgs=tuple(holder["orgs"]), read_at=values["created_at"]
    )
