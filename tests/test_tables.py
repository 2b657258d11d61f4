"""Tables from words and lines alone, and letters that pdfium turned around."""

import os
from pathlib import Path

import pikepdf

from pipeline.__main__ import partition_file
from pipeline.options import PartitionOptions
from pipeline.pdf import pdfium
from pipeline.pdf.page import Box, PageContent, Word
from pipeline.pdf.tables.find import _line_numbers, find_tables
from pipeline.pdf.tables.ruled import _seen, _tablers, opened, table_of
from pipeline.pdf.tables.table import Table, to_html
from pipeline.pdf.text.lines import joined
from pipeline.processes.pool import Pool

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
RULED = [Box(x, y, x + 100, bottom) for y, bottom in ((0, 20), (20, 60)) for x in (0, 100, 200)]


def word(text: str, x: float, y: float) -> Word:
    return Word(text=text, box=Box(x, y, x + 6 * len(text), y + 10), size=10)


def page(*words: Word, paths: tuple[Box, ...] = ()) -> PageContent:
    return PageContent(
        number=1, width=600, height=800, words=words, paths=paths, images=(), characters=200,
        garbled=0, objects=20,
    )  # fmt: skip


def text_rows(
    *lines: str, at: tuple[float, ...] = (5, 120, 220, 320), down: float = 15
) -> tuple[Word, ...]:
    """Cells parted by `|`, each at its place."""
    return tuple(
        word(part, x + sum(6 * len(p) + 3 for p in cell.split(" ")[:i]), 40 + down * row)
        for row, line in enumerate(lines)
        for x, cell in zip(at, line.split("|"), strict=False)
        for i, part in enumerate(cell.split(" "))
        if part
    )


def ruled(rows: int, columns: int, *, wide: float = 100, high: float = 20) -> list[Box]:
    return [
        Box(wide * c, high * r, wide * (c + 1), high * (r + 1))
        for r in range(rows)
        for c in range(columns)
    ]


def rows_of(table: Table | None) -> list[list[str]]:
    assert table
    found: dict[int, list[str]] = {}
    for cell in table.cells:
        found.setdefault(cell.row, []).append(cell.text)
    return [found[r] for r in sorted(found)]


def test_rows_between_the_rules_are_rows() -> None:
    words = [
        word("Group", 5, 5), word("Men", 105, 5), word("Women", 205, 5),
        word("Three", 5, 25), word("1,530", 105, 25), word("1,029", 205, 25),
        word("Four", 5, 42), word("1,253", 105, 42), word("855", 205, 42),
    ]  # fmt: skip
    table = table_of(RULED, words)
    assert table
    assert "<tr><td>Three</td><td>1,530</td><td>1,029</td></tr><tr><td>Four</td>" in to_html(table)


def test_a_wrapped_label_stays_one_row() -> None:
    words = [
        word("Group", 5, 5), word("Men", 105, 5), word("Women", 205, 5),
        word("Three", 5, 25), word("1,530", 105, 25), word("1,029", 205, 25),
        word("years", 5, 42),
    ]  # fmt: skip
    table = table_of(RULED, words)
    assert table
    assert "<td>Three years</td><td>1,530</td>" in to_html(table)


def test_a_heading_over_several_columns_divides_none_of_them() -> None:
    heads = [word("Everybody asked", 100, 10), word("Men", 250, 10)]
    body = [
        word(text, x, 40 + 15 * row)
        for row in range(6)
        for x, text in ((5, f"Row {row}"), (100, str(70 + row)), (165, "12"), (250, "33"))
    ]
    (table,) = find_tables(page(*heads, *body), None)
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
    with pdfium.opened(path) as document, pdfium.loaded(document, 1) as page:
        assert [w.text for w in pdfium.content(page, 1).words] == ["\u0628\u0644\u0627"]


def test_an_exponent_belongs_to_its_letter() -> None:
    def at(text: str, x: float, y: float, size: float) -> Word:
        return Word(text=text, box=Box(x, y, x + 0.6 * size * len(text), y + size), size=size)

    assert joined([at("R", 0, 10, 10), at("2", 6.5, 8, 7)]) == "R²"
    assert joined([at("R", 0, 10, 10), at("2", 6.5, 7, 9)]) == "R²"
    assert joined([at("R", 0, 10, 10), at("2", 9.5, 8, 7)]) == "R 2"
    assert joined([at("see", 0, 10, 10), at("page", 19, 10, 10)]) == "see page"


def test_paragraphs_side_by_side_between_white_stripes_are_rows() -> None:
    boxes = [Box(0, 0, 100, 20), Box(100, 0, 300, 20), Box(300, 0, 500, 20)]
    boxes += [Box(0, 20, 100, 120), Box(100, 20, 300, 120), Box(300, 20, 500, 120)]
    words = [
        word("Kind", 5, 5), word("Meaning", 105, 5), word("Example", 305, 5),
        word("Major", 5, 25), word("emissions of", 105, 25), word("a refinery,", 305, 25),
        word("ten tons", 105, 36), word("a mill", 305, 36),
        word("Area", 5, 70), word("less than", 105, 70), word("a bakery", 305, 70),
        word("ten tons", 105, 81),
    ]  # fmt: skip
    assert rows_of(table_of(boxes, words))[1:] == [
        ["Major", "emissions of ten tons", "a refinery, a mill"],
        ["Area", "less than ten tons", "a bakery"],
    ]


def test_a_title_and_a_note_inside_the_frame_are_no_rows() -> None:
    grid = [b._replace(y0=b.y0 + 20, y1=b.y1 + 20) for b in ruled(3, 3)]
    boxes = [Box(0, 0, 300, 20), *grid, Box(0, 80, 300, 110)]
    cells = [word(f"c{b.x0:.0f}-{b.y0:.0f}", b.x0 + 5, b.y0 + 5) for b in grid]
    note = "Note: what is counted here was counted by hand, twice, by two people"
    words = [word("Exhibit 3", 5, 5), *cells, word(note[:40], 5, 85), word(note[40:], 5, 97)]
    table = table_of(boxes, words)
    assert table
    assert table.rows == 3
    assert table.box == Box(0, 20, 300, 80)


def test_labels_left_of_the_rules_belong_to_the_rows() -> None:
    boxes = [b._replace(x0=b.x0 + 100, x1=b.x1 + 100) for b in ruled(5, 2)]
    words = [word(str(10 * i), b.x0 + 5, b.y0 + 5) for i, b in enumerate(boxes)]
    labels = [word(f"Label{i}", 40, 20 * i + 5) for i in range(5)]
    assert rows_of(table_of(boxes, [*words, *labels]))[2] == ["Label2", "40", "50"]


def test_lines_of_text_that_run_through_boxes_make_no_table() -> None:
    said = "the law had changed and now it looks as if one had drawn over the very text itself"
    words = [
        word(part, 4 + sum(6 * len(p) + 3 for p in said.split()[:i]), 6 + 20 * row)
        for row in range(3)
        for i, part in enumerate(said.split())
    ]
    assert table_of(ruled(3, 5), words) is None


def test_numbers_apart_by_a_space_only_are_columns() -> None:
    lines = [f"{name}|{n} 2{n}.5 3{n}.7" for n, name in zip(range(101, 107), "ABCDEF", strict=True)]
    (table,) = find_tables(page(*text_rows("Name|no. median highest", *lines)), None)
    assert rows_of(table)[:2] == [
        ["Name", "no.", "median", "highest"],
        ["A", "101", "2101.5", "3101.7"],
    ]


def test_a_number_set_with_spaces_around_its_commas_is_one() -> None:
    lines = [f"Age {n}|1 , 0{n} , 948|0 . {n}5" for n in range(40, 46)]
    (table,) = find_tables(page(*text_rows("Age|People|Part", *lines)), None)
    assert rows_of(table)[1] == ["Age 40", "1,040,948", "0.405"]


def test_a_heading_of_several_lines_is_one_row() -> None:
    lines = [f"Year {n}|{n}|{n * 2}" for n in range(40, 46)]
    (table,) = find_tables(
        page(*text_rows("|People|Share", "Year|asked|in percent", *lines, down=12)), None
    )
    assert "<th>People asked</th><th>Share in percent</th>" in to_html(table)


def test_a_heading_that_repeats_beside_itself_opens_another_table() -> None:
    lines = [f"{n} years|{n * 7}|{n + 40} years|{n * 9}" for n in range(10, 18)]
    found = find_tables(page(*text_rows("Age|Total|Age|Total", *lines)), None)
    assert [t.columns for t in found] == [2, 2]
    assert rows_of(found[1])[1] == ["50 years", "90"]


def test_a_heading_that_comes_again_below_opens_another_table() -> None:
    lines = [f"{n} years|0.{n}" for n in range(10, 15)]
    found = find_tables(
        page(*text_rows("Group|Part", *lines, "For the second survey it is", "Group|Part", *lines)),
        None,
    )
    assert [t.rows for t in found] == [6, 6]


def test_the_labels_of_bars_are_no_table() -> None:
    words = text_rows("1950|12|44|31", "1960|17|41|35", "1970|22|38|37", "1980|28|33|39")
    bars = tuple(Box(400, 40 + 15 * i, 420 + 13 * i, 50 + 15 * i) for i in range(4))
    assert find_tables(page(*words), None)
    beside = (word("end", 480, 40), *words, word("end", 480, 85))
    within = tuple(Box(150, b.y0, b.x1 - 225, b.y1) for b in bars)
    assert not find_tables(page(*beside, paths=within), None)


def test_an_index_is_no_table() -> None:
    lines = [f"Adobe, {n}, {n + 4}n|Baker, {n + 50}|Canada, {n + 9}" for n in range(60, 70)]
    assert not find_tables(page(*text_rows(*lines)), None)


def test_three_rules_make_a_table_of_words() -> None:
    lines = [f"Variable number {n}|remains about as it was before {n}" for n in "abcd"]
    words = text_rows("Variable|Assumption", *lines, at=(5, 250))
    rules = tuple(Box(0, y, 500, y + 1) for y in (36, 53, 120))
    assert not find_tables(page(*words), None)
    (table,) = find_tables(page(*words, paths=rules), None)
    assert rows_of(table)[0] == ["Variable", "Assumption"]
    assert table.rows == 5


def test_one_pdfium_opens_a_file(tmp_path: Path) -> None:
    """Whoever reads it: text, drawn rules, pictures."""
    with Pool(1) as alone:
        made = partition_file(alone, SAMPLES / "report.pdf", tmp_path, PartitionOptions())
        maps = Path(f"/proc/{alone.run(os.getpid, seconds=20)}/maps").read_text("ascii")
    assert not made
    loaded = {line.split()[-1] for line in maps.splitlines() if "/" in line}
    assert any("tablers" in path for path in loaded)
    assert [path for path in loaded if "libpdfium" in path] == [str(pdfium.LIBRARY.resolve())]


def test_rules_are_where_they_are_seen(tmp_path: Path) -> None:
    """Also when the page shows a part of its paper only, or is turned."""
    path = tmp_path / "cut.pdf"
    for rotation in (0, 90, 180, 270):
        with pikepdf.open(SAMPLES / "report.pdf") as document:
            document.pages[0].CropBox = [20, 30, 575, 822]
            document.pages[0].rotate(rotation, relative=False)
            document.save(path)
        with pdfium.opened(path) as document, pdfium.loaded(document, 1) as page:
            content = pdfium.content(page, 1)
        month = next(w for w in content.words if w.text == "Month")
        with opened(path) as drawn:
            boxes = [
                _seen(cell.bbox, content.frame)
                for table in _tablers().find_tables(drawn(1), extract_text=False)
                for cell in table.cells
            ]
        assert sum(b.holds(month.box) for b in boxes) == 1
