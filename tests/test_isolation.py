"""Every route, endpoint and tool with somebody else's ids: as two who are signed in, a visitor and nobody."""

import itertools
import json
import re
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from reportlab.lib import colors
from reportlab.pdfgen import canvas
from reportlab.platypus import Table, TableStyle

from settings import Settings
from storage.catalog.tokens import Accounts
from tests.conftest import SAMPLES, Running, start_app
from tests.isolation import (
    BEGUN,
    BODIES,
    CALLERS,
    CLOSED,
    ENDPOINTS,
    GIVEN,
    OPEN,
    OWNER,
    OWNERS,
    REAL,
    ROUTES,
    every_route,
    space_app,
)
from tests.oidc import Provider
from tests.people import Person, Refusal, form, signed_in, visitor, with_token
from web.identity import Identity

pytestmark = pytest.mark.timeout(400)  # which a few hundred tries may take on a busy machine


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The app as a Space has it."""
    data = tmp_path_factory.mktemp("routes")
    settings = Settings.from_env({"QUIRE_DATA_DIR": str(data), "SPACE_ID": "ada/quire"})
    return space_app(settings, Identity(settings, Accounts(f"sqlite:///{data}/catalog.sqlite")))


@pytest.fixture(scope="module")
def routes(made: Any) -> dict[str, set[str]]:
    """Every path, with its methods."""
    found: dict[str, set[str]] = defaultdict(set)
    for path, methods in every_route(made):
        found[path] |= methods - {"HEAD"}
    return found


def test_every_route_has_a_rule(routes: dict[str, set[str]]) -> None:
    assert set(routes) - set(ROUTES) == set(), "say in tests/isolation.py who may reach these"
    assert set(ROUTES) - set(routes) == set(), "these routes are gone"


def parameters(app: Any) -> set[str]:
    """The query parameters that Gradio's routes declare, and those that its page looks for."""
    declared = {
        field.alias
        for route in app.routes
        for inner in [*getattr(getattr(route, "original_router", None), "routes", []), route]
        if (needs := getattr(inner, "dependant", None))
        for field in needs.query_params
    }
    return declared | {"view", "__theme", "__sign", "ui", "write_token", "all_endpoints", "tools"}


@dataclass
class Owner:
    """`ids`: what is theirs, by the name under which a route or an endpoint asks for it."""

    person: Person
    ids: dict[str, str]

    def state(self) -> str:
        """All that is theirs, as they see it."""
        seen = [self.person.call(name) for name in ("jobs", "collections")]
        seen.append(self.person.call("sources", collection=self.ids["collection"]))
        account = json.loads(self.person.ask("/account")[1])
        seen += [account["tokens"], account["addresses"]]
        return json.dumps(seen, sort_keys=True)


@dataclass
class Space:
    app: Running
    provider: Provider
    owners: dict[str, Owner]
    tries: int = 0
    places: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def place(self) -> str:
        """Another address at each call."""
        return f"2001:db8:{next(self.places):x}::1"

    @property
    def ada(self) -> Person:
        return self.owners["ada"].person

    @property
    def bob(self) -> Person:
        return self.owners["bob"].person

    @property
    def visitor(self) -> Person:
        return self.owners["visitor"].person

    @property
    def ids(self) -> dict[str, str]:
        return self.owners["ada"].ids

    def caller(self, name: str) -> Person:
        url, session = self.app.url, self.ada.cookies["session"]
        forged = {
            "nobody": Person(url),
            "a made-up token": with_token(url, "quire_" + "A" * 43),
            "a forged visitor": Person(url, cookies={"quire_visitor": f"{'0' * 32}.{'0' * 32}"}),
            "a forged session": Person(url, cookies={"session": session[:-4] + "AAAA"}),
        }
        return forged[name] if name in forged else self.owners[name].person

    def others(self, name: str) -> list[Owner]:
        """Whose things that caller tries to get; what was made up tries one owner only."""
        most = len(OWNERS) if name in REAL else 1
        return [owner for one, owner in self.owners.items() if one != name][:most]

    def ask(
        self, person: Person, path: str, body: Any = None, method: str | None = None, **headers: str
    ) -> tuple[int, bytes, Message]:
        """One try, from an address of its own, which leaves the person as they were."""
        text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.tries += 1
        if text is not None:
            headers.setdefault("Content_Type", "application/json")
        again = replace(person, cookies=dict(person.cookies), patient=20)
        return again.ask(path, text, method, **{"X_Forwarded_For": self.place(), **headers})


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with Provider() as provider:
        data = tmp_path_factory.mktemp("space")
        app = start_app(data / "data", **provider.environment())
        people = [signed_in(app.url, provider, n) for n in ("ada", "bob")] + [visitor(app.url)]
        jobs = []
        for name, person in zip(OWNERS, people, strict=True):
            _, paths = person.upload(with_a_table(data, f"{name}secret"), f"{name}secret.pdf")
            jobs += person.call(
                "submit", files=[{"path": paths[0]}], collection=f"{name}secret plans"
            )
        space = Space(app, provider, {})
        for name, person, job in zip(OWNERS, people, jobs, strict=True):
            assert person.call("watch", job_id=job["id"])["status"] == "succeeded"
            person.patient = 20
            space.owners[name] = Owner(person, everything_of(f"{name}secret", person, job))
        yield space
        app.stop()


@pytest.fixture
def counted(space: Space, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Told in the summary of the run."""
    before = space.tries
    yield
    record_property("isolation_tries", space.tries - before)


def with_a_table(folder: Path, word: str) -> Path:
    """A page whose text and whose table's picture are nobody else's."""
    page = canvas.Canvas(str(folder / f"{word}.pdf"))
    page.drawString(60, 760, f"What {word} plans for the coming year, month by month")
    rows = [["Month", word], *([f"Month {n}", str(n * 7)] for n in range(1, 9))]
    table = Table(rows, colWidths=[160, 160], rowHeights=22)
    table.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.6, colors.black)]))
    table.wrapOn(page, 400, 400)
    table.drawOn(page, 60, 500)
    page.save()
    return folder / f"{word}.pdf"


def everything_of(word: str, person: Person, job: dict[str, Any]) -> dict[str, str]:
    """The ids of all that somebody may have, and the word that is in it."""
    collection = person.call("collections")[0]["id"]
    table = {"element_type": "Table"}
    hits = person.call("search", query=word, collection=collection, where=table)
    token = person.post("/account/tokens", {"label": word}, X_Quire="1")[1]
    held = {"token_id": token["id"], "token": token["token"]} if "token" in token else {}
    passing = person.call("create_collection", title="passing")["id"]
    return {
        **held,
        "word": word,
        "receipt": person.call("delete_collection", collection=passing)["receipt"],
        "job": job["id"],
        "source": job["source"]["id"],
        "collection": collection,
        "figure": hits[0]["image_url"].rsplit("/", 1)[-1],
        "export": person.call("export", collection=collection)["name"],
        "upload": person.upload(SAMPLES / "greek.pdf")[1][0],
    }


def begin(person: Person) -> dict[str, str]:
    """Events, sessions and an upload of theirs that go on, one begun as if by a tool."""
    listed = json.loads(person.ask("/config")[1])["dependencies"]
    (number,) = (one["id"] for one in listed if one["api_name"] == "jobs")
    session, upload_id = uuid.uuid4().hex, uuid.uuid4().hex
    event = person.post("/gradio_api/call/v2/jobs", {})[1]["event_id"]
    queued = {"fn_index": number, "data": [None, 50], "session_hash": session}
    joined = person.post("/gradio_api/queue/join", queued)[1]["event_id"]
    tool = person.post("/gradio_api/call/v2/jobs", {}, X_Gradio_User="mcp")[1]["event_id"]
    body, kind = form(b"%PDF-1.7", "x.pdf")
    status, _, _ = person.ask(f"/gradio_api/upload?upload_id={upload_id}", body, Content_Type=kind)
    assert status == 200
    begun = {"event": event, "joined": joined, "session": session, "tool": tool}
    return {**begun, "upload_id": upload_id}


def filled(ids: dict[str, str], path: str) -> str:
    """A route's address with somebody's own ids in it."""
    name = ids["export" if path.startswith("/exports") else "figure"]
    file = ids["upload"]
    values = {
        **ids,
        "page": "1",
        "name": name,
        "api_name": "jobs",
        "path": file,
        "path_or_url": file,
    }
    values |= {"event_id": ids.get("event", "x"), "session_hash": ids.get("session", "x")}
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda m: values.get(m[1], "x"), path)


def clean(owner: Owner, answer: Any, sent: Any = "") -> None:
    """Nothing of theirs is in the answer, save what the question itself named."""
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else json.dumps(answer)
    asked = json.dumps(sent)
    assert [i for i in owner.ids.values() if i in text and i not in asked] == []


def private(headers: Message) -> bool:
    """Kept by no cache, or by the browser's own for as long as the same person sits there."""
    kept, varies = headers["cache-control"] or "", (headers["vary"] or "").lower()
    return "no-store" in kept or ("private" in kept and "cookie" in varies)


def asked_by(rule: str, ids: dict[str, str], path: str, method: str) -> Iterator[tuple[str, Any]]:
    """Each address and body that names those things."""
    url, mine = filled(ids, path), uuid.uuid4().hex
    names = {"/gradio_api/queue/data": ("session_hash", ("session", "event")),
             "/gradio_api/upload_progress": ("upload_id", ("upload_id",))}  # fmt: skip
    if path in names:
        name, values = names[path]
        yield from ((f"{url}?{name}={ids[value]}", None) for value in values)
    elif "{event_id}" in path and rule == BEGUN:
        for event in ("event", "joined", "tool"):
            one = filled({**ids, "event": ids[event]}, path)
            yield from ((one, None), (f"{one}/", None), (f"{one}?session_hash={mine}", None))
    elif rule == BEGUN and method == "POST":
        queued = {"fn_index": 0, "data": []}
        for event in ("event", "joined", "tool"):
            yield url, {**queued, "session_hash": mine, "event_id": ids[event]}
        for session in ("session", "event"):
            yield url, {**queued, "session_hash": ids[session]}
    elif method == "GET":
        yield url, None
    else:
        given = {name: GIVEN[name](ids) for name in BODIES.get(path, ())}
        yield url, given


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.usefixtures("counted")
def test_no_route_gives_anything_of_somebody_else(
    space: Space, routes: dict[str, set[str]], name: str
) -> None:
    """Also not from a cache, nor to one who says that a tool asks."""
    caller, ending = space.caller(name), {"/events", "/account/sign-out"}
    tried = {path: rule for path, rule in ROUTES.items() if path not in ending}
    for owner in space.others(name):
        before, begun = owner.state(), begin(owner.person)
        ids = {**owner.ids, **begun}
        for path, rule in tried.items():
            if rule == OPEN and "login" in path:
                continue
            for method in sorted(routes[path]):
                for url, body in asked_by(rule, ids, path, method):
                    what = (method, url, body)
                    theirs = space.ask(caller, url, body, method, X_Quire="1", **known(owner, url))
                    clean(owner, theirs[1], [url, body])
                    if rule == CLOSED:
                        assert theirs[0] == 404, what
                    elif rule == BEGUN:
                        assert theirs[0] in {307, 403, 404}, (what, theirs)
                        posing = space.ask(caller, url, body, method, X_Gradio_User="mcp")
                        clean(owner, posing[1], [url, body])
                        assert posing[0] in {307, 403, 404}, (what, posing)
                    elif rule == OWNER:
                        told = theirs[0] == 200 and "json" in theirs[2]["content-type"]
                        assert told or theirs[0] in {400, 401, 403, 404}, (what, theirs)
                        assert "no-store" in (theirs[2]["cache-control"] or ""), what
        assert owner.state() == before
        still_theirs(owner, begun)


def known(owner: Owner, url: str) -> dict[str, str]:
    """What the owner's browser would ask with, having asked before."""
    if not re.match(r"/(pages|figures|exports)/", url):
        return {}
    status, _, headers = owner.person.ask(url)
    assert status == 200
    return {"If_None_Match": headers["etag"], "If_Modified_Since": headers["last-modified"]}


def still_theirs(owner: Owner, begun: dict[str, str]) -> None:
    """What somebody began is there for them, and nobody has ended it."""
    ask, job = owner.person.ask, owner.ids["job"].encode()
    for url in (f"call/jobs/{begun['event']}", f"queue/data?session_hash={begun['session']}"):
        status, answer, headers = ask(f"/gradio_api/{url}")
        assert (status, job in answer) == (200, True), url
        assert private(headers), url
    assert b"done" in ask(f"/gradio_api/upload_progress?upload_id={begun['upload_id']}")[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", OWNERS)
def test_an_owner_reaches_what_is_theirs(
    space: Space, routes: dict[str, set[str]], name: str
) -> None:
    """Each route that is tried with somebody else's ids answers with them to their owner."""
    owner, silent = space.owners[name], {"/status", "/account", "/sources/{source}/pages"}
    for path, rule in ROUTES.items():
        if rule == OWNER and "GET" in routes[path] and path not in {"/events", "/metrics"}:
            status, answer, headers = owner.person.ask(filled(owner.ids, path))
            assert status == 200, (path, answer)
            assert private(headers), path
            if "json" in headers["content-type"] and path not in silent:
                assert any(i.encode() in answer for i in owner.ids.values()), path
    other, export = next(iter(space.others(name))).person, owner.ids["export"]
    for forged in (f"..%2F{export}", f"x%2F..%2F{export}", "..%2F..%2Fcatalog.sqlite"):
        assert other.ask(f"/exports/{forged}")[0] in {400, 404}


@pytest.mark.slow
def test_a_foreign_site_reaches_no_route(space: Space, routes: dict[str, set[str]]) -> None:
    owner = space.owners["ada"]
    before = owner.state()
    for path in ROUTES:
        for method in sorted(routes[path]):
            url, body = filled(owner.ids, path), (b"{}" if method == "POST" else None)
            foreign = owner.person.ask(url, body, method, Origin="https://evil.example")
            assert foreign[0] == 403, (method, path)
            clean(owner, foreign[1], url)
    assert owner.state() == before


@pytest.mark.slow
def test_no_parameter_of_gradio_s_breaks_a_page(space: Space, made: Any) -> None:
    """Also not one that a link to Quire happened to use."""
    found, guest = parameters(made), visitor(space.app.url)
    assert {"page", "deep_link"} <= found
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json"):
        for name in sorted(found):
            for value in ("2", "", "..%2Fx", "%00", "%F0%9F%93%9A", "x&p=3"):
                status, _, headers = space.ask(guest, f"{path}?{name}={value}")
                assert status < 500, (path, name, value)
                if status == 307:
                    assert headers["location"].startswith("/"), (name, value)


@pytest.mark.slow
def test_a_stream_tells_of_its_owner_s_jobs_only(space: Space) -> None:
    def first(person: Person) -> str:
        cookies = "; ".join(f"{k}={v}" for k, v in person.cookies.items())
        asked = urllib.request.Request(f"{space.app.url}/events", headers={"Cookie": cookies})
        with urllib.request.urlopen(asked, timeout=60) as stream:
            return next(line.decode() for line in stream if line.startswith(b"data: "))

    space.ada.call("retry", job_id=space.ids["job"])
    for other in (space.owners["bob"], space.owners["visitor"]):
        told, own = first(other.person), other.person.call("jobs")
        clean(space.owners["ada"], told)
        assert {j["id"] for j in json.loads(told[6:])["jobs"]} <= {j["id"] for j in own}
    assert space.ids["job"] in first(space.ada)
    assert space.ada.call("watch", job_id=space.ids["job"])["status"] == "succeeded"
    assert Person(space.app.url).ask("/events")[0] == 401
    assert space.ada.ask("/events", Origin="https://evil.example")[0] == 403


def given_to(owner: Owner, endpoint: str) -> dict[str, Any]:
    return {name: GIVEN[name](owner.ids) for name in ENDPOINTS[endpoint]}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.usefixtures("counted")
def test_no_endpoint_gives_anything_of_somebody_else(space: Space, name: str) -> None:
    caller = space.caller(name)
    named = json.loads(space.ada.ask("/gradio_api/info")[1])["named_endpoints"]
    assert {n.strip("/") for n in named} == set(ENDPOINTS), "say what each is tried with"
    for owner in space.others(name):
        before = owner.state()
        for endpoint in ENDPOINTS:
            given, url = given_to(owner, endpoint), f"/gradio_api/call/v2/{endpoint}"
            at = {"X_Forwarded_For": space.place()}  # by which nobody's events are known
            status, answer, _ = space.ask(caller, url, given, **at)
            clean(owner, answer, given)
            if status == 200:
                event = json.loads(answer)["event_id"]
                url = f"/gradio_api/call/{endpoint}/{event}"
                status, answer, headers = space.ask(caller, url, **at)
                clean(owner, answer, given)
                assert re.search(rb"event: (complete|error)", answer), endpoint
                assert private(headers)
            assert status in {200, 400, 401, 403, 404}, (endpoint, answer)
        assert owner.state() == before


@pytest.mark.slow
def test_a_foreign_site_calls_no_endpoint(space: Space) -> None:
    for endpoint in ENDPOINTS:
        given = given_to(space.owners["ada"], endpoint)
        url, site = f"/gradio_api/call/v2/{endpoint}", "https://evil.example"
        status, answer = space.ada.post(url, given, Origin=site)
        assert (status, answer["error"]["code"]) == (403, "cross_site")
        clean(space.owners["ada"], answer, given)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
@pytest.mark.usefixtures("counted")
def test_no_tool_gives_anything_of_somebody_else(space: Space, name: str) -> None:
    """Also not by the session that another agent was given, of which there are none."""
    caller = space.caller(name)
    if "token" in space.owners.get(name, space.owners["visitor"]).ids:
        caller = with_token(space.app.url, space.owners[name].ids["token"])

    def tell(person: Person, method: str, params: Any, **headers: str) -> tuple[bytes, Message]:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        both = {"Content_Type": "application/json", "Accept": "application/json, text/event-stream"}
        status, answer, told = space.ask(
            person, "/gradio_api/mcp/", message, **both, X_Quire="1", **headers
        )
        assert status in {200, 400}, answer
        return answer, told

    for owner in space.others(name):
        agent = with_token(space.app.url, owner.ids.get("token", "quire_x"))
        hello = {"protocolVersion": "2025-03-26", "capabilities": {},
                 "clientInfo": {"name": "agent", "version": "1"}}  # fmt: skip
        began = tell(agent, "initialize", hello)[1]["mcp-session-id"]
        listed = tell(caller, "tools/list", {})[0].decode()
        tools = {t.split("_", 1)[1]: t for t in re.findall(r'"name": ?"(quire_\w+)"', listed)}
        assert set(tools) == set(ENDPOINTS)
        before = owner.state()
        for endpoint, tool in tools.items():
            given = given_to(owner, endpoint)
            call, session = {"name": tool, "arguments": given}, began or "0" * 32
            answer, _ = tell(caller, "tools/call", call, Mcp_Session_Id=session)
            clean(owner, answer, given)
        assert owner.state() == before
    if name in {"ada", "bob"}:
        own = {"name": "quire_collections", "arguments": {}}
        assert space.owners[name].ids["collection"].encode() in tell(caller, "tools/call", own)[0]


@pytest.mark.slow
def test_nobody_is_told_to_sign_in(space: Space) -> None:
    for name in ("jobs", "collections", "status"):
        with pytest.raises(Refusal) as caught:
            Person(space.app.url).call(name)
        assert caught.value.code == "sign_in"
    assert Person(space.app.url).ask("/account")[0] == 401


@pytest.mark.slow
def test_a_session_and_an_event_belong_to_who_began_them(space: Space) -> None:
    ada, bob = space.ada, space.bob
    _, begun = ada.post("/gradio_api/call/v2/jobs", {})
    event = begun["event_id"]
    assert bob.ask(f"/gradio_api/call/jobs/{event}")[0] == 404
    assert bob.ask(f"/gradio_api/queue/data?session_hash={event}")[0] == 403
    assert bob.ask(f"/gradio_api/heartbeat/{event}")[0] == 403
    for path in ("queue/join", "cancel", "call/jobs", "reset", "run/jobs"):
        body = {"session_hash": event, "event_id": event, "fn_index": 0, "data": []}
        status, answer = bob.post(f"/gradio_api/{path}", body)
        assert (status, answer["error"]["code"]) == (403, "not_yours"), path
    assert space.ids["job"].encode() in ada.ask(f"/gradio_api/call/jobs/{event}")[1]
    assert bob.ask(f"/gradio_api/call/jobs/{event}")[0] == 404
    assert {r for r in ROUTES.values()} == {OPEN, CLOSED, OWNER, BEGUN}


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
    ],
    ids=lambda h: " ".join(h.values()),
)
def test_a_foreign_site_cannot_act(space: Space, headers: dict[str, str]) -> None:
    """Also not by sending a form, which navigates."""
    before = space.owners["ada"].state()
    for path in (
        "/gradio_api/queue/join",
        "/gradio_api/upload",
        f"/jobs/{space.ids['job']}/cancel",
    ):
        status, answer = space.ada.post(path, {}, **headers)
        assert (status, answer["error"]["code"]) == (403, "cross_site")
    assert space.owners["ada"].state() == before
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert space.ada.ask("/", None, "GET", **followed)[0] == 200


@pytest.mark.slow
def test_a_frame_of_the_hub_is_allowed_and_nobody_elses(space: Space) -> None:
    _, _, headers = space.ada.ask("/")
    policy = headers["content-security-policy"]
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co")
    assert "object-src 'none'" in policy
    assert "unsafe-eval" not in policy
    (scripts,) = re.findall(r"script-src ([^;]*)", policy)
    assert re.fullmatch(r"'self'( 'sha256-[\w+/=]{44}')+", scripts)  # nobody else's script
    elsewhere = space.ada.ask("/account")[2]["content-security-policy"]
    assert "script-src 'self';" in elsewhere
    assert headers["x-content-type-options"] == "nosniff"
    assert "x-frame-options" not in headers
