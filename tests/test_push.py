"""A collection pushed to a dataset of its owner's: with their token only, which is kept nowhere."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from errors import InputError
from pipeline.transfers.push_tokens import dataset_name
from quire_client import FINISHED, Quire
from storage.catalog.catalog import Catalog
from storage.paths import Paths
from tests.conftest import SAMPLES, Running, files, start_app
from tests.hub.server import Fault, Hub, Repo
from tests.oidc import Provider
from tests.people import Person, Refusal, signed_in, visitor


@pytest.mark.parametrize(
    ("title", "given", "name"),
    [
        ("Öl & Wasser", "", "ada/Ol-Wasser"),
        ("雨", "", "ada/collection"),
        ("x", "rain", "ada/rain"),
        ("x", "club/rain.v1_2", "club/rain.v1_2"),
    ],
)
def test_a_dataset_is_named_by_its_owner_or_like_the_collection(
    title: str, given: str, name: str
) -> None:
    assert dataset_name("ada", title, given) == name


@pytest.mark.parametrize("given", ["a/b/c", "../x", "a b", "x.git", "x--y", "-x", "x" * 97, "/x"])
def test_what_the_hub_would_not_take_is_no_name(given: str) -> None:
    with pytest.raises(InputError):
        dataset_name("ada", "t", given)


@dataclass
class Space:
    app: Running
    hub: Hub
    provider: Provider
    ada: Person
    collection: str

    def sign_in(self, name: str, *, push: bool = True) -> Person:
        """Through the provider; its token is good at the Hub too."""
        person = signed_in(self.app.url, self.provider, name, push=push)
        for token, holder in self.provider.tokens.items():
            self.hub.tokens[token] = (holder, "write")
        return person

    def push(self, person: Person, dataset: str = "") -> tuple[int, Any]:
        path = f"/collections/{self.collection}/push"
        return person.post(path, {"dataset": dataset}, X_Quire="1")

    def says(self, job: Any, words: str, seconds: float = 90) -> None:
        """Until that job says so, as its row has it."""
        catalog = Catalog(f"sqlite:///{Paths(self.app.data).catalog}")
        limit = time.monotonic() + seconds
        while words not in (message := catalog.jobs(None, None, 1)[0].summary.get("message", "")):
            assert time.monotonic() < limit, message
            time.sleep(0.05)
        assert catalog.jobs(None, None, 1)[0].id == job["id"]
        catalog.close()

    def ended(self, job: Any) -> Any:
        event = self.ada.call("watch", job_id=job["id"])
        assert event["status"] in FINISHED
        return self.ada.call("job", job_id=job["id"])


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with Provider() as provider, Hub() as hub:
        environment = {**provider.environment(), "HF_ENDPOINT": hub.url}
        app = start_app(tmp_path_factory.mktemp("push") / "data", **environment)
        made = Space(app, hub, provider, Person(app.url), "")
        made.ada = made.sign_in("ada")
        _, paths = made.ada.upload(SAMPLES / "report.pdf", "report.pdf")
        job = made.ada.call("submit", files=[{"path": paths[0]}], collection="Rain & snow")[0]
        assert made.ended(job)["status"] == "succeeded"
        made.collection = made.ada.call("collections")[0]["id"]
        yield made
        app.stop()


def put(hub: Hub) -> int:
    return sum(seen.method == "PUT" for seen in hub.log)


@pytest.mark.slow
def test_a_signed_in_owner_pushes_to_a_private_dataset_and_renews_it(space: Space) -> None:
    hub, ada = space.hub, space.ada
    assert ada.call("status")["you"]["may_push"]
    status, job = space.push(ada)
    assert status == 200
    done = space.ended(job)
    assert done["status"] == "succeeded", done
    assert done["result"]["dataset"] == "ada/Rain-snow"
    assert done["result"]["url"] == f"{hub.url}/datasets/ada/Rain-snow"
    repo = hub.repos["ada/Rain-snow"]
    assert repo.private
    names = set(repo.tree)
    assert {"README.md", "quire.json", "data/train-00000.parquet"} < names
    assert any(n.startswith("figures/") for n in names)
    assert b"Rain & snow" in hub.content(repo.tree["README.md"].sha256)

    hub.put("ada/Rain-snow", "data/train-00001.parquet", b"of an earlier, longer push")
    sent, commits = put(hub), len(repo.commits)
    assert space.ended(space.push(ada)[1])["status"] == "succeeded"
    assert set(repo.tree) == names
    assert (put(hub), len(repo.commits)) == (sent, commits + 1)  # nothing large is sent twice
    assert hub.leaks == []


@pytest.mark.slow
def test_what_is_not_theirs_private_or_a_push_is_left_alone(space: Space) -> None:
    hub, ada = space.hub, space.ada
    assert space.ended(space.push(ada, "again")[1])["status"] == "succeeded"
    hub.repos["ada/again"].private = False
    assert space.ended(space.push(ada, "again")[1])["error"]["code"] == "push_public"
    hub.repos["ada/again"].private = True
    before = hub.repos["ada/again"].head
    mine = space.sign_in("ada")
    status, made = mine.post("/account/tokens", {"label": "x"}, X_Quire="1")
    assert status == 200
    with pytest.raises(Refusal) as caught:  # Quire's own tokens open no Hub
        Person(space.app.url, {"Authorization": f"Bearer {made['token']}"}).call(
            "push", collection=space.collection
        )
    assert caught.value.code == "push_sign_in"

    hub.repos["ada/thesis"] = Repo()
    hub.put("ada/thesis", "thesis.tex", b"years of work")
    assert space.ended(space.push(ada, "thesis")[1])["error"]["code"] == "push_foreign"
    assert set(hub.repos["ada/thesis"].tree) == {"thesis.tex"}
    assert space.ended(space.push(ada, "bob/x")[1])["error"]["code"] == "push_refused"
    assert space.push(ada, "a b")[1]["error"]["code"] == "push_name"
    assert hub.repos["ada/again"].head == before


@pytest.mark.slow
def test_nobody_else_pushes_and_nobody_without_the_scope(space: Space) -> None:
    bob, guest = space.sign_in("bob"), visitor(space.app.url)
    assert space.push(bob)[1]["error"]["code"] == "collection_not_found"
    assert space.push(guest)[1]["error"]["code"] == "push_sign_in"
    plain = space.sign_in("ada", push=False)  # nobody is asked for more than a name at first
    assert not plain.call("status")["you"]["may_push"]
    assert space.push(plain)[1]["error"]["code"] == "push_sign_in"


@pytest.mark.slow
def test_a_worker_killed_in_a_push_asks_its_owner_once_more(space: Space) -> None:
    hub, app, ada = space.hub, space.app, space.ada
    hub.faults = [Fault("POST", "/commit/", status=503, times=1000)]
    _, job = space.push(ada, "killed")
    space.says(job, "cannot be reached")
    app.kill_worker()
    hub.faults = []
    space.says(job, "in its memory only")
    assert "quire.json" not in hub.repos["ada/killed"].tree
    status, again = space.push(ada, "killed")
    assert (status, again["id"]) == (200, job["id"])
    assert space.ended(job)["status"] == "succeeded"
    assert "quire.json" in hub.repos["ada/killed"].tree


@pytest.mark.slow
def test_a_script_pushes_with_its_own_token(space: Space) -> None:
    quire = Quire(space.app.url, token="hf_write")
    quire.wait(quire.submit(SAMPLES / "greek.pdf", collection="θάλασσα")[0]["id"])
    done = quire.wait(quire.push("θάλασσα", "ada/sea")["id"])
    assert done["status"] == "succeeded", done
    assert space.hub.repos["ada/sea"].private


@pytest.mark.slow
def test_no_token_was_written_anywhere(space: Space) -> None:
    tokens = {"hf_write", *(t for t in space.provider.tokens if t.startswith("hf_oauth"))}
    assert len(tokens) > 2
    for path in files(space.app.data):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        assert not [t for t in tokens if t.encode() in content], path
    assert json.dumps(space.ada.call("jobs")).count("hf_") == 0
