"""What a request may bring, how often, and from where: the whole app on loopback, without a worker."""

import asyncio
import contextlib
import hashlib
import http.client
import io
import ipaddress
import itertools
import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from starlette.requests import Request

from errors import InputError, Refused
from pipeline.jobs.uploads import Admission
from pipeline.processes import logs
from settings import Settings
from storage.catalog.catalog import Catalog
from storage.catalog.tokens import Accounts
from storage.paths import Paths
from tests.engine import USER, engine
from tests.isolation import every_route, space_app
from tests.loopback import Loopback
from tests.oidc import Provider
from web import body, connections
from web.arguments import MOST_TEXT
from web.begun import Begun
from web.guard import Limits
from web.identity import Identity, Remembered, address
from web.rate_limit import Buckets, Share, Turns, network

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TYPES = (
    "multipart/form-data; boundary=x", "Multipart/Mixed; boundary=x", "application/json",
    "application/x-www-form-urlencoded", "text/plain", "application/octet-stream", "",
)  # fmt: skip
JSON = {"Content-Type": "application/json"}
JSON_ROUTES = (
    "/gradio_api/call/search", "/gradio_api/call/v2/search", "/gradio_api/queue/join",
    "/gradio_api/run/search", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/mcp/",
    "/collections", "/collections/x/search", "/collections/x/documents", "/import", "/jobs/x/retry",
)  # fmt: skip


@dataclass
class Door:
    port: int
    paths: list[str]
    identity: Identity
    provider: Provider
    guard: dict[str, Any]

    def visitor(self, at: str = "203.0.113.1") -> dict[str, str]:
        cookie = f"quire_visitor={self.identity.new_visitor()}"
        return {"Cookie": cookie, "X-Quire": "1", "X-Forwarded-For": at}

    def ask(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """`content`: bytes with their length, an iterable in chunks."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as line:
            line.request(method, path, content, headers)
            answer = line.getresponse()
            text = answer.read()
        try:
            return answer.status, json.loads(text).get("error") or {}
        except ValueError:
            return answer.status, {}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    data = tmp_path_factory.mktemp("door")
    with Provider() as provider, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", provider.url)
        settings = Settings.from_env({"QUIRE_DATA_DIR": str(data), "SPACE_ID": "ada/quire"})
        identity = Identity(settings, Accounts(f"sqlite:///{data}/catalog.sqlite"))
        guard = {"settings": settings, "identity": identity, "limits": _endless()}
        made = space_app(settings, identity, guard)
        server = Loopback()
        server.start(made, http=connections.Connection)
        paths = sorted({path.replace("{", "").replace("}", "") for path, _ in every_route(made)})
        yield Door(server.port, paths, identity, provider, guard)
        server.stop()


def _endless() -> Limits:
    buckets = (Buckets(rate=1e9, burst=1e9) for _ in range(5))
    return Limits(*buckets)


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size >> 16):
        yield b"x" * (1 << 16)


# How much


@pytest.mark.slow
def test_every_route_refuses_a_body_over_the_limit(door: Door) -> None:
    """By every method, content type and way of sending it."""
    kinds = itertools.cycle(itertools.product(TYPES, (True, False)))
    who, seen = door.visitor(), set()
    for path, method in itertools.product(door.paths, METHODS):
        if path == "/gradio_api/upload":
            continue
        kind, chunked = next(kinds)
        content = chunks(body.MAX_BODY + (1 << 17))
        status, error = door.ask(
            method, path, content if chunked else b"".join(content), **who, **{"Content-Type": kind}
        )
        seen.add((status, error.get("code")))
    assert seen == {
        (404, "route_closed"),
        (413, "body_too_large"), (415, "media_type"),
    }  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_a_body(door: Door) -> None:
    """64 MB in each way, by a socket that hears the answer at the end."""
    process = psutil.Process()
    ways = [
        (path, kind, chunked)
        for path, kind in (("/gradio_api/call/v2/search", TYPES[0]), ("/import", TYPES[1]),
                           ("/gradio_api/mcp/", TYPES[2]), ("/account", TYPES[4]))
        for chunked in (True, False)
    ]  # fmt: skip
    who = door.visitor()
    door.ask("POST", "/import", b"{}", **who)
    before, most = process.memory_info().rss, 0
    for path, kind, chunked in ways:
        headers = {**who, "Content-Type": kind}
        if not chunked:
            headers["Content-Length"] = str(64 << 20)

        def sent() -> Iterator[bytes]:
            nonlocal most
            for piece in chunks(64 << 20):
                yield piece
                most = max(most, process.memory_info().rss)

        status, _ = door.ask("DELETE" if path == "/account" else "POST", path, sent(), **headers)
        assert status in {413, 415}
    assert most - before < 20 << 20


# What


def deep(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


MALFORMED = st.one_of(
    st.integers(61, 100_000).map(deep),
    st.integers(61, 100_000).map(lambda n: '{"a":' * n + "1" + "}" * n),
    st.sampled_from(["NaN", "-Infinity", "1e999", "9" * 5000, str(1 << 63), "-" + "9" * 30]),
    st.integers(0xD800, 0xDFFF).map(lambda n: f'"\\u{n:04x}"'),
    st.integers(0xDC00, 0xDFFF).map(lambda n: f'{{"\\u{n:04x}": 1}}'),
    st.just('"a\\u0000b"'),
    st.sampled_from(['{"a": 1, "a": 2}', '{"a": 1', "[1,]", "'a'", "{'a': 1}", "[1] 2", "tru"]),
).map(lambda text: ('{"query": ' + text + "}").encode()) | st.one_of(
    st.just("\ufeff{}".encode()),
    st.sampled_from(["utf-16", "utf-32-le"]).map(lambda code: '{"query": "x"}'.encode(code)),
    st.binary(min_size=1, max_size=40).map(lambda raw: b'{"query": "\xff' + raw),
    st.just(b"[" + b"1," * 60_000 + b"1]"),
)


@given(MALFORMED, st.sampled_from(JSON_ROUTES), st.booleans())
def test_json_that_is_none_is_refused_with_a_code(
    door: Door, content: bytes, path: str, chunked: bool
) -> None:
    sent = iter([content]) if chunked else content
    status, error = door.ask("POST", path, sent, **door.visitor(), **JSON)
    assert (status, error.get("code")) == (400, "bad_body")


@given(
    st.sampled_from([r for r in JSON_ROUTES if r.startswith("/gradio_api/") and "mcp" not in r]),
    st.sampled_from([t for t in TYPES if t not in {"", "application/json"}])
    | st.text(
        st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f;"),
        min_size=1,
    ),
)
def test_a_call_is_json_and_says_so(door: Door, path: str, kind: str) -> None:
    sent, who = b'{"query": "x"}', door.visitor()
    status, error = door.ask("POST", path, sent, **who, **{"Content-Type": kind})
    assert (status, error.get("code")) == (415, "media_type")


NOT_UPLOADS = st.sampled_from([
    "http://127.0.0.1:9/a.pdf", "https://user@127.0.0.1/a.zip", "HTTP://127.0.0.1/", "/etc/passwd",
    "/proc/self/environ", "../../catalog.sqlite", "C:\\a.pdf", "data:application/pdf;base64,AAAA",
    "file:///etc/passwd", "a" * 5000, "~/a.pdf", "",
])  # fmt: skip


@st.composite
def with_files(draw: st.DrawFn) -> dict[str, Any]:
    """A call somewhere in which something stands for a file that is no upload."""
    path = draw(NOT_UPLOADS)
    file: Any = {"path": path, "meta": {"_type": "gradio.FileData"}, "url": draw(NOT_UPLOADS)}
    if draw(st.booleans()):
        del file["meta"]
    for _ in range(draw(st.integers(0, 5))):
        file = draw(st.sampled_from([[file], {"data": file}, [1, file], {"value": {"x": file}}]))
    if draw(st.booleans()):
        file = draw(st.sampled_from([{"file": path}, {"files": [path]}, {"a": [{"files": path}]}]))
    tool = {"method": "tools/call", "params": {"name": "submit", "arguments": {"files": file}}}
    return draw(st.sampled_from([
        {"files": [file]}, {"data": [file]}, {"file": file}, {"x": {"y": [file]}},
        {"fn_index": 0, "session_hash": "s", "data": [[file]]}, {"jsonrpc": "2.0", "id": 1, **tool},
    ]))  # fmt: skip


@given(with_files(), st.sampled_from(JSON_ROUTES))
def test_what_stands_for_a_file_is_an_upload_of_the_caller(
    door: Door, call: dict[str, Any], path: str
) -> None:
    status, error = door.ask("POST", path, json.dumps(call).encode(), **door.visitor(), **JSON)
    assert (status, error.get("code")) == (400, "not_an_upload")


@pytest.mark.parametrize("path", JSON_ROUTES)
def test_no_request_names_more_files_than_are_taken_at_once(door: Door, path: str) -> None:
    """Each is looked for on the disk, in the thread that answers everybody."""
    who, one = door.visitor(), str(body.folder("a" * 32) / "x.pdf")
    by_token = {"oauth_token": "t"}  # then whose uploads these are is asked later
    for n, refused in ((500, False), (501, True)):
        for call in (
            {"files": [one] * n},
            {"data": [[{"path": one}] * (n - 9), {"files": [one] * 9}]},
        ):
            sent = json.dumps({**call, **by_token}).encode()
            _, error = door.ask("POST", path, sent, **who, **JSON)
            assert (error.get("code") == "too_many_files") == refused


def test_no_address_that_a_call_names_is_fetched(door: Door) -> None:
    """Neither does it pass as somebody else's upload."""
    fetched = socket.create_server(("127.0.0.1", 0))
    fetched.settimeout(0.2)
    named = f"http://127.0.0.1:{fetched.getsockname()[1]}/a.pdf"
    others = body.folder("b" * 32) / "x" / "0" / "report.pdf"
    for path in (named, str(others), f"{others.parent}/../../../{'b' * 32}/x"):
        file = {"path": path, "url": named, "meta": {"_type": "gradio.FileData"}}
        for call in ({"files": [file]}, {"data": [[file], "default"]}):
            for route in ("/gradio_api/call/v2/submit", "/gradio_api/call/submit"):
                sent = json.dumps(call).encode()
                status, error = door.ask("POST", route, sent, **door.visitor(), **JSON)
                assert (status, error["code"]) == (400, "not_an_upload")
    with pytest.raises(TimeoutError):
        fetched.accept()
    fetched.close()


# What of it is written down


@pytest.mark.parametrize("name", ["root", "mcp.server.lowlevel.server"])
def test_no_line_of_the_log_repeats_what_a_tool_was_sent(name: str) -> None:
    """The MCP server writes whole messages there that it cannot read."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.Lines())
    logger = logging.getLogger(None if name == "root" else name)
    logger.addHandler(handler)
    try:
        logger.warning("Failed to validate request: hunter2")
        try:
            raise ValueError("input_value='hunter2'")
        except ValueError:
            logger.exception("Message was: %s", "hunter2" * 100_000)
    finally:
        logger.removeHandler(handler)
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["message"].startswith("see test_limits:")
    assert second["trace"] == "ValueError"
    assert "hunter2" not in out.getvalue()


@given(st.integers(0, 100_000), st.sampled_from(["web.api", "uvicorn.error", "root"]))
def test_every_line_of_the_log_is_bounded(size: int, name: str) -> None:
    try:
        raise ValueError("y" * size + "end")
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord(name, logging.ERROR, "a.py", 1, "%s", ("x" * size,), failure)
    record.code = "z" * size
    line = logs.Lines().format(record)
    assert len(line) < 25_000
    assert json.loads(line)["trace"].endswith("end") or name == "root"


# How slowly


def over(door: Door, *parts: bytes) -> bytes:
    """What is answered to that by the time the connection is closed."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as line:
        for part in parts:
            line.sendall(part)
        answer = b""
        try:
            while found := line.recv(1 << 16):
                answer += found
                if b"\r\n\r\n" in answer:
                    return answer
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    "head",
    [b"", b"GET /config HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ", b"GET /conf"],
    ids=["nothing", "a header", "a line"],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    door: Door, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SECONDS", 0.3)
    assert over(door, *([head] if head else [])) == b""


@pytest.mark.parametrize("size", ["count", "bytes", "line"])
def test_a_head_is_no_larger_than_anybody_needs(door: Door, size: str) -> None:
    lines = {
        "count": "".join(f"X-{n}: 1\r\n" for n in range(connections.MAX_HEADERS + 20)),
        "bytes": "X-A: " + "a" * (connections.MAX_HEAD + 10),
        "line": "",
    }[size]
    path = "/config?" + "a" * (connections.MAX_HEAD if size == "line" else 1)
    assert over(door, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode()) == b""


def test_those_in_the_middle_of_a_head_are_few(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_WAITING", 20)
    lines = [socket.create_connection(("127.0.0.1", door.port), timeout=60) for _ in range(40)]
    with pytest.raises(ConnectionResetError):
        if lines[0].recv(1) == b"":
            raise ConnectionResetError
    assert door.ask("GET", "/account", **door.visitor())[0] == 200
    for line in lines:
        line.close()


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_is_not_waited_for(
    door: Door, length: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that is shorter than was said."""
    monkeypatch.setattr(body, "SECONDS", 0.3)
    headers = "".join(f"{n}: {v}\r\n" for n, v in door.visitor().items())
    head = f"POST /import HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n\r\n"
    answer = over(door, head.encode(), b"1\r\n{\r\n")
    assert answer.startswith(b"HTTP/1.1 408")


def test_no_websocket_is_opened(door: Door) -> None:
    asked = (
        "GET /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    assert over(door, asked.encode()).startswith(b"HTTP/1.1 403")


# From where


@given(st.ip_addresses(v=6), st.integers(0, (1 << 64) - 1), st.ip_addresses(v=4))
def test_an_address_is_what_one_visitor_can_have(
    six: ipaddress.IPv6Address, host: int, four: ipaddress.IPv4Address
) -> None:
    if six.ipv4_mapped is None:
        beside = ipaddress.IPv6Address(int(six) >> 64 << 64 | host)
        if beside.ipv4_mapped is None:
            assert network(str(six)) == network(f"[{beside}]") == network(f"{beside}%eth0")
            other = ipaddress.IPv6Address(int(six) ^ 1 << 64)
            assert network(str(other)) != network(str(six))
    assert network(f"::ffff:{four}") == network(str(four)) == str(four)


@given(st.lists(st.text(st.characters(codec="latin-1"), max_size=20), max_size=4), st.booleans())
def test_only_what_the_platform_adds_says_where_from(forged: list[str], apart: bool) -> None:
    """Also where it is added as a header line of its own."""
    listed = [*(f.replace(",", "") for f in forged), "203.0.113.7"]
    sent = listed if apart else [", ".join(listed)]
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in sent]
    asked = Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})
    space, own = (
        Settings.from_env({"QUIRE_SECRET": "s", **more}) for more in ({"SPACE_ID": "a/b"}, {})
    )
    assert network(address(asked, space)) == "203.0.113.7"
    assert network(address(asked, own)) == "192.0.2.1"


@given(st.text(max_size=60))
def test_anything_is_an_address_or_unknown(text: str) -> None:
    assert network(text) == "unknown" or ipaddress.ip_network(network(text))


def test_sixty_cookies_of_an_address_are_one_visitor(door: Door) -> None:
    bucket, limits = Buckets(rate=0.5, burst=50), door.guard["limits"]
    limits.calls, usual = bucket, limits.calls
    began, statuses = time.monotonic(), []
    for n in range(120):
        six = f"2001:db8:1:2::{n % 60:x}"
        statuses.append(door.ask("GET", "/account", **door.visitor(six))[0])
    taken = bucket.burst + bucket.rate * (time.monotonic() - began) + 1
    assert statuses.count(200) <= taken
    assert set(statuses) == {200, 429}
    assert door.ask("GET", "/account", **door.visitor("2001:db8:1:3::1"))[0] == 200
    _, token = door.identity.accounts.mint("a" * 32, "script", name="ada", orgs=())
    for at in ("2001:db8:1:2::1", "2001:db8:1:2::3b"):  # a person at that address is another
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": at}
        assert door.ask("GET", "/account", **headers)[0] == 200
    limits.calls = usual


def test_a_visitor_s_requests_in_progress_are_few(door: Door) -> None:
    limits = door.guard["limits"]
    most = limits.open.each
    who = "".join(f"{n}: {v}\r\n" for n, v in door.visitor("198.51.100.7").items())
    head = f"POST /import HTTP/1.1\r\nHost: 127.0.0.1\r\n{who}Content-Length: 9\r\n\r\n".encode()
    lines = [socket.create_connection(("127.0.0.1", door.port), timeout=60) for _ in range(most)]
    for line in lines:
        line.sendall(head)
    while sum(limits.open._open.values()) < most:
        time.sleep(0.01)
    assert door.ask("GET", "/account", **door.visitor("198.51.100.7"))[0] == 429
    assert door.ask("GET", "/account", **door.visitor("198.51.100.8"))[0] == 200
    for line in lines:
        line.close()
    while limits.open._open:
        time.sleep(0.01)
    assert limits.open._visitors == 0
    assert door.ask("GET", "/account", **door.visitor("198.51.100.7"))[0] == 200


# By a token


def by(token: str, at: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "X-Forwarded-For": at}


def test_the_hub_is_asked_about_few_unknown_tokens_of_an_address(door: Door) -> None:
    """However many there are; who was known at that address still is."""
    bucket, began, before = door.identity._strangers, time.monotonic(), door.provider.asked
    assert door.ask("GET", "/account", **by("hf_bob", "203.0.113.40"))[0] == 200
    statuses = [
        door.ask("GET", "/account", **by(f"{kind}{n}", "203.0.113.40"))[0]
        for n in range(125)
        for kind in ("hf_made_up_", "quire_made_up_")
    ]
    paid = bucket.burst + bucket.rate * (time.monotonic() - began) + 1
    assert door.provider.asked - before <= paid
    assert statuses.count(401) <= paid
    assert set(statuses) == {401, 429}
    assert door.ask("GET", "/account", **by("hf_bob", "203.0.113.40"))[0] == 200
    door.identity._hub = Remembered()  # five minutes later
    assert door.ask("GET", "/account", **by("hf_bob", "203.0.113.40"))[0] == 200
    assert door.ask("GET", "/account", **by("hf_eve", "203.0.113.40"))[0] == 429
    assert door.ask("GET", "/account", **by("hf_eve", "203.0.113.41"))[0] == 200


def test_tokens_that_are_good_cost_their_address_nothing(door: Door) -> None:
    tokens = [
        door.identity.accounts.mint(f"{n:032x}", "t", name="ada", orgs=())[1] for n in range(40)
    ]
    assert [door.ask("GET", "/account", **by(t, "203.0.113.50"))[0] for t in tokens] == [200] * 40


def test_a_hub_that_is_away_is_not_asked_on_and_on(door: Door) -> None:
    door.provider.down, before = True, door.provider.asked
    for n in range(30):
        status, error = door.ask("GET", "/account", **by(f"hf_x{n}", f"203.0.113.{100 + n}"))
        assert (status, error["code"]) == (503, "identity_unavailable")
    assert door.provider.asked - before == door.identity._breaker.failures
    door.provider.down = False
    door.identity._breaker._until = 0.0  # its rest is over
    assert door.ask("GET", "/account", **by("hf_ada", "203.0.113.99"))[0] == 200
    assert door.ask("GET", "/account", **by("hf_no", "203.0.113.99"))[0] == 401


# In turn


def test_a_share_has_its_turns_and_no_more() -> None:
    """What visitors have at work at once is little; each person has as much; nobody waits for ever."""
    turns = Turns(each=2, visitors=3, person=4, most=5, crowd=8, seconds=0.2)
    shares = [Share("a", True), Share("b", True), Share("c", True), Share("p", False)]
    inside: Counter[Share] = Counter()
    most: Counter[str] = Counter()
    refused: Counter[Share] = Counter()

    async def one(share: Share, go: asyncio.Event) -> None:
        try:
            async with turns.turn(share):
                inside[share] += 1
                most[share.key] = max(most[share.key], inside[share])
                visitors = sum(n for s, n in inside.items() if s.visitor)
                most["visitors"] = max(most["visitors"], visitors)
                await go.wait()
                inside[share] -= 1
        except Refused as problem:
            assert problem.code == "too_many_requests"
            refused[share] += 1

    async def crowd() -> None:
        go = asyncio.Event()
        tasks = [asyncio.create_task(one(share, go)) for share in shares for _ in range(12)]
        while sum(refused.values()) < 12 * 4 - 3 - 4:  # the others have waited in vain
            await asyncio.sleep(0.01)
        assert sum(inside.values()) == 3 + 4
        go.set()
        await asyncio.gather(*tasks)
        await one(shares[2], go)

    asyncio.run(crowd())
    assert (most["visitors"], most["a"], most["p"]) == (3, 2, 4)
    assert refused == {shares[0]: 10, shares[1]: 11, shares[2]: 12, shares[3]: 8}
    assert not turns._waiting


@pytest.mark.slow
def test_visitors_leave_slots_and_pictures_to_those_who_are_signed_in(tmp_path: Path) -> None:
    """Nine of them, each with a cookie and four jobs of its own, from three addresses."""
    settings = {"SPACE_ID": "ada/quire", "QUIRE_SECRET": "s", "QUIRE_EMBEDDING_MODEL": ""}
    with engine(tmp_path / "data", **settings) as running:
        crowd = [(f"{n:032x}", "a" * 31 + str(n % 3)) for n in range(16, 25)]
        theirs = [
            (running.submit(running.pdf(20, f"v {user} {n}"), user, address=address), user)
            for user, address in crowd
            for n in range(4)
        ]
        running.eventually(lambda: running.started(stage="partition"))
        mine = running.finished(running.submit(running.pdf(2, "mine")))
        assert mine["status"] == "succeeded"
        rows = running.jobs.catalog.jobs(None, None, 1000)  # of one moment
        states = Counter(row.status for row in rows if row.user != USER)
        assert states["running"] <= 8
        assert states["queued"] > 20
        for job, user in theirs:
            running.jobs.cancel(user, job)
        last = running.finished(
            running.submit(running.pdf(2, "v"), crowd[0][0], address=crowd[0][1]), crowd[0][0]
        )

        def picture(user: str, source: str, page: int, *, visitor: bool) -> str:
            asked = {"source_id": source, "page": page, "visitor": visitor}
            return str(running.link.call("page_image", user, **asked))

        before = set(running.whole())
        assert picture(crowd[0][0], last["source"]["id"], 1, visitor=True)
        (viewer,) = set(running.whole()) - before
        viewer.suspend()  # as one that draws a page that takes for ever
        held = threading.Thread(
            target=picture, args=(crowd[0][0], last["source"]["id"], 2), kwargs={"visitor": True}
        )
        held.start()
        assert picture(USER, mine["source"]["id"], 1, visitor=False)
        assert held.is_alive()
        viewer.resume()
        held.join()


# Nobody


STRANGER = {"X-Forwarded-For": "203.0.113.77"}
BEGINNINGS = st.sampled_from([
    "/gradio_api/call/v2/search", "/gradio_api/call/search", "/gradio_api/run/search",
    "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset",
])  # fmt: skip
STREAMS = (
    "/gradio_api/heartbeat/made-up", "/gradio_api/queue/data?session_hash=made-up",
    "/gradio_api/upload_progress?upload_id=made-up",
)  # fmt: skip


@pytest.fixture
def remembering(door: Door, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are remembered from now on."""
    names: list[str] = []
    put = Begun.put

    def noted(self: Begun, name: str, who: str, share: str) -> None:
        names.append(name)
        put(self, name, who, share)

    monkeypatch.setattr(Begun, "put", noted)
    return names


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(BEGINNINGS, st.text("ab", min_size=1, max_size=200), st.booleans())
def test_nobody_begins_anything(
    door: Door, remembering: list[str], path: str, name: str, more: bool
) -> None:
    call = {"session_hash": name, "event_id": name, "fn_index": 0, "data": []}
    sent = json.dumps({**call, "oauth_token": "made-up"} if more else call).encode()
    status, _ = door.ask("POST", path, sent, **JSON, **STRANGER)
    assert status == 400 if len(name) > 100 else status in {401, 429}
    assert remembering == []


@pytest.mark.parametrize("path", STREAMS)
def test_nobody_holds_a_stream_open(door: Door, remembering: list[str], path: str) -> None:
    assert door.ask("GET", path, **STRANGER)[0] == 401
    assert remembering == []


def test_a_name_is_short_and_a_refused_call_is_not_remembered(
    door: Door, remembering: list[str]
) -> None:
    for session, code in (("x" * 101, "bad_id"), ({"a": "x"}, "bad_id"), ("x", "call_unknown")):
        call = {"session_hash": session, "fn_index": 10_000, "data": []}
        sent = json.dumps(call).encode()
        status, error = door.ask("POST", "/gradio_api/queue/join", sent, **door.visitor(), **JSON)
        assert (status, error["code"]) == (400, code)
    assert remembering == []


def test_a_text_of_a_call_is_short(door: Door) -> None:
    long = "y" * (MOST_TEXT + 1)
    for path, call in (
        ("/gradio_api/call/v2/search", {"query": "q", "collection": long}),
        ("/gradio_api/call/search", {"data": ["q", long, 1, "hybrid", None]}),
    ):
        sent = json.dumps(call).encode()
        assert door.ask("POST", path, sent, **door.visitor(), **JSON)[1]["code"] == "bad_text"


@pytest.mark.parametrize("path", ["/gradio_api/mcp", "/gradio_api/mcp/"])
def test_no_stream_is_opened_where_tools_are_called(door: Door, path: str) -> None:
    for who in (STRANGER, door.visitor()):
        status, error = door.ask("GET", path, Accept="text/event-stream", **who)
        assert (status, error["code"]) == (405, "tools_by_post")


def test_nobody_takes_no_room_of_visitors(door: Door) -> None:
    limits = door.guard["limits"]
    head = "POST /import HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.78\r\n"
    lines = [
        socket.create_connection(("127.0.0.1", door.port), timeout=60)
        for _ in range(limits.nobody.each)
    ]
    for line in lines:
        line.sendall(f"{head}Content-Length: 9\r\n\r\n".encode())
    while sum(limits.nobody._open.values()) < limits.nobody.each:
        time.sleep(0.01)
    assert limits.open._visitors == 0
    assert door.ask("GET", "/account", **{"X-Forwarded-For": "203.0.113.78"})[0] == 429
    assert door.ask("GET", "/account", **door.visitor("203.0.113.78"))[0] == 200
    for line in lines:
        line.close()
    while limits.nobody._open:
        time.sleep(0.01)


def test_four_addresses_leave_uploads_to_other_visitors() -> None:
    uploads = Limits().uploads
    with contextlib.ExitStack() as held:
        for at in "abcd":
            with contextlib.suppress(Refused):
                while True:
                    held.enter_context(uploads.one(Share(at, visitor=True)))
        held.enter_context(uploads.one(Share("another", visitor=True)))


def test_an_upload_of_too_many_is_read_on_so_that_its_sender_hears_why(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door.guard["limits"].uploads, "each", 0)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    who = door.visitor("203.0.113.79")
    status, error = door.ask("POST", "/gradio_api/upload", bytes(8 << 20), **who, **kind)
    assert (status, error["code"]) == (429, "too_many_requests")


class Names(RuleBasedStateMachine):
    """Whoever has begun no more than an even part of what there is room for keeps it all, whatever others
    make up."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.begun = Begun(most=12, each=6, clock=lambda: self.now)
        self.model: dict[str, list[str]] = {share: [] for share in "abc"}

    @rule(share=st.sampled_from("abc"), n=st.integers(0, 30))
    def put(self, share: str, n: int) -> None:
        name = f"{share}{n}"
        self.begun.put(name, f"who {share}", share)
        self.model[share] = [*(x for x in self.model[share] if x != name), name]

    @rule(share=st.sampled_from("abc"), n=st.integers(0, 30))
    def get(self, share: str, n: int) -> None:
        if (name := f"{share}{n}") in self.model[share] and self.begun.get(name):
            self.model[share] = [*(x for x in self.model[share] if x != name), name]

    @rule()
    def a_day_goes_by(self) -> None:
        self.now += 90_000
        assert not any(self.begun.get(n) for names in self.model.values() for n in names)
        self.model = {share: [] for share in "abc"}

    @rule(n=st.integers(0, 30))
    def another_takes_it(self, n: int) -> None:
        self.begun.put(name := f"a{n}", "who b", "b")
        assert self.begun.get(name) == "who b"
        self.begun.put(name, "who a", "a")
        self.model["a"] = [*(x for x in self.model["a"] if x != name), name]

    @invariant()
    def the_newest_are_there(self) -> None:
        assert len(self.begun) <= 12
        for share, names in self.model.items():
            kept = [n for n in names if n in self.begun._owners]
            assert kept == names[len(names) - len(kept) :]
            assert len(kept) >= min(len(names), 4)
            assert {self.begun._owners[n][0] for n in kept} <= {f"who {share}"}


TestNames = Names.TestCase


@pytest.mark.parametrize("every", [0.02, 0.2])
def test_an_upload_that_trickles_is_ended(every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, also between two bytes; one that is as fast as it has to be is not."""
    monkeypatch.setattr(body, "SILENT", 0.3)

    async def sent(piece: bytes) -> AsyncIterator[bytes]:
        for _ in range(100 if len(piece) == 1 else 5):
            await asyncio.sleep(every)
            yield piece

    async def received(piece: bytes) -> int:
        return sum([len(chunk) async for chunk in body.paced(sent(piece))])

    assert asyncio.run(received(b"x" * body.SLOWEST)) == 5 * body.SLOWEST
    with pytest.raises(InputError) as caught:
        asyncio.run(received(b"x"))
    assert caught.value.code == "body_slow"


def test_visitors_at_many_addresses_are_limited_together(door: Door) -> None:
    bucket, limits = Buckets(rate=0.5, burst=50), door.guard["limits"]
    limits.visitors, usual = bucket, limits.visitors
    began = time.monotonic()
    statuses = [door.ask("GET", "/account", **door.visitor(f"198.51.0.{n}"))[0] for n in range(120)]
    assert statuses.count(200) <= bucket.burst + bucket.rate * (time.monotonic() - began) + 1
    assert set(statuses) == {200, 429}
    _, token = door.identity.accounts.mint("c" * 32, "script", name="ada", orgs=())
    assert door.ask("GET", "/account", **by(token, "198.51.0.1"))[0] == 200
    limits.visitors = usual


@pytest.mark.slow
def test_visitors_share_disk_by_address_and_all_together(door: Door) -> None:
    """However many cookies they have; who is signed in has their own."""
    environ = {
        "QUIRE_DATA_DIR": str(door.identity.settings.data_dir), "SPACE_ID": "ada/quire",
        "QUIRE_VISITOR_QUOTA_MB": "4", "QUIRE_VISITORS_QUOTA_MB": "10",
    }  # fmt: skip
    settings = Settings.from_env(environ)
    paths, accounts = Paths(settings.data_dir), door.identity.accounts
    admission = Admission(settings, paths, Catalog(f"sqlite:///{paths.catalog}"))
    took: Counter[str] = Counter()
    for n, at in itertools.product(range(4), "abcdef"):
        user = hashlib.sha256(f"{at}{n}".encode()).hexdigest()[:32]
        accounts.saw_visitor(user, at * 32)
        for m in range(5):
            upload = paths.uploads / user / str(m)
            try:
                admission.allot(user, upload, 1 << 20, 0)
            except Refused as problem:
                assert problem.code == "quota_exceeded"
                continue
            (upload / "a.pdf").write_bytes(bytes(1 << 20))
            took[at] += 1
        admission.measured._totals.clear()  # ten seconds later
    assert 3 <= max(took.values()) <= 4
    assert 7 <= sum(took.values()) <= 10
    mine = paths.uploads / ("c" * 32) / "0"
    assert admission.allot("c" * 32, mine, 20 << 20, 0) == 20 << 20
