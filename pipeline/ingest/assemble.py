"""The elements of a whole document, from its checkpoints. Runs in the parent: what it imports is too
large for page processes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.ingest.checkpoints import read_batch
from pipeline.pdf.elements import FURNITURE
from pipeline.pdf.relations import link_tables

_ALSO_BELOW = ("Image", "Formula", "CodeSnippet", "Form")  # the library forgets these


def document_elements(batches: Iterable[Path]) -> list[dict[str, Any]]:
    """All element dicts of a document in page order, each under the title it stands below, a table
    that goes on over a page linked to its beginning."""
    from unstructured.partition.common.metadata import (  # a second
        HIERARCHY_RULE_SET,
        set_element_hierarchy,
    )
    from unstructured.staging.base import elements_from_dicts

    found = [e for path in batches for e in read_batch(path)[1]]
    read = [e for e in found if e["type"] not in FURNITURE]  # a running head is nobody's parent
    with_parents = set_element_hierarchy(
        elements_from_dicts(read), {"Title": [*HIERARCHY_RULE_SET["Title"], *_ALSO_BELOW]}
    )
    for element, typed in zip(read, with_parents, strict=True):
        if typed.metadata.parent_id:
            element["metadata"]["parent_id"] = typed.metadata.parent_id
    link_tables(found)
    return found
