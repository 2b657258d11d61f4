"""What is written down is true: settings, error codes, the file map."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import quire_client
from errors import kinds
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
