"""What is written down is true: settings, error codes, the file map."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "InputError", "NotFound", "Refused", "Unavailable", "Conflict", "Corrupt", "QuireError",
    "PageProcessDied", "Cancelled",
}  # fmt: skip


def sources() -> list[Path]:
    folders = [ROOT / n for n in ("web", "pipeline", "storage")]
    return [
        *(ROOT / n for n in ("app.py", "errors.py", "settings.py")),
        *(p for f in folders for p in f.rglob("*.py")),
    ]


def test_every_error_code_is_documented_and_no_other() -> None:
    raised = {"internal"}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in KINDS:
                    raised.add(str(node.args[0].value))
    table = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == raised


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    read = set(re.findall(r'"(QUIRE_\w+)"', (ROOT / "settings.py").read_text(encoding="utf-8")))
    table = (ROOT / "README.md").read_text(encoding="utf-8")
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
