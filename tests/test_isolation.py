"""Every route and every endpoint, as its owner, as somebody else, as nobody, from a foreign site."""

import itertools
import json
import re
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from settings import Settings
from storage.catalog.tokens import Accounts
from tests.conftest import SAMPLES, Running, start_app
from tests.isolation import BEGUN, CLOSED, ENDPOINTS, OPEN, OWNER, ROUTES, every_route, space_app
from tests.oidc import Provider
from tests.people import Person, Refusal, signed_in, visitor
from web.identity import Identity


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every path of the app as a Space has it, with its methods; below `?` the query parameters."""
    data = tmp_path_factory.mktemp("routes")
    settings = Settings.from_env({"QUIRE_DATA_DIR": str(data), "SPACE_ID": "ada/quire"})
    gradio = space_app(settings, Identity(settings, Accounts(f"sqlite:///{data}/catalog.sqlite")))
    found: dict[str, set[str]] = defaultdict(set)
    found["?"] = parameters(gradio)
    for path, methods in every_route(gradio):
        found[path] |= methods - {"HEAD"}
    return found


@pytest.fixture(scope="module")
def routes(made: dict[str, set[str]]) -> dict[str, set[str]]:
    return {path: methods for path, methods in made.items() if path != "?"}


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


_ADDRESSES = itertools.count()


@dataclass
class Space:
    app: Running
    provider: Provider
    ada: Person
    bob: Person
    visitor: Person
    ids: dict[str, str]
    places: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def place(self) -> str:
        """Another address at each call."""
        return f"2001:db8:{next(self.places):x}::1"

    def others(self) -> list[Person]:
        """Somebody signed in, a visitor, nobody, a holder of a made-up token and of a forged cookie."""
        url = self.app.url
        others = [
            self.bob,
            self.visitor,
            Person(url),
            Person(
                url,
                {
                    "Authorization": "Bearer quire_" + "A" * 43,
                    "X-Forwarded-For": f"198.51.100.{next(_ADDRESSES) % 250}",  # each may err so often
                },
            ),
            Person(url, cookies={"quire_visitor": "0" * 32 + "." + "0" * 32}),
            Person(url, cookies={"session": self.ada.cookies["session"][:-4] + "AAAA"}),
        ]
        for other in others:  # each from elsewhere: an address may not be wrong this often
            other.headers["X-Forwarded-For"] = self.place()
        return others

    def markers(self) -> list[str]:
        """What must be in no answer to anybody else."""
        return [v for n, v in self.ids.items() if n not in {"page", "verb", "query", "title"}]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with Provider() as provider:
        app = start_app(tmp_path_factory.mktemp("space") / "data", **provider.environment())
        ada = signed_in(app.url, provider, "ada")
        _, paths = ada.upload(SAMPLES / "report.pdf", "ada-secret-report.pdf")
        job = ada.call("submit", files=[{"path": paths[0]}], collection="ada secret plans")[0]
        last = ada.call("watch", job_id=job["id"])
        assert last["status"] == "succeeded"
        collection = ada.call("collections")[0]["id"]
        hits = ada.call(
            "search", query="rain", collection=collection, where={"element_type": "Table"}
        )
        _, lying = ada.upload(SAMPLES / "greek.pdf", "ada-secret-greek.pdf")
        ids = {
            "job": job["id"],
            "source": job["source"]["id"],
            "collection": collection,
            "name": hits[0]["image_url"].rsplit("/", 1)[-1],
            "export": ada.call("export", collection=collection)["name"],
            "upload": lying[0],
            "filename": "ada-secret",
            "collection_title": "ada secret plans",
        }
        yield Space(
            app,
            provider,
            ada,
            signed_in(app.url, provider, "bob"),
            visitor(app.url),
            ids,
        )
        app.stop()


def filled(space: Space, path: str) -> str:
    """A route's path with ada's own ids in it."""
    values = {**space.ids, "page": "1", "verb": "retry"}
    if path.startswith("/exports"):
        values["name"] = space.ids["export"]
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda m: values.get(m[1], "x"), path)


def state(space: Space) -> str:
    """All that is ada's, as ada sees it."""
    ada, collection = space.ada, space.ids["collection"]
    seen = [ada.call("jobs"), ada.call("collections"), ada.call("sources", collection=collection)]
    return json.dumps(seen, sort_keys=True)


def clean(space: Space, answer: Any, sent: Any = "") -> None:
    """Nothing of ada's is in the answer, save what the question itself named."""
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else json.dumps(answer)
    asked = json.dumps(sent)
    assert [m for m in space.markers() if m in text and m not in asked] == []


@pytest.mark.slow
def test_every_route_keeps_to_its_rule(space: Space, routes: dict[str, set[str]]) -> None:
    before = state(space)
    ending = {
        path: rule for path, rule in ROUTES.items() if path not in {"/events", "/account/sign-out"}
    }
    for path, rule in ending.items():
        for method in sorted(routes[path]):
            url, body = filled(space, path), (b"{}" if method == "POST" else None)
            foreign = space.ada.ask(url, body, method, Origin="https://evil.example")
            assert foreign[0] == 403, (method, path)
            clean(space, foreign[1])
            if rule == CLOSED:
                assert space.ada.ask(url, body, method)[0] == 404, (method, path)
                assert space.bob.ask(url, body, method)[0] == 404, (method, path)
            elif rule == OWNER:
                for other in space.others():
                    status, answer, _ = other.ask(url, body, method, X_Quire="1")
                    clean(space, answer, url)
                    assert status in {200, 400, 401, 403, 404}, (method, path, status)
            elif rule == OPEN and method == "GET" and "mcp" not in path and "login" not in path:
                clean(space, Person(space.app.url).ask(url)[1])
    assert state(space) == before


@pytest.mark.slow
def test_no_parameter_of_gradio_s_breaks_a_page(space: Space, made: dict[str, set[str]]) -> None:
    """Also not one that a link to Quire happened to use."""
    assert {"page", "deep_link"} <= made["?"]
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json"):
        for name in sorted(made["?"]):
            for value in ("2", "", "..%2Fx", "%00", "%F0%9F%93%9A", "x&p=3"):
                status, _, headers = visitor(space.app.url).ask(f"{path}?{name}={value}")
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
    for other in (space.bob, space.visitor):
        assert json.loads(first(other)[6:])["jobs"] == []
    assert space.ids["job"] in first(space.ada)
    assert space.ada.call("watch", job_id=space.ids["job"])["status"] == "succeeded"
    assert Person(space.app.url).ask("/events")[0] == 401
    assert space.ada.ask("/events", Origin="https://evil.example")[0] == 403


@pytest.mark.slow
def test_an_owner_reaches_what_is_theirs(space: Space) -> None:
    for path in ("/pages/{source}/{page}", "/figures/{name}", "/exports/{name}", "/jobs/{job}"):
        assert space.ada.ask(filled(space, path))[0] == 200, path
        for other in space.others():
            assert other.ask(filled(space, path))[0] in {401, 403, 404}, path
    name = Path(space.ids["export"]).name
    for forged in (f"..%2F{name}", f"x%2F..%2F{name}", "..%2F..%2Fcatalog.sqlite"):
        assert space.bob.ask(f"/exports/{forged}")[0] in {400, 404}


@pytest.mark.slow
def test_every_endpoint_gives_nothing_of_somebody_else(space: Space) -> None:
    values: dict[str, Any] = {
        "files": [{"path": space.ids["upload"], "orig_name": "mine.pdf"}],
        "file": {"path": space.ids["upload"], "orig_name": "mine.zip"},
        "collection": space.ids["collection"],
        "job_id": space.ids["job"],
        "source_id": space.ids["source"],
        "query": "rain",
        "receipt": "1-1000",
        "title": "mine",
    }
    named = json.loads(space.ada.ask("/gradio_api/info")[1])["named_endpoints"]
    assert {n.strip("/") for n in named} == set(ENDPOINTS), "say what each is tried with"
    before = state(space)
    for name, arguments in ENDPOINTS.items():
        given = {a: values[a] for a in arguments}
        for other in space.others():
            try:
                answer = other.call(name, **given)
            except Refusal as problem:
                assert problem.code not in {"None", "500"}, (name, str(problem))
                clean(space, str(problem), given)
            else:
                clean(space, answer, given)
        status, answer = space.ada.post(
            f"/gradio_api/call/v2/{name}", given, Origin="https://evil.example"
        )
        assert (status, answer["error"]["code"]) == (403, "cross_site")
        clean(space, answer)
    assert state(space) == before


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
    before = state(space)
    for path in (
        "/gradio_api/queue/join",
        "/gradio_api/upload",
        f"/jobs/{space.ids['job']}/cancel",
    ):
        status, answer = space.ada.post(path, {}, **headers)
        assert (status, answer["error"]["code"]) == (403, "cross_site")
    assert state(space) == before
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
