"""Zip files from anybody, unpacked only when every entry is harmless. Knows nothing of collections."""

import re
import stat
import zipfile
import zlib
from pathlib import Path

from errors import InputError
from storage.scarce import scarce

MAX_ENTRIES = 20_000
MAX_RATIO = 300  # a page of zeros is 1,000; text and vectors stay below 20
_RATIO_FROM = 1 << 20
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,127}")
_BLOCK = 1 << 20


def unpack(archive: Path, folder: Path, most_bytes: int) -> list[str]:
    """Every file of `archive` under `folder`; the names. InputError before the first byte is written
    when a name leads out, a link is in it, or it would unpack to more than `most_bytes`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [entry for entry in opened.infolist() if not entry.filename.endswith("/")]
            _check(files, most_bytes)
            for entry in files:
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(opened, entry, target)
    except OSError as problem:
        raise scarce(problem, folder.parent) or _refused("it is not a whole zip file") from problem
    except (
        zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError
    ) as problem:  # fmt: skip
        raise _refused("it is not a whole zip file") from problem
    return [entry.filename for entry in files]


def _check(files: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(files) > MAX_ENTRIES:
        raise _refused(f"it has more than {MAX_ENTRIES:,} files")
    seen: set[str] = set()
    for entry in files:
        parts = entry.filename.split("/")
        if len(parts) > 4 or not all(_PART.fullmatch(p) and ".." not in p for p in parts):
            raise _refused("a name in it leads elsewhere")
        if stat.S_ISLNK(entry.external_attr >> 16) or entry.flag_bits & 1:
            raise _refused("a link or an encrypted file is in it")
        if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise _refused("a file in it is packed in a way that Quire does not use")
        if entry.filename.lower() in seen:
            raise _refused("a name is in it twice")
        seen.add(entry.filename.lower())
        if entry.file_size > max(_RATIO_FROM, MAX_RATIO * entry.compress_size):
            raise _refused("a file in it unpacks to far more than it is")
    if sum(entry.file_size for entry in files) > most_bytes:
        raise _refused("it unpacks to more than you may store")


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """No more than was announced, whatever the stream says."""
    left = entry.file_size
    with opened.open(entry) as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise _refused("a file in it is larger than announced")
            file.write(block)


def _refused(why: str) -> InputError:
    return InputError(
        "archive_refused",
        f"The archive was refused: {why}.",
        "Use a zip that Quire exported, as it is.",
    )
