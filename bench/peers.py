"""Other readers over the same files, each in its own process and its own environment.

    PYTHON bench/peers.py NAME [--out DIR] FILE…

prints one line of JSON: pages per CPU-second and the rest, or why the peer is not there. With `--out`
the peer's text goes to DIR/NAME.json as elements, for a scorer. `make bench-peers` makes the
environment; nothing here belongs to the product.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pypdfium2

Found = Iterator[tuple[int, str, str | None]]  # page, text, HTML of a table


def raw(path: Path) -> Found:
    for number, page in enumerate(pypdfium2.PdfDocument(path), 1):
        yield number, page.get_textpage().get_text_bounded(), None


def docling_parse(path: Path) -> Found:
    from docling_core.types.doc.page import TextCellUnit
    from docling_parse.pdf_parser import DoclingPdfParser

    document = DoclingPdfParser(loglevel="fatal").load(path_or_stream=path)
    for number, page in document.iterate_pages():
        cells = page.iterate_cells(unit_type=TextCellUnit.LINE)
        yield number, "\n".join(c.text for c in cells), None


def docling(path: Path) -> Found:
    """Its native pipeline: no model, the text layer only."""
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import NativePdfPipelineOptions
    from docling.document_converter import DocumentConverter, NativePdfFormatOption

    form = NativePdfFormatOption(pipeline_options=NativePdfPipelineOptions())
    made = DocumentConverter(format_options={InputFormat.PDF: form}).convert(path)
    yield 1, made.document.export_to_markdown(), None


def camelot(path: Path) -> Found:
    import camelot as reader

    for table in reader.read_pdf(str(path), pages="all", flavor="hybrid", engine="vector"):
        yield int(table.page), "", table.df.to_html(header=False, index=False)


def pymupdf4llm(path: Path) -> Found:
    import pymupdf4llm as reader

    yield 1, reader.to_markdown(str(path)), None


def markitdown(path: Path) -> Found:
    from markitdown import MarkItDown

    yield 1, MarkItDown().convert(str(path)).text_content, None


def kreuzberg(path: Path) -> Found:
    import kreuzberg as reader

    yield 1, reader.extract_file_sync(str(path)).content, None


def mineru(path: Path) -> Found:
    from mineru.parser import parse

    yield 1, parse(path, tier="flash").markdown(), None


PEERS: dict[str, Callable[[Path], Found]] = {
    "raw pypdfium2 text (the ceiling)": raw,
    "docling-parse": docling_parse,
    "docling, native pipeline": docling,
    "camelot hybrid, vector (tables)": camelot,
    "pymupdf4llm (AGPL)": pymupdf4llm,
    "markitdown": markitdown,
    "kreuzberg": kreuzberg,
    "MinerU flash": mineru,
}


def measured(name: str, files: list[Path], out: Path | None) -> dict[str, object]:
    """CPU-seconds with the import, wall seconds, peak memory; or the reason there are none."""
    started = time.perf_counter()
    try:
        for path in files:
            found = list(PEERS[name](path))
            if out:
                write(out / f"{path.stem}.json", found)
    except Exception as problem:  # noqa: BLE001 - a peer may fail in any way; it is printed
        return {"failed": f"{type(problem).__name__}: {problem}"[:160]}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - started,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """Of this process; the system's own count would begin with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def write(path: Path, found: list[tuple[int, str, str | None]]) -> None:
    elements = [
        {
            "type": "Table" if table else "NarrativeText",
            "text": text,
            "metadata": {"page_number": page, **({"text_as_html": table} if table else {})},
        }
        for page, text, table in found
    ]
    path.write_text(json.dumps(elements), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    print(json.dumps(measured(chosen.name, chosen.files, chosen.out)))
