"""A PDF as it came: its hash, whether it is one, what is inside, and a copy that can be read.

`probe` runs inside a page process. Knows nothing of elements. The only importer of pikepdf.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pikepdf

from errors import InputError
from pipeline import pdfium

SAMPLED = 24
TEXT_SECONDS = 0.03
SCAN_SECONDS = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was found before reading. `text_pages` and `scanned_pages` are extrapolated from a
    sample; `seconds` estimates the CPU time of partitioning; `copy` says that a repaired or
    decrypted copy was written and is to be read instead."""

    sha256: str
    pages: int
    page_sizes: tuple[tuple[float, float], ...]
    encrypted: bool
    repaired: bool
    copy: bool
    text_pages: int
    scanned_pages: int
    seconds: float


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
    encrypted = repaired = False
    readable = path
    try:
        with pdfium.opened(path) as document:
            pages = len(document)
    except InputError as problem:
        if problem.code == "password_required":
            encrypted = True
            _decrypt(path, copy, password)
        else:
            repaired = True
            _repair(path, copy, problem)
        readable = copy
        with pdfium.opened(copy) as document:
            pages = len(document)
    if pages == 0:
        raise InputError("no_pages", "The PDF has no pages.", "Check the file.")
    if pages > max_pages:
        raise InputError(
            "too_many_pages",
            f"The PDF has {pages} pages; the limit is {max_pages}.",
            "Split it, or raise QUIRE_MAX_PAGES in your own Space.",
        )
    with pdfium.opened(readable) as document:
        sizes = tuple(pdfium.page_size(document, n) for n in range(1, min(pages, 50) + 1))
        step = max(1, pages // SAMPLED)
        sampled = range(1, pages + 1, step)
        scans = sum(pdfium.is_scan(document, n) for n in sampled)
    scanned = round(pages * scans / len(sampled))
    return Probe(
        sha256=sha256,
        pages=pages,
        page_sizes=sizes,
        encrypted=encrypted,
        repaired=repaired,
        copy=encrypted or repaired,
        text_pages=pages - scanned,
        scanned_pages=scanned,
        seconds=(pages - scanned) * TEXT_SECONDS + scanned * SCAN_SECONDS,
    )


def _decrypt(path: Path, copy: Path, password: str | None) -> None:
    with pdfium.opened(path, password):  # raises password_required or password_wrong
        pass
    copy.parent.mkdir(parents=True, exist_ok=True)
    with pikepdf.open(path, password=password or "") as document:
        document.save(copy)
    copy.chmod(0o600)


def _repair(path: Path, copy: Path, problem: InputError) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        with pikepdf.open(path) as document:
            if not len(document.pages):
                raise problem
            document.save(copy)
    except (pikepdf.PdfError, ValueError, RuntimeError) as cause:
        raise problem from cause
