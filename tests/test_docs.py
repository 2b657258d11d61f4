"""What is written down is true: settings, error codes, endpoints, limits, links, the file map."""

import ast
import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest

import quire_client
from bin import api
from errors import kinds
from settings import Settings
from web.http_status import OF_CODE, OF_KIND, http_status

ROOT = Path(__file__).resolve().parent.parent


def sources() -> list[Path]:
    folders = [ROOT / n for n in ("web", "pipeline", "storage")]
    return [
        *(ROOT / n for n in ("app.py", "errors.py", "settings.py")),
        *(p for f in folders for p in f.rglob("*.py")),
    ]


def raised() -> dict[str, set[str]]:
    """The kinds of each code, as the sources name them."""
    found: dict[str, set[str]] = defaultdict(set)
    found["internal"].add("QuireError")
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in kinds():
                    found[str(node.args[0].value)].add(called)
    return found


def test_every_error_code_is_documented_with_its_kind_status_and_whether_a_retry_helps() -> None:
    table = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (\d+) \| (\w+) \|", table, re.M)
    wanted = {}
    for code, names in raised().items():
        made = [kinds()[name](code, "") for name in sorted(names)]
        (status,) = {http_status(problem) for problem in made}  # one, whoever raises it
        helps = status in {408, 429} or not all(problem.permanent for problem in made)
        wanted[code] = (" or ".join(sorted(names)), str(status), "yes" if helps else "no")
    assert {
        code: (" or ".join(sorted(k.split(" or "))), *rest) for code, k, *rest in rows
    } == wanted
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert set(OF_CODE) <= set(wanted)
    assert set(OF_KIND) == set(kinds().values())


def test_the_client_tries_again_what_may_succeed_later() -> None:
    table = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    later = set(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| yes \|", table, re.M))
    assert {"database_busy", "too_many_requests"} <= later
    lost = {"event_not_found", "http_502", "http_503", "http_504"}  # with a server that went away
    assert later | lost == quire_client._PASSING


def test_every_setting_is_in_the_table_and_no_other() -> None:
    read = set(re.findall(r'"(QUIRE_\w+)"', (ROOT / "settings.py").read_text(encoding="utf-8")))
    table = (ROOT / "docs" / "self-hosting.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(QUIRE_\w+)` \|", table, re.M)) == read


def test_the_file_map_is_the_tree() -> None:
    listed = set(
        re.findall(
            r"^\| `([\w/]+\.py)` \|",
            (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"),
            re.M,
        )
    )
    there = {p.relative_to(ROOT).as_posix() for p in sources() if p.name != "__init__.py"}
    assert listed == there | {"demo.py", "quire_client.py"}


def test_the_endpoints_are_described_as_they_are() -> None:
    assert api.PAGE.read_text(encoding="utf-8") == api.page(), "make api-docs"
    for name, shape in api.SHAPES.items():
        assert set(shape.fields) == api.fields(shape) | set(shape.besides), name
    assert api.codes() <= set(raised())


UNITS = {
    "KB": 1 << 10, "MB": 1 << 20, "hours": 3600, "days": 86400, "s": 1, "": 1,
}  # fmt: skip


def test_limits_have_the_numbers_of_the_code() -> None:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    by_setting = re.findall(r"\| ([\d,]+)[ \w]* \| `QUIRE_(\w+)` \|", page)
    defaults = {one.name.upper(): one.default for one in fields(Settings)}
    assert by_setting
    for number, name in by_setting:
        assert int(number.replace(",", "")) == defaults[name], name
    by_code = re.findall(r"\| ([\d,]+) ?(\w*)[^|]* \| `([\w/]+\.py)` `([\w.]+)`", page)
    assert len(by_code) + len(by_setting) == len(re.findall(r"\| `(?:QUIRE|\w+/)", page))
    for number, unit, file, name in by_code:
        said = constant(ast.parse((ROOT / file).read_text(encoding="utf-8")), name.split("."))
        wanted = int(number.replace(",", "")) * UNITS.get(unit, 1)
        assert said in {wanted, int(number.replace(",", ""))}, name


def constant(inside: ast.AST, path: list[str]) -> float:
    """The number that is written for that name: of a module, of a class, or an argument of its default."""
    name, *rest = path
    for node in ast.walk(inside):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return constant(node, rest)
        if isinstance(node, ast.keyword) and node.arg == name and not rest:
            return number(node.value)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in {ast.unparse(one) for one in targets}:
                return constant(node.value, rest) if rest else number(node.value)
    raise AssertionError(f"nothing is named {path}")


def number(node: ast.AST) -> float:
    """Numbers, `*` and `<<`."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return number(left) * number(right)
        case ast.BinOp(left=left, op=ast.LShift(), right=right):
            return int(number(left)) << int(number(right))
    raise AssertionError(ast.unparse(node))


def test_every_decision_has_its_row_with_date_and_status() -> None:
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \| (\d{4}-\d\d-\d\d) \| (stands|replaced by \d{4})",
        (folder / "README.md").read_text(encoding="utf-8"),
        re.M,
    )
    titles = {
        path.name: re.sub(r"^# (?:\d+\. )?", "", path.read_text(encoding="utf-8").split("\n")[0])
        for path in sorted(folder.glob("[0-9]*.md"))
    }
    assert [(row[1], row[2]) for row in rows] == list(titles.items())
    assert all(file.startswith(n) for n, file, *_ in rows)


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}
    if page.name == "CONTRIBUTING.md":
        named = re.findall(r"`((?:[\w.]+/)*[\w.]+\.(?:py|js))`", text)
        assert {name for name in named if not (ROOT / name).exists()} <= {"storage/remotes/NAME.py"}


def test_what_the_guides_name_is_in_the_file_that_they_name() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    pairs = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.(?:py|js))`", " ".join(text.split()))
    assert len(pairs) > 12
    for name, file in pairs:
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text(encoding="utf-8")), (name, file)


def test_words_are_in_order_and_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [re.findall(r"^\| (.+?) \|", part, re.M)[1:] for part in text.split("\n## ")[1:]]
    assert all(part == sorted(part, key=str.lower) for part in words)
    every = [word for part in words for word in part]
    assert every
    assert len(set(every)) == len(every)


def test_the_map_of_data_names_every_path_and_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    data = page.split("## Data\n")[1].split("\n## ")[0]
    joined = [
        str(node.right.value)
        for node in ast.walk(ast.parse((ROOT / "storage/paths.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        if isinstance(node.right, ast.Constant)
    ]
    tables = [
        str(node.args[0].value)
        for path in (ROOT / "storage/catalog").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Table"
        if isinstance(node.args[0], ast.Constant)
    ]
    assert len(joined) > 20
    assert [name for name in joined if not re.search(rf"\b{re.escape(name)}\b", data)] == []
    assert sorted(re.findall(r"`(\w+)`(?= `| \|)", data)) == sorted(tables)
