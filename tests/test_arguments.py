"""Every endpoint with arguments that are missing, misspelt, too many or of another type: 4xx, with a code."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Running
from tests.people import Person, Refusal

pytestmark = pytest.mark.slow
ODD: list[Any] = [5, -1.5, True, "x", "", [], [None], [[1]], {}, {"a": {}}, "\x1b", 10**18]


def endpoints(person: Person) -> dict[str, list[dict[str, Any]]]:
    named = json.loads(person.ask("/gradio_api/info")[1])["named_endpoints"]
    return {name.strip("/"): told["parameters"] for name, told in named.items()}


def least(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """What has to be given; nothing of it is a file."""
    none: dict[str, Any] = {"files": [], "file": {}}
    needed = [p["parameter_name"] for p in parameters if not p["parameter_has_default"]]
    return {name: none.get(name, "x") for name in needed}


def refused(person: Person, name: str, body: Any) -> str:
    status, answer = person.post(f"/gradio_api/call/v2/{name}", body)
    assert status == 400, (name, body, status, answer)
    return str(answer["error"]["code"])


def test_names_are_checked_at_every_endpoint(app: Running) -> None:
    person = Person(app.url)
    found = endpoints(person)
    assert len(found) > 15
    for name, parameters in found.items():
        given = least(parameters)
        for left in given:
            body = {n: v for n, v in given.items() if n != left}
            assert refused(person, name, body) == "argument_missing"
            assert refused(person, name, {**body, f"{left}s_": "x"}) == "argument_unknown"
        assert refused(person, name, {**given, "more": 1}) == "argument_unknown"
        for body in ([], "x", 5, None):
            assert refused(person, name, body) == "bad_body"
        data = [None] * (len(parameters) + 1)
        for kind in ("call", "run"):
            path = f"/gradio_api/{kind}/{name}"
            status, answer = person.post(path, {"data": data})
            assert (status, answer["error"]["code"]) == (400, "argument_unknown")
            assert person.post(path, {})[1]["error"]["code"] == "bad_body"
        if parameters:
            status, answer = person.post(f"/gradio_api/call/{name}", {"data": []})
            assert (status, answer["error"]["code"]) == (400, "argument_missing")
    for path in ("call/v2/nothing", "call/nothing", "queue/join"):
        status, answer = person.post(f"/gradio_api/{path}", {"data": [], "fn_index": 9999})
        assert (status, answer["error"]["code"]) == (400, "call_unknown")
    misspelt = person.post("/gradio_api/call/v2/search", {"query": "x", "colection": "y"})[1]
    assert misspelt["error"]["advice"] == "Is collection meant?"


def wrong(found: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameters in found.items():
        for one in parameters:
            for value in ODD:
                yield name, {**least(parameters), one["parameter_name"]: value}


def test_a_wrong_type_is_an_answer_or_a_code_and_never_internal(app: Running) -> None:
    person = Person(app.url)
    seen = set()
    for name, body in wrong({n: p for n, p in endpoints(person).items() if n != "export"}):
        status, answer = person.post(f"/gradio_api/call/v2/{name}", body)
        assert status in {200, 400}, (name, body, answer)
        seen.add(answer["error"]["code"] if status == 400 else "taken")
    assert {"argument_type", "taken"} <= seen <= {
        "argument_type", "argument_missing", "taken", "not_an_upload", "bad_body",
    }  # fmt: skip


@pytest.mark.parametrize("call", ["job", "jobs", "search", "create_collection", "sources", "retry"])
def test_what_is_taken_is_answered_with_a_code(app: Running, call: str) -> None:
    person = Person(app.url)
    parameters = endpoints(person)[call]
    for name, body in wrong({call: parameters}):
        try:
            person.call(name, **body)
        except Refusal as problem:
            assert problem.code not in {"None", "internal", "500"}, (name, body, problem)
