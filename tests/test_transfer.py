"""Exports and imports: the round trip is equal, hostile archives are refused, a kill loses nothing."""

import io
import json
import random
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromadb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from errors import InputError, QuireError
from pipeline.ingest.chunk import Chunk
from pipeline.ingest.embed import metadata
from pipeline.jobs.service import EXPORTS
from pipeline.transfers import import_archive, unzip
from pipeline.transfers.export import _WRITERS, Shelf, export
from quire_client import Json, Quire
from storage.catalog.catalog import Collection, SourceRow
from storage.live import parquet_shards, segments
from storage.live.chroma import Record, VectorStore
from storage.live.record_metadata import MAX_VALUES, checked
from tests.conftest import SAMPLES, Running, start_app
from tests.poison import journal

SHA = "5" * 64
TOLD = {"source_id": SHA, "filename": "a.pdf", "page": 1, "element_type": "Text"}


def record(n: int, **metadata: Any) -> Record:
    return Record(
        id=f"id-{n}",
        document=f"text {n} ∑ \u202e",
        embedding=[n / 7, -1.5, 3e-38],
        metadata={"page": n, "filename": "a.pdf", "element_type": "Text", "score": 0.1,
                  "page_numbers": [n, n + 1], "source_id": SHA, **metadata},
    )  # fmt: skip


def exact(r: Record) -> tuple[Any, ...]:
    return r.id, r.document, pa.array(r.embedding, pa.float32()).to_pylist(), dict(r.metadata)


def test_a_dataset_reads_as_it_was_written(tmp_path: Path) -> None:
    written = [[record(n) for n in range(i, i + 7)] for i in range(0, 70, 7)]
    shards = parquet_shards.write(tmp_path, iter(written))
    read = [r for s in shards for b in parquet_shards.read(s) for r in b]
    assert [exact(r) for r in read] == [exact(r) for b in written for r in b]
    types = [{k: type(v) for k, v in r.metadata.items()} for r in read]
    assert types[0] == {k: type(v) for k, v in written[0][0].metadata.items()}


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return path


def link(path: Path) -> Path:
    entry = zipfile.ZipInfo("data/x.parquet")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(entry, "/etc/passwd")
    return path


def lying(path: Path) -> Path:
    """A directory that announces less than the stream holds."""
    zipped(path, **{"data/x.parquet": b"\0" * 500_000})
    content = path.read_bytes()
    size = (500_000).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (50_000).to_bytes(4, "little")))
    return path


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "leads up": lambda p: zipped(p, **{"../evil.parquet": b"x"}),
    "leads up inside": lambda p: zipped(p, **{"data/../../evil.parquet": b"x"}),
    "absolute": lambda p: zipped(p, **{"/etc/cron.d/evil": b"x"}),
    "windows": lambda p: zipped(p, **{"..\\evil": b"x", "C:\\evil": b"y"}),
    "hidden": lambda p: zipped(p, **{".ssh/authorized_keys": b"x"}),
    "deep": lambda p: zipped(p, **{"a/b/c/d/e/f": b"x"}),
    "link": link,
    "bomb": lambda p: zipped(p, **{"data/x.parquet": b"\0" * (40 << 20)}),
    "lying": lying,
    "too many": lambda p: zipped(p, **{f"n{i}": b"" for i in range(unzip.MAX_ENTRIES + 1)}),
    "twice": lambda p: zipped(p, **{"data/x": b"1", "DATA/X": b"2"}),
    "no zip": lambda p: (p.write_bytes(b"PK\x03\x04 not at all"), p)[1],
    "cut": lambda p: (zipped(p, a=b"x" * 9000), p.write_bytes(p.read_bytes()[:-30]), p)[2],
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "a.zip")
    inside = tmp_path / "deep" / "in"
    with pytest.raises(InputError) as caught:
        unzip.unpack(path, inside, 1 << 30)
    assert caught.value.code == "archive_refused"
    assert {p.name for p in tmp_path.iterdir()} <= {"a.zip", "deep"}
    assert sum(p.stat().st_size for p in inside.rglob("*") if p.is_file()) <= 50_000


def test_an_archive_larger_than_what_may_be_stored_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", a=bytes(range(256)) * 100)
    with pytest.raises(InputError):
        unzip.unpack(path, tmp_path / "in", 1000)
    assert unzip.unpack(path, tmp_path / "in", 1 << 20) == ["a"]


def told(**metadata: Any) -> str:
    """What a record says of itself; a key that is None is left out."""
    return json.dumps({k: v for k, v in {**TOLD, **metadata}.items() if v is not None})


def table(**columns: Any) -> bytes:
    whole = {
        "id": ["a"], "document": ["d"], "metadata": [told()],
        "embedding": pa.array([[1.0, 0.0]], pa.list_(pa.float32())), **columns,
    }  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({k: v for k, v in whole.items() if v is not None}), sink)
    return bytes(sink.getvalue().to_pybytes())


def vectors(*rows: Any) -> Any:
    return pa.array(list(rows), pa.list_(pa.float32()))


def nested(depth: int) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + "}"


FACTS = json.dumps({"format": 1, "title": "t", "model": "m", "sources": []}).encode()
WRONG: dict[str, dict[str, bytes]] = {
    "no facts": {"data/a.parquet": table()},
    "facts are a list": {"quire.json": b"[]", "data/a.parquet": table()},
    "nothing": {"quire.json": FACTS},
    "no record": {"quire.json": FACTS, "data/a.parquet": table(
        id=pa.array([], pa.string()), document=pa.array([], pa.string()),
        metadata=pa.array([], pa.string()), embedding=pa.array([], pa.list_(pa.float32())))},
    "no parquet": {"quire.json": FACTS, "data/a.parquet": b"PAR1 nothing PAR1"},
    "no vectors": {"quire.json": FACTS, "data/a.parquet": table(embedding=None)},
    "doubles": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=pa.array([[1.0]], pa.list_(pa.float64())))},
    "not a number": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=vectors([float("nan"), 1.0]))},
    "a vector too long to be normalised": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=vectors([3.4e38, 3.4e38]))},
    "a vector whose square is too long": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=vectors([1e20, 0.0]))},
    "a vector too short to be normalised": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=vectors([1e-30, 0.0]))},
    "a vector without a direction": {"quire.json": FACTS, "data/a.parquet": table(
        embedding=vectors([0.0, 0.0]))},
    "empty vector": {"quire.json": FACTS, "data/a.parquet": table(embedding=vectors([]))},
    "two lengths": {"quire.json": FACTS, "data/a.parquet": table(
        id=["a", "b"], document=["", ""], metadata=[told(), told()],
        embedding=vectors([1.0], [1.0, 2.0]))},
    "an id twice": {"quire.json": FACTS, "data/a.parquet": table(
        id=["a", "a"], document=["", ""], metadata=[told(), told()],
        embedding=vectors([1.0], [1.0]))},
    "a page that is none": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(page="x")])},
    "boxes that are none": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(boxes="{")])},
    "a list too long for Chroma": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(page_numbers=[1] * 5_001)])},
    "lists too long together": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(page_numbers=[1] * 2_501, section_titles=["s"] * 2_501)])},
    "too many keys for Chroma": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(**{f"k{n}": n for n in range(5_001)})])},
    **{f"no {key}": {"quire.json": FACTS, "data/a.parquet": table(metadata=[told(**{key: None})])}
       for key in TOLD},
    "a source that is none": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(source_id="../../x")])},
    "metadata is nested": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[told(a={"b": 1})])},
    "metadata is very deep": {"quire.json": FACTS, "data/a.parquet": table(
        metadata=[nested(100_000)])},
    "chroma that is none": {"quire.json": FACTS, "chroma/chroma.sqlite3": b"SQLite format 3\0x"},
}  # fmt: skip


@pytest.mark.parametrize("entries", WRONG.values(), ids=WRONG.keys())
def test_what_quire_would_not_write_is_refused_with_the_reason(
    tmp_path: Path, entries: dict[str, bytes]
) -> None:
    path = zipped(tmp_path / "a.zip", **entries)
    with pytest.raises(InputError) as caught:
        import_archive.take_in(path, tmp_path / "work", 1 << 30)
    assert caught.value.code == "import_unreadable"


def test_chroma_holds_the_records_with_the_most_values(tmp_path: Path) -> None:
    """Of an archive, and of a document with one letter on each of thousands of pages."""
    many = range(1, 2_668)
    chunk = Chunk(
        kind="Text", text="t", pages=tuple(many), boxes=(),
        element_ids=tuple(map(str, many)), element_types=("Title",),
        section_titles=tuple(map(str, many)),
    )  # fmt: skip
    most = replace(record(1), metadata={"all": list(range(MAX_VALUES))})
    own = replace(record(2), metadata=metadata(chunk, source_id="a" * 64, filename="f"))
    store = VectorStore(tmp_path / "chroma")
    store.ensure("most", model="m", dimension=3, title="t")
    for one in (checked(most), checked(own), record(3)):
        store.upsert("most", [one])
    assert store.count("most") == len(store.get("most")) == 3
    store.close()


def test_an_archive_of_a_newer_quire_is_refused(tmp_path: Path) -> None:
    for n, (written, code) in enumerate((
        (2, "import_newer"),
        ("1", "import_unreadable"),
        (0, "import_unreadable"),
    )):
        facts = json.dumps({**json.loads(FACTS), "format": written}).encode()
        path = zipped(tmp_path / f"{n}.zip", **{"quire.json": facts, "data/a.parquet": table()})
        with pytest.raises(QuireError) as caught:
            import_archive.take_in(path, tmp_path / f"work{n}", 1 << 30)
        assert caught.value.code == code


@pytest.mark.parametrize("format", ["parquet", "chroma"])
def test_a_file_is_shown_by_its_name_alone(tmp_path: Path, format: str) -> None:
    """On one line, without a folder, as that of an upload is."""
    ways = {
        "../../../etc/passwd": "passwd",
        "..\\..\\evil\r\n\u202e.pdf": "evil.pdf",
        "..\n/": "document.pdf",
    }
    for n, (way, shown) in enumerate(ways.items()):
        facts = {"format": 1, "title": "t", "model": "m",
                 "sources": [{"sha256": SHA, "filename": way, "pages": 1}]}  # fmt: skip
        held = (
            {"data/a.parquet": table(metadata=[told(filename=way)])}
            if format == "parquet"
            else of_chroma(tmp_path / f"{n}", "theirs", filename=way)
        )
        path = zipped(tmp_path / f"{n}.zip", **{**held, "quire.json": json.dumps(facts).encode()})
        work = tmp_path / f"work{n}"
        taken = import_archive.Taken.of(import_archive.take_in(path, work, 1 << 30), work)
        assert [s.filename for s in taken.sources] == [shown]
        rows = [r for s in (work / "rows").iterdir() for b in parquet_shards.read(s) for r in b]
        assert {r.metadata["filename"] for r in rows} == {shown}


def of_chroma(folder: Path, *collections: str, **metadata: Any) -> dict[str, bytes]:
    """The entries of an archive whose Chroma directory has these collections, three records each."""
    store = VectorStore(folder)
    for name in collections:
        store.ensure(name, model="m", dimension=3, title="t")
        store.upsert(name, [record(n, **metadata) for n in range(3)])
    store.close()
    found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {"quire.json": FACTS, **{f"chroma/{p.as_posix()}": b for p, b in found.items()}}


@pytest.mark.slow
def test_an_archive_of_a_chroma_directory_is_one_collection_read_whole(tmp_path: Path) -> None:
    one = zipped(tmp_path / "one.zip", **of_chroma(tmp_path / "1", "theirs"))
    assert import_archive.take_in(one, tmp_path / "work1", 1 << 30)["records"] == 3
    two = of_chroma(tmp_path / "2", "theirs", "more-of-theirs")
    torn = of_chroma(tmp_path / "3", "theirs")
    (links,) = [n for n in torn if n.endswith("link_lists.bin")]
    torn[links] = random.randbytes(3 << 20)
    for n, (entries, why) in enumerate(((two, "more than one"), (torn, "cannot be opened"))):
        path = zipped(tmp_path / f"{n}.zip", **entries)
        with pytest.raises(InputError) as caught:
            import_archive.take_in(path, tmp_path / f"refused{n}", 1 << 30)
        assert caught.value.code == "import_unreadable"
        assert why in str(caught.value)


@pytest.mark.slow
def test_a_journal_in_an_archive_deletes_no_file_of_the_server(tmp_path: Path) -> None:
    entries = of_chroma(tmp_path / "1", "theirs")
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="ascii")
    journal(tmp_path / "1", victim)
    entries["chroma/chroma.sqlite3-journal"] = (
        tmp_path / "1" / "chroma.sqlite3-journal"
    ).read_bytes()
    with pytest.raises(InputError) as caught:
        import_archive.take_in(zipped(tmp_path / "a.zip", **entries), tmp_path / "work", 1 << 30)
    assert caught.value.code == "import_unreadable"
    assert victim.read_text(encoding="ascii") == "precious"


def test_what_repeats_is_measured_as_it_is_read(tmp_path: Path) -> None:
    """A text that is in the file once and in the table a thousand times: it is what it takes in memory."""
    count, said = 1000, "x" * 100_000
    bomb = table(
        id=[str(n) for n in range(count)], document=[said] * count, metadata=[told()] * count,
        embedding=vectors(*[[1.0]] * count),
    )  # fmt: skip
    assert len(bomb) < 20_000
    path = zipped(tmp_path / "a.zip", **{"quire.json": FACTS, "data/a.parquet": bomb})
    with pytest.raises(InputError) as caught:
        import_archive.take_in(path, tmp_path / "work", 50 << 20)
    assert "too large when unpacked" in str(caught.value)
    assert sum(p.stat().st_size for p in (tmp_path / "work").rglob("*") if p.is_file()) < 1 << 20
    found = import_archive.Taken.of(
        import_archive.take_in(path, tmp_path / "more", 120 << 20), tmp_path / "more"
    )
    assert 100_000_000 < found.bytes < 101_000_000


def test_files_with_a_foreign_content_under_a_hash_are_left_out(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip",
        **{"quire.json": FACTS, "data/a.parquet": table(), f"figures/{'a' * 64}.jpg": b"evil",
           f"sources/{'b' * 64}.pdf": b"evil", "figures/name.jpg": b"x"},
    )  # fmt: skip
    found = import_archive.take_in(path, tmp_path / "work", 1 << 30)
    assert (found["figures"], found["files"], found["records"]) == ([], [], 1)


def shelf_of(tmp_path: Path, image: str, **element: Any) -> Shelf:
    """A collection as a store may hold it since before names were parsed, or as somebody changed it."""
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / GOOD).write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(SECRET)
    for n, name in enumerate((LINK, DIRECTORY)):
        (tmp_path / "crops" / name).symlink_to((tmp_path / "secret", tmp_path)[n])
    (tmp_path / "original.pdf").symlink_to(tmp_path / "secret")
    held = [
        record(1, image=image),
        record(2, image=GOOD),
        record(3, image=LINK),
        record(4, image=DIRECTORY),
    ]
    source = SourceRow(
        collection="c-1", sha256="5" * 64, filename="../a.pdf", bytes=1, pages=1, version="v1",
        created_at=1.0,
    )  # fmt: skip
    elements = [
        {"type": "Image", "text": "", "metadata": {"page_number": 1, "image_path": name}}
        for name in (image, GOOD, LINK, DIRECTORY)
    ]
    return Shelf(
        collection=Collection(id="c-1", title="# [t](http://evil)", model="m", created_at=1.0),
        count=4,
        records=lambda: iter([held]),
        sources=[source],
        elements=lambda _: [*elements, {"metadata": {}, **element}] if element else elements,
        original=lambda _: tmp_path / "original.pdf",
        crop=lambda name: tmp_path / "crops" / name,
    )


SECRET = b"hf_not_for_you"
GOOD, LINK, DIRECTORY = (f"{c * 64}.jpg" for c in "abc")


@pytest.mark.parametrize("format", EXPORTS)
@pytest.mark.parametrize("way", ["{}/secret", "../secret", "../crops/../secret", "a\0b", ""])
def test_an_export_holds_nothing_from_outside(tmp_path: Path, format: str, way: str) -> None:
    """Neither by a name that leads out, nor by a link that stands where a picture or a PDF should."""
    shelf = shelf_of(tmp_path, way.format(tmp_path))
    target = tmp_path / "out" / "x.zip"
    export(shelf, format, target, lambda done, total: None)
    with zipfile.ZipFile(target) as opened:
        held = {n: opened.read(n) for n in opened.namelist()}
    assert not [n for n, content in held.items() if SECRET in content]
    assert [n for n in held if n.startswith("figures/")] == (
        [] if format == "json" else [f"figures/{GOOD}"]
    )
    assert not [n for n in held if n.startswith(("/", "sources/")) or ".." in n]


def test_every_format_has_a_writer() -> None:
    assert tuple(_WRITERS) == EXPORTS


# At a running app


@pytest.fixture(scope="module")
def quire(app: Running) -> Quire:
    made = Quire(app.url)
    for file in ("report.pdf", "greek.pdf"):
        job = made.wait(made.submit(SAMPLES / file, collection="whole")[0]["id"])
        assert job["status"] == "succeeded"
    return made


@pytest.fixture(scope="module")
def parquet(quire: Quire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield quire.download(tmp_path_factory.mktemp("out") / "whole.zip", "whole", "parquet")


def rows(path: Path, folder: Path) -> dict[str, tuple[Any, ...]]:
    with zipfile.ZipFile(path) as opened:
        opened.extractall(folder)
    found = {}
    if (folder / "chroma").exists():
        client = chromadb.PersistentClient(str(folder / "chroma"))
        (collection,) = client.list_collections()
        held = collection.get(include=["documents", "metadatas", "embeddings"])
        for i, d, m, e in zip(
            held["ids"], held["documents"], held["metadatas"], held["embeddings"], strict=True
        ):
            found[i] = (d, m, [float(x) for x in e])
    for shard in folder.glob("data/*.parquet"):
        for row in pq.read_table(shard).to_pylist():
            found[row["id"]] = (row["document"], json.loads(row["metadata"]), row["embedding"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "chroma"])
def test_a_round_trip_is_equal(quire: Quire, app: Running, tmp_path: Path, format: str) -> None:
    """What is saved has the archive's vectors to the bit; Chroma's cosine index normalises again."""
    first = quire.download(tmp_path / "first.zip", "whole", format)
    job = quire.wait(quire.import_collection(first, f"back from {format}")["id"])
    assert job["status"] == "succeeded", job
    made = job["result"]["collection"]
    second = quire.download(tmp_path / "second.zip", made, format)
    before, after = rows(first, tmp_path / "1"), rows(second, tmp_path / "2")
    saved = {
        r.id: (r.document, dict(r.metadata or {}), list(r.embedding))
        for path in sorted(app.data.glob("remote/users/*/segments/*.parquet"))
        for r in segments.decode(path)
        if r.collection == made
    }
    assert saved == before
    assert len(before) == job["result"]["records"] > 5
    assert {i: r[:2] for i, r in after.items()} == {i: r[:2] for i, r in before.items()}
    for i, (_, _, vector) in after.items():
        assert vector == pytest.approx(before[i][2], abs=1e-6)
    hits = quire.search("how much rain fell in April?", collection=f"back from {format}")
    assert hits[0]["filename"] == "report.pdf"


@pytest.mark.slow
def test_a_parquet_export_is_a_dataset_folder(parquet: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(parquet) as opened:
        names = opened.namelist()
        card = opened.read("README.md").decode()
        opened.extractall(tmp_path)
    front = yaml.safe_load(card.split("---")[1])
    assert front["pretty_name"] == "whole"
    assert front["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    assert "data/train-00000.parquet" in names
    assert [n for n in names if n.startswith("figures/")]
    assert [n for n in names if n.startswith("sources/")]
    seen = pq.read_table(tmp_path / "data" / "train-00000.parquet")
    assert {"filename", "page", "element_type"} < set(seen.column_names)
    assert pq.ParquetFile(tmp_path / "data" / "train-00000.parquet").metadata.num_rows > 5


@pytest.mark.slow
def test_an_export_is_a_job_with_progress_and_an_import_too(quire: Quire, parquet: Path) -> None:
    exports = [j for j in quire.jobs() if j["kind"] == "export"]
    events = list(quire.watch(exports[0]["id"]))
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert events[-1]["status"] == "succeeded"
    assert any(e.get("total") for e in events)


def refused(quire: Quire, path: Path) -> Json:
    job = quire.wait(quire.import_collection(path)["id"])
    assert job["status"] == "failed"
    assert job["error"]["advice"]
    return dict(job["error"])


@pytest.mark.slow
def test_refused_imports_say_why_and_leave_nothing(
    quire: Quire, app: Running, parquet: Path, tmp_path: Path
) -> None:
    before = quire.collections()
    assert refused(quire, HOSTILE["leads up"](tmp_path / "a.zip"))["code"] == "archive_refused"
    assert refused(quire, SAMPLES / "greek.pdf")["code"] == "archive_refused"
    other = zipped(tmp_path / "m.zip", **{"quire.json": FACTS, "data/a.parquet": table()})
    assert refused(quire, other)["code"] == "import_model"
    assert quire.collections() == before
    assert not list(app.data.glob("users/*/work/t*"))


@pytest.mark.slow
def test_no_visitor_reads_a_file_of_the_server(
    quire: Quire, app: Running, parquet: Path, tmp_path: Path
) -> None:
    """An archive whose records name files, imported and exported again in every format."""
    secret = app.data / "secret"
    assert secret.is_file()
    with zipfile.ZipFile(parquet) as opened:
        entries = {n: opened.read(n) for n in opened.namelist()}
    (shard,) = [n for n in entries if n.endswith(".parquet")]
    held = pq.read_table(io.BytesIO(entries[shard]))
    for image in (str(secret), "../../../../secret", "/proc/self/environ", f"{'a' * 64}.jpg"):
        told = [json.dumps({**json.loads(m), "image": image}) for m in held["metadata"].to_pylist()]
        changed = held.set_column(held.column_names.index("metadata"), "metadata", pa.array(told))
        sink = pa.BufferOutputStream()
        pq.write_table(changed, sink)
        evil = {**entries, shard: sink.getvalue().to_pybytes()}
        path = zipped(tmp_path / "evil.zip", **evil)
        job = quire.wait(quire.import_collection(path, "evil")["id"])
        if not image.endswith(".jpg"):
            assert job["error"]["code"] == "import_unreadable"
            continue
        for format in EXPORTS:
            out = quire.download(tmp_path / f"{format}.zip", job["result"]["collection"], format)
            with zipfile.ZipFile(out) as opened:
                assert not [n for n in opened.namelist() if secret.read_bytes() in opened.read(n)]
                assert not [n for n in opened.namelist() if n.startswith("figures/")]
    assert quire.collections()[-1]["bytes"] == sum(
        len(c) for n, c in entries.items() if n.startswith("sources/")
    )


@pytest.mark.slow
def test_a_worker_killed_in_an_import_begins_it_again(parquet: Path, tmp_path: Path) -> None:
    app = start_app(tmp_path / "data")
    quire = Quire(app.url)
    job = quire.import_collection(parquet, "again")
    for event in quire.watch(job["id"]):
        if event["seq"] == 1:
            app.kill_worker()
    done = quire.job(job["id"])
    assert done["status"] == "succeeded", done
    assert [c["title"] for c in quire.collections()] == ["again"]
    assert quire.collections()[0]["records"] == done["result"]["records"]
    app.stop()
