"""A PDF as it came: its hash, whether it is one, what is inside, and a copy that can be read.

`probe` runs inside a page process. Knows nothing of elements.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from errors import InputError, PageProcessDied
from pipeline.pdf import language, pdfium
from pipeline.processes.pool import Pool

SAMPLED = 24
TEXT_SECONDS = 0.03
SCAN_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was found before reading. `copy` says that a repaired (`damaged`) or decrypted copy was
    written and is to be read instead. From a sample of pages: `scanned_pages`, extrapolated;
    `largest`, width and height of the largest in points; `sampled`, whether they could be looked at
    at all; `text_share` and `scan_share`, the shares of those pages with a usable text layer and of
    scans; `languages` (ISO 639-3) and `scripts` (as Unicode names them), commonest first. `lock` is
    `none`, `owner` (opens without a password) or `user`. `seconds` estimates the CPU time of
    partitioning."""

    sha256: str
    pages: int
    encrypted: bool
    copy: bool
    scanned_pages: int
    seconds: float
    damaged: bool = False
    largest: tuple[float, float] = (0.0, 0.0)
    sampled: bool = False
    lock: str = "none"
    text_share: float = 0.0
    scan_share: float = 0.0
    languages: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()


class Sample(NamedTuple):
    """What a sample of the pages shows, named as in Probe."""

    text_share: float
    scan_share: float
    largest: tuple[float, float]
    languages: tuple[str, ...]
    scripts: tuple[str, ...]


def digest(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def check_upload(path: Path, *, max_mb: int) -> None:
    """The cheap checks, before anything is stored."""
    size = path.stat().st_size
    if size == 0:
        raise InputError("empty_file", "The file is empty.", "Check it and upload it again.")
    if size > max_mb << 20:
        raise InputError(
            "file_too_large",
            f"The file has {size >> 20} MB; the limit is {max_mb} MB.",
            "Split it, or raise QUIRE_MAX_FILE_MB in your own Space.",
        )
    with path.open("rb") as file:
        if b"%PDF" not in file.read(4096):
            raise InputError("not_a_pdf", "The file is not a PDF.", "Upload PDF files only.")


def probe(path: Path, copy: Path, password: str | None, max_pages: int) -> Probe:
    """Open, count, sample; write `copy` when the original cannot be read as it is."""
    sha256, _ = digest(path)
    copied = False
    try:
        pages, secured = _count(path)
        lock = "owner" if secured else "none"
        if not pages:
            raise InputError("no_pages", "The PDF has no pages.", "Check the file.")
    except InputError as problem:
        lock = _copy(path, copy, password, problem)
        copied = True
        pages, _ = _count(copy)
    if pages > max_pages:
        raise InputError(
            "too_many_pages",
            f"The PDF has {pages} pages; the limit is {max_pages}.",
            "Split it, or raise QUIRE_MAX_PAGES in your own Space.",
        )
    return Probe(
        sha256=sha256,
        pages=pages,
        encrypted=copied and lock != "none",
        copy=copied,
        scanned_pages=0,
        seconds=pages * TEXT_SECONDS,
        damaged=copied and lock == "none",
        lock=lock,
    )


def sample(path: Path, pages: int) -> Sample:
    """A look at some pages; opens them, so a hostile file may take its process down."""
    chosen = range(1, pages + 1, max(1, pages // SAMPLED))
    with pdfium.opened(path) as document:
        seen = [pdfium.glance(document, n) for n in chosen]
        sizes = [size for n in chosen if (size := _size(document, n))]
    largest = max(sizes, key=lambda s: s[0] * s[1], default=(0.0, 0.0))
    usable = [g.text for g in seen if len("".join(g.text.split())) >= 25 and not g.garbled]
    spoken = Counter(code for text in usable for code in language.detect(text))
    return Sample(
        text_share=round(len(usable) / len(chosen), 3),
        scan_share=sum(g.scan for g in seen) / len(chosen),
        largest=largest,
        languages=tuple(code for code, _ in spoken.most_common()),
        scripts=_scripts("".join(usable)),
    )


def _scripts(text: str) -> tuple[str, ...]:
    """The scripts that have a fiftieth of the letters, by the first word of the letters' names."""
    letters = Counter(c for c in unicodedata.normalize("NFKC", text) if c.isalpha())
    names = Counter[str]()
    for letter, times in letters.items():
        names[unicodedata.name(letter, "").partition(" ")[0]] += times
    names.pop("", None)
    least = names.total() / 50
    return tuple(
        "Han" if name == "CJK" else name.title() for name, n in names.most_common() if n >= least
    )


def _size(document: Any, number: int) -> tuple[float, float] | None:
    try:
        return pdfium.page_size(document, number)
    except InputError:
        return None


def look(
    pool: Pool,
    path: Path,
    copy: Path,
    *,
    password: str | None,
    max_pages: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Probe:
    """`probe` and `sample` in page processes; a page that kills the sample costs the estimate."""
    found: Probe = pool.run(
        probe, path, copy, password, max_pages, seconds=120, cancelled=cancelled
    )
    readable = copy if found.copy else path
    try:
        seen: Sample = pool.run(
            sample, readable, found.pages, seconds=60, cpu_seconds=2, cancelled=cancelled
        )
    except PageProcessDied:
        return found
    scanned = round(found.pages * seen.scan_share)
    text = found.pages - scanned
    return replace(
        found,
        scanned_pages=scanned,
        seconds=text * TEXT_SECONDS + scanned * SCAN_SECONDS,
        largest=seen.largest,
        sampled=True,
        text_share=seen.text_share,
        scan_share=round(seen.scan_share, 3),
        languages=seen.languages,
        scripts=seen.scripts,
    )


def _count(path: Path) -> tuple[int, bool]:
    """Pages, and whether the file is encrypted though it opened without a password."""
    with pdfium.opened(path) as document:
        return len(document), pdfium.is_secured(document)


def _copy(path: Path, copy: Path, password: str | None, problem: InputError) -> str:
    """A decrypted or repaired copy by pikepdf; how the file was locked, as in Probe."""
    import pikepdf  # 11 MB, for files that need it

    copy.parent.mkdir(parents=True, exist_ok=True)
    aside = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        with pikepdf.open(path, password=password or "") as document:
            if not len(document.pages):
                raise InputError("no_pages", "The PDF has no pages.", "Check the file.")
            document.save(aside, encryption=False)
            lock = "none"
            if document.is_encrypted:
                lock = "user" if password and not _opens(path) else "owner"
    except pikepdf.PasswordError as cause:
        if password:
            raise InputError(
                "password_wrong",
                "The password does not open this PDF.",
                "Submit it again with the right password.",
            ) from cause
        raise InputError(
            "password_required",
            "This PDF is locked with a password.",
            "Submit it again with its password.",
        ) from cause
    except (pikepdf.PdfError, ValueError, RuntimeError) as cause:
        raise problem from cause
    aside.chmod(0o600)
    aside.replace(copy)  # another run of this may have its copy read already
    return lock


def _opens(path: Path) -> bool:
    """Whether it opens without a password."""
    import pikepdf

    try:
        with pikepdf.open(path):
            return True
    except pikepdf.PasswordError:
        return False
