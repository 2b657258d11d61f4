"""Pushing the repository makes a Space: the front matter agrees with the pins and the platform."""

import re
from pathlib import Path

import yaml

from settings import DEFAULT_LAYOUT_MODEL, DEFAULT_MODEL, DEFAULT_REVISION, DEFAULT_TABLE_MODEL

ROOT = Path(__file__).resolve().parent.parent
ZEROGPU_TORCH = {"2.8.0", "2.9.1", "2.10.0", "2.11.0"}
TORCHVISION = {"2.11.0": "0.26.0", "2.10.0": "0.25.0"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def front_matter() -> dict[str, object]:
    return dict(yaml.safe_load(readme().split("---")[1]))


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.+]+)", text, re.M)
    return {n.lower().replace("_", "-"): v for n, v in found}


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


def test_the_lock_holds_every_pin_and_no_cpu_only_torch() -> None:
    wanted, locked = pins("requirements.txt"), pins("requirements.lock")
    assert {n: locked.get(n) for n in wanted} == wanted
    assert "+" not in locked["torch"]
    assert pins("requirements-dev.lock").items() >= locked.items()


def test_packages_are_named_one_a_line() -> None:
    lines = (ROOT / "packages.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9.+-]+", line) for line in lines)
    assert "tesseract-ocr" in lines
