"""Elements as Markdown, read by a CommonMark parser: what was put in comes out, and nothing else."""

import html
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipeline.pdf import markdown

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
EVIL = (
    "<script>alert(1)</script>\n[click](javascript:alert(1)) ![x](http://evil/pixel)\n"
    "    code\n# heading\n> quote\n---\n1. one\n|a|b|\n|-|-|\n&lt;b&gt; `c` *d* _e_ ~~f~~\\"
)
TEXT = st.text(st.sampled_from("ab1 .)-+*_#>|`~<&[](!\\$"), max_size=20)


def one(kind: str, text: str = "", **metadata: Any) -> dict[str, Any]:
    return {"type": kind, "text": text, "metadata": metadata}


def item(text: str, x: float) -> dict[str, Any]:
    return one("ListItem", text, coordinates={"points": [[x, 0], [x, 9], [400, 9], [400, 0]]})


def written(*elements: dict[str, Any]) -> str:
    return markdown.document(elements, lambda name: f"figures/{name}" if name == "ok" else None)


def said(tokens: list[Token]) -> str:
    return "".join(c.content for top in tokens for c in top.children or () if c.content)


def packed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("NarrativeText", set()),
        ("Title", {"heading"}),
        ("ListItem", {"bullet_list", "list_item"}),
        ("Table", set()),
        ("Image", set()),
        ("FigureCaption", {"em"}),
        ("Header", set()),
    ],
)
@given(st.one_of(st.just(EVIL), TEXT.map(lambda text: f"a{text}b")))
def test_a_document_says_nothing_but_its_text(kind: str, allowed: set[str], text: str) -> None:
    """What it says is what is shown: no link, picture, HTML or heading that it brings itself."""
    tokens = PARSER.parse(written(one(kind, text, image_path="../x")))
    found = {t.type for top in tokens for t in (top, *(top.children or ()))}
    fine = {"paragraph", *allowed}
    assert {re.sub(r"_(open|close)$", "", t) for t in found} <= {
        *fine, "inline", "text", "softbreak", "text_special",
    }  # fmt: skip
    assert packed(said(tokens)) == packed(text)


def test_a_table_that_spans_is_html_without_anything_but_its_cells() -> None:
    cells = (
        "<table onload=x><tr><td colspan='2' style='x'>a<img src=x onerror=y>&lt;b&gt;</td>"
        "<td colspan='9&quot; onclick=z'>[l](javascript:1)\n\n# h</td></tr></table><script>s</script>"
    )
    made = markdown.table(cells)
    assert made == (
        '<table><tr><td colspan="2">a&lt;b&gt;</td><td>[l](javascript:1) # h</td></tr></table>s'
    )
    (block,) = PARSER.parse(made)
    assert block.type == "html_block"


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(TEXT, min_size=width, max_size=width), min_size=1, max_size=4
        )
    ),
    st.booleans(),
)
def test_a_plain_grid_is_a_pipe_table_with_its_cells(rows: list[list[str]], headed: bool) -> None:
    lines = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for row, tag in zip(rows, ["th" if headed else "td", *["td"] * len(rows)], strict=False)
    ]
    made = markdown.table(f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>")
    cells: list[list[str]] = []
    for token in PARSER.parse(made):
        if token.type == "tr_open":
            cells.append([])
        if token.type == "inline":
            assert {c.type for c in token.children or ()} <= {"text", "text_special"}
            cells[-1].append(said([token]))
    wanted = [[" ".join(cell.split()) for cell in row] for row in rows]
    assert cells == (wanted if headed else [[""] * len(rows[0]), *wanted])


@pytest.mark.parametrize(
    "cells",
    [
        "<tr><td rowspan='2'>a</td><td>b</td></tr><tr><td>c</td></tr>",
        "<tr><td>a</td><td>b</td></tr><tr><td>c</td></tr>",
        "<tr><th>a</th></tr><tr><th>b</th></tr><tr><td>c</td></tr>",
        "<tr><td>a<table><tr><td>b</td></tr></table></td></tr>",
        "a<tr><td>b</td></tr>",
        "",
    ],
)
def test_any_other_table_is_html(cells: str) -> None:
    assert markdown.table(f"<table>{cells}</table>").startswith("<table>")


def test_headings_have_their_depth() -> None:
    made = written(
        *(one("Title", f"t{depth}", category_depth=depth) for depth in (0, 1, 2, 9, None))
    )
    levels = [t.tag for t in PARSER.parse(made) if t.type == "heading_open"]
    assert levels == ["h1", "h2", "h3", "h6", "h1"]


def test_lists_are_nested_as_they_are_indented() -> None:
    made = written(
        item("• a", 50), item("1. b\nstill b", 70), item("2. c", 70), item("– d", 90), item("• e", 50),
        one("NarrativeText", "Between."),
        item("in the other column", 300),
    )  # fmt: skip
    assert made == (
        "- a\n  1. b\n     still b\n  2. c\n     - d\n- e\n\nBetween.\n\n- in the other column\n"
    )
    depths = [t.level for t in PARSER.parse(made) if t.type == "list_item_open"]
    assert depths == [1, 3, 3, 5, 1, 1]


def test_code_keeps_its_lines_and_its_fence() -> None:
    code = "def a():\n    return ```b```"
    (fence,) = PARSER.parse(written(one("CodeSnippet", code)))
    assert (fence.type, fence.content) == ("fence", code + "\n")


def test_pictures_stand_with_the_text_in_them() -> None:
    made = written(one("Image", "Sales by year", image_path="ok", page_number=3))
    assert made == "![Figure on page 3](figures/ok)\n\nSales by year\n"


def test_what_repeats_on_pages_is_left_out_and_what_stands_once_is_not() -> None:
    pages = [
        e
        for n in (1, 2)
        for e in (
            one("Header", "Annual report"),
            one("NarrativeText", f"Text {n}."),
            one("Footer", f"Page {n} of 2"),
            one("PageNumber", str(n)),
        )
    ]
    once = one("Footer", "1 As restated.")
    unseen = one("NarrativeText", "white on white", hidden=True)
    assert written(*pages, once, unseen) == "Text 1.\n\nText 2.\n\n1 As restated.\n"
