"""What a reader must not get wrong, on pages that the tests draw with known words: turned pages, signs
beside numbers, what nobody sees, notes, small tables, scans with a stamp."""

import io
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import html
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen import canvas

from pipeline.options import PartitionOptions
from pipeline.pdf.document_style import look
from pipeline.pdf.page import Style
from pipeline.pdf.read_pages import read_pages
from tests.samples import BIRDS, DEJAVU

Json = dict[str, Any]
WIDTH, HEIGHT = 500, 700
Draw = Callable[[canvas.Canvas], None]


def drawn(path: Path, *pages: Draw) -> Path:
    page = canvas.Canvas(str(path), pagesize=(WIDTH, HEIGHT), invariant=True)
    for draw in pages:
        page.setFont("Helvetica", 11)
        draw(page)
        page.showPage()
    page.save()
    return path


def read(path: Path, style: Style | None = None) -> list[Json]:
    with pikepdf.open(path) as document:
        numbers = range(1, len(document.pages) + 1)
    options = PartitionOptions(languages=("eng",))
    found: list[Json] = []
    for record, elements in read_pages(path, numbers, options, style or Style(), path.parent, {}):
        assert record.error is None
        found += elements
    return found


def said(found: list[Json]) -> str:
    return " ".join(" ".join(e["text"].split()) for e in found if not e["metadata"].get("hidden"))


def rows(found: list[Json]) -> list[list[str]]:
    return [
        [c.text_content() for c in row.iterchildren("td", "th")]
        for e in found
        if e["type"] == "Table"
        for row in html.fromstring(e["metadata"]["text_as_html"]).iter("tr")
    ]


# Words

WORDS = st.lists(st.sampled_from(BIRDS.split()[:40]), min_size=4, max_size=8)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(WORDS, st.sampled_from([0, 90, 180, 270]), st.booleans(), st.booleans(),
       st.sampled_from(["Helvetica", "Times-Roman", "Courier"]))  # fmt: skip
def test_words_are_told_apart_however_the_page_is_turned(
    tmp_path: Path, words: list[str], turn: int, by_letter: bool, upright: bool, font: str
) -> None:
    """Turned text on an upright page, or text that a turned page sets upright; a word or a letter at
    a time, the space between words drawn or only left."""

    def draw(page: canvas.Canvas) -> None:
        page.setFont(font, 11)
        page.translate(250, 350)
        page.rotate(turn)
        x = -220.0
        for word in words:
            for piece in word if by_letter else [word]:
                page.drawString(x, 0, piece)
                x += stringWidth(piece, font, 11)
            x += 0.28 * 11

    path = drawn(tmp_path / "turned.pdf", draw)
    if upright and turn:
        with pikepdf.open(path, allow_overwriting_input=True) as document:
            document.pages[0].Rotate = turn
            document.save(path)
    found = said(read(path))
    assert found.split() == words


@pytest.mark.parametrize(
    ("letters", "seen"),
    [("u\u00a8", "ü"), ("o\u00a8", "ö"), ("e\u00b4", "é"), ("a`", "à"), ("n\u02dc", "ñ"), ("c\u00b8", "ç")],
)  # fmt: skip
@pytest.mark.parametrize("accent_first", [True, False])
def test_an_accent_drawn_over_a_letter_is_part_of_it(
    tmp_path: Path, letters: str, seen: str, accent_first: bool
) -> None:
    def draw(page: canvas.Canvas) -> None:
        middle = 60 + stringWidth("x", "Helvetica", 11)
        letter, accent = letters
        over = (
            middle
            + (stringWidth(letter, "Helvetica", 11) - stringWidth(accent, "Helvetica", 11)) / 2
        )
        page.drawString(60, 500, "x")
        for sign, at in [(accent, over), (letter, middle)][:: 1 if accent_first else -1]:
            page.drawString(at, 500, sign)
        page.drawString(
            middle + stringWidth(letter, "Helvetica", 11), 500, "ller sang all day long."
        )

    assert f"x{seen}ller sang" in said(read(drawn(tmp_path / "accent.pdf", draw)))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.integers(1, 999_999), st.integers(1, 99))
def test_a_raised_number_is_kept_apart(tmp_path: Path, number: int, mark: int) -> None:
    text = f"{number:,}"

    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 500, f"The loan of {text}")
        x = 60 + stringWidth(f"The loan of {text}", "Helvetica", 11)
        page.setFont("Helvetica", 6.5)
        page.drawString(x, 504, str(mark))
        page.setFont("Helvetica", 11)
        page.drawString(x + 12, 500, "euros was paid back.")

    raised = str(mark).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert f"of {text}{raised} euros" in said(read(drawn(tmp_path / "raised.pdf", draw)))


@pytest.mark.parametrize(
    ("first", "second", "whole"),
    [
        ("The model is the state-of-the-", "art of today's research.", "state-of-the-art"),
        ("Read it at https://example.org/annual-", "report-2022 before you go.", "https://example.org/annual-report-2022"),
        ("They weigh the on- and off-", "shore wells each spring.", "offshore wells"),
        ("Es geht um die Ein-", "und Ausfuhr von Waren aller Art.", "Ein- und Ausfuhr"),
        ("Birds are seen in the au-", "tumn of every single year.", "autumn of"),
        ("Order part 01\u00ad2301\u00ad77 or part AB\u00ad99", "before the end of the month.", "01-2301-77 or part AB-99"),
    ],
)  # fmt: skip
def test_hyphens_stay_where_they_belong(
    tmp_path: Path, first: str, second: str, whole: str
) -> None:
    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 500, first)
        page.drawString(60, 486, second)

    assert whole in said(read(drawn(tmp_path / "hyphens.pdf", draw)))


@pytest.mark.parametrize(("font", "sign"), [("Symbol", "•"), ("Courier", "o"), ("Helvetica", "•")])
def test_a_mark_and_its_text_are_one_item(tmp_path: Path, font: str, sign: str) -> None:
    items = ["Check the oil of the crane", "Grease the bearing twice", "Log the hours of lifts"]

    def draw(page: canvas.Canvas) -> None:
        for i, item in enumerate(items):
            page.setFont(font, 11)
            page.drawString(78, 500 - 16 * i, sign)
            page.setFont("Helvetica", 11)
            page.drawString(96, 500 - 16 * i, item)

    found = [
        e["text"] for e in read(drawn(tmp_path / "items.pdf", draw)) if e["type"] == "ListItem"
    ]
    assert [re.sub(r"^\W+", "", text) for text in found] == items


# What nobody sees


def white(page: canvas.Canvas) -> None:
    page.setFillColorRGB(1, 1, 1)
    page.drawString(60, 300, "SECRET words")


def invisible(page: canvas.Canvas) -> None:
    text = page.beginText(60, 300)
    text.setTextRenderMode(3)
    text.textOut("SECRET words")
    page.drawText(text)


def tiny(page: canvas.Canvas) -> None:
    page.setFont("Helvetica", 0.2)
    page.drawString(60, 300, "SECRET words")


def covered(page: canvas.Canvas) -> None:
    page.drawString(60, 300, "SECRET words")
    page.rect(50, 290, 200, 30, fill=1)


def outside(page: canvas.Canvas) -> None:
    page.drawString(60, 900, "SECRET words")


@pytest.mark.parametrize("unseen", [white, invisible, tiny, covered, outside])
def test_what_nobody_sees_is_marked_and_apart(tmp_path: Path, unseen: Draw) -> None:
    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 500, "The total stands here plainly.")
        unseen(page)

    found = read(drawn(tmp_path / "unseen.pdf", draw))
    assert said(found) == "The total stands here plainly."
    hidden = [e for e in found if e["metadata"].get("hidden")]
    assert [e["text"] for e in hidden] == ["SECRET words"]
    for e in found:
        for x, y in e["metadata"]["coordinates"]["points"]:
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_white_words_on_a_dark_ground_are_seen(tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        page.rect(50, 290, 300, 30, fill=1)
        page.setFillColorRGB(1, 1, 1)
        page.drawString(60, 300, "White on black is read")

    assert said(read(drawn(tmp_path / "white.pdf", draw))) == "White on black is read"


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(WORDS, st.data(), st.floats(-0.4, 0.4), st.sampled_from([0, 90, 180, 270]))
def test_slanted_words_stay_in_their_paragraph(
    tmp_path: Path, words: list[str], data: st.DataObject, slant: float, turn: int
) -> None:
    leaning = data.draw(st.sets(st.sampled_from(range(len(words)))))

    def draw(page: canvas.Canvas) -> None:
        page.translate(WIDTH / 2, HEIGHT / 2)
        page.rotate(turn)
        x = -200.0
        for i, word in enumerate(words):
            text = page.beginText()
            text.setTextTransform(1, 0, slant if i in leaning else 0, 1, x, 0)
            text.textOut(word)
            page.drawText(text)
            x += stringWidth(word, "Helvetica", 11) + 4

    (block,) = read(drawn(tmp_path / "slanted.pdf", draw))
    assert block["text"] == " ".join(words)


# Headings


def kinds(found: list[Json]) -> list[tuple[str, str]]:
    return [(e["type"], e["text"]) for e in found]


def paragraph(page: canvas.Canvas, y: float) -> None:
    for i, line in enumerate(("The birds travel south in autumn because food is scarce", "and come back to the valley when the days are long.")):  # fmt: skip
        page.drawString(60, y - 13 * i, line)


@pytest.mark.parametrize("title", ["1|INTRODUCTION", "II.|RELATED WORK OF OTHERS", "A.|Birds of the Valley"])  # fmt: skip
@pytest.mark.parametrize("gap", [4, 12, 20])
@pytest.mark.parametrize("bold", [True, False])
def test_a_numbered_heading_is_apart_from_its_paragraph(
    tmp_path: Path, title: str, gap: float, bold: bool
) -> None:
    number, _, words = title.partition("|")

    def draw(page: canvas.Canvas) -> None:
        page.setFont("Helvetica-Bold" if bold else "Helvetica", 11)
        y = 613 if bold else 626  # nothing but its place tells a plain one
        page.drawString(60, y, number)
        page.drawString(60 + stringWidth(number, "Helvetica-Bold", 11) + gap, y, words)
        page.setFont("Helvetica", 11)
        paragraph(page, 600)

    (heading, text) = kinds(read(drawn(tmp_path / "section.pdf", draw)))
    assert heading == ("Title", f"{number} {words}")
    assert text[0] == "NarrativeText"


@pytest.mark.parametrize("name", ["CMR10", "ABCDEF+TTdcr10", "F1"])
def test_a_font_is_bold_by_its_name_and_not_by_its_stems(tmp_path: Path, name: str) -> None:
    """TeX's say that of plain letters; where it has no name either, most of a page is not bold."""
    pdfmetrics.registerFont(TTFont("Plain", DEJAVU))

    def draw(page: canvas.Canvas) -> None:
        page.setFont("Plain", 11)
        page.drawString(60, 640, "Let p and q be two integers")
        paragraph(page, 600)

    path = drawn(tmp_path / "plain.pdf", draw)
    with pikepdf.open(path, allow_overwriting_input=True) as document:
        for font in document.pages[0].Resources.Font.values():
            if "/FontDescriptor" in font:
                font.BaseFont = font.FontDescriptor.FontName = pikepdf.Name(f"/{name}")
                font.FontDescriptor.StemV = 160
        document.save(path)
    assert "Title" not in {kind for kind, _ in kinds(read(path))}


def test_sections_are_below_the_title_of_a_document(tmp_path: Path) -> None:
    def section(page: canvas.Canvas) -> None:
        page.setFont("Helvetica-Bold", 14)
        page.drawString(60, 560, "Birds of the valley")
        page.setFont("Helvetica", 11)
        paragraph(page, 530)

    def first(page: canvas.Canvas) -> None:
        page.setFont("Helvetica-Bold", 22)
        page.drawString(60, 640, "What lives here")
        section(page)

    path = drawn(tmp_path / "sections.pdf", first, *[section] * 7)
    titles = [e for e in read(path, look(path)) if e["type"] == "Title"]
    assert [e["metadata"]["category_depth"] for e in titles] == [0, *[1] * 8]


# Listings

STATEMENTS = ["if x > 0 then", "y = x + 1", "return (x, y)", "while not done do", "S := S ∪ {e}"]
VERSES = ["The birds come back", "They sing in the morning", "Nobody listens to them"]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.lists(st.tuples(st.sampled_from(STATEMENTS[:4]), st.integers(0, 3)), min_size=4, max_size=9),
       st.integers(1, 95), st.booleans())  # fmt: skip
def test_numbered_statements_are_code_and_no_table(
    tmp_path: Path, lines: list[tuple[str, int]], first: int, commented: bool
) -> None:
    lines = [(lines[0][0], 0), *lines[1:]]  # the indents count from the leftmost

    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 640, "The algorithm goes over the elements as the table says.")
        for i, (line, depth) in enumerate(lines):
            page.drawRightString(80, 600 - 13 * i, f"{first + i}:")
            page.drawString(86 + 11 * depth, 600 - 13 * i, line)
            if commented and i % 2:
                page.drawString(330, 600 - 13 * i, "> a comment")
        page.drawString(60, 430, "It ends when nothing is left of them to look at.")

    found = read(drawn(tmp_path / "listing.pdf", draw))
    assert [e["type"] for e in found] == ["NarrativeText", "CodeSnippet", "NarrativeText"]
    got = found[1]["text"].split("\n")
    assert [line.strip() for line in got] == [
        f"{line} > a comment" if commented and i % 2 else line for i, (line, _) in enumerate(lines)
    ]
    indents = [len(line) - len(line.lstrip()) for line in got]
    order = sorted(range(len(lines)), key=lambda i: lines[i][1])
    assert all(indents[a] <= indents[b] for a, b in pairwise(order))


def test_numbered_verses_are_no_code(tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        for i, line in enumerate(VERSES * 2):
            page.drawString(60, 600 - 16 * i, f"{i + 1}: {line}")

    found = read(drawn(tmp_path / "verses.pdf", draw))
    assert "CodeSnippet" not in {e["type"] for e in found}


# Notes and fields


def annotated(path: Path) -> Path:
    """With a note, one that is switched off, and a field that has a value and no picture of it."""
    with pikepdf.open(path, allow_overwriting_input=True) as document:
        note = pikepdf.Dictionary(
            Type=pikepdf.Name.Annot, Subtype=pikepdf.Name.FreeText, Rect=[60, 300, 300, 320],
            Contents="Typed with the typewriter", DA="/Helv 11 Tf 0 g",
        )  # fmt: skip
        gone = pikepdf.Dictionary({
            **dict(note),
            "/F": 2,
            "/Contents": pikepdf.String("Switched off"),
        })
        field = pikepdf.Dictionary(
            Type=pikepdf.Name.Annot, Subtype=pikepdf.Name.Widget, FT=pikepdf.Name.Tx, T="owner",
            V="Marten Oldenkamp", Rect=[180, 495, 400, 512], DA="/Helv 11 Tf 0 g", F=4,
        )  # fmt: skip
        made = [document.make_indirect(d) for d in (note, gone, field)]
        document.pages[0].Annots = pikepdf.Array(made)
        document.Root.AcroForm = pikepdf.Dictionary(
            Fields=[made[2]], NeedAppearances=True, DA="/Helv 11 Tf 0 g",
            DR=pikepdf.Dictionary(Font=pikepdf.Dictionary()),
        )  # fmt: skip
        document.save(path)
    return path


def test_annotations_and_bare_fields_are_read(tmp_path: Path) -> None:
    page = drawn(tmp_path / "a.pdf", lambda page: page.drawString(60, 500, "Name of the owner:"))
    found = read(annotated(page))
    assert said(found) == "Name of the owner: Marten Oldenkamp Typed with the typewriter"
    assert [e["metadata"].get("annotation") for e in found] == [None, "Widget", "FreeText"]


# Pages that are pictures


def scan(page: canvas.Canvas) -> None:
    picture = Image.new("L", (1250, 1750), 255)
    pen = ImageDraw.Draw(picture)
    for i, line in enumerate(("Minutes of the harbour board", "The chairman opened the meeting", "The report was accepted")):  # fmt: skip
        pen.text((150, 300 + 80 * i), line, font=ImageFont.truetype(str(DEJAVU), 40), fill=0)
    out = io.BytesIO()
    picture.save(out, "PNG")
    page.drawImage(ImageReader(out), 0, 0, WIDTH, HEIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("stamp", ["Received", "Envelope ID 7F3A-99-0123456789", "Case 1:24-cv-00871 Document 12 Filed 03/05/24 Page 1 of 9"])  # fmt: skip
def test_a_scan_with_a_typed_stamp_is_read(tmp_path: Path, stamp: str) -> None:
    def draw(page: canvas.Canvas) -> None:
        scan(page)
        page.drawString(60, 680, stamp)

    found = said(read(drawn(tmp_path / "stamp.pdf", draw)))
    assert "Minutes of the harbour board" in found
    assert "The report was accepted" in found


@pytest.mark.slow
def test_a_scan_that_was_annotated_is_read_with_its_notes(tmp_path: Path) -> None:
    found = read(annotated(drawn(tmp_path / "notes.pdf", scan)))
    assert "The report was accepted" in said(found)
    assert said(found).count("Typed with the typewriter") == 1  # it is in the picture, too
    assert (found[-1]["text"], found[-1]["metadata"]["annotation"]) == (
        "Marten Oldenkamp",
        "Widget",
    )


@pytest.mark.slow
def test_a_page_of_outlines_is_read(tmp_path: Path) -> None:
    """Letters as filled shapes, as drawing programs write them."""
    font = ImageFont.truetype(str(DEJAVU), 60)

    def draw(page: canvas.Canvas) -> None:
        for i, line in enumerate(("Guarantee certificate", "for five years")):
            picture = Image.new("1", (900, 80), 0)
            ImageDraw.Draw(picture).text((0, 0), line, font=font, fill=1)
            path = page.beginPath()
            for y in range(80):
                for x in range(900):
                    if picture.getpixel((x, y)):
                        path.rect(60 + x / 2.5, 500 - 60 * i - y / 2.5, 0.42, 0.42)
            page.drawPath(path, stroke=0, fill=1)

    assert "Guarantee certificate" in said(read(drawn(tmp_path / "outlines.pdf", draw)))


# Tables: each word of a page is in one element, whatever is ruled

LEAD = "What was measured in the harbour this year is set out below."
CELL = st.from_regex(
    r"[A-Z][a-z]{2,7}( [a-z]{3,6})?|[1-9][0-9]{0,2}(\.[0-9])?|[1-9][0-9]{0,2} [0-9]{3}",
    fullmatch=True,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_each_word_is_in_one_element_and_each_ruled_cell_in_its_place(
    tmp_path: Path, data: st.DataObject
) -> None:
    high, wide = data.draw(st.integers(2, 6)), data.draw(st.integers(2, 4))
    cells = [[data.draw(CELL) for _ in range(wide)] for _ in range(high)]
    cells[0] = ["Alpha", "Bravo", "Carol", "Delta"][
        :wide
    ]  # heads that repeat are tables side by side
    turn = data.draw(st.sampled_from([0, 90, 270]))

    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 640, LEAD)
        page.translate(250, 350)
        page.rotate(turn)
        for r, row in enumerate(cells):
            for c, text in enumerate(row):
                x, y = 100 * c - 50 * wide, 22 * (high / 2 - r)
                page.rect(x, y, 100, 22)
                page.drawString(x + 6, y + 7, text)

    found = read(drawn(tmp_path / "ruled.pdf", draw))
    true = Counter(re.findall(r"\w+", " ".join(t for row in cells for t in row)))
    true += Counter(re.findall(r"\w+", LEAD))
    assert Counter(re.findall(r"\w+", said(found))) == true
    assert rows(found) == cells


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_no_word_of_a_statement_is_lost(tmp_path: Path, data: st.DataObject) -> None:
    """Long labels before columns of numbers, as financial reports have, between paragraphs."""
    labels = data.draw(st.lists(st.sampled_from([
        "Purchases of property and equipment during the year", "Net income before taxes and interest",
        "Proceeds from the sale of marketable securities held", "Other", "Total current assets",
        "Changes in operating assets and liabilities, net of effects",
    ]), min_size=4, max_size=9))  # fmt: skip
    numbers = [[f"({data.draw(st.integers(1, 999))})", f"{data.draw(st.integers(1000, 99999)):,}"] for _ in labels]  # fmt: skip
    prose = data.draw(st.integers(0, 8))
    line = "The company holds what it bought until the end of the year and sells none of it."

    def draw(page: canvas.Canvas) -> None:
        page.setFont("Helvetica", 9)
        y = 660.0
        for _ in range(prose):
            page.drawString(60, y, line)
            y -= 12
        y -= 14
        for label, (a, b) in zip(labels, numbers, strict=True):
            page.drawString(60, y, label)
            page.drawRightString(370, y, a)
            page.drawRightString(440, y, b)
            y -= 13

    found = read(drawn(tmp_path / "statement.pdf", draw))
    true = Counter(re.findall(r"\w+", " ".join([line] * prose + labels + [n for row in numbers for n in row])))  # fmt: skip
    assert Counter(re.findall(r"\w+", said(found))) == true


def test_ids_differ_where_page_and_place_run_together(tmp_path: Path) -> None:
    def draw(page: canvas.Canvas) -> None:
        for i in range(12):
            page.drawString(60, 640 - 40 * i, "Appendix")

    found = read(drawn(tmp_path / "ids.pdf", *[draw] * 12))
    assert len({e["element_id"] for e in found}) == len(found) == 144
