"""Hostile and broken files, made here: each ends in bounded time and memory, and says why."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name

from errors import InputError, QuireError
from pipeline.ingest import partition
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.partition import partition_batch, plan
from pipeline.options import PartitionOptions
from pipeline.pdf import probe
from pipeline.pdf.page import PageRecord
from pipeline.processes.pool import Pool

Page = Callable[[pikepdf.Pdf], None]
WORDS = b"BT /F1 12 Tf 72 700 Td (This page is sound) Tj ET\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


def file(path: Path, *make: Page) -> Path:
    """A PDF whose first pages are made by `make`, followed by a sound one."""
    with pikepdf.new() as document:
        for page in (*make, sound):
            page(document)
        document.save(path)
    return path


def page(
    document: pikepdf.Pdf, content: pikepdf.Object, size: float = 792, **resources: object
) -> None:
    font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
    made = document.add_blank_page()
    made.MediaBox = Array([0, 0, size, size])
    made.Resources = Dictionary(Font=Dictionary(F1=font), **resources)
    made.Contents = content


def sound(document: pikepdf.Pdf) -> None:
    page(document, document.make_stream(WORDS))


def packed(document: pikepdf.Pdf, chunk: bytes, times: int) -> pikepdf.Object:
    """A stream that unpacks to `chunk`, `times` over, never held here in one piece."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(chunk) for _ in range(times)) + packer.flush()
    stream = document.make_stream(b"")
    stream.write(data, filter=Name.FlateDecode)
    return stream


def gigabyte(document: pikepdf.Pdf) -> None:
    page(document, packed(document, b" " * (1 << 20), 1024))


def operators(document: pikepdf.Pdf) -> None:
    page(
        document,
        packed(document, b"BT /F1 9 Tf 1 0 0 1 9 9 Tm (aaaaaaaaaaaaaaaaaa) Tj ET\n" * 1000, 760),
    )


def endless(document: pikepdf.Pdf) -> None:
    page(document, document.make_stream(WORDS), size=200_000)


def picture(document: pikepdf.Pdf) -> None:
    image = packed(document, bytes(30_000), 30_000)
    for key, value in (
        (Name.Type, Name.XObject), (Name.Subtype, Name.Image), (Name.Width, 30_000),
        (Name.Height, 30_000), (Name.ColorSpace, Name.DeviceGray), (Name.BitsPerComponent, 8),
    ):  # fmt: skip
        image[key] = value
    content = document.make_stream(b"q 600 0 0 600 90 90 cm /Im Do Q")
    page(document, content, XObject=Dictionary(Im=image))


def itself(document: pikepdf.Pdf) -> None:
    form = document.make_stream(b"/Fm Do /Fm Do", Type=Name.XObject, Subtype=Name.Form)
    form = document.make_indirect(form)
    form.BBox = Array([0, 0, 600, 600])
    form.Resources = Dictionary(XObject=Dictionary(Fm=form))
    page(document, document.make_stream(WORDS + b"/Fm Do"), XObject=Dictionary(Fm=form))


def forms(document: pikepdf.Pdf) -> None:
    """Each form draws the next one ten times: a thousand million drawings."""
    inner = document.make_stream(WORDS, Type=Name.XObject, Subtype=Name.Form, BBox=[0, 0, 600, 600])
    for _ in range(9):
        inner = document.make_stream(
            b"/Fm Do " * 10, Type=Name.XObject, Subtype=Name.Form, BBox=[0, 0, 600, 600],
            Resources=Dictionary(XObject=Dictionary(Fm=inner)),
        )  # fmt: skip
    page(document, document.make_stream(b"/Fm Do"), XObject=Dictionary(Fm=inner))


def fontless(document: pikepdf.Pdf) -> None:
    made = document.add_blank_page()
    made.Contents = document.make_stream(b"BT /Gone 12 Tf 72 700 Td (letters without a font) Tj ET")


def scripted(document: pikepdf.Pdf) -> None:
    sound(document)
    script = Dictionary(S=Name.JavaScript, JS="while (true) app.alert('x');")
    document.Root.OpenAction = script
    document.attachments["run.exe"] = pikepdf.AttachedFileSpec(document, b"MZ" + bytes(1000))


def read(pool: Pool, path: Path, work: Path) -> tuple[list[PageRecord], str]:
    seen = probe.look(pool, path, work / "copy.pdf", password=None, max_pages=5000)
    records: list[PageRecord] = []
    said = []
    for batch in plan(seen):
        done = partition_batch(
            pool, work / "copy.pdf" if seen.copy else path, batch, PartitionOptions(),
            out=work / "b", crops=work / "c",
        )  # fmt: skip
        pages, elements = read_batch(done.path)
        records += pages
        said += [e["text"] for e in elements]
    return records, " ".join(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [gigabyte, operators, endless, picture, itself, forms, fontless, scripted],
    ids=lambda make: make.__name__,
)
def test_a_hostile_page_costs_itself_at_most(
    pool: Pool, tmp_path: Path, make: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "PAGE_CPU_SECONDS", 2)
    records, text = read(pool, file(tmp_path / "bad.pdf", make), tmp_path)
    assert len(records) == 2
    assert "This page is sound" in text
    assert records[1].reader == "text"
    first = records[0]
    assert first.reason
    assert first.elements or first.reader in {"failed", "blank"}
    assert (first.error is not None) == (first.reader == "failed")


def test_very_many_pages_are_refused_by_count(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "many.pdf"
    kids = b"3 0 R " * 200_000
    path.write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Count 200000/Kids[" + kids + b"]>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n"
        b"trailer<</Root 1 0 R>>\n"
    )
    with pytest.raises(InputError) as caught:
        read(pool, path, tmp_path)
    assert caught.value.code == "too_many_pages"


def test_a_page_tree_in_a_circle_ends(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "circle.pdf"
    path.write_bytes(
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Count 2/Kids[2 0 R 3 0 R]/Parent 2 0 R>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n"
        b"trailer<</Root 1 0 R>>\n"
    )
    try:
        records, _ = read(pool, path, tmp_path)
    except QuireError as problem:
        assert problem.advice
    else:
        assert records
        assert all(r.reason for r in records)


def test_a_broken_table_of_contents_is_repaired(pool: Pool, tmp_path: Path) -> None:
    path = file(tmp_path / "broken.pdf")
    whole = path.read_bytes()
    at = whole.rindex(b"startxref")
    path.write_bytes(whole[:at] + b"startxref\n999999\n%%EOF")
    _, text = read(pool, path, tmp_path)
    assert "This page is sound" in text
