"""Real PDFs through real page processes: what is read, how, and what is refused."""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from reportlab import platypus
from unstructured.staging.base import elements_from_json

from errors import Corrupt, InputError
from pipeline.__main__ import main, partition_file
from pipeline.ingest.assemble import document_elements
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.ingest.partition import Batch, partition_batch, plan
from pipeline.options import PartitionOptions
from pipeline.pdf import probe
from pipeline.pdf.probe import Probe, check_upload, digest
from pipeline.processes.pool import Pool
from tests.in_child import imported

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
AUTO = PartitionOptions()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


def elements(pool: Pool, path: Path, work: Path, *, size: int = 8, strategy: str = "auto") -> list:  # type: ignore[type-arg]
    seen = look(pool, path, work)
    options = PartitionOptions(strategy=strategy)
    readable = work / "copy.pdf" if seen.copy else path
    done = [
        partition_batch(pool, readable, b, options, out=work / f"b{size}", crops=work / "crops")
        for b in plan(seen, size)
    ]
    return document_elements([r.path for r in done])


def look(pool: Pool, path: Path, work: Path, password: str | None = None) -> Probe:
    return probe.look(pool, path, work / "copy.pdf", password=password, max_pages=100)


def test_a_report_becomes_typed_elements(pool: Pool, tmp_path: Path) -> None:
    found = elements(pool, SAMPLES / "report.pdf", tmp_path)
    kinds = [e["type"] for e in found]
    assert kinds[0] == "Title"
    assert found[0]["text"] == "Rainfall in the valley"
    assert kinds.count("Table") == 2
    assert kinds.count("Image") == 2
    ruled, loose = (e["metadata"]["text_as_html"] for e in found if e["type"] == "Table")
    assert "<thead><tr><th>Month</th><th>Rain (mm)</th><th>Days</th></tr></thead>" in ruled
    assert "<td>Alder</td><td>112</td><td>48,200</td><td>14</td>" in loose
    for e in found:
        place = e["metadata"]["coordinates"]
        assert all(0 <= x <= place["layout_width"] for x, _ in place["points"])
        assert all(0 <= y <= place["layout_height"] for _, y in place["points"])
    assert {
        tuple(e["metadata"]["languages"]) for e in found if e["metadata"]["page_number"] == 1
    } == {("eng",)}
    paragraph = next(e for e in found if "72 millimetres" in e["text"])
    assert paragraph["metadata"]["parent_id"] == found[0]["element_id"]
    for e in found:
        name = e["metadata"].get("image_path")
        assert (name is not None) == (e["type"] in {"Table", "Image"})
        if name:
            assert digest(tmp_path / "crops" / name)[0] == name.removesuffix(".jpg")


def test_captions_and_what_they_name_know_each_other(pool: Pool, tmp_path: Path) -> None:
    found = elements(pool, SAMPLES / "report.pdf", tmp_path)
    named = {e["element_id"]: e for e in found if e["type"] in {"Table", "Image"}}
    captions = [e for e in found if e["type"] == "FigureCaption"]
    assert [c["text"][:9] for c in captions] == ["Table 1. ", "Figure 1.", "Figure 2."]
    for caption in captions:
        thing = named[caption["metadata"]["parent_id"]]
        assert thing["type"] == ("Table" if caption["text"].startswith("Table") else "Image")
        assert thing["metadata"]["caption"] == caption["text"]
    said = {c.element_ids[0]: c.caption for c in chunks([found], ChunkOptions()) if c.caption}
    assert said == {c["metadata"]["parent_id"]: c["text"] for c in captions}


def test_a_table_over_two_pages_is_linked_whatever_the_batches(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "long.pdf"
    rows = [[f"Item {n}", str(n * 3), str(n * 7)] for n in range(90)]
    table = platypus.Table([["Name", "Count", "Sum"], *rows], colWidths=[150, 80, 80], repeatRows=1)
    table.setStyle(platypus.TableStyle([("GRID", (0, 0), (-1, -1), 0.6, "black")]))
    platypus.SimpleDocTemplate(str(path), pagesize=(595, 842), invariant=True).build([table])
    for size in (1, 8):
        found = [e for e in elements(pool, path, tmp_path, size=size) if e["type"] == "Table"]
        assert len(found) == 3
        assert [e["metadata"].get("continues") for e in found] == [
            None, found[0]["element_id"], found[1]["element_id"],
        ]  # fmt: skip


def test_columns_are_read_one_after_the_other(pool: Pool, tmp_path: Path) -> None:
    text = " ".join(e["text"] for e in elements(pool, SAMPLES / "two-columns.pdf", tmp_path))
    assert text.index("A warbler of twelve grams") < text.index("Tides follow the moon")
    assert text.count("crosses the sea in a single flight") == 3


@pytest.mark.slow
def test_a_scan_is_read_by_ocr(pool: Pool, tmp_path: Path) -> None:
    text = " ".join(e["text"] for e in elements(pool, SAMPLES / "scanned.pdf", tmp_path))
    assert "The new crane arrived on time and lifts forty tonnes" in text
    records, _ = read_batch(tmp_path / "b8" / "batch-00000.jsonl")
    assert records[0].reader == "ocr"
    assert "picture covers" in records[0].reason


def test_a_turned_scan_is_turned_back(pool: Pool, tmp_path: Path) -> None:
    turned = tmp_path / "turned.pdf"
    with pikepdf.open(SAMPLES / "scanned.pdf") as document:
        document.pages[0].rotate(90, relative=True)
        document.save(turned)
    text = " ".join(e["text"] for e in elements(pool, turned, tmp_path))
    assert "lifts forty tonnes" in text


def test_another_script_keeps_its_letters(pool: Pool, tmp_path: Path) -> None:
    text = " ".join(e["text"] for e in elements(pool, SAMPLES / "greek.pdf", tmp_path))
    assert "Η θάλασσα χωρίζει τα νησιά και ενώνει τους ανθρώπους" in text
    assert "Море разделяет острова" in text


def test_elements_do_not_depend_on_batches(
    pool: Pool, tmp_path: Path, make_pdf: Callable[..., Path]
) -> None:
    path = make_pdf(pages=7)
    one = elements(pool, path, tmp_path, size=1)
    assert one == elements(pool, path, tmp_path, size=3)
    assert one == elements(pool, path, tmp_path, size=50)
    assert len({e["element_id"] for e in one}) == len(one)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fast", "auto"])
def test_a_text_page_needs_a_small_process(tmp_path: Path, strategy: str) -> None:
    with Pool(1) as alone:
        elements(alone, SAMPLES / "report.pdf", tmp_path, strategy=strategy)
        there = alone.run(imported, seconds=20)
        status = Path(f"/proc/{alone.run(os.getpid, seconds=20)}/status").read_text("ascii")
    heavy = {"numpy", "tesserocr", "pikepdf", "unstructured"}
    assert not there & (heavy | {"tablers", "PIL"} if strategy == "fast" else heavy)
    assert int(status.split("VmRSS:")[1].split()[0]) < 60 << 10


@pytest.mark.slow
def test_the_style_of_a_document_is_looked_at_once(
    pool: Pool, tmp_path: Path, make_pdf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(
        self: Pool, function: Callable[..., object], *arguments: object, **given: Any
    ) -> object:
        asked.append(function.__module__)
        return run(self, function, *arguments, **given)

    run = Pool.run
    monkeypatch.setattr(Pool, "run", spy)
    partition_file(pool, make_pdf(pages=40), tmp_path, AUTO)
    assert asked.count("pipeline.pdf.document_style") == 1


def test_a_batch_that_is_there_is_not_read_again(pool: Pool, tmp_path: Path) -> None:
    batch = Batch(index=0, first=1, last=1)
    path = SAMPLES / "greek.pdf"
    first = partition_batch(pool, path, batch, AUTO, out=tmp_path, crops=tmp_path / "c")
    before = first.path.stat().st_mtime_ns
    again = partition_batch(
        pool, tmp_path / "gone.pdf", batch, AUTO, out=tmp_path, crops=tmp_path / "c"
    )
    assert again == first
    assert again.path.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
def test_a_batch_that_is_damaged_is_read_again(
    pool: Pool, tmp_path: Path, damage: bytes | None
) -> None:
    batch, path = Batch(index=0, first=1, last=1), SAMPLES / "greek.pdf"
    first = partition_batch(pool, path, batch, AUTO, out=tmp_path, crops=tmp_path / "c")
    whole = read_batch(first.path)[1]
    for file in tmp_path.glob("*.*"):
        file.write_bytes(file.read_bytes()[:-2] if damage is None else damage)
    with pytest.raises(Corrupt):
        read_batch(first.path)
    again = partition_batch(pool, path, batch, AUTO, out=tmp_path, crops=tmp_path / "c")
    assert read_batch(again.path)[1] == whole


def refused(pool: Pool, path: Path, tmp_path: Path, password: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        check_upload(path, max_mb=1)
        look(pool, path, tmp_path, password)
    assert caught.value.advice
    return caught.value.code


def test_what_is_not_a_pdf_is_refused(pool: Pool, tmp_path: Path) -> None:
    cases = {"empty_file": b"", "not_a_pdf": b"hello", "file_too_large": b"%PDF" + bytes(2 << 20)}
    for code, content in cases.items():
        path = tmp_path / "bad.pdf"
        path.write_bytes(content)
        assert refused(pool, path, tmp_path) == code


def test_a_damaged_file_is_refused_and_a_cut_one_is_repaired(pool: Pool, tmp_path: Path) -> None:
    whole = (SAMPLES / "report.pdf").read_bytes()
    path = tmp_path / "cut.pdf"
    path.write_bytes(whole[:200])
    assert refused(pool, path, tmp_path) == "damaged_pdf"
    path.write_bytes(whole[: whole.rindex(b"xref") + 8])
    seen = look(pool, path, tmp_path)
    assert (seen.pages, seen.copy, seen.damaged, seen.encrypted) in {
        (2, True, True, False), (2, False, False, False),
    }  # fmt: skip


def test_the_probe_looks_at_pages(pool: Pool, tmp_path: Path) -> None:
    seen = look(pool, SAMPLES / "scanned.pdf", tmp_path)
    assert (seen.sampled, seen.scanned_pages) == (True, 1)
    assert [round(v) for v in seen.largest] == [595, 842]
    assert (seen.text_share, seen.scan_share, seen.languages, seen.scripts) == (0, 1, (), ())
    greek = look(pool, SAMPLES / "greek.pdf", tmp_path)
    assert seen.seconds > greek.seconds
    assert (greek.text_share, greek.scan_share, greek.lock) == (1, 0, "none")
    assert greek.languages == ("ell",)
    assert greek.scripts[0] == "Greek"


_BLANKS = b"""/CIDInit /ProcSet findresource begin begincmap /CMapType 2 def
1 begincodespacerange <00> <ff> endcodespacerange
52 beginbfchar
%s
endbfchar endcmap end""" % b"\n".join(
    b"<%02x> <0020>" % c for c in (*range(65, 91), *range(97, 123))
)

_RAIN = ["The rain of the", "summer went away", "over the hills", "and did not", "come back again"]


def lost_page(path: Path, lines: list[str], times: int, *, blank: bool) -> Path:
    """Lines drawn letter by letter, `times` over itself, which pdfium gives once; with
    `blank` its font says that all letters are spaces."""
    with pikepdf.new() as document:
        page = document.add_blank_page(page_size=(300, 500))
        font = pikepdf.Dictionary(
            Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Courier
        )
        if blank:
            font.ToUnicode = document.make_stream(_BLANKS)
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F1=font))
        drawn = [
            b"BT /F1 20 Tf 1 0 0 1 %d %d Tm (%c) Tj ET" % (30 + 12 * i, 440 - 40 * row, letter)
            for row, line in enumerate(lines)
            for i, letter in enumerate(line.encode())
            if letter != 32
        ]
        page.Contents = document.make_stream(b"\n".join(drawn * times))
        document.save(path)
    return path


def test_a_page_whose_text_is_lost_is_read_by_ocr(pool: Pool, tmp_path: Path) -> None:
    path = lost_page(tmp_path / "lost.pdf", _RAIN, times=1, blank=True)
    found = " ".join(e["text"] for e in elements(pool, path, tmp_path))
    records, _ = read_batch(tmp_path / "b8" / "batch-00000.jsonl")
    assert records[0].reader == "ocr"
    assert records[0].reason.startswith("text lost: ")
    assert "over the hills" in found
    assert look(pool, path, tmp_path).text_share == 0


def test_a_page_where_ocr_finds_no_more_is_read_as_it_is(pool: Pool, tmp_path: Path) -> None:
    path = lost_page(tmp_path / "drawn-over.pdf", ["Rainfall"], times=12, blank=False)
    found = "".join(e["text"] for e in elements(pool, path, tmp_path))
    records, _ = read_batch(tmp_path / "b8" / "batch-00000.jsonl")
    assert records[0].reader == "text"
    assert "read as it is: OCR finds" in records[0].reason
    assert found.replace(" ", "") == "Rainfall"


def test_passwords(pool: Pool, tmp_path: Path, make_pdf: Callable[..., Path]) -> None:
    locked = make_pdf("locked.pdf", encryption=pikepdf.Encryption(user="geheim", owner="o"))
    assert refused(pool, locked, tmp_path) == "password_required"
    assert refused(pool, locked, tmp_path, "falsch") == "password_wrong"
    seen = look(pool, locked, tmp_path, "geheim")
    assert (seen.pages, seen.encrypted, seen.copy, seen.lock) == (2, True, True, "user")
    owner = make_pdf("owner.pdf", encryption=pikepdf.Encryption(user="", owner="o"))
    opened = look(pool, owner, tmp_path)
    assert (opened.pages, opened.lock) == (2, "owner")


def test_page_counts(pool: Pool, tmp_path: Path, make_pdf: Callable[..., Path]) -> None:
    assert refused(pool, make_pdf(pages=101), tmp_path) == "too_many_pages"
    none = tmp_path / "none.pdf"
    with pikepdf.new() as document:
        document.save(none)
    assert refused(pool, none, tmp_path) in {"no_pages", "damaged_pdf"}


def test_a_page_without_ink_is_recorded_as_blank(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "blank.pdf"
    with pikepdf.new() as document:
        document.add_blank_page()
        document.save(path)
    assert elements(pool, path, tmp_path) == []
    records, _ = read_batch(tmp_path / "b8" / "batch-00000.jsonl")
    assert (records[0].reader, records[0].reason) == ("blank", "no text and no ink")


@pytest.mark.slow
def test_a_bomb_costs_its_own_page_only(tmp_path: Path, make_pdf: Callable[..., Path]) -> None:
    bomb = make_pdf("bomb.pdf", pages=2)
    with pikepdf.open(bomb, allow_overwriting_input=True) as document:
        text = b"BT /F1 9 Tf 1 0 0 1 9 9 Tm (aaaaaaaaaaaaaaaaaaaaaaaa) Tj ET\n" * 700_000
        stream = document.make_stream(b"")
        stream.write(zlib.compress(text, 9), filter=pikepdf.Name.FlateDecode)
        document.pages[0].Contents = stream
        document.save(bomb)
    with Pool(1, memory_mb=600) as small:
        found = elements(small, bomb, tmp_path)
    records, _ = read_batch(tmp_path / "b8" / "batch-00000.jsonl")
    assert records[0].reader == "failed"
    assert records[0].reason
    assert records[1].reader == "text"
    assert any("Rivers" in e["text"] for e in found)


def test_the_command_line_writes_what_unstructured_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.pdf"
    bad.write_bytes(b"no")
    status = main([
        "partition",
        str(SAMPLES / "report.pdf"),
        str(bad),
        str(tmp_path / "missing.pdf"),
        "--out",
        str(tmp_path / "o"),
    ])
    assert status == 1
    said = capsys.readouterr().err
    assert "not_a_pdf" in said
    assert "missing.pdf: No such file or directory" in said
    made = elements_from_json(str(tmp_path / "o" / "report.json"))
    assert made[0].text == "Rainfall in the valley"
    assert made[0].metadata.filename == "report.pdf"
    raw = json.loads((tmp_path / "o" / "report.json").read_text(encoding="utf-8"))
    assert [e["type"] for e in raw] == [e.to_dict()["type"] for e in made]


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        PartitionOptions(strategy="magic").checked()
    assert caught.value.code == "strategy_unknown"


def test_elements_are_unstructureds_own(pool: Pool, tmp_path: Path) -> None:
    """What is made without the library is what the library makes; ids are our own, each another."""
    made = elements(pool, SAMPLES / "report.pdf", tmp_path)
    written = tmp_path / "e.json"
    written.write_text(json.dumps(made), encoding="utf-8")
    read = elements_from_json(str(written))
    assert json.loads(json.dumps([e.to_dict() for e in read])) == made
    assert len({e.id for e in read}) == len(read)
