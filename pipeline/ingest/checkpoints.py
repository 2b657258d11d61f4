"""What the stages of a job write down: each file once, and none is believed that a disk has damaged.

A batch's page records and element dicts, and what is known of the whole document. Knows nothing of jobs,
nor of where the files lie.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from errors import Corrupt
from pipeline.pdf.page import PageRecord
from storage import sealed_text
from storage.elements_folder import file_is_whole
from storage.generations.reader import measure

COPY = "readable.pdf"
PROBE = "probe.json"
STYLE = "style.json"
_OF_COPY = "copy.json"


def write_json(path: Path, value: Any) -> None:
    sealed_text.write(path, json.dumps(value))


def read_json(path: Path) -> Any:
    """None when it is not there, or damaged."""
    try:
        return json.loads(sealed_text.read(path))
    except (FileNotFoundError, Corrupt, ValueError):
        return None


def note_copy(folder: Path) -> None:
    """The decrypted or repaired copy beside the elements is whole as it is now."""
    write_json(folder / _OF_COPY, measure(folder / COPY))


def copy_is_whole(folder: Path) -> bool:
    """Whether it is there, and what was noted; one that was made before that was done is believed."""
    copy = folder / COPY
    noted = (folder / _OF_COPY).exists()
    return copy.exists() and (not noted or read_json(folder / _OF_COPY) == [*measure(copy)])


def is_whole(path: Path) -> bool:
    """Whether that batch was read, and can be read again from here, with the list of its crops."""
    try:
        if not sealed_text.is_proved(path):  # an old one is read to know it
            read_batch(path)
    except (FileNotFoundError, Corrupt):
        return False
    return file_is_whole(path.with_suffix(".crops"))


def write_batch(
    target: Path, records: Sequence[PageRecord], elements: Sequence[dict[str, Any]]
) -> None:
    """A checkpoint: the page records, a line per element, and beside it the names of its crops."""
    crops = sorted({n for e in elements if (n := e["metadata"].get("image_path"))})
    sealed_text.write(target.with_suffix(".crops"), "\n".join(crops))
    lines = [json.dumps({"pages": [asdict(r) for r in records]}, ensure_ascii=False)]
    lines += [json.dumps(e, ensure_ascii=False) for e in elements]
    sealed_text.write(target, "\n".join(lines) + "\n")


def read_batch(path: Path) -> tuple[list[PageRecord], list[dict[str, Any]]]:
    """The page records and the element dicts of a checkpoint; Corrupt when it is damaged."""
    text = sealed_text.read(path)
    try:
        records = [PageRecord(**r) for r in _head(path, text)]
        return records, [json.loads(line) for line in text.split("\n")[1:] if line]
    except (ValueError, TypeError) as problem:
        raise sealed_text.damaged(path) from problem


def read_head(path: Path) -> list[dict[str, Any]]:
    """The page records of a checkpoint alone, as dicts; Corrupt when it is damaged."""
    return _head(path, sealed_text.read(path))


def _head(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        return list(json.loads(text.partition("\n")[0])["pages"])
    except (ValueError, TypeError, KeyError) as problem:
        raise sealed_text.damaged(path) from problem
