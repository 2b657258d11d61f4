"""Names from outside, parsed once: a value of these types cannot be anything else.

Whatever an archive, a manifest, a saved job or a request names becomes one of them before it is part of a
path, of an address or of a row. Each is a str that its pattern fits whole, so none has a separator, two
dots, a drive or an escape in it unless its pattern says so. Knows nothing of where a name leads.
"""

import re
import unicodedata
from typing import Any, ClassVar, Self

from errors import InputError

_LONGEST_TEXT = 1 << 20
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


class _Name(str):
    """InputError for anything else than text of that pattern."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]]

    def __new__(cls, given: object) -> Self:
        if not isinstance(given, str) or not cls.pattern.fullmatch(given):
            raise InputError(
                "bad_id", "That id is not one of ours.", "Use an id that Quire returned."
            )
        return super().__new__(cls, given)


class UserKey(_Name):
    """Whose it is: the HMAC of an identity."""

    pattern = re.compile(r"[0-9a-f]{32}")


class Sha256(_Name):
    """A file by its content: an original, a source."""

    pattern = re.compile(r"[0-9a-f]{64}")


class CropName(_Name):
    """The picture of a table or a figure: its sha256 and what kind of picture it is."""

    pattern = re.compile(r"[0-9a-f]{64}\.(?:jpg|jpeg|png|webp)")


class Version(_Name):
    """What elements were made with; no dot, after which the edition of an archive begins."""

    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class CollectionId(_Name):
    """A collection, here and in Chroma, which takes three letters or more."""

    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]")


class JobId(_Name):
    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class ExportName(_Name):
    """A collection's id and the format."""

    pattern = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}\.zip")


class ElementsFile(_Name):
    """A checkpoint, the names of its crops, or what is known of the whole document."""

    pattern = re.compile(r"[a-z]{1,32}(?:-[0-9]{5})?\.(?:jsonl|crops|json)")


class ChromaFile(_Name):
    """What a closed Chroma directory consists of. Not a journal of its database: SQLite plays back what
    one says when it opens the database beside it, and deletes the file that it names."""

    pattern = re.compile(
        r"chroma\.sqlite3|[A-Za-z0-9][A-Za-z0-9-]{0,63}/[a-z0-9_]{1,40}\.(?:bin|pickle)"
    )


class JournalName(_Name):
    pattern = re.compile(r"[0-9]{20}(?:-[0-9a-f]{16})?\.parquet")


class StoredPath(_Name):
    """A file of a user's folder in a remote: parts that begin with a letter or a digit."""

    pattern = re.compile(
        r"(?=.{1,260}\Z)(?:segments|sources|elements|jobs|chroma|manifests)"
        r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*){1,4}"
    )


class TombstoneKey(_Name):
    """What was deleted: see `catalog.tombstone`."""

    pattern = re.compile(r"[0-9a-f]{32}")


class Word(_Name):
    """A kind, a strategy, a format: one of the words that Quire itself uses."""

    pattern = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def is_one(kind: type[_Name], given: object) -> bool:
    return isinstance(given, str) and kind.pattern.fullmatch(given) is not None


def text(given: object, most: int = _LONGEST_TEXT) -> str:
    """Text that every store and every answer can hold, as it is; InputError otherwise."""
    if not isinstance(given, str) or len(given) > most or not _encodable(given):
        raise InputError("bad_text", "That is no text, or too long.", "Give plain text.")
    return given


def line(given: object, most: int) -> str:
    """One line to show, cut to `most` characters: NFC, each run of blanks and control characters one
    space. InputError when it is no text; it may be empty."""
    shown = unicodedata.normalize("NFC", text(given)).translate(_CONTROLS)
    return " ".join(shown.split())[:most]


def file_name(given: object) -> str:
    """A file's name to show, never part of a path: its last part, NFC, without what cannot be printed."""
    last = text(given).replace("\\", "/").split("/")[-1]
    shown = unicodedata.normalize("NFC", "".join(c for c in last if c.isprintable()))
    return shown[:300].strip() or "document.pdf"


def number(given: object, most: int, least: int = 0) -> int:
    """A whole number in that range, and no bool; InputError otherwise."""
    if type(given) is not int or not least <= given <= most:
        raise InputError("bad_number", "That is no number in range.", "Give a whole number.")
    return given


def moment(given: object) -> float:
    """Seconds since 1970, before the year 5000; InputError otherwise."""
    if type(given) not in {int, float} or not 0 <= (found := _float(given)) < 1e11:
        raise InputError("bad_number", "That is no time.", "Give seconds since 1970.")
    return found


def _float(given: Any) -> float:
    return float(given) if abs(given) < 1e300 else -1.0


def _encodable(given: str) -> bool:
    """Whether it is whole: half of a surrogate pair is no letter, and nothing can store it."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True
