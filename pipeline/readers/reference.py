"""The stock library on one page range: `partition_pdf(strategy="hi_res")`, for comparison.

Slow and large: it renders each page several times and needs its own model weights.
"""

import importlib
import io
from pathlib import Path
from typing import Any

import pikepdf

from errors import Unavailable


def read(path: Path, first: int, last: int, languages: tuple[str, ...]) -> list[dict[str, Any]]:
    """Element dicts of those pages, as the stock library makes them."""
    part = io.BytesIO()
    with pikepdf.open(path) as document, pikepdf.new() as cut:
        cut.pages.extend(document.pages[first - 1 : last])
        cut.save(part)
    part.seek(0)
    # 800 MB of imports, in page processes that are asked for it only
    stock = importlib.import_module("unstructured.partition.pdf")
    try:
        found = stock.partition_pdf(
            file=part,
            strategy="hi_res",
            languages=list(languages) or ["eng"],
            starting_page_number=first,
            infer_table_structure=True,
            ocr_mode="individual_blocks",
            pdf_image_dpi=200,
        )
    except OSError as problem:
        raise Unavailable(
            "reference_models_missing",
            "The stock reader's models cannot be loaded here.",
            "Use another strategy, or a machine that reaches the Hub.",
        ) from problem
    return [element.to_dict() for element in found]
