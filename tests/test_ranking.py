"""Search over a live store: what comes first, what is one hit, and what is none."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    alike = [record(f"a{n:03d}", "wwww", (1.0, 0.0, 0.0)) for n in range(200)]
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


WORDS = ("rain", "cloud", "river", "bridge", "north", "storm", "table", "total")
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Searches 300 records on 60 pages of three documents; a vector says how often each word stands there."""
    house, rng = House(tmp_path_factory.mktemp("ranking") / "data"), random.Random(3)
    space = replace(house.space(), dimension=len(WORDS))

    def vector(text: str) -> list[float]:
        return [text.count(w) + 0.01 for w in WORDS]

    def of(n: int) -> Record:
        text = " ".join(rng.choices(WORDS, k=6))
        place = {"source_id": f"{n % 3}" * 64, "page": n % 20 + 1, "element_type": "Text"}
        boxes = f'[{{"page": {place["page"]}, "x0": {n}}}]'
        return Record(
            id=f"id{n:03d}",
            document=text,
            embedding=vector(text),
            metadata={**place, "boxes": boxes},
        )

    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [of(n) for n in range(300)])

        def answered(text: str, **asked: Any) -> list[dict[str, Any]]:
            options = {"top_k": 10, "mode": "hybrid", "where": None, **asked}
            return search(workspace, checked(text, collection=space.collection, **options), vector)

        yield answered
    house.close()


QUESTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
MODE = st.sampled_from(["hybrid", "dense", "keyword"])
SHARED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@given(QUESTION, MODE, st.sampled_from(["page", "document", "passage"]), st.integers(1, 60))
def test_more_hits_begin_with_the_fewer(
    ask: Ask, question: str, mode: str, group: str, count: int
) -> None:
    most = ask(question, mode=mode, group=group, top_k=100)
    assert ask(question, mode=mode, group=group, top_k=count) == most[:count]
    assert ask(question, mode=mode, group=group, top_k=count, offset=5) == most[5 : 5 + count]
    scores = [h["score"] for h in most]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= s <= 1.000001 for s in scores)


@SHARED
@given(QUESTION, MODE)
def test_a_page_and_a_document_are_one_hit(ask: Ask, question: str, mode: str) -> None:
    for group, of in (("page", ("source_id", "page")), ("document", ("source_id",))):
        hits = ask(question, mode=mode, group=group, top_k=100)
        places = [tuple(h[name] for name in of) for h in hits]
        assert len(set(places)) == len(places)
        for hit, place in zip(hits, places, strict=True):
            assert all(tuple(m[name] for name in of) == place for m in hit["more"])
            assert hit["boxes"][0] == hit["box"]
            assert all(m["box"] in hit["boxes"] for m in hit["more"])
    assert not any(h["more"] for h in ask(question, mode=mode, group="passage"))


@SHARED
@given(QUESTION, MODE, st.lists(st.sampled_from(WORDS), min_size=2, max_size=2, unique=True))
def test_a_phrase_stands_in_every_hit_and_a_refused_word_in_none(
    ask: Ask, question: str, mode: str, words: list[str]
) -> None:
    first, second = words
    for hit in ask(f'{question} "{first} {second}"', mode=mode, group="passage", top_k=100):
        assert f"{first} {second}" in hit["text"]
    for hit in ask(f"{question} {second} -{first}", mode=mode, group="passage", top_k=100):
        assert first not in hit["text"]


def test_a_page_is_as_good_as_the_best_of_its_records_together(tmp_path: Path) -> None:
    """One that says the words and another that means them: neither is the best of its kind."""
    house = House(tmp_path / "data")
    space = house.space()
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [
            placed("a", "zebra crossing", (0.0, 1.0, 0.0), page=1),
            placed("b", "striped horse", (0.9, 0.1, 0.0), page=1),
            placed("c", "a zebra and much else that is said of it", (0.7, 0.7, 0.0), page=2),
        ])  # fmt: skip
        query = checked("zebra", collection=space.collection, top_k=3, mode="hybrid", where=None)
        first, second = search(workspace, query, lambda _: [1.0, 0.0, 0.0])
    house.close()
    assert (first["page"], second["page"]) == (1, 2)
    assert [m["text"] for m in first["more"]] == ["striped horse"] or first[
        "text"
    ] == "striped horse"


def placed(name: str, text: str, vector: tuple[float, float, float], page: int) -> Record:
    place = {"page": page, "source_id": "a" * 64}
    return Record(id=name, document=text, embedding=vector, metadata=place)


def test_nothing_is_found_where_nothing_is_nearer_than_nonsense(tmp_path: Path) -> None:
    house = House(tmp_path / "data")
    space = house.space()
    known = {"the weather": [1.0, 0.0, 0.0]}  # any other text means as little as the next one
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [record("a", "rain and snow", (1.0, 0.1, 0.0))])

        def found(text: str, nonsense: list[float]) -> int:
            query = checked(text, collection=space.collection, top_k=3, mode="hybrid", where=None)
            return len(search(workspace, query, lambda asked: known.get(asked, nonsense)))

        assert found("the weather", [0.0, 1.0, 0.0]) == 1
        assert found("the weather", [1.0, 0.1, 0.0]) == 0
        assert found("rain", [1.0, 0.1, 0.0]) == 1  # a word of it is there
    house.close()


def test_a_question_that_names_a_document_finds_that_one(tmp_path: Path) -> None:
    house = House(tmp_path / "data")
    space = house.space()
    with house.workspaces.open(USER) as workspace:
        workspace.upsert(space, [
            replace(made, metadata={**made.metadata, "filename": f"{name}_2023.pdf"})
            for page, name in enumerate(("ADOBE", "BESTBUY"))
            for made in [placed(name, "total current liabilities", (1.0, 0.0, 0.0), page)]
        ])  # fmt: skip
        for question, name in (("Best Buy total liabilities", "BESTBUY"), ("adobe 2023", "ADOBE")):
            query = checked(
                question, collection=space.collection, top_k=3, mode="hybrid", where=None
            )
            assert search(workspace, query, lambda _: [1.0, 0.0, 0.0])[0]["id"] == name
    house.close()
