"""An error is the same for everybody who meets it: in another process, over HTTP, at an endpoint, as a tool."""

import asyncio
import functools
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from errors import Conflict, QuireError, Refused, kinds, unpacked
from pipeline.processes import channel
from pipeline.processes.rpc import Link, address, key
from pipeline.worker.__main__ import _serve
from storage.paths import Paths
from tests.conftest import ROOT
from web.api import App, endpoint
from web.json_route import route
from web.rate_limit import Share, Turns

DOCUMENTED = re.findall(
    r"^\| `(\w+)` \| (\w+)[\w ]* \| (\d+) \|",
    (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"),
    re.M,
)
words = st.text(max_size=40)
details = st.dictionaries(
    st.sampled_from(["wait", "limit", "pages", "name"]), st.integers() | words
)


@st.composite
def problems(draw: st.DrawFn) -> QuireError:
    kind = draw(st.sampled_from(sorted(kinds().values(), key=lambda k: k.__name__)))
    made = kind(draw(words), draw(words), draw(words), **draw(details))
    if hasattr(made, "retry_after"):
        made.retry_after = draw(st.none() | st.floats(0, 1e6))
    return made


@given(problems())
def test_an_error_is_whole_in_another_process(problem: QuireError) -> None:
    found = unpacked(json.loads(json.dumps(problem.packed())))
    assert type(found) is type(problem)
    assert vars(found) == vars(problem)
    assert (str(found), found.args, found.permanent) == (
        str(problem),
        problem.args,
        problem.permanent,
    )


def test_a_kind_that_is_known_on_one_side_only_is_its_nearest_there() -> None:
    class Moved(Conflict):
        """Known to the sender."""

    sent = Moved("moved", "It moved.").packed()
    sent["kinds"][0] = "NotKnownHere"
    assert type(unpacked(sent)) is Conflict


def test_the_worker_s_errors_arrive_whole(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    raised: list[Exception] = []

    def answer(_: bytes) -> None:
        raise raised[-1]

    with channel.listen(address(paths)) as listener:
        serving = (listener, key(paths), functools.partial(_serve, answer, tmp_path))
        threading.Thread(target=channel.accept, args=serving, daemon=True).start()
        link = Link(paths)
        for kind in kinds().values():
            raised.append(kind("a_code", "It is so.", "Do that.", limit=3))
            with pytest.raises(QuireError) as caught:
                link.call("status", "u")
            assert type(caught.value) is kind
            assert vars(caught.value) == vars(raised[-1])
        raised.append(ValueError("a secret"))
        with pytest.raises(QuireError) as caught:
            link.call("status", "u")
        assert (caught.value.code, "secret" in str(caught.value)) == ("internal", False)


def stub() -> App:
    """As much of the app as a route and an endpoint ask for."""
    caller = SimpleNamespace(key="u", share=Share("u", visitor=False))
    turns = Turns(each=1, visitors=1, person=1, most=9, crowd=9)
    return cast("App", SimpleNamespace(caller=lambda *_: caller, turns=turns))


def test_every_code_has_its_documented_status_at_a_route_and_its_name_at_an_endpoint() -> None:
    raised: list[QuireError] = []

    def refuse(_: Any) -> Any:
        raise raised[-1]

    app = stub()
    client = TestClient(Starlette(routes=[route(app, "/x", refuse)]))
    made = endpoint(app, lambda caller: refuse(caller))
    assert len(DOCUMENTED) > 100
    for code, kind, status in DOCUMENTED:
        raised.append(kinds()[kind](code, "It is so."))
        answer = client.get("/x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (int(status), code)
        for by, shown in (("", code), ("mcp", f"{code}: It is so.")):
            with pytest.raises(gr.Error) as caught:
                asyncio.run(made(request=SimpleNamespace(headers={"x-gradio-user": by})))
            assert caught.value.title == code
            assert shown in (caught.value.title, caught.value.message)


def test_when_to_come_back_is_told() -> None:
    def refuse(_: Any) -> Any:
        raise Refused("too_many_requests", "Too many.", wait=4.2)

    app = stub()
    answer = TestClient(Starlette(routes=[route(app, "/x", refuse)])).get("/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
