"""hi_res: the real loading and batching code over tiny models, and a detector that is never wrong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pikepdf
import pytest
import torch
from PIL import Image

from errors import InputError
from pipeline.__main__ import main
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.partition import Batch, partition_batch
from pipeline.models.detection import _square, _structured, load_detector
from pipeline.options import PartitionOptions
from pipeline.pdf import hi_res
from pipeline.pdf.hi_res import Region, kind
from pipeline.pdf.page import Box, PageContent, Word
from pipeline.pdf.tables.table import to_html
from pipeline.processes.pool import Pool
from tests.conftest import SAMPLES
from tests.tiny_models import layout_model, table_model

HI_RES = PartitionOptions(strategy="hi_res")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(layout_model(folder / "layout")), str(table_model(folder / "table"))


def drawn(tmp_path: Path, text: bytes, rotate: int = 0, crop: Sequence[int] | None = None) -> Path:
    """One page of 400 × 300 points."""
    path = tmp_path / "drawn.pdf"
    with pikepdf.new() as made:
        page = made.add_blank_page(page_size=(400, 300))
        page.Contents = made.make_stream(text)
        page.Resources = pikepdf.Dictionary(
            Font=pikepdf.Dictionary(
                F=pikepdf.Dictionary(
                    Type=pikepdf.Name.Font, Subtype=pikepdf.Name.Type1,
                    BaseFont=pikepdf.Name.Helvetica,
                )
            )
        )  # fmt: skip
        page.Rotate = rotate
        if crop:
            page.CropBox = pikepdf.Array(crop)
        made.save(path)
    return path


class Ink:
    """Answers with the one box that holds all ink of a picture."""

    def detect(self, pictures: Sequence[Path]) -> list[tuple[Region, ...]]:
        found = []
        for path in pictures:
            with Image.open(path) as opened:
                box = opened.convert("L").point(lambda v: 255 if v < 128 else 0).getbbox()
                assert box
                wide, high = opened.size
            share = Box(box[0] / wide, box[1] / high, box[2] / wide, box[3] / high)
            found.append((Region("Title", 0.9, share),))
        return found


CROP = (50, 50, 350, 250)


@pytest.mark.parametrize(
    ("rotate", "crop", "size", "wanted"),
    [
        (0, None, (400, 300), (148, 91)),
        (90, None, (300, 400), (209, 148)),
        (180, None, (400, 300), (252, 209)),
        (270, None, (300, 400), (91, 252)),
        (0, CROP, (300, 200), (98, 41)),
        (90, CROP, (200, 300), (159, 98)),
        (270, CROP, (200, 300), (41, 202)),
    ],
)
def test_a_region_lands_where_the_ink_is(
    tmp_path: Path,
    rotate: int,
    crop: Sequence[int] | None,
    size: tuple[int, int],
    wanted: tuple[int, int],
) -> None:
    path = drawn(tmp_path, b"BT /F 24 Tf 100 200 Td (Harbour) Tj ET", rotate, crop)
    with Pool(1) as pool:
        result = partition_batch(
            pool, path, Batch(index=0, first=1, last=1), HI_RES,
            out=tmp_path / "out", crops=tmp_path / "crops", detector=Ink,
        )  # fmt: skip
    assert result.pages[0].reader == "hi_res"
    element = read_batch(result.path)[1][0]
    assert (element["type"], element["text"]) == ("Title", "Harbour")
    place = element["metadata"]["coordinates"]
    assert (place["layout_width"], place["layout_height"]) == size
    (x0, y0), _, (x1, y1), _ = place["points"]
    middle = ((x0 + x1) / 2, (y0 + y1) / 2)
    assert middle == pytest.approx(wanted, abs=6)


@pytest.mark.slow
def test_tiny_models_read_a_real_pdf(models: tuple[str, str], tmp_path: Path) -> None:
    made = main([
        "partition", str(SAMPLES / "report.pdf"), "--out", str(tmp_path),
        "--strategy", "hi_res", "--layout-model", models[0], "--table-model", models[1],
    ])  # fmt: skip
    assert made == 0
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert "Rainfall in the valley" in text


@pytest.mark.slow
def test_a_batch_changes_nothing(models: tuple[str, str], tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        picture = Image.new("RGB", (300 + 50 * number, 400), "white")
        picture.paste("black", (20, 30 * (number + 1), 200, 300))
        paths.append(tmp_path / f"{number}.png")
        picture.save(paths[-1])
    detector = load_detector(*models)
    together = detector.detect(paths)
    alone = [detector.detect([p])[0] for p in paths]
    assert any(together)
    for a, b in zip(together, alone, strict=True):
        assert [r.kind for r in a] == [r.kind for r in b]
        for x, y in zip(a, b, strict=True):
            assert x.box == pytest.approx(y.box, abs=1e-4)


def test_a_batch_that_does_not_fit_the_memory_is_halved(
    models: tuple[str, str], tmp_path: Path
) -> None:
    """The model itself says so, as CUDA does, for more than two pictures at once."""
    path = tmp_path / "page.png"
    picture = Image.new("RGB", (300, 400), "white")
    picture.paste("black", (20, 30, 200, 300))
    picture.save(path)
    detector = load_detector(*models)
    detector = replace(detector, layout=replace(detector.layout, together=8))
    (wanted,) = detector.detect([path])
    inner = detector.layout.model
    forward, seen = inner.forward, []

    def cramped(pixel_values: Any, **given: Any) -> Any:
        seen.append(len(pixel_values))
        if len(pixel_values) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(pixel_values, **given)

    inner.forward = cramped
    found = detector.detect([path] * 5)
    assert seen == [5, 2, 3, 1, 2]
    for regions in found:
        assert [r.kind for r in regions] == [r.kind for r in wanted]


def test_models_that_cannot_serve_are_told_at_once(models: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_detector(str(tmp_path / "none"), models[1])
    assert caught.value.code == "layout_model_missing"
    with pytest.raises(InputError) as caught:
        load_detector(models[0], models[0])
    assert caught.value.code == "layout_model_unusable"


def test_classes_that_a_repository_does_not_name_are_doclings(
    models: tuple[str, str], tmp_path: Path
) -> None:
    bare = layout_model(tmp_path / "bare", [f"LABEL_{i}" for i in range(17)])
    names = load_detector(str(bare), models[1]).layout.names
    assert (names[0], names[8], names[16]) == ("Caption", "Table", "Key-Value Region")
    assert all(kind(name) for name in names.values())
    other = layout_model(tmp_path / "other", ["LABEL_0", "LABEL_1"])
    with pytest.raises(InputError) as caught:
        load_detector(str(other), models[1])
    assert caught.value.code == "layout_model_unusable"


def page(*words: tuple[str, float, float]) -> PageContent:
    made = tuple(Word(text=t, box=Box(x, y, x + 20, y + 10), size=10) for t, x, y in words)
    return PageContent(
        number=1, width=100, height=100, words=made, paths=(), images=(),
        characters=sum(len(w.text) for w in made), garbled=0, objects=len(made),
    )  # fmt: skip


def test_cells_hold_the_words_of_the_pdf() -> None:
    content = page(("Year", 10, 10), ("Tons", 60, 10), ("1999", 10, 40), ("12", 60, 40))
    region = Region(
        "Table", 0.9, Box(0, 0, 1, 0.6),
        rows=(Box(0, 0.05, 1, 0.3), Box(0, 0.3, 1, 0.6)),
        columns=(Box(0, 0, 0.5, 0.6), Box(0.5, 0, 1, 0.6)), headers=1,
    )  # fmt: skip
    (only,) = hi_res.read(content, [region])
    assert not isinstance(only.thing, Box)
    assert to_html(only.thing) == (  # type: ignore[arg-type]
        "<table><thead><tr><th>Year</th><th>Tons</th></tr></thead>"
        "<tbody><tr><td>1999</td><td>12</td></tr></tbody></table>"
    )
    spanning = region._replace(spans=(Box(0, 0.05, 1, 0.3),))
    (only,) = hi_res.read(content, [spanning])
    assert '<th colspan="2">Year Tons</th>' in to_html(only.thing)  # type: ignore[arg-type]


def test_no_word_is_lost_and_boxes_off_the_page_are_clipped() -> None:
    content = page(("covered", 10, 10), ("forgotten", 10, 80))
    regions = [
        Region("Title", 0.9, Box(-5, -5, 0.9, 0.4)),
        Region("NarrativeText", 0.5, Box(0, 0, 0.9, 0.4)),
        Region("Title", 0.9, Box(2, 2, 3, 3)),
    ]
    found = hi_res.read(content, regions)
    assert [p.thing.text for p in found if not isinstance(p.thing, Box)] == ["covered", "forgotten"]


def test_a_table_is_cut_out_square_and_its_rows_go_back_to_their_place() -> None:
    picture = Image.new("RGB", (1000, 2000))
    region = Region("Table", 0.9, Box(0.2, 0.4, 0.6, 0.5))
    square = _square(picture, region.box)
    # 420 × 220 pixels with the margin, on a square of 420: one row over the table's upper half.
    upper = (10 / 420, 10 / 420, 410 / 420, 110 / 420)
    found = _structured(
        region, square, [("table row", 0.9, Box(*upper)), ("table column header", 0.9, Box(*upper))]
    )
    assert found.rows[0] == pytest.approx((0.2, 0.4, 0.6, 0.45), abs=1e-6)
    assert found.headers == 1


@pytest.mark.parametrize(
    ("label", "wanted"),
    [("Section-header", "Title"), ("Key-Value Region", "Form"), ("document_index", "Table"), ("cat", None)],
)  # fmt: skip
def test_class_names_are_unstructureds(label: str, wanted: str | None) -> None:
    assert kind(label) == wanted
