"""The stock library, unchanged, in a page process of its own size: real code over tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import InputError
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.partition import Batch, BatchResult, partition_batch
from pipeline.options import PartitionOptions
from pipeline.processes.pool import Pool
from tests.conftest import SAMPLES
from tests.in_child import limits
from tests.stock_models import layout_model, table_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # imports alone take ten seconds


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """With processes that are too small for the library."""
    with Pool(1, memory_mb=600) as made:
        yield made


def read(pool: Pool, work: Path, *models: Path | str) -> BatchResult:
    options = PartitionOptions(strategy="reference", models=tuple(map(str, models)))
    batch = Batch(index=0, first=1, last=1)
    return partition_batch(
        pool, SAMPLES / "report.pdf", batch, options, out=work / "o", crops=work / "c"
    )


def test_models_that_cannot_be_loaded_are_told(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(pool, tmp_path, "", tmp_path)
    assert caught.value.code == "reference_models_missing"


def test_reference_is_the_stock_library(pool: Pool, tmp_path: Path) -> None:
    done = read(pool, tmp_path, layout_model(tmp_path / "l.onnx"), table_model(tmp_path / "table"))
    (record,), found = read_batch(done.path)
    assert (record.reader, record.error) == ("reference", None)
    assert record.elements == len(found) > 1
    assert "Table" in {e["type"] for e in found}
    assert {e["metadata"]["page_number"] for e in found} == {1}
    # Its own pixels at 200 dpi; Quire's elements come in points.
    assert {e["metadata"]["coordinates"]["layout_width"] for e in found} == {1654}
    assert pool.run(limits, seconds=20) == ("1", "1", 600)
