"""The stock library on one page range: `partition_pdf(strategy="hi_res")`, for comparison.

Slow and large: it renders each page several times and needs its own model weights.
"""

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pikepdf

from errors import InputError, QuireError


def read(
    path: Path, first: int, last: int, languages: Sequence[str], models: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Element dicts of those pages, as the stock library makes them. `models`: a YOLOX file and a
    table model in the place of the library's own."""
    part = io.BytesIO()
    with pikepdf.open(path) as document, pikepdf.new() as cut:
        cut.pages.extend(document.pages[first - 1 : last])
        cut.save(part)
    part.seek(0)
    # 800 MB of imports, in page processes that are asked for it only
    stock = importlib.import_module("unstructured.partition.pdf")
    layout, table = models or ("", "")
    try:
        prepare(layout, table)
        found = stock.partition_pdf(
            file=part,
            strategy="hi_res",
            languages=list(languages) or ["eng"],
            starting_page_number=first,
            infer_table_structure=True,
            ocr_mode="individual_blocks",
            pdf_image_dpi=200,
        )
    except (OSError, QuireError) as problem:
        raise InputError(
            "reference_models_missing",
            "The stock reader's models cannot be loaded here.",
            "Use another strategy, or bring them into the Hub's local cache first.",
        ) from problem
    return [element.to_dict() for element in found]


def prepare(layout: str, table: str) -> None:
    """Both models, the library's own where none is named; its own loading of the table model fails on
    the configuration as published (see `detection.py`)."""
    if layout:
        _use_layout_model(layout)
    tables = importlib.import_module("unstructured_inference.models.tables")
    agent = tables.tables_agent
    if getattr(agent, "model", None) is None:
        ours = importlib.import_module("pipeline.models.detection")
        limits = tables.inference_config
        agent.device = "cpu"
        agent.feature_extractor, agent.model = ours.load_boxes(table or tables.DEFAULT_MODEL)
        agent.feature_extractor.size = {
            "shortest_edge": limits.IMG_PROCESSOR_SHORTEST_EDGE,
            "longest_edge": limits.IMG_PROCESSOR_LONGEST_EDGE,
        }


def _use_layout_model(path: str) -> None:
    base = importlib.import_module("unstructured_inference.models.base")
    yolox = importlib.import_module("unstructured_inference.models.yolox")
    given = {"model_path": path, "label_map": yolox.YOLOX_LABEL_MAP}
    base.register_new_model({"yolox": given}, yolox.UnstructuredYoloXModel)
