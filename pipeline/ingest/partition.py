"""A document's pages into elements, in checkpointed batches.

`partition_batch` asks page processes for the pages (`pdf/read_pages.py`) and writes what came back, once.
Knows nothing of jobs, chunks or stores.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from errors import InputError, PageProcessDied
from pipeline.ingest import checkpoints
from pipeline.options import PartitionOptions
from pipeline.pdf.document_style import look
from pipeline.pdf.hi_res import Detector
from pipeline.pdf.page import PageRecord, Style
from pipeline.pdf.probe import Probe
from pipeline.pdf.read_pages import APART, PageRead, Seen, draw_page, failed, read_pages
from pipeline.processes.pool import Lane, Limits, Pool

FIRST_BATCH = 2
BATCH = 8
PAGE_SECONDS = 300  # the limit of CPU time ends a hang long before, except on a crowded machine
PAGE_CPU_SECONDS = 7  # a scan takes one, or two where it is turned
STOCK_MB = 12_000  # of addresses: imports alone map 5 GB, and the library fills up to 4.3


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
    """Read the batch in the pool and write `out/batch-00000.jsonl`, unless it is there, and whole.

    A page that cannot be read, or whose process dies, becomes a record with its reason. `detector`
    loads the models of hi_res when they are needed.
    """
    target = out / f"batch-{batch.index:05d}.jsonl"
    if not checkpoints.is_whole(target):
        crops.mkdir(parents=True, exist_ok=True)
        found = Style()
        if options.strategy != "reference":  # the stock library looks for itself
            found = style_of(pool, path, out, cancelled=cancelled)
        seen: Seen = {}
        if options.strategy == "hi_res" and detector is not None:
            seen = _detect(pool, path, batch, detector(), cancelled)
        pages = _read(
            pool, path, batch, options, style=found, seen=seen, crops=crops, cancelled=cancelled
        )
        records = [record for record, _ in pages]
        checkpoints.write_batch(target, records, [e for _, made in pages for e in made])
    done = tuple(PageRecord(**r) for r in checkpoints.read_head(target))
    return BatchResult(batch=batch, pages=done, path=target)


def style_of(
    pool: Pool, path: Path, out: Path, *, cancelled: Callable[[], bool] = lambda: False
) -> Style:
    """The style of the whole document: looked at once, and kept beside its checkpoints. Who reads
    batches at the same time asks for it before the first, or each of them looks."""
    kept = out / checkpoints.STYLE
    said = checkpoints.read_json(kept)
    if said is None:
        try:
            found: Style = pool.run(look, path, seconds=60, cpu_seconds=6, cancelled=cancelled)
        except (PageProcessDied, InputError):
            found = Style()  # a hostile page in the sample costs this, not the document
        checkpoints.write_json(kept, asdict(found))
        said = checkpoints.read_json(kept)
    running = tuple((str(text), float(at)) for text, at in said["running"])
    return Style(running=running, headings=tuple(said["headings"]))


def _detect(
    pool: Pool, path: Path, batch: Batch, detector: Detector, cancelled: Callable[[], bool]
) -> Seen:
    """The layout of each page that can be drawn; the others are read without one."""
    pictures: dict[int, Path] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(batch.first, batch.last + 1):
            target = Path(folder) / f"{number}.png"
            try:
                target.write_bytes(
                    pool.run(draw_page, path, number, seconds=30, cancelled=cancelled)
                )
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
) -> list[PageRead]:
    """Every page of the batch: one process reads what needs only its text layer, then as many as
    there are read the pages that take OCR."""
    reference = options.strategy == "reference"
    limits = Limits(
        seconds=600 if reference else PAGE_SECONDS,
        cpu_seconds=600 if reference else PAGE_CPU_SECONDS,
        memory_mb=STOCK_MB if reference else pool.memory_mb,
    )

    def in_turn(lane: Lane, left: list[int], *, apart: bool = False) -> list[PageRead]:
        """A process that dies takes only the page at fault with it: what came before is kept, that
        page is tried once more alone, and the others are read in another one."""
        made: list[PageRead] = []
        alone = False
        while left:
            now = left[:1] if alone else left
            regions = {n: seen[n] for n in now if n in seen}
            try:
                for read in lane.each(read_pages, path, now, options, style, crops, regions, apart):
                    made.append(read)
                    left = left[1:]
                alone = False
            except PageProcessDied as problem:
                at_fault = alone or problem.code == "page_timeout"
                if at_fault:
                    made.append((failed(left[0], problem, 0.0), []))
                    left = left[1:]
                alone = not at_fault
        return made

    def beside(share: list[int]) -> list[PageRead]:
        with pool.held(limits, cancelled) as lane:
            return in_turn(lane, share)

    numbers = list(range(batch.first, batch.last + 1))
    with ThreadPoolExecutor(pool.processes) as threads:
        with pool.held(limits, cancelled) as lane:
            first = in_turn(lane, numbers, apart=len(numbers) > 1)
            slow = [record.page for record, _ in first if record.reader == APART]
            shares = [slow[i :: pool.processes] for i in range(pool.processes)]
            others = [threads.submit(beside, share) for share in shares[1:] if share]
            made = [*first, *in_turn(lane, shares[0])]
        made += [read for other in others for read in other.result()]
    found = {record.page: (record, elements) for record, elements in made}
    return [found[n] for n in numbers]
