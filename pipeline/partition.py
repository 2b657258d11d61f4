"""Pages into unstructured Elements in reading order, in checkpointed batches.

`read_pages` runs inside a page process; `partition_batch` in the parent asks the pool for it and
writes what came back, once. What an element is does not depend on the batch it was read in. Knows
nothing of jobs, chunks or stores.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tablers

from errors import InputError, QuireError
from pipeline import language, pdfium, style
from pipeline.elements import KINDS, element, links_in
from pipeline.page import Box, PageContent, Style
from pipeline.pool import PageProcessDied, Pool
from pipeline.readers import figures, grid, layer, layout, ocr, reference, ruled, tables, text
from pipeline.readers.layout import Detector, Region
from pipeline.readers.order import reading_order
from pipeline.readers.text import Block
from pipeline.relations import attach_captions
from pipeline.router import STRATEGIES, Route, is_lost, route
from pipeline.source import Probe

VERSION = "7"
FIRST_BATCH = 2
BATCH = 8
CROP_DPI = 110
CROP_LONG_SIDE = 1600
OCR_DPI = 150
OCR_LEAST = 900
OCR_MOST_DPI = 600
OCR_LONG_SIDE = 2200
LAYOUT_DPI = 100
PAGE_SECONDS = 300  # the limit of CPU time ends a hang long before, except on a crowded machine
PAGE_CPU_SECONDS = 7  # a scan takes one, or two where it is turned

Seen = dict[int, tuple[Region, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOptions:
    """`languages` are ISO 639-1 codes or tesseract's own names, for OCR; `models` name the layout
    and the table model when the strategy is hi_res."""

    strategy: str = "auto"
    languages: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def checked(self) -> "PartitionOptions":
        if self.strategy not in STRATEGIES:
            raise InputError(
                "strategy_unknown",
                f"There is no strategy {self.strategy!r}.",
                f"Use one of: {', '.join(STRATEGIES)}.",
            )
        return self

    @classmethod
    def of(cls, spec: Mapping[str, Any], *models: str) -> "PartitionOptions":
        """What a job's spec asks for; the models are named when they have a part in it."""
        strategy = spec["strategy"]
        return cls(
            strategy=strategy,
            languages=tuple(spec["languages"]),
            models=models if strategy == "hi_res" else (),
        )

    def version(self) -> str:
        """Names what the elements were made with; part of their folder's name."""
        seen = json.dumps([VERSION, self.strategy, list(self.languages), *self.models])
        return f"v{VERSION}-{self.strategy}-{hashlib.sha256(seen.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRecord:
    """How one page was read; `error` is set when it was not."""

    page: int
    reader: str
    reason: str
    seconds: float
    elements: int
    error: dict[str, str] | None = None


PageRead = tuple[PageRecord, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pages `first` to `last`, counted from 1, both included."""

    index: int
    first: int
    last: int

    @property
    def pages(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    batch: Batch
    pages: tuple[PageRecord, ...]
    path: Path


def plan(probe: Probe, size: int = BATCH) -> tuple[Batch, ...]:
    """A small first batch, so that something shows at once, then equal ones."""
    starts = [1, *range(FIRST_BATCH + 1, probe.pages + 1, size)]
    ends = [s - 1 for s in starts[1:]] + [probe.pages]
    return tuple(
        Batch(index=i, first=a, last=b)
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
        if b >= a
    )


def partition_batch(
    pool: Pool,
    path: Path,
    batch: Batch,
    options: PartitionOptions,
    *,
    out: Path,
    crops: Path,
    detector: Callable[[], Detector] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> BatchResult:
    """Read the batch in the pool and write `out/batch-00000.jsonl`, unless it is there already.

    A page that cannot be read, or whose process dies, becomes a record with its reason. `detector` loads the models of hi_res when they are needed.
    """
    target = out / f"batch-{batch.index:05d}.jsonl"
    if not target.exists():
        crops.mkdir(parents=True, exist_ok=True)
        unstyled = options.strategy == "reference"  # the stock library looks for itself
        found = Style() if unstyled else _style(pool, path, out, cancelled)
        seen: Seen = {}
        if options.strategy == "hi_res" and detector is not None:
            seen = _detect(pool, path, batch, detector(), cancelled)
        read = _read(
            pool, path, batch, options, style=found, seen=seen, crops=crops, cancelled=cancelled
        )
        pages = list(read)
        records = [record for record, _ in pages]
        write_batch(target, records, [e for _, made in pages for e in made])
    done = tuple(PageRecord(**r) for r in read_head(target))
    return BatchResult(batch=batch, pages=done, path=target)


def _style(pool: Pool, path: Path, out: Path, cancelled: Callable[[], bool]) -> Style:
    """The style of the whole document: looked at once, kept beside its checkpoints."""
    kept = out / "style.json"
    if not kept.exists():
        try:
            found: Style = pool.run(
                style.look, path, seconds=60, cpu_seconds=6, cancelled=cancelled
            )
        except (PageProcessDied, InputError):
            found = Style()  # a hostile page in the sample costs this, not the document
        write_once(kept, json.dumps(asdict(found)))
    said = json.loads(kept.read_text(encoding="utf-8"))
    running = tuple((str(text), float(at)) for text, at in said["running"])
    return Style(running=running, headings=tuple(said["headings"]))


def write_once(path: Path, content: str) -> None:
    """Whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    aside.write_text(content, encoding="utf-8", errors="replace")
    aside.replace(path)


def write_batch(
    target: Path, records: Sequence[PageRecord], elements: Sequence[dict[str, Any]]
) -> None:
    """A checkpoint: the page records, a line per element, and beside it the names of its crops."""
    crops = sorted({n for e in elements if (n := e["metadata"].get("image_path"))})
    write_once(target.with_suffix(".crops"), "\n".join(crops))
    lines = [json.dumps({"pages": [asdict(r) for r in records]}, ensure_ascii=False)]
    lines += [json.dumps(e, ensure_ascii=False) for e in elements]
    write_once(target, "\n".join(lines) + "\n")


def read_batch(path: Path) -> tuple[list[PageRecord], list[dict[str, Any]]]:
    """The page records and the element dicts of a checkpoint."""
    with path.open(encoding="utf-8") as file:
        head = json.loads(next(file))
        return [PageRecord(**r) for r in head["pages"]], [json.loads(line) for line in file]


def read_head(path: Path) -> list[dict[str, Any]]:
    """The page records of a checkpoint alone, as dicts."""
    with path.open(encoding="utf-8") as file:
        return list(json.loads(next(file))["pages"])


def _detect(
    pool: Pool, path: Path, batch: Batch, detector: Detector, cancelled: Callable[[], bool]
) -> Seen:
    """The layout of each page that can be drawn; the others are read without one."""
    pictures: dict[int, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(batch.first, batch.last + 1):
            target = Path(folder) / f"{number}.png"
            try:
                pool.run(draw_page, path, number, target, seconds=30, cancelled=cancelled)
            except (PageProcessDied, InputError):
                continue
            pictures[number] = target
        found = detector.detect(list(pictures.values()))
    return dict(zip(pictures, found, strict=True))


def _read(
    pool: Pool,
    path: Path,
    batch: Batch,
    options: PartitionOptions,
    *,
    style: Style,
    seen: Seen,
    crops: Path,
    cancelled: Callable[[], bool],
) -> Iterator[PageRead]:
    """Every page of the batch. A process that dies takes only the page at fault with it: what came
    before is kept, that page is tried once more alone, and the others are read in another one."""
    first, alone = batch.first, False
    slow = options.strategy == "reference"
    while first <= batch.last:
        last = first if alone else batch.last
        try:
            for record, elements in pool.each(
                read_pages,
                path,
                first,
                last,
                options,
                style,
                crops,
                {n: seen[n] for n in range(first, last + 1) if n in seen},
                seconds=600 if slow else PAGE_SECONDS,
                cpu_seconds=600 if slow else PAGE_CPU_SECONDS,
                cancelled=cancelled,
            ):
                yield record, elements
                first = record.page + 1
            alone = False
        except PageProcessDied as problem:
            if alone or problem.code == "page_timeout":
                yield _failed(first, problem, 0.0), []
                first, alone = first + 1, False
            else:
                alone = True


def _failed(page: int, problem: QuireError, seconds: float) -> PageRecord:
    return PageRecord(
        page=page,
        reader="failed",
        reason=problem.message,
        seconds=round(seconds, 4),
        elements=0,
        error=problem.as_dict(),
    )


# Inside a page process


def draw_page(path: Path, number: int, target: Path) -> None:
    """The picture that the layout model sees."""
    with pdfium.opened(path) as document, pdfium.loaded(document, number) as page:
        picture = pdfium.render(page, dpi=LAYOUT_DPI, long_side=2000)
        picture.convert("RGB").save(target, "PNG", compress_level=1)


def read_pages(
    path: Path,
    first: int,
    last: int,
    options: PartitionOptions,
    style: Style,
    crops: Path,
    seen: Seen,
) -> Iterator[PageRead]:
    """Record and element dicts of each page of a range; crops are written under their hash."""
    if options.strategy == "reference":
        yield from _by_reference(path, first, last, options)
        return
    with pdfium.opened(path) as document:
        grids = _tablers(path)
        for number in range(first, last + 1):
            started = time.perf_counter()
            try:
                with pdfium.loaded(document, number) as page:
                    content = pdfium.content(page, number)
                    writer = _Writer(page, content, crops, style)
                    reader = _read_page(page, content, grids, options, writer, seen.get(number))
                made = writer.made
                _name_languages(made, options)
                attach_captions(made)
            except QuireError as problem:
                if not problem.permanent:
                    raise
                yield _failed(number, problem, time.perf_counter() - started), []
                continue
            record = PageRecord(
                page=number,
                reader=reader.reader,
                reason=reader.reason,
                seconds=round(time.perf_counter() - started, 4),
                elements=len(made),
            )
            yield record, made
        if grids is not None:
            grids.close()


def _by_reference(
    path: Path, first: int, last: int, options: PartitionOptions
) -> Iterator[PageRead]:
    started = time.perf_counter()
    found = reference.read(path, first, last, options.languages)
    each = (time.perf_counter() - started) / (last - first + 1)
    for number in range(first, last + 1):
        mine = [e for e in found if e["metadata"].get("page_number") == number]
        record = PageRecord(
            page=number, reader="reference", reason="as asked", seconds=each, elements=len(mine)
        )
        yield record, mine


def _name_languages(made: list[dict[str, Any]], options: PartitionOptions) -> None:
    words = " ".join(e["text"] for e in made)
    found = list(options.languages or language.detect(words))
    for one in made if found else ():
        one["metadata"]["languages"] = found


def _tablers(path: Path) -> Any | None:
    try:
        return tablers.Document(path)
    except (RuntimeError, ValueError):
        return None  # pdfium opened it; only the ruled-table search does without


def _read_page(
    page: Any,
    content: PageContent,
    grids: Any | None,
    options: PartitionOptions,
    writer: "_Writer",
    regions: tuple[Region, ...] | None,
) -> Route:
    """Give the writer what the page holds; returns how it was read and why so."""
    chosen = route(content, options.strategy)
    if chosen.reader == "blank":
        return chosen
    if chosen.reader == "text" and options.strategy != "fast" and layer.is_hidden(content):
        chosen = _checked(page, content, options)
    if options.strategy == "fast":
        writer.drawn(text.read(content, list(enumerate(content.words)), writer.style))
        return chosen
    if regions:
        note = f"{len(regions)} regions seen"
        if chosen.reader == "ocr":
            words = ocr.words(_scan(page), content.width, content.height, options.languages)
            content = replace(content, words=words)
            note += f", words by OCR: {chosen.reason}"
        found = layout.read(content, regions)
        if found:
            writer.ordered([p.thing for p in found])
            return Route("hi_res", note)
    if chosen.reader == "ocr":
        short = options.strategy != "ocr_only" and is_lost(content) and bool(content.words)
        try:
            answer = _recognised(_scan(page), content, options)
        except InputError as problem:
            if problem.code != "language_missing" or options.languages or not short:
                raise
            _text_page(content, grids, writer)
            return Route("text", f"{chosen.reason}; read as it is: {problem.message}")
        note = f"{chosen.reason}; {_how(answer)}"
        if short:
            letters = sum(len(thing.text) for thing in answer.things)
            if is_lost(replace(content, characters=letters)):
                _text_page(content, grids, writer)
                return Route("text", f"{note}; read as it is: OCR finds {letters} letters only")
        if answer.things:
            writer.ordered(answer.things)
            return Route("ocr", note)
        if content.characters < 25:
            writer.ordered([Box(0, 0, content.width, content.height)])  # the picture itself
            return Route("ocr", f"{note}; no text found")
        chosen = Route("text", f"{note}; OCR found none")
    _text_page(content, grids, writer)
    return chosen


def _recognised(picture: Any, content: PageContent, options: PartitionOptions) -> ocr.Read:
    """The page by OCR; once more when its text shows that it is in another language whose pack is
    installed, and nobody said which."""
    answer = ocr.read(picture, content.width, content.height, options.languages)
    if options.languages or answer.pack != "eng":
        return answer
    said = " ".join(thing.text for thing in answer.things)
    found = [code for code in language.detect(said) if code != "eng"]
    if not found or not ocr.installed(found[0]):
        return answer
    return ocr.read(picture, content.width, content.height, (found[0],))


def _how(answer: ocr.Read) -> str:
    said = [f"confidence {answer.confidence:.0f}"]
    if answer.turned:
        said.append(f"turned by {answer.turned}°")
    if answer.skew:
        said.append(f"set straight by {answer.skew:.1f}°")
    if answer.pack != "eng":
        said.append(f"language pack {answer.pack}")
    return "; ".join(said)


def _checked(page: Any, content: PageContent, options: PartitionOptions) -> Route:
    """Whether the invisible text of a scanned page says what its picture shows."""

    def read(box: Box) -> str:
        strip = pdfium.render(page, dpi=OCR_DPI, long_side=OCR_LONG_SIDE, gray=True, box=box)
        found = ocr.words(strip, box.width, box.height, options.languages)
        return " ".join(w.text for w in found)

    alike = layer.agreement(content, read)
    if alike is None:
        return Route("text", "invisible text over a picture, in letters that could not be checked")
    if alike < layer.TRUSTED:
        return Route("ocr", f"the invisible text is not what the picture shows ({alike:.0%} alike)")
    return Route("text", f"invisible text, as the picture shows it ({alike:.0%} alike)")


def _scan(page: Any) -> Any:
    """The picture for OCR: a page smaller than a hand is drawn larger, a poster smaller."""
    long_side = max(page.get_size())
    dpi = min(max(OCR_DPI, 72 * OCR_LEAST / max(long_side, 1.0)), OCR_MOST_DPI)
    return pdfium.render(page, dpi=dpi, long_side=OCR_LONG_SIDE, gray=True)


def _text_page(content: PageContent, grids: Any | None, writer: "_Writer") -> None:
    asked = grids if ruled.may_be_ruled(content.paths) else None
    page = asked.get_page(content.number - 1) if asked is not None else None
    found = tables.find_tables(content, page)
    boxes = [t.box for t in found]
    pictures = figures.find_figures(content, boxes)
    taken = [*boxes, *pictures]
    free = [(i, w) for i, w in enumerate(content.words) if not any(b.holds(w.box) for b in taken)]
    blocks = text.read(content, free, writer.style)
    placed: list[tuple[float, int, Any]] = [(b.index, 1, b) for b in blocks]
    for thing, box in [*((t, t.box) for t in found), *((p, p) for p in pictures)]:
        placed.append((_place(content, blocks, box), 0, thing))
    placed.sort(key=lambda item: item[:2])
    writer.drawn([thing for _, _, thing in placed])


def _place(content: PageContent, blocks: list[Block], box: Box) -> float:
    """Where a table or figure comes among the blocks: at its own first word, else before the
    nearest block below it."""
    inside = [i for i, w in enumerate(content.words) if box.holds(w.box)]
    if inside:
        return min(inside)
    below = [
        b for b in blocks if b.box.y0 >= box.y1 - 4 and b.box.x0 < box.x1 and b.box.x1 > box.x0
    ]
    if below:
        return min(below, key=lambda b: b.box.y0).index - 0.5
    return max((b.index for b in blocks), default=0) + 0.5


class _Writer:
    """Blocks, tables and figures of one page as element dicts, with crops of the latter two."""

    def __init__(self, page: Any, content: PageContent, crops: Path, style: Style) -> None:
        self._page = page
        self._content = content
        self._crops = crops
        self.style = style
        self.made: list[dict[str, Any]] = []

    def drawn(self, things: Sequence[Any]) -> None:
        """Things in the order they are drawn."""
        boxes = [thing if isinstance(thing, Box) else thing.box for thing in things]
        sorted_ = [things[i] for i in reading_order(boxes)]
        blocks = iter(text.mended([t for t in sorted_ if isinstance(t, Block)]))
        self.ordered([next(blocks) if isinstance(t, Block) else t for t in sorted_])

    def ordered(self, things: Iterable[Any]) -> None:
        """Things in the order they are read."""
        for thing in things:
            if isinstance(thing, Block):
                self._add_block(thing)
            elif isinstance(thing, grid.Table):
                self._add(
                    "Table",
                    thing.text,
                    thing.box,
                    text_as_html=grid.to_html(thing),
                    image_path=self._crop(thing.box),
                )
            else:
                inner = [w.text for w in self._content.words if thing.holds(w.box)]
                self._add("Image", " ".join(inner), thing, image_path=self._crop(thing))

    def _add_block(self, block: Block) -> None:
        kind = block.kind if block.kind in KINDS else "UncategorizedText"
        depth = None
        if kind == "Title":
            larger = [size for size in self.style.headings if size > block.size + 0.3]
            depth = min(len(larger), 5)
        self._add(kind, block.text, block.box, category_depth=depth)

    def _add(self, kind: str, words: str, box: Box, **metadata: Any) -> None:
        made = element(
            kind,
            words,
            box,
            page=self._content.number,
            size=(self._content.width, self._content.height),
            sequence=len(self.made),
            **links_in(words, box, self._content),
            **metadata,
        )
        self.made.append(made)

    def _crop(self, box: Box) -> str | None:
        """The name of the crop, written under the hash of its bytes."""
        picture = pdfium.crop(self._page, box, dpi=CROP_DPI, long_side=CROP_LONG_SIDE)
        if picture is None:
            return None
        name = f"{hashlib.sha256(picture).hexdigest()}.jpg"
        path = self._crops / name
        if not path.exists():
            aside = path.with_name(f".{name}.{os.getpid()}")
            aside.write_bytes(picture)
            aside.replace(path)
        return name
