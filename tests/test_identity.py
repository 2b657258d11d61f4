"""Who is calling: tokens, sessions, visitors, the list of the allowed; limits; uploads."""

import asyncio
import contextlib
import http.client
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants
from sqlalchemy import event
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from errors import NotFound, Refused, Unavailable
from settings import Settings
from storage.catalog.tokens import MAX_TOKENS, Accounts
from tests.conftest import SAMPLES, Running, files, start_app
from tests.mailbox import Inbox, mailbox
from tests.oidc import PEOPLE, Provider
from tests.people import Person, Refusal, form, signed_in, visitor, with_token
from web.guard import Guard
from web.identity import COOKIES, Caller, Identity, Remembered
from web.rate_limit import Buckets


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as made, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", made.url)
        yield made


def identity(tmp_path: Path, **environ: str) -> Identity:
    tmp_path.mkdir(exist_ok=True)
    settings = Settings.from_env({
        "QUIRE_DATA_DIR": str(tmp_path),
        "SPACE_ID": "ada/quire",
        "QUIRE_SECRET": "s",
        **environ,
    })
    return Identity(settings, Accounts(f"sqlite:///{tmp_path}/catalog.sqlite"))


def request(session: Any = None, **headers: str) -> Request:
    raw = [(n.replace("_", "-").lower().encode(), v.encode()) for n, v in headers.items()]
    return Request({"type": "http", "headers": raw, "session": session or {}, "query_string": b""})


def bearer(token: str) -> Request:
    return request(Authorization=f"Bearer {token}")


def session(name: str, *, ends_in: float = 600) -> dict[str, Any]:
    sub, orgs = PEOPLE[name]
    person = {
        "sub": sub,
        "preferred_username": name,
        "orgs": [{"preferred_username": o} for o in orgs],
    }
    token = f"hf_oauth_{name}"
    told = {"userinfo": person, "expires_at": time.time() + ends_in, "access_token": token}
    return {"oauth_info": told}


def at_the_page(who: Identity, name: str, **options: Any) -> Request:
    """The request of somebody who has just signed in."""
    made = session(name, **options)
    who.sign_in(made)
    return request(made)


def code(caught: Any) -> str:
    return str(caught.value.code)


def test_a_person_is_the_same_by_session_by_hub_token_and_by_own_token(
    tmp_path: Path, provider: Provider
) -> None:
    who = identity(tmp_path)
    signed = who.of(at_the_page(who, "ada"))
    assert (signed.name, signed.kind, signed.in_person) == ("ada", "person", True)
    by_hub = who.of(bearer("hf_ada"))
    _, text = who.accounts.mint(signed.key, "script", name="ada", orgs=signed.orgs)
    by_token = who.of(bearer(text))
    assert signed.key == by_hub.key == by_token.key != who.of(bearer("hf_bob")).key
    assert (by_hub.in_person, by_token.in_person) == (False, False)
    assert who.of(request(), "hf_ada").key == signed.key


def test_the_hub_is_asked_once_per_token_also_for_a_wrong_one(
    tmp_path: Path, provider: Provider
) -> None:
    who, before = identity(tmp_path), provider.asked
    for _ in range(5):
        who.of(bearer("hf_ada"))
        with pytest.raises(Refused) as caught:
            who.of(bearer("hf_made_up"))
        assert code(caught) == "token_refused"
    assert provider.asked == before + 2


def test_a_hub_that_is_away_is_no_refusal(tmp_path: Path, provider: Provider) -> None:
    who = identity(tmp_path)
    provider.down = True
    try:
        with pytest.raises(Unavailable) as caught:
            who.of(bearer("hf_ada"))
        assert code(caught) == "identity_unavailable"
    finally:
        provider.down = False
    assert who.of(bearer("hf_ada")).name == "ada"


def test_a_token_is_stored_hashed_told_once_and_revoked_at_once(tmp_path: Path) -> None:
    who = identity(tmp_path)
    ada = who.of(at_the_page(who, "ada"))
    token, text = who.accounts.mint(ada.key, "  my \n script ", name="ada", orgs=())
    assert token.label == "my script"
    assert text.encode() not in (tmp_path / "catalog.sqlite").read_bytes()
    assert text.removeprefix("quire_").encode() not in (tmp_path / "catalog.sqlite").read_bytes()
    assert who.of(bearer(text)).key == ada.key
    with pytest.raises(NotFound):
        who.accounts.revoke("b" * 32, token.id)
    who.accounts.revoke(ada.key, token.id)
    with pytest.raises(Refused):
        who.of(bearer(text))


def test_a_token_of_quire_s_is_not_looked_for_among_the_sign_ins(tmp_path: Path) -> None:
    who = identity(tmp_path)
    _, text = who.accounts.mint("a" * 32, "script", name="ada", orgs=())
    asked: list[str] = []
    heard = (who.accounts._engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    event.listen(*heard)
    assert who.of(bearer(text)).kind == "token"
    assert asked and not [text for text in asked if "sessions" in text]


def test_a_token_ends(tmp_path: Path) -> None:
    who = identity(tmp_path)
    _, text = who.accounts.mint("a" * 32, "old", name="ada", orgs=())
    with sqlite3.connect(tmp_path / "catalog.sqlite") as database:
        database.execute("UPDATE tokens SET expires_at = 1")
    with pytest.raises(Refused) as caught:
        who.of(bearer(text))
    assert code(caught) == "token_refused"


def test_tokens_are_bounded_in_number(tmp_path: Path) -> None:
    who = identity(tmp_path)
    for n in range(MAX_TOKENS):
        who.accounts.mint("a" * 32, f"t{n}", name="ada", orgs=())
    with pytest.raises(Refused) as caught:
        who.accounts.mint("a" * 32, "one more", name="ada", orgs=())
    assert code(caught) == "too_many_tokens"
    who.accounts.mint("b" * 32, "somebody else's", name="bob", orgs=())


def test_a_session_ends_with_its_access_token(tmp_path: Path) -> None:
    who = identity(tmp_path)
    with pytest.raises(Refused) as caught:
        who.of(at_the_page(who, "ada", ends_in=-1))
    assert code(caught) == "sign_in"


def test_who_signed_out_is_out_with_every_copy_also_after_a_restart(
    tmp_path: Path, provider: Provider
) -> None:
    who, copy = identity(tmp_path), session("ada")
    provider.tokens["hf_oauth_ada"] = "ada"  # the cookie holds it, and the Hub still knows it
    who.sign_in(copy)
    kept = deepcopy(copy)
    assert who.of(request(deepcopy(copy))).name == "ada"
    who.sign_out(request(copy))
    assert copy == {}
    for later in (who, identity(tmp_path)):
        again = deepcopy(kept)
        later.sign_in(again)  # the callback's route, called with the old cookie
        asked = request(again)
        with pytest.raises(Refused) as caught:
            later.of(asked)
        assert code(caught) == "sign_in"
        assert again == {}  # so that Gradio hands out nothing of it
        for sent in (bearer("hf_oauth_ada"), request()):
            with pytest.raises(Refused) as caught:
                later.of(sent, "hf_oauth_ada")
            assert code(caught) == "token_refused"
    del provider.tokens["hf_oauth_ada"]


def test_a_session_that_this_quire_did_not_begin_is_none(tmp_path: Path) -> None:
    """Whoever knows the key of the cookies can still sign nobody in."""
    with pytest.raises(Refused) as caught:
        identity(tmp_path).of(request(session("ada")))
    assert code(caught) == "sign_in"


def test_a_token_goes_by_the_organisations_that_were_read_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = identity(tmp_path, QUIRE_ALLOWED="engines, bob")
    ada = who.of(at_the_page(who, "ada"))
    _, text = who.accounts.mint(ada.key, "script", name="ada", orgs=ada.orgs)
    assert who.of(bearer(text)).orgs == ("engines",)
    monkeypatch.setitem(PEOPLE, "ada", (PEOPLE["ada"][0], []))  # she left
    left = session("ada")
    left["oauth_info"]["access_token"] = "another"
    who.sign_in(left)
    with pytest.raises(Refused) as caught:
        who.of(bearer(text))
    assert code(caught) == "not_allowed"


def test_organisations_are_believed_for_days_and_the_allowed_by_name_for_ever(
    tmp_path: Path,
) -> None:
    who = identity(tmp_path, QUIRE_ALLOWED="engines bob")
    tokens = {}
    for name, orgs in (("ada", ("engines",)), ("bob", ())):
        key = who.of(at_the_page(who, name)).key
        tokens[name] = who.accounts.mint(key, "script", name=name, orgs=orgs)[1]
    with sqlite3.connect(tmp_path / "catalog.sqlite") as database:
        for table, column in (("people", "read_at"), ("tokens", "created_at")):
            database.execute(f"UPDATE {table} SET {column} = {column} - 8 * 86400")
    with pytest.raises(Refused) as caught:
        who.of(bearer(tokens["ada"]))
    assert code(caught) == "membership_old"
    assert who.of(bearer(tokens["bob"])).name == "bob"
    assert identity(tmp_path).of(bearer(tokens["ada"])).name == "ada"  # where all may come in
    fresh = session("ada")
    fresh["oauth_info"]["access_token"] = "another"
    who.sign_in(fresh)
    assert who.of(bearer(tokens["ada"])).name == "ada"


def test_only_the_allowed_come_in(tmp_path: Path, provider: Provider) -> None:
    who = identity(tmp_path, QUIRE_ALLOWED="Engines, bob")
    assert who.of(at_the_page(who, "ada")).name == "ada"  # of the organisation
    assert who.of(bearer("hf_bob")).name == "bob"
    for stranger in (at_the_page(who, "eve"), bearer("hf_eve")):
        with pytest.raises(Refused) as caught:
            who.of(stranger)
        assert code(caught) == "not_allowed"
    cookie = f"quire_visitor={who.new_visitor()}"
    with pytest.raises(Refused) as caught:
        who.of(request(Cookie=cookie))
    assert code(caught) == "sign_in"
    _, text = who.accounts.mint("e" * 32, "from before", name="eve", orgs=())
    with pytest.raises(Refused) as caught:
        who.of(bearer(text))
    assert code(caught) == "not_allowed"


def test_visitors_are_apart_and_cannot_be_made_up(tmp_path: Path) -> None:
    who = identity(tmp_path)
    first, second = who.new_visitor(), who.new_visitor()
    callers = [who.of(request(Cookie=f"quire_visitor={v}")) for v in (first, second, first)]
    assert callers[0].key == callers[2].key != callers[1].key
    assert callers[0].kind == "visitor"
    assert callers[0].expires_at
    assert who.of(request(Cookie=f"quire_visitor_part={first}")).key == callers[0].key
    made, _, signature = first.partition(".")
    for forged in (made, f"{made}.", f"{'0' * 32}.{signature}", f".{signature}", "."):
        with pytest.raises(Refused):
            who.of(request(Cookie=f"quire_visitor={forged}"))
    with pytest.raises(Refused):  # callers of tools share one cookie: nobody is known by it
        who.of(request(Cookie=f"quire_visitor={first}", X_Gradio_User="mcp"))
    assert identity(tmp_path, SPACE_ID="").of(request()).kind == "local"


def test_a_visitor_who_comes_back_stays_the_same_also_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the other cookie holds; another workspace would be opened in place of theirs."""
    known = identity(tmp_path)
    mine, odd = known.new_visitor(), ["", "x", f"{'0' * 32}.{'0' * 32}", "x.\u00e9"]
    page = TestClient(Guard(JSONResponse({}), settings=known.settings, identity=known))

    def renewed(**cookies: str) -> set[str]:
        text = "; ".join(f"{name}={value}" for name, value in cookies.items())
        answer = page.get("/", headers={"Cookie": text.encode("latin-1")})  # type: ignore[dict-item]
        page.cookies.clear()
        assert answer.status_code == 200
        return {line.split(";")[0] for line in answer.headers.get_list("set-cookie")}

    def away(*_: Any) -> None:
        raise Unavailable("catalog_unavailable", "The database is busy.")

    same = {f"{name}={mine}" for name in COOKIES}
    for broken in (False, True):
        if broken:
            monkeypatch.setattr(known.accounts, "saw_visitor", away)
            known._visits = Remembered()
        for other in odd:
            assert renewed(quire_visitor=other, quire_visitor_part=mine) == same
            assert renewed(quire_visitor=mine, quire_visitor_part=other) == same
    strangers = [renewed(), *(renewed(quire_visitor=value) for value in odd)]
    assert all(len(cookies) == 2 and not cookies & same for cookies in strangers)


@pytest.mark.parametrize("written", ["Bearer {}", "bearer {}", "BEARER  {} ", "Bearer   {}"])
def test_what_is_sent_as_bearer_is_read_in_one_way_and_lent_only_where_it_is_the_hub_s(
    tmp_path: Path, provider: Provider, written: str
) -> None:
    who = identity(tmp_path / "space", QUIRE_METRICS_TOKEN="for the numbers")

    def sent(token: str) -> Request:
        return request(Authorization=written.format(token))

    ada = who.of(sent("hf_ada"))
    assert (ada.kind, who.hub_token(sent("hf_ada"))) == ("hub_token", "hf_ada")
    who.may_measure(sent("for the numbers"))
    _, own = who.accounts.mint(ada.key, "script", name="ada", orgs=())
    home = identity(tmp_path / "home", SPACE_ID="", QUIRE_PASSWORD=PASSWORD)
    for place, token in ((who, own), (home, PASSWORD), (who, "")):
        if token:
            assert place.of(sent(token)).kind in {"token", "local"}
        with pytest.raises(Refused) as caught:
            place.hub_token(sent(token))
        assert code(caught) == "push_sign_in"
        assert place.hub_token(sent(token), "hf_ada") == "hf_ada"


def test_the_memories_are_bounded() -> None:
    kept: Remembered[int] = Remembered(100)
    buckets = Buckets(rate=1, burst=1, size=100)
    for n in range(5000):
        kept.put(str(n), n, 60)
        buckets.wait(str(n))
    assert (len(kept), len(buckets)) == (100, 100)
    assert (kept.get("4999"), kept.get("0")) == (4999, None)
    kept.put("gone", 1, -1)
    assert kept.get("gone") is None


def test_a_token_that_is_known_is_known_however_often_it_is_shown(tmp_path: Path) -> None:
    known = identity(tmp_path)
    _, token = known.accounts.mint("a" * 32, "script", name="ada", orgs=())
    seen: list[str | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        caller = scope.get("quire_caller")
        seen.append(caller.name if caller else None)

    async def ask() -> None:
        guard = Guard(app, settings=known.settings, identity=known)
        for _ in range(100):
            headers = [(b"authorization", f"Bearer {token}".encode())]
            await guard(
                {
                    "type": "http", "method": "GET", "path": "/jobs/x", "query_string": b"",
                    "headers": headers, "client": ("203.0.113.7", 1), "session": {},
                },
                _nothing, _nothing,
            )  # fmt: skip

    asyncio.run(ask())
    assert seen == ["ada"] * 100


def test_a_tool_s_event_is_reached_only_by_who_names_its_session(tmp_path: Path) -> None:
    """The header that tool calls carry can be sent by anybody."""
    known = identity(tmp_path)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"event_id": "event"})(scope, receive, send)

    guard = Guard(app, settings=known.settings, identity=known)

    def ask(
        path: str, query: str = "", by: str = "mcp", at: str = "127.0.0.1", **named: str
    ) -> int:
        body, told = json.dumps(named).encode() if named else b"", []
        headers = [("x-gradio-user", by), ("content-length", str(len(body)))]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        scope = {
            "type": "http", "method": "POST" if named else "GET", "path": f"/gradio_api/{path}",
            "query_string": query.encode(), "client": (at, 1), "session": {},
            "headers": [(n.encode(), v.encode()) for n, v in headers],
        }  # fmt: skip
        asyncio.run(guard(scope, receive, send))
        assert (b"cache-control", b"no-store") in told[0]["headers"]
        return int(told[0]["status"])

    assert ask("queue/join", session_hash="tools") == 200
    assert ask("queue/data", "session_hash=tools") == 200
    assert ask("cancel", session_hash="tools", event_id="event") == 200
    assert ask("call/jobs/event") == 404
    assert ask("call/jobs/event", "session_hash=mine") == 404
    assert ask("cancel", session_hash="mine", event_id="event") == 403
    assert ask("cancel", event_id="event") == 403
    assert ask("queue/data", "session_hash=tools", by="api") == 403
    assert ask("queue/join", at="203.0.113.7", session_hash="forged") == 401


async def _nothing(*_: Any) -> dict[str, Any]:
    return {"type": "http.request", "body": b""}


def test_a_bucket_empties_and_fills() -> None:
    bucket = Buckets(rate=2, burst=3)
    assert [bucket.wait("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.wait("b", 0.0) == 0
    assert bucket.wait("a", 0.5) == 0
    assert bucket.wait("a", 0.5) > 0
    assert [bucket.wait("a", 1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


# At a running Space


@pytest.fixture(scope="module")
def mails() -> Iterator[tuple[Inbox, str]]:
    with mailbox() as made:
        yield made


@pytest.fixture(scope="module")
def space(
    tmp_path_factory: pytest.TempPathFactory, provider: Provider, mails: tuple[Inbox, str]
) -> Iterator[tuple[Running, Provider]]:
    app = start_app(
        tmp_path_factory.mktemp("space") / "data", QUIRE_VISITOR_QUOTA_MB="4",
        QUIRE_METRICS_TOKEN="the operator's", QUIRE_MAIL_URL=mails[1],
        **provider.environment(),
    )  # fmt: skip
    yield app, provider
    app.stop()


Space = tuple[Running, Provider]


def uploaded(app: Running) -> set[Path]:
    return files(app.data / "uploads")


def until(true: Callable[[], object], seconds: float = 30) -> bool:
    """Whether it came true in that time."""
    limit = time.monotonic() + seconds
    while not true() and time.monotonic() < limit:
        threading.Event().wait(0.1)  # 20 calls a second are too many
    return bool(true())


@pytest.mark.slow
def test_a_person_signs_in_makes_a_token_uses_and_revokes_it(space: Space) -> None:
    app, provider = space
    ada = signed_in(app.url, provider, "ada")
    assert ada.call("status")["you"]["name"] == "ada"
    made = ada.post("/account/tokens", {"label": "a script"}, X_Quire="1")[1]
    script = with_token(app.url, made["token"])
    assert script.call("status")["you"] == {
        **ada.call("status")["you"],
        "kind": "token",
        "may_push": False,
    }
    told = json.loads(ada.ask("/account")[1])
    assert [t["label"] for t in told["tokens"]] == ["a script"]
    assert made["token"] not in json.dumps(told)
    for thief in (script, with_token(app.url, "hf_ada")):
        status, answer = thief.post("/account/tokens", {"label": "more"}, X_Quire="1")
        assert (status, answer["error"]["code"]) == (401, "sign_in")
    assert ada.post("/account/tokens", {"label": "no header"})[0] == 403
    assert ada.post("/account/tokens/revoke", {"id": made["id"]}, X_Quire="1")[0] == 200
    with pytest.raises(Refusal) as caught:
        script.call("status")
    assert caught.value.code == "token_refused"
    stolen = Person(app.url, cookies=dict(ada.cookies))
    assert stolen.call("status")["you"]["name"] == "ada"
    assert ada.ask("/logout")[0] == 404
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    for path in ("/logout", "/account/sign-out", "/login/huggingface"):  # links on another site
        ada.ask(path, None, "GET", **followed)
    assert ada.post("/account/sign-out", {})[0] == 403
    assert ada.call("status")["you"]["name"] == "ada"
    assert ada.post("/account/sign-out", {}, X_Quire="1")[0] == 200
    assert ada.ask("/")[0] == 200
    assert ada.call("status")["you"]["kind"] == "visitor"
    assert stolen.ask("/login/callback?code=x&state=y")[2]["location"].startswith("/login/")
    with pytest.raises(Refusal) as caught:
        stolen.call("status")
    assert caught.value.code == "sign_in"
    for secret in (made["token"], "hf_ada", *provider.tokens):
        assert secret not in (app.data / "app.log").read_text(encoding="utf-8")
        for file in app.data.glob("*.sqlite*"):
            assert secret.encode() not in file.read_bytes()


@pytest.mark.slow
def test_an_address_is_one_s_own_by_the_code_that_is_mailed(
    space: Space, mails: tuple[Inbox, str]
) -> None:
    app, provider = space
    ada, inbox = signed_in(app.url, provider, "ada"), mails[0]

    def ask(path: str, **body: str) -> Any:
        status, told = ada.post(f"/account/addresses{path}", body, X_Quire="1")
        return told if status == 200 else told["error"]["code"]

    def submit() -> Any:
        files = [{"path": ada.upload(SAMPLES / "greek.pdf")[1][0]}]
        return ada.call("submit", files=files, notify="ada@example.org")

    with pytest.raises(Refusal) as caught:
        submit()
    assert caught.value.code == "address_unconfirmed"
    assert ask("", address="ada@example.org") == {"sent": True}
    assert [m["To"] for m in inbox.mails] == ["ada@example.org"]
    assert ask("/confirm", address="ada@example.org", code="AAAA-AAAA") == "code_wrong"
    assert ask("/confirm", address="ada@example.org", code=inbox.code()) == {"confirmed": True}
    assert json.loads(ada.ask("/account")[1])["addresses"] == ["ada@example.org"]
    ada.call("watch", job_id=submit()[0]["id"])
    assert until(lambda: len(inbox.mails) == 2)
    assert inbox.mails[1]["To"] == "ada@example.org"
    assert ask("/remove", address="ada@example.org") == {"removed": True}
    assert json.loads(ada.ask("/account")[1])["addresses"] == []
    with pytest.raises(Refusal) as caught:
        submit()
    assert caught.value.code == "address_unconfirmed"


@pytest.mark.slow
def test_a_sign_in_is_finished_only_where_it_was_begun(space: Space) -> None:
    """An answer of the Hub that another browser asked for signs nobody in."""
    app, provider = space
    eve, ada = Person(app.url), Person(app.url)
    provider.person = "eve"
    to_hub = eve.ask("/login/huggingface")[2]["location"]
    back = eve.ask(to_hub)[2]["location"]
    provider.person = "ada"
    assert ada.ask(back)[2]["location"].startswith("/login/huggingface")
    assert ada.ask("/account")[0] == 401
    foreign = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ada.ask("/login/huggingface", None, "GET", **foreign)[2]["location"] == "/"


@pytest.mark.slow
def test_a_visitor_is_told_until_when_and_has_a_small_quota(space: Space) -> None:
    app, _ = space
    guest, before = visitor(app.url), uploaded(app)
    you = guest.call("status")["you"]
    assert you["kind"] == "visitor"
    assert 23 * 3600 < you["expires_at"] - time.time() <= 24 * 3600
    assert you["storage"]["limit_bytes"] == 4 << 20
    assert guest.upload(b"%PDF-1.7" + b"x" * (2 << 20))[0] == 200
    status, told = guest.upload(b"%PDF-1.7" + b"x" * (2 << 20))
    assert (status, json.loads(told)["error"]["code"]) == (507, "quota_exceeded")
    for body, kind in ((b"no form", "text/plain"), (b"--x", "multipart/form-data; boundary=y")):
        status, answer, _ = guest.ask("/gradio_api/upload", body, Content_Type=kind)
        assert (status, json.loads(answer)["error"]["code"]) in {
            (400, "bad_body"),
            (400, "no_files"),
        }
    assert len(uploaded(app) - before) == 1
    assert guest.upload(SAMPLES / "greek.pdf")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False], ids=["told", "chunked"])
def test_uploads_at_once_cannot_pass_a_quota_together(
    space: tuple[Running, Provider], told: bool
) -> None:
    """Sixteen of 2.5 MB under a quota of four: one passes. Those that do not say how large they are may
    stand in each other's way, and none passes then."""
    app, _ = space
    guest = visitor(app.url)
    body, kind = form(b"%PDF-1.7" + b"x" * 2_500_000, "large.pdf")
    cookies = "; ".join(f"{k}={v}" for k, v in guest.cookies.items())

    def send(_: int) -> int:
        address = urlsplit(app.url)
        line = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        blocks = (body[i : i + 100_000] for i in range(0, len(body), 100_000))
        head = {**guest.headers, "Cookie": cookies, "Content-Type": kind}
        with contextlib.closing(line), contextlib.suppress(ConnectionError):
            line.request("POST", "/gradio_api/upload", body if told else blocks, head)
            return line.getresponse().status
        return 0  # it was refused before all was sent

    with ThreadPoolExecutor(16) as at_once:
        answers = list(at_once.map(send, range(16)))
    assert answers.count(200) <= 1
    assert answers.count(200) == 1 or (not told and send(0) == 200)
    assert guest.call("status")["you"]["storage"]["bytes"] <= 4 << 20


@pytest.mark.slow
def test_an_upload_that_breaks_off_leaves_nothing_and_harms_nobody(space: Space) -> None:
    app, _ = space
    guest = visitor(app.url)
    body, kind = form(b"%PDF" + b"x" * 500_000, "half.pdf")
    cookies = "; ".join(f"{k}={v}" for k, v in guest.cookies.items())
    head = (
        f"POST /gradio_api/upload?upload_id=abc HTTP/1.1\r\nHost: {urlsplit(app.url).netloc}\r\n"
        f"Cookie: {cookies}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = uploaded(app)

    def fresh() -> set[Path]:
        return uploaded(app) - before

    with socket.create_connection((urlsplit(app.url).hostname, urlsplit(app.url).port)) as line:
        line.sendall(head.encode() + body[:400_000])
        assert until(fresh)
        other = visitor(app.url)
        status, paths = other.upload(SAMPLES / "greek.pdf")
        assert status == 200
        before.add(Path(paths[0]))
        assert fresh()
    assert until(lambda: not fresh())
    job = other.call("submit", files=[{"path": paths[0]}])[0]  # which the worker may have by now
    assert until(lambda: other.call("job", job_id=job["id"])["status"] == "succeeded")
    assert guest.upload(SAMPLES / "greek.pdf")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../evil.pdf", "..", "/etc/passwd", "a\\..\\b.pdf", ""])
def test_a_name_leads_nowhere(space: Space, name: str) -> None:
    app, _ = space
    guest = visitor(app.url)
    status, paths = guest.upload(SAMPLES / "greek.pdf", name)
    if status == 200:
        assert Path(paths[0]).resolve().is_relative_to((app.data / "uploads").resolve())
    else:
        assert status == 400


@pytest.mark.slow
def test_what_was_not_uploaded_by_the_caller_is_no_file(space: Space) -> None:
    app, _ = space
    guest, other = visitor(app.url), visitor(app.url)
    _, paths = guest.upload(SAMPLES / "greek.pdf")
    for path in (
        "/etc/passwd",
        f"{app.data}/secret",
        f"{app.data}/uploads",
        paths[0] + "/../..",
        "",
    ):
        with pytest.raises(Refusal) as caught:
            guest.call("submit", files=[{"path": path}])
        assert caught.value.code == "not_an_upload"
    with pytest.raises(Refusal) as caught:
        other.call("submit", files=[{"path": paths[0]}])
    assert caught.value.code == "not_an_upload"
    assert guest.call("submit", files=[{"path": paths[0]}])[0]["status"] == "queued"


@pytest.mark.slow
def test_a_flood_is_slowed_and_a_page_is_not(space: Space) -> None:
    app, _ = space
    guest, calm = visitor(app.url), visitor(app.url)
    answers = [guest.ask("/account") for _ in range(400)]
    assert [status for status, _, _ in answers[:150]] == [200] * 150
    # On a slow machine every other one is let through again: the bucket fills by time.
    refused = [(body, headers) for status, body, headers in answers if status == 429]
    assert refused
    assert {status for status, _, _ in answers} == {200, 429}
    for body, headers in refused:
        assert json.loads(body)["error"]["code"] == "too_many_requests"
        assert int(headers["retry-after"]) >= 1
    assert calm.ask("/account")[0] == 200


@pytest.mark.slow
def test_a_huge_body_is_refused(space: Space) -> None:
    app, _ = space
    status, answer = visitor(app.url).post("/gradio_api/call/v2/search", {"query": "x" * (5 << 20)})
    assert (status, answer["error"]["code"]) == (413, "body_too_large")


def test_a_caller_is_one_value() -> None:
    assert Caller.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_name_pointed_at_this_machine_is_refused(app: Running) -> None:
    person = Person(app.url)
    assert person.ask("/account", None, "GET", Host="evil.example")[0] == 403
    assert person.ask("/account", None, "GET", Host="localhost:1")[0] == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("guarded") / "data"
    app = start_app(data, QUIRE_HOST="0.0.0.0", QUIRE_PASSWORD=PASSWORD)
    yield app
    app.stop()


PASSWORD = "correct horse battery"


@pytest.mark.slow
def test_who_does_not_know_the_password_gets_nothing(guarded: Running) -> None:
    stranger = Person(guarded.url)
    status, page, headers = stranger.ask("/")
    assert (status, b"sign-in.js" in page, b"gradio" in page) == (401, True, False)
    assert "unsafe-eval" not in headers["content-security-policy"]
    paths = [
        "/config",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/status",
        "/events",
        "/metrics",
    ]
    for path in [*paths, "/gradio_api/mcp/", "/account", "/gradio_api/heartbeat/x"]:
        assert stranger.ask(path)[0] == 401, path
    for name in ("submit", "search", "status"):
        assert stranger.post(f"/gradio_api/call/v2/{name}", {})[0] == 401
    assert stranger.upload(b"%PDF-1.7")[0] == 401
    assert stranger.ask("/healthz")[0] == 200
    status, answer = stranger.post("/sign-in", {"password": "wrong"}, X_Quire="1")
    assert (status, answer["error"]["code"]) == (401, "token_refused")
    assert stranger.post("/sign-in", {"password": PASSWORD})[0] == 403  # another site's form
    assert stranger.post("/sign-in", {}, X_Quire="1", Origin="http://[::1")[0] == 403
    assert Person(guarded.url, cookies={"quire_session": ""}).ask("/account")[0] == 401
    assert with_token(guarded.url, "quire_" + "A" * 43).ask("/account")[0] == 401


@pytest.mark.slow
def test_the_password_opens_page_and_scripts_until_signing_out(guarded: Running) -> None:
    ada = Person(guarded.url)
    assert ada.post("/sign-in", {"password": PASSWORD}, X_Quire="1")[0] == 200
    stolen = Person(guarded.url, cookies=dict(ada.cookies))
    assert ada.ask("/")[0] == stolen.ask("/config")[0] == 200
    assert ada.call("status")["you"]["kind"] == "local"
    script = with_token(guarded.url, PASSWORD)
    assert script.call("status")["you"]["kind"] == "local"
    assert script.ask("/metrics")[0] == 200
    made = ada.post("/account/tokens", {"label": "x"}, X_Quire="1")[1]["token"]
    assert with_token(guarded.url, made).call("status")["you"]["kind"] == "token"
    assert ada.post("/sign-in", {"password": made}, X_Quire="1")[0] == 401
    assert ada.post("/account/sign-out", {}, X_Quire="1")[0] == 200
    for one in (ada, stolen):
        assert one.ask("/account")[0] == 401
    assert script.call("jobs") == []


@pytest.mark.slow
def test_a_password_is_not_found_by_trying(guarded: Running) -> None:
    stranger = Person(guarded.url)
    told = [stranger.post("/sign-in", {"password": str(n)}, X_Quire="1")[0] for n in range(40)]
    assert set(told) == {401, 429}
    assert told.count(401) < 30


@pytest.mark.slow
def test_the_numbers_of_a_space_are_for_its_operator(space: Space) -> None:
    app, provider = space
    for nobody in (
        Person(app.url),
        with_token(app.url, "hf_ada"),
        signed_in(app.url, provider, "ada"),
    ):
        status, answer, _ = nobody.ask("/metrics")
        assert (status, json.loads(answer)["error"]["code"]) == (403, "metrics_closed")
    assert with_token(app.url, "the operator's").ask("/metrics")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "1.2.3.4.evil.example", "[::1"]
)
def test_other_names_are_refused_at_every_address(guarded: Running, host: str) -> None:
    assert with_token(guarded.url, PASSWORD).ask("/account", None, "GET", Host=host)[0] == 403
    for own in ("192.168.1.5:7860", "localhost", "[fd00::5]:1"):
        assert with_token(guarded.url, PASSWORD).ask("/account", None, "GET", Host=own)[0] == 200
