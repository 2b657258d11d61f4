"""Search over a live store: what comes first."""

from pathlib import Path

import pytest

from errors import InputError
from pipeline.search import checked, search
from storage.live.chroma import Record
from storage.live.keyword_index import Filter
from tests.house import USER, House


def record(name: str, text: str, vector: tuple[float, float, float]) -> Record:
    return Record(id=name, document=text, embedding=vector, metadata={"page": 1})


def test_a_word_is_found_among_many_that_are_nearer_in_meaning(tmp_path: Path) -> None:
    """More of them than are looked at, all alike, as the pieces of one endless word are."""
    house = House(tmp_path / "data")
    space = house.space()
    alike = [record(f"a{n:03d}", "wwww", (1.0, 0.0, 0.0)) for n in range(120)]
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [*alike, record("z", "a zebra", (0.0, 1.0, 0.0))])
        query = checked("zebra", collection=space.collection, top_k=3, mode="hybrid", where=None)
        first, second, _ = search(workspace, query, lambda _: [1.0, 0.0, 0.0])
    house.close()
    assert query.where == Filter()
    assert (first["text"], first["rank"]) == ("a zebra", {"dense": None, "keyword": 1})
    assert (second["text"], second["score"]) == ("wwww", first["score"])


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"where": {"source_id": []}}, "bad_where"),
        ({"where": {"element_type": []}}, "bad_where"),
        ({"where": {"pages": [2, 1]}}, "bad_where"),
        ({"top_k": True}, "top_k_range"),
    ],
)
def test_a_filter_that_leaves_nothing_is_no_search_of_everything(
    asked: dict[str, object], code: str
) -> None:
    given: dict[str, object] = {"top_k": 3, "mode": "hybrid", "where": None, **asked}
    with pytest.raises(InputError) as caught:
        checked("zebra", collection="c", **given)  # type: ignore[arg-type]
    assert caught.value.code == code
