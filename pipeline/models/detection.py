"""Layout and table models: pictures of pages to regions, rows and columns. Knows nothing of elements."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from transformers import (
    CONFIG_MAPPING,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    PretrainedConfig,
)

from errors import InputError, Unavailable
from pipeline.models.batching import best_device, lanes, side_by_side
from pipeline.models.weights import UNLOADABLE, folder_of
from pipeline.pdf.hi_res import HERON, Region, settle
from pipeline.pdf.hi_res import kind as layout_kind
from pipeline.pdf.page import Box

_LAYOUT_THRESHOLD = 0.3
_TABLE_THRESHOLD = 0.5
_MARGIN = 10  # pixels around a table
_TOGETHER = 8  # pictures on a GPU; a CPU gains nothing from more than one
_SIDE = 1000  # pixels of the square that the table model is given


@dataclass(frozen=True, slots=True)
class _Boxes:
    """One detection model: pictures to labelled boxes, as shares of the picture."""

    processor: Any
    model: Any
    device: str
    names: Mapping[int, str]
    together: int
    lanes: int

    def find(self, pictures: list[Any], threshold: float) -> list[list[tuple[str, float, Box]]]:
        groups = [pictures[i : i + self.together] for i in range(0, len(pictures), self.together)]
        return side_by_side(self.lanes, lambda part: self._forward(part, threshold), groups)

    def _forward(self, part: list[Any], threshold: float) -> list[list[tuple[str, float, Box]]]:
        given = self.processor(images=part, return_tensors="pt").to(self.device)
        half = torch.autocast("cuda", torch.float16, enabled=self.device == "cuda")
        with torch.inference_mode(), half:
            seen = self.model(**given)
        answers = self.processor.post_process_object_detection(
            seen, threshold=threshold, target_sizes=torch.ones(len(part), 2)
        )
        return [
            [
                (self.names[int(label)], float(score), Box(*(float(v) for v in box)))
                for label, score, box in zip(a["labels"], a["scores"], a["boxes"], strict=True)
                if bool(torch.isfinite(box).all())
            ]
            for a in answers
        ]


@dataclass(frozen=True, slots=True)
class LoadedDetector:
    """Layout regions, and rows and columns of tables; the same for any batch size."""

    layout: _Boxes
    table: _Boxes

    def detect(self, pictures: Sequence[Path]) -> list[tuple[Region, ...]]:
        """See `layout.Detector`. Regions of a class that Quire does not know are left out."""
        pages = []
        for path in pictures:
            with Image.open(path) as opened:
                pages.append(opened.convert("RGB"))
        seen = self.layout.find(pages, _LAYOUT_THRESHOLD)
        regions = [
            settle([Region(k, s, b) for label, s, b in page if (k := layout_kind(label))])
            for page in seen
        ]
        wanted = [
            (p, i)
            for p, page in enumerate(regions)
            for i, r in enumerate(page)
            if r.kind == "Table"
        ]
        squares = [_square(pages[p], regions[p][i].box) for p, i in wanted]
        answers = self.table.find([s.picture for s in squares], _TABLE_THRESHOLD) if squares else []
        for (p, i), square, found in zip(wanted, squares, answers, strict=True):
            regions[p][i] = _structured(regions[p][i], square, found)
        return [tuple(page) for page in regions]


class _Square(NamedTuple):
    """A table cut out with a margin on a white square, and the square's place as page shares: so
    that every table has the same size for the model, whatever its neighbours in the batch."""

    picture: Any
    place: Box


def _square(page: Any, box: Box) -> _Square:
    wide, high = page.size
    x0, y0 = max(0, int(box.x0 * wide) - _MARGIN), max(0, int(box.y0 * high) - _MARGIN)
    x1, y1 = min(wide, int(box.x1 * wide) + _MARGIN), min(high, int(box.y1 * high) + _MARGIN)
    side = max(x1 - x0, y1 - y0, 1)
    picture = Image.new("RGB", (side, side), "white")
    picture.paste(page.crop((x0, y0, x1, y1)), (0, 0))
    place = Box(x0 / wide, y0 / high, (x0 + side) / wide, (y0 + side) / high)
    return _Square(picture.resize((_SIDE, _SIDE)), place)


def _structured(region: Region, square: _Square, found: list[tuple[str, float, Box]]) -> Region:
    """With the rows and columns that the table model saw; a weaker one on top of a better is
    dropped."""
    p = square.place
    by_label: dict[str, list[Box]] = {}
    for label, _, b in sorted(found, key=lambda f: -f[1]):
        box = Box(
            p.x0 + b.x0 * p.width, p.y0 + b.y0 * p.height,
            p.x0 + b.x1 * p.width, p.y0 + b.y1 * p.height,
        )  # fmt: skip
        kept = by_label.setdefault(label, [])
        if box.area and all(box.overlap(k) <= 0.5 * min(box.area, k.area) for k in kept):
            kept.append(box)
    rows = sorted(by_label.get("table row", []), key=lambda b: (b.y0, b.y1))
    heads = by_label.get("table column header", [])
    headers = 0
    while headers < len(rows) and any(
        rows[headers].overlap(h) > 0.5 * rows[headers].area for h in heads
    ):
        headers += 1
    return region._replace(
        rows=tuple(rows),
        columns=tuple(sorted(by_label.get("table column", []), key=lambda b: (b.x0, b.x1))),
        spans=tuple(
            by_label.get("table spanning cell", []) + by_label.get("table projected row header", [])
        ),
        headers=headers,
    )


def load_detector(layout: str, table: str, *, threads: int | None = None) -> LoadedDetector:
    """Both models on the best device here; `name@revision` or a folder, safetensors only."""
    return LoadedDetector(
        layout=_boxes(layout, threads, known=lambda label: layout_kind(label) is not None),
        table=_boxes(table, threads, known=lambda label: label == "table row"),
    )


def _boxes(name: str, threads: int | None, *, known: Callable[[str], bool]) -> _Boxes:
    device = best_device()
    try:
        processor, model = load_boxes(name)
    except (InputError, Unavailable) as bad:
        raise InputError(
            "layout_model_missing",
            f"The model {name}, which hi_res needs, cannot be loaded here: {bad.message}",
            "Use auto, or a machine that reaches the Hub; see QUIRE_LAYOUT_MODEL and QUIRE_TABLE_MODEL.",
        ) from bad
    except UNLOADABLE as bad:
        raise InputError(
            "layout_model_unusable",
            f"{name} cannot be loaded as a model that finds boxes.",
            "Use an object detection model with safetensors weights.",
        ) from bad
    names = _names(model.config.id2label)
    if not any(map(known, names.values())):
        raise InputError(
            "layout_model_unusable",
            f"The model {name} has no class that Quire knows.",
            "Use a layout model with the classes of DocLayNet, a table model with table row.",
        )
    return _Boxes(
        processor=processor,
        model=model.to(device),
        device=device,
        names=names,
        together=1 if device == "cpu" else _TOGETHER,
        lanes=lanes(device, threads),
    )


def load_boxes(name: str) -> tuple[Any, Any]:
    """Processor and model of what finds boxes, as published; raises what the libraries raise."""
    folder = folder_of(name)
    model = AutoModelForObjectDetection.from_pretrained(
        folder, config=_configuration(folder), use_safetensors=True, local_files_only=True
    )
    return _processor(folder), model.eval()


def _configuration(folder: Path) -> Any:
    """As published, but for what transformers 5 refuses: Table Transformer's says null for no."""
    given, _ = PretrainedConfig.get_config_dict(folder, local_files_only=True)
    no = {k: False for k in ("dilation", "use_pretrained_backbone") if given.get(k, "") is None}
    return CONFIG_MAPPING[given["model_type"]].from_dict({**given, **no})


def _processor(folder: Path) -> Any:
    """As published; Table Transformer's names the longest edge only, which transformers 5 refuses."""
    made: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    longest = made.size.get("longest_edge")
    if longest and not made.size.get("shortest_edge"):
        made.size = {"shortest_edge": longest, "longest_edge": longest}
    return made


def _names(given: Mapping[int, str]) -> dict[int, str]:
    """The classes by number; those of docling's models where the repository does not name them."""
    names = {int(i): str(name) for i, name in given.items()}
    bare = all(name.startswith("LABEL_") for name in names.values())
    return dict(enumerate(HERON)) if bare and len(names) == len(HERON) else names
