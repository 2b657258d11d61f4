"""What a record says of itself, parsed: the keys that Quire gives a meaning to hold what it writes there,
any other key a plain value. Records come from anybody; nothing else of Quire looks at them unparsed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from errors import InputError
from storage.live.chroma import Record
from storage.names import CropName, Sha256, Word, file_name, number, text

MAX_DIMENSION = 16_384
MAX_VALUES = 5_000  # of one record, lists counted out: after one with 5,462 Chroma writes no more
_MAX_ID = 200
_LONGEST = 1e15  # of a vector; its square and what that divides still fit into a float32
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,63}")
_WHOLE = 1 << 53
_ALWAYS = frozenset({"source_id", "filename", "page", "element_type"})


def exported(record: Record) -> Record:
    """`checked`, and with every key that Quire asks a record for."""
    missing = sorted(_ALWAYS - record.metadata.keys())
    if missing:
        raise unreadable(f"a record has no {missing[0]}")
    return checked(record)


def checked(record: Record) -> Record:
    """The same record, its file's name one to show; InputError that names the key when it is not as Quire
    writes it."""
    if not record.id or not _is(text, record.id, _MAX_ID) or not record.id.isprintable():
        raise unreadable("a record has no proper id")
    if not _is(text, record.document):
        raise unreadable("a record's text is no text, or too long")
    if not 0 < len(record.embedding) <= MAX_DIMENSION:
        raise unreadable("a vector has no numbers, or too many")
    length = float(np.linalg.norm(np.asarray(record.embedding, dtype=np.float64)))
    if not 1 / _LONGEST <= length <= _LONGEST:  # nor is one that is not made of numbers
        raise unreadable("a vector has no length that can be made one")
    values = record.metadata.values()
    if sum(len(v) if isinstance(v, list) else 1 for v in values) > MAX_VALUES:
        raise unreadable(f"a record's metadata has more than {MAX_VALUES:,} values")
    for key, value in record.metadata.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise unreadable("a record's metadata has a key that is none")
        fits: Callable[[Any], Any] = _FIELDS.get(key, _plain)
        try:
            fits(value)
        except (InputError, ValueError, TypeError, AttributeError, RecursionError) as problem:
            raise unreadable(f"a record's {key} is not as Quire writes it") from problem
    if "filename" not in record.metadata:
        return record
    shown = file_name(record.metadata["filename"])
    return replace(record, metadata={**record.metadata, "filename": shown})


def unreadable(why: str) -> InputError:
    return InputError(
        "import_unreadable",
        f"The archive cannot be imported: {why}.",
        "Export the collection again, and import that file as it is.",
    )


def _is(parse: Callable[..., Any], *given: Any) -> bool:
    try:
        parse(*given)
    except InputError:
        return False
    return True


def _short(value: Any) -> None:
    text(value, 1000)


def _page(value: Any) -> None:
    number(value, (1 << 31) - 1)


def _each(check: Callable[[Any], Any]) -> Callable[[Any], None]:
    def every(value: Any) -> None:
        if not isinstance(value, list) or not value:
            raise TypeError
        for one in value:
            check(one)

    return every


def _boxes(value: Any) -> None:
    """JSON: a list of numbers by name, as the page and its answers show them."""
    for box in json.loads(text(value)):
        for name, side in box.items():
            if type(side) not in {int, float} or not math.isfinite(side) or len(name) > 20:
                raise ValueError


def _plain(value: Any) -> None:
    """A scalar, or a list of scalars of one type that is not empty."""
    if isinstance(value, list):
        _each(_scalar)(value)
        if len({type(one) for one in value}) > 1:
            raise TypeError
    else:
        _scalar(value)


def _scalar(value: Any) -> None:
    if isinstance(value, str):
        text(value)
    elif isinstance(value, int):
        number(int(value), _WHOLE, -_WHOLE)
    elif not isinstance(value, float) or not math.isfinite(value):
        raise TypeError


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "source_id": Sha256,
    "filename": text,
    "page": _page,
    "last_page": _page,
    "page_numbers": _each(_page),
    "boxes": _boxes,
    "element_type": Word,
    "element_types": _each(Word),
    "element_ids": _each(_short),
    "section_titles": _each(text),
    "languages": _each(_short),
    "table_html": text,
    "image": CropName,
    "caption": text,
    "context": text,
    "model": _short,
}
