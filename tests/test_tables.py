"""Tables from words and lines alone, and letters that pdfium turned around."""

from pathlib import Path

import pikepdf

from pipeline import pdfium
from pipeline.page import Box, PageContent, Word
from pipeline.readers.lines import joined
from pipeline.readers.tables import _grid, _line_numbers, find_tables, to_html

RULED = [Box(x, y, x + 100, bottom) for y, bottom in ((0, 20), (20, 60)) for x in (0, 100, 200)]


def word(text: str, x: float, y: float) -> Word:
    return Word(text=text, box=Box(x, y, x + 6 * len(text), y + 10), size=10)


def test_rows_between_the_rules_are_rows() -> None:
    words = [
        word("Group", 5, 5), word("Men", 105, 5), word("Women", 205, 5),
        word("Three", 5, 25), word("1,530", 105, 25), word("1,029", 205, 25),
        word("Four", 5, 42), word("1,253", 105, 42), word("855", 205, 42),
    ]  # fmt: skip
    table = _grid(RULED, words)
    assert table
    assert "<tr><td>Three</td><td>1,530</td><td>1,029</td></tr><tr><td>Four</td>" in to_html(table)


def test_a_wrapped_label_stays_one_row() -> None:
    words = [
        word("Group", 5, 5), word("Men", 105, 5), word("Women", 205, 5),
        word("Three", 5, 25), word("1,530", 105, 25), word("1,029", 205, 25),
        word("years", 5, 42),
    ]  # fmt: skip
    table = _grid(RULED, words)
    assert table
    assert "<td>Three years</td><td>1,530</td>" in to_html(table)


def test_a_heading_over_several_columns_divides_none_of_them() -> None:
    heads = [word("Everybody asked", 100, 10), word("Men", 250, 10)]
    body = [
        word(text, x, 40 + 15 * row)
        for row in range(6)
        for x, text in ((5, f"Row {row}"), (100, str(70 + row)), (165, "12"), (250, "33"))
    ]
    content = PageContent(
        number=1, width=300, height=400, words=(*heads, *body), paths=(), images=(),
        characters=200, garbled=0, objects=20,
    )  # fmt: skip
    (table,) = find_tables(content, None)
    assert '<th colspan="2">Everybody asked</th>' in to_html(table)
    assert "<td>Row 0</td><td>70</td><td>12</td><td>33</td>" in to_html(table)


def test_numbers_that_count_lines_are_no_column() -> None:
    numbers = [word(str(n), 10, 20 * n) for n in range(10, 35)]
    text = [word("text", 60, 20 * n) for n in range(10, 35)]
    assert _line_numbers([*numbers, *text], 800) == set(numbers)
    ages = [word("years", 24, 20 * n) for n in range(10, 35)]
    assert _line_numbers([*numbers, *ages], 800) == set()
    assert _line_numbers(numbers[:10], 800) == set()


def test_the_letters_of_a_ligature_keep_their_order(tmp_path: Path) -> None:
    """One glyph for lam and alef, drawn to the left of a beh: read as beh, lam, alef."""
    path = tmp_path / "arabic.pdf"
    cmap = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def "
        b"/CMapType 2 def 1 begincodespacerange <00> <FF> endcodespacerange "
        b"2 beginbfchar <41> <06440627> <42> <0628> endbfchar endcmap end end"
    )
    with pikepdf.new() as made:
        page = made.add_blank_page(page_size=(200, 100))
        font = pikepdf.Dictionary(
            Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1, BaseFont=pikepdf.Name.Helvetica,
            ToUnicode=made.make_stream(cmap),
        )  # fmt: skip
        page.Resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F=font))
        page.Contents = made.make_stream(b"BT /F 20 Tf 50 50 Td (AB) Tj ET")
        made.save(path)
    with pdfium.opened(path) as document:
        assert [w.text for w in pdfium.content(document, 1).words] == ["\u0628\u0644\u0627"]


def test_an_exponent_belongs_to_its_letter() -> None:
    def at(text: str, x: float, y: float, size: float) -> Word:
        return Word(text=text, box=Box(x, y, x + 0.6 * size * len(text), y + size), size=size)

    assert joined([at("R", 0, 10, 10), at("2", 6.5, 8, 7)]) == "R2"
    assert joined([at("R", 0, 10, 10), at("2", 6.5, 7, 9)]) == "R2"
    assert joined([at("R", 0, 10, 10), at("2", 9.5, 8, 7)]) == "R 2"
    assert joined([at("see", 0, 10, 10), at("page", 19, 10, 10)]) == "see page"
