"""Text of whole pages: order, running heads, kinds, links, hyphens, and layers that cannot be seen."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen import canvas
from unstructured.staging.base import elements_from_json

from pipeline.ingest.assemble import document_elements
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.chunk import ChunkOptions, chunks
from pipeline.ingest.partition import partition_batch, plan
from pipeline.options import PartitionOptions
from pipeline.pdf.probe import look
from pipeline.processes.pool import Pool
from tests.samples import BIRDS, DEJAVU, TIDES

Json = dict[str, Any]
Draw = Callable[[canvas.Canvas], None]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


def pdf(path: Path, *pages: Draw) -> Path:
    made = canvas.Canvas(str(path), pagesize=(500, 700), invariant=True)
    for draw in pages:
        made.setFont("Helvetica", 11)
        draw(made)
        made.showPage()
    made.save()
    return path


def read(pool: Pool, path: Path, size: int = 8) -> list[Json]:
    work = path.parent / f"{path.stem}-{size}"
    seen = look(pool, path, work / "copy.pdf", password=None, max_pages=100)
    done = [
        partition_batch(pool, path, b, PartitionOptions(), out=work / "b", crops=work / "crops")
        for b in plan(seen, size)
    ]
    return document_elements([r.path for r in done])


def paragraph(page: canvas.Canvas, text: str, x: float, y: float, width: int = 40) -> float:
    """Lines of at most `width` letters from `y` down; returns where the last one stands."""
    line = ""
    for word in [*text.split(), ""]:
        if not word or len(line) + len(word) >= width:
            page.drawString(x, y, line)
            line, y = "", y - 14
        line = f"{line} {word}".strip()
    return y + 14


def texts(found: list[Json], kind: str | None = None) -> list[str]:
    return [e["text"] for e in found if kind in {None, e["type"]}]


def test_a_masthead_drawn_last_is_read_first(pool: Pool, tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        paragraph(page, BIRDS, 30, 560)
        paragraph(page, TIDES, 260, 560)
        page.setFont("Helvetica-Bold", 22)
        page.drawString(30, 640, "The harbour gazette")

    found = texts(read(pool, pdf(tmp_path / "m.pdf", draw)))
    assert found[0] == "The harbour gazette"
    assert " ".join(found).index("sixty hours") < " ".join(found).index("Tides follow")


JAPANESE = (
    ("吾輩は猫である。名前", "はまだ無い。"),
    (
        "吾輩はここで始めて人間",
        "というものを見た。しかもあとで",
        "聞くとそれは書生という人間",
        "であった。",
    ),
)


@pytest.mark.parametrize("down", [False, True])
def test_japanese_is_read_in_paragraphs_without_spaces(
    pool: Pool, tmp_path: Path, down: bool
) -> None:
    """The first line of each paragraph is indented; columns go from the right to the left."""
    font = "HeiseiKakuGo-W5" if down else "HeiseiMin-W3"
    pdfmetrics.registerFont(UnicodeCIDFont(font, isVertical=down))

    def draw(page: canvas.Canvas) -> None:
        page.setFont(font, 12)
        line = 0
        for text in JAPANESE:
            for words in text:
                step, indent = 20 * line, 12 if words is text[0] else 0
                place = (400 - step, 600 - indent) if down else (50 + indent, 600 - step)
                page.drawString(*place, words)
                line += 1

    found = read(pool, pdf(tmp_path / "j.pdf", draw))
    assert texts(found) == ["".join(lines) for lines in JAPANESE]
    assert {e["type"] for e in found} == {"NarrativeText"}


def test_a_word_parted_between_columns_is_whole(pool: Pool, tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        paragraph(page, f"{BIRDS} The harbour and its light-", 30, 560)
        paragraph(page, f"house stand white. {TIDES}", 260, 560)

    found = texts(read(pool, pdf(tmp_path / "h.pdf", draw)))
    assert found[0].endswith("The harbour and its lighthouse")
    assert found[1].startswith("stand white.")


def chapter(number: int) -> Draw:
    def draw(page: canvas.Canvas) -> None:
        head = "Of tides and mills" if number % 2 else f"Chapter {number // 4 + 1}"
        page.drawString(40, 625, head)
        page.drawString(440, 625, str(number + 10))
        page.setFont("Helvetica-Bold", 16)
        page.drawString(40, 580, f"Part {number} of the story")
        page.setFont("Helvetica", 11)
        paragraph(page, f"{number} times the tide came in. {TIDES}", 40, 540, 70)
        page.drawString(200, 70, "Harbour Press")

    return draw


def test_running_heads_are_found_and_left_out_of_chunks(pool: Pool, tmp_path: Path) -> None:
    path = pdf(tmp_path / "r.pdf", *[chapter(n) for n in range(12)])
    found = read(pool, path)
    assert texts(found, "PageNumber") == [str(n + 10) for n in range(12)]
    assert texts(found, "Header").count("Of tides and mills") == 6
    assert texts(found, "Footer") == ["Harbour Press"] * 12
    assert texts(found, "Title") == [f"Part {n} of the story" for n in range(12)]
    said = " ".join(c.text for c in chunks([found], ChunkOptions()))
    assert "Harbour Press" not in said
    assert "times the tide came in" in said
    by_id = {e["element_id"]: e for e in found}
    for e in found:
        if e["type"] == "NarrativeText":
            above = by_id[e["metadata"]["parent_id"]]
            assert above["metadata"]["page_number"] == e["metadata"]["page_number"]
    assert found == read(pool, path, 1) == read(pool, path, 5)


def test_kinds_depths_and_links(pool: Pool, tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        page.setFont("Helvetica-Bold", 24)
        page.drawString(40, 640, "Mills of the coast")
        page.setFont("Helvetica-Bold", 15)
        page.drawString(40, 600, "How they turn")
        page.setFont("Helvetica", 11)
        paragraph(page, f"See the plan for more. {TIDES}", 40, 570, 70)
        page.linkURL("https://mills.example/plan", (58, 566, 104, 580))
        page.setFont("Courier", 10)
        for i, line in enumerate(("def turn(wheel):", "    wheel.angle = (wheel.angle + 1)")):
            page.drawString(40, 440 - 12 * i, line)

    path = pdf(tmp_path / "k.pdf", draw)
    found = read(pool, path)
    titles = [(e["text"], e["metadata"]["category_depth"]) for e in found if e["type"] == "Title"]
    assert titles[:2] == [("Mills of the coast", 0), ("How they turn", 1)]
    assert found[1]["metadata"]["parent_id"] == found[0]["element_id"]
    assert texts(found, "CodeSnippet")[0].splitlines()[0] == "def turn(wheel):"
    linked = next(e for e in found if "links" in e["metadata"])
    (link,) = linked["metadata"]["links"]
    assert link == {"text": "the plan", "url": "https://mills.example/plan", "start_index": 4}
    assert linked["metadata"]["link_urls"] == [link["url"]]
    written = tmp_path / "e.json"
    written.write_text(json.dumps(found), encoding="utf-8")
    again = [e.to_dict() for e in elements_from_json(str(written))]
    assert json.loads(json.dumps(again)) == found


@pytest.mark.parametrize(("hidden", "reader"), [("true", "text"), ("false", "ocr")])
def test_invisible_text_is_checked(pool: Pool, tmp_path: Path, hidden: str, reader: str) -> None:
    lines = (
        "The members met on the third of March in the hall",
        "They agreed to deepen the eastern basin this year",
        "The lighthouse will be painted white once again",
    )
    wrong = tuple(line[::-1].swapcase() for line in lines)

    def draw(page: canvas.Canvas) -> None:
        picture = Image.new("L", (1000, 1400), 250)
        pen = ImageDraw.Draw(picture)
        font = ImageFont.truetype(str(DEJAVU), 30)
        for i, line in enumerate(lines):
            pen.text((80, 200 + 80 * i), line, fill=10, font=font)
        out = io.BytesIO()
        picture.save(out, "PNG")
        out.seek(0)
        page.drawImage(ImageReader(out), 0, 0, 500, 700)
        layer = page.beginText(40, 587)
        layer.setTextRenderMode(3)
        layer.setFont("Helvetica", 16)
        layer.setLeading(40)
        for line in lines if hidden == "true" else wrong:
            layer.textLine(line)
        page.drawText(layer)

    path = pdf(tmp_path / "s.pdf", draw)
    found = " ".join(texts(read(pool, path)))
    assert "agreed to deepen the eastern basin" in found
    record = read_batch(tmp_path / "s-8" / "b" / "batch-00000.jsonl")[0][0]
    assert record.reader == reader
    assert "alike" in record.reason


def test_what_form_fields_say_is_read_where_it_stands(pool: Pool, tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 600, "Name of the harbour:")
        page.acroForm.textfield(value="Nordhafen", x=190, y=592, width=160, height=24)
        page.drawString(60, 500, BIRDS[:70])
        page.linkURL("https://example.org/birds", (60, 495, 200, 512))

    found = read(pool, pdf(tmp_path / "form.pdf", draw))
    said = " ".join(texts(found))
    assert said.index("harbour") < said.index("Nordhafen") < said.index("Birds")
    assert [e["metadata"]["link_urls"] for e in found if "link_urls" in e["metadata"]] == [
        ["https://example.org/birds"]
    ]
