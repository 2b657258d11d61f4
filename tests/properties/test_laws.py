"""Laws that hold for any input."""

import json
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from errors import Corrupt, InputError
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.pdf.page import Box
from pipeline.pdf.text.reading_order import reading_order
from storage.generations import manifest as manifests
from storage.generations.manifest import File, Manifest
from storage.live import segments
from storage.live.keyword_index import Entry, Fulltext
from storage.live.segments import Row
from storage.paths import Paths

USER = "0" * 32
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
VECTOR = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)
PUT = st.builds(
    lambda i, d, v: Row(
        op="put", collection="c-1", id=str(i), document=d, metadata={"page": i}, embedding=v
    ),
    st.integers(1, 5), TEXT, VECTOR,
)  # fmt: skip
DELETE = st.builds(lambda i: Row(op="delete", collection="c-1", id=str(i)), st.integers(1, 5))


@pytest.mark.slow
@given(st.lists(st.one_of(PUT, DELETE), max_size=20))
def test_a_segment_gives_back_what_was_put_in(rows: list[Row]) -> None:
    content = segments.encode(rows)
    assert list(map(_plain, segments.decode(content))) == list(map(_plain, rows))
    assert segments.encode(rows) == content


def _plain(row: Row) -> tuple[object, ...]:
    return (row.op, row.collection, row.id, row.document, row.metadata, list(row.embedding))


@given(st.lists(st.one_of(PUT, DELETE), max_size=20), st.integers(0, 20))
def test_folding_in_two_steps_is_folding_at_once(rows: list[Row], at: int) -> None:
    first = [r for c in segments.fold(rows[:at]).values() for r in c.values()]
    assert segments.fold([*first, *rows[at:]]).get("c-1", {}) == segments.fold(rows).get("c-1", {})


@given(st.binary(max_size=200))
def test_no_bytes_make_a_manifest_by_chance(content: bytes) -> None:
    with pytest.raises(Corrupt):
        manifests.load(content, user=USER)


@given(TEXT)
def test_a_hostile_path_is_refused(path: str) -> None:
    made = Manifest(
        user=USER, generation=1, parent=None, created_at=0.0,
        files=(File(path=f"../{path}", sha256="a" * 64, bytes=1),),
    )  # fmt: skip
    with pytest.raises(Corrupt):
        manifests.load(manifests.dump(made), user=USER)


def test_a_manifest_comes_back_equal_and_a_changed_byte_does_not() -> None:
    made = Manifest(
        user=USER, generation=3, parent="b" * 64, created_at=1.5,
        segments=(File(path="segments/1-a.parquet", sha256="a" * 64, bytes=9, rows=2),),
    )  # fmt: skip
    content = manifests.dump(made)
    assert manifests.load(content, user=USER) == made
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1
        try:
            assert manifests.load(bytes(changed), user=USER) == made
        except Corrupt:
            continue


@given(st.text(max_size=200))
def test_no_id_leads_out_of_a_users_folder(text: str) -> None:
    paths = Paths(Path("/data"))
    for ask in (
        lambda: paths.source(USER, text),
        lambda: paths.crop(USER, text),
        lambda: paths.work(USER, text),
        lambda: paths.export(USER, text),
    ):
        try:
            assert ".." not in ask().parts
            assert ask().is_relative_to("/data")
        except InputError:
            continue


@pytest.mark.slow
@given(st.text(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_keyword_query(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    words = Fulltext(tmp_path_factory.mktemp("words") / "w.sqlite")
    entry = Entry(id="1", text=f"rain {text}", source="s", page=1, kind="Text")
    words.upsert("c", [entry])
    words.search("c", text, limit=5)
    assert words.search("c", "rain", limit=5)[0][0] == "1"
    words.close()


LENGTHS = st.sampled_from([f.name for f in fields(ChunkOptions)])


@given(st.dictionaries(LENGTHS, st.integers(-9, 9000) | st.integers()))
def test_lengths_that_are_taken_fit_the_chunk(given: dict[str, int]) -> None:
    options = ChunkOptions(**given)
    with suppress(InputError):
        options.checked()
        most = options.max_characters
        assert 50 <= most <= 8000 and 0 <= options.overlap < most
        assert all(0 <= length <= most for length in asdict(options).values())


KIND = st.sampled_from(["Title", "NarrativeText", "ListItem", "Table", "Image", "Header"])
ELEMENT = st.tuples(KIND, st.text("abc de.", min_size=1, max_size=400))
TEXTS = st.text("abc de.", min_size=1, max_size=900) | st.text(
    "東京の橋は長い。 ", min_size=1, max_size=900
)


def _pages(drawn: list[list[tuple[str, str]]]) -> list[list[dict[str, object]]]:
    return [
        [
            {
                "type": kind,
                "element_id": f"{n:04d}-{i:04d}",
                "text": text,
                "metadata": {
                    "page_number": n,
                    **({"text_as_html": "<table><tr><td>a</td></tr></table>"} if kind == "Table" else {}),
                },
            }
            for i, (kind, text) in enumerate(page)
        ]
        for n, page in enumerate(drawn, 1)
    ]  # fmt: skip


@given(st.lists(st.lists(ELEMENT, max_size=6), min_size=1, max_size=6), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_chunks_do_not_depend_on_batches(drawn: list[list[tuple[str, str]]], size: int) -> None:
    pages = _pages(drawn)
    options = ChunkOptions(max_characters=200, new_after_n_chars=150, combine_text_under_n_chars=80)
    whole = [json.dumps(_key(c)) for c in chunks([sum(pages, [])], options)]
    parts = [sum(pages[i : i + size], []) for i in range(0, len(pages), size)]
    assert sorted(json.dumps(_key(c)) for c in chunks(parts, options)) == sorted(whole)


@given(
    st.lists(st.lists(st.tuples(KIND, TEXTS), max_size=6), min_size=1, max_size=4),
    st.integers(50, 300),
    st.integers(0, 40),
)
@settings(max_examples=60)
def test_a_chunk_stands_on_one_page_and_is_as_long_as_it_may(
    drawn: list[list[tuple[str, str]]], most: int, overlap: int
) -> None:
    options = replace(ChunkOptions.up_to(most), overlap=overlap)
    for chunk in chunks(_pages(drawn), options):
        assert len(chunk.pages) == 1
        assert {f"{chunk.pages[0]:04d}"} == {i.split("-")[0] for i in chunk.element_ids}
        assert len(set(chunk.element_ids)) == len(chunk.element_ids)
        if chunk.kind == "Text":
            others = sum(not c.isascii() for c in chunk.text)
            assert len(chunk.text) + others <= most + 2 * chunk.text.count("\n\n")


def _key(chunk: object) -> object:
    return [chunk.record_id("s"), chunk.text, chunk.pages, chunk.section_titles, chunk.part]  # type: ignore[attr-defined]


@given(st.lists(st.lists(ELEMENT, max_size=6), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_chunking_loses_no_text(drawn: list[list[tuple[str, str]]]) -> None:
    made = " ".join(c.text for c in chunks(_pages(drawn), ChunkOptions()))
    for page in drawn:
        for kind, text in page:
            if kind in {"Title", "NarrativeText", "ListItem"}:
                assert all(word in made for word in text.split())


PLACE = st.tuples(st.integers(0, 400), st.integers(0, 700), st.integers(5, 200), st.integers(5, 90))


@given(st.lists(PLACE, max_size=25))
def test_a_reading_order_loses_and_repeats_nothing(places: list[tuple[int, int, int, int]]) -> None:
    boxes = [Box(x, y, x + wide, y + high) for x, y, wide, high in places]
    assert sorted(reading_order(boxes)) == list(range(len(boxes)))


@given(st.lists(st.integers(5, 60), min_size=2, max_size=12), st.data())
def test_a_strip_drawn_out_of_turn_is_read_at_its_height(heights: list[int], data: st.DataObject) -> None:  # fmt: skip
    tops = [sum(heights[:i]) + 4 * i for i in range(len(heights))]
    down = [Box(50, y, 400, y + h) for y, h in zip(tops, heights, strict=True)]
    moved = data.draw(st.integers(0, len(down) - 1))
    drawn = [*down[:moved], *down[moved + 1 :], down[moved]]
    assert [drawn[i] for i in reading_order(drawn)] == down
