"""Pushing the repository makes a Space: the front matter agrees with the pins and the platform."""

import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from settings import DEFAULT_LAYOUT_MODEL, DEFAULT_MODEL, DEFAULT_REVISION, DEFAULT_TABLE_MODEL

ROOT = Path(__file__).resolve().parent.parent
ZEROGPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}
TORCHVISION = {"2.11.0": "0.26.0", "2.10.0": "0.25.0"}
SPACE = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def front_matter() -> dict[str, object]:
    return dict(yaml.safe_load(readme().split("---")[1]))


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.+]+)", text, re.M)
    return {canonicalize_name(n): v for n, v in found}


def test_the_front_matter_agrees_with_the_pins() -> None:
    space, pinned = front_matter(), pins("requirements.txt")
    assert space["sdk"] == "gradio"
    assert space["sdk_version"] == pinned["gradio"]
    assert (ROOT / str(space["app_file"])).exists()


def test_python_and_torch_are_a_pair_that_zerogpu_runs() -> None:
    pinned = pins("requirements.txt")
    assert front_matter()["python_version"] == "3.12"
    assert pinned["torch"] in ZEROGPU_TORCH
    assert pinned["torchvision"] == TORCHVISION[pinned["torch"]]


def test_the_platform_accepts_the_front_matter() -> None:
    space = front_matter()
    assert len(str(space["short_description"])) <= 60
    assert {space["colorFrom"], space["colorTo"]} <= COLOURS
    assert re.fullmatch(r"\d+[mh]", str(space["startup_duration_timeout"]))
    assert space["hf_oauth"] is True
    assert space["suggested_hardware"]


def test_the_models_that_come_by_default_are_fixed_revisions() -> None:
    preloaded = re.findall(r"^  - (\S+) \S+ (\S+)$", readme(), re.M)
    assert preloaded == [(DEFAULT_MODEL, DEFAULT_REVISION)]
    for name in (f"{DEFAULT_MODEL}@{DEFAULT_REVISION}", DEFAULT_LAYOUT_MODEL, DEFAULT_TABLE_MODEL):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name)


def test_a_space_installs_the_whole_tree_of_the_lock_and_no_cpu_only_torch() -> None:
    named, space, locked = map(pins, ("requirements.in", "requirements.txt", "requirements.lock"))
    assert space.items() >= named.items()
    assert locked.items() >= space.items()
    assert "+" not in locked["torch"]
    assert pins("requirements-dev.lock").items() >= locked.items()
    missing: set[str] = set()
    for name in space:  # what each needs where a Space runs is pinned, too
        for wanted in map(Requirement, metadata.requires(name) or ()):
            if wanted.marker is None or wanted.marker.evaluate({**SPACE, "extra": ""}):
                missing |= {canonicalize_name(wanted.name)} - space.keys()
    assert missing == set()


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-dev.lock", "tests/swift/requirements.txt"]
)
def test_each_file_that_is_installed_has_a_hash(name: str) -> None:
    """Without one for each, pip asks for none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert blocks
    assert [
        b.split()[0] for b in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}$", b, re.M)
    ] == []
    setup = ROOT / ("tests/swift/setup" if "swift" in name else "bin/setup")
    assert "--require-hashes" in setup.read_text(encoding="utf-8")


def test_packages_are_named_one_a_line() -> None:
    lines = (ROOT / "packages.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9.+-]+", line) for line in lines)
    assert "tesseract-ocr" in lines
