"""Every endpoint and every route of the page with arguments that are missing, misspelt, too many or of
another type: 4xx, with a code."""

import itertools
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from errors import InputError
from quire_client import Quire
from tests.conftest import SAMPLES, Running
from tests.people import Person, Refusal
from web.arguments import Arguments
from web.routes.files import routes

pytestmark = pytest.mark.slow
ODD: list[Any] = [5, -1.5, True, "x", "", [], [None], [[1]], {}, {"a": {}}, "\x1b", 10**18]


def takes_numbers(
    caller: Any, one: int, many: list[int] | None = None, whether: bool = True
) -> None:
    pass


def test_a_truth_value_is_no_number() -> None:
    takes = Arguments.after_first(takes_numbers)
    assert takes.named({"one": 1, "many": [2], "whether": False})["many"] == [2]
    for given in ({"one": True}, {"one": 1, "many": [True]}, {"one": 1, "many": [1, False]}):
        with pytest.raises(InputError) as caught:
            takes.named(given)
        assert caught.value.code == "argument_type", given


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


def own_routes() -> set[tuple[str, str]]:
    """Method and path of all that takes a body."""
    return {
        (method, route.path)
        for route in routes(MagicMock())
        for method in route.methods or ()
        if method not in {"GET", "HEAD"} and route.path != "/gradio_api/upload"
    }


OWN: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/collections"): {"title": "odd"},
    ("DELETE", "/collections/{collection}"): {},
    ("POST", "/collections/{collection}/export"): {"format": "json"},
    ("POST", "/collections/{collection}/reembed"): {"model": "x"},
    ("POST", "/collections/{collection}/push"): {"dataset": "x"},
    ("POST", "/collections/{collection}/search"): {
        "query": "x", "top_k": 1, "mode": "hybrid", "where": {},
    },
    ("POST", "/collections/{collection}/documents"): {
        "files": [], "strategy": "auto", "languages": "", "notify": "", "password": "",
        "gpu": "auto", "chunk_size": 512,
    },
    ("DELETE", "/collections/{collection}/documents/{source}"): {},
    ("POST", "/import"): {"file": {}, "title": "x"},
    ("POST", "/jobs/{job}/cancel"): {"keep": True},
    ("POST", "/jobs/{job}/retry"): {"pages": [], "strategy": ""},
    ("POST", "/jobs/{job}/dismiss"): {},
    ("POST", "/account/sign-out"): {},
    ("POST", "/account/addresses"): {"address": "x"},
    ("POST", "/account/addresses/confirm"): {"address": "x", "code": "x"},
    ("POST", "/account/addresses/remove"): {"address": "x"},
    ("POST", "/account/tokens"): {"label": "odd"},
    ("POST", "/account/tokens/revoke"): {"id": "x"},
    ("PATCH", "/collections/{collection}"): {"title": "odd"},
}  # fmt: skip


def test_what_the_page_may_send_is_checked_at_every_route(app: Running) -> None:
    """With a file and a job that are there, so that nothing else is in the way."""
    person = Person(app.url, {"X-Quire": "1"})
    assert own_routes() == {*OWN, ("POST", "/sign-in")}
    quire = Quire(app.url)
    [job] = quire.submit(SAMPLES / "greek.pdf", collection="odd")
    assert quire.wait(job["id"])["status"] == "succeeded"

    def not_a_pdf() -> dict[str, str]:
        return {"path": person.upload(b"this is no PDF", "odd.pdf")[1][0]}

    def told(method: str, path: str, body: Any) -> str:
        status, answer, _ = person.ask(path, json.dumps(body).encode(), method)
        assert status < 500, (method, path, body, answer)
        return str(json.loads(answer)["error"]["code"]) if status != 200 else "taken"

    seen = set()
    for (method, route), given in OWN.items():
        path = route.format(collection="odd", job=job["id"], source="x")
        if method == "DELETE":
            path = path.replace("odd", "x")
        assert told(method, path, {**given, "more": 1}) == "argument_unknown"
        assert told(method, path, []) == "bad_body"
        for name, value in itertools.product(given, ODD):
            files = {"files": [not_a_pdf()]} if "files" in given else {}
            seen.add(told(method, path, {**given, **files, name: value}))
    assert {"argument_type", "taken"} <= seen
    assert not seen & {"None", "internal"}
    for size in (-1, 0, 49, 8001, 10**6):
        bad = {"files": [not_a_pdf()], "chunk_size": size}
        assert told("POST", "/collections/odd/documents", bad) == "chunk_size"
