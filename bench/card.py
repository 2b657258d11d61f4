"""`python bench/card.py TEXTS.json [PART …]`: what a real card makes of the heavy steps.

TEXTS.json is a list of chunks' texts. Parts: `embed`, plain sentence-transformers and Quire on the card
and on the processor, in one run; `layout`, layout and table models of the real size with random
weights, whose answers mean nothing but take as long; `borrow`, the real `spaces` package, whose forks
use the card, with the tests' device API. Says nothing of ZeroGPU's own service.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pypdfium2
import torch
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.embed import cosines
from pipeline.models import detection
from pipeline.models.embedding import LoadedModel, load_encoder
from pipeline.models.gpu import STEPS, read_parts
from pipeline.models.weights import folder_of
from settings import DEFAULT_MODEL
from tests.space.device import in_zero, started
from tests.stock_models import table_model
from tests.tiny_models import layout_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = 64


def timed(work: Callable[[], Any], runs: int = 3) -> tuple[Any, float]:
    """What it made, and the median seconds after a first run that warms up."""
    made, spent = work(), []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return made, statistics.median(spent)


def row(name: str, value: str) -> None:
    print(f"{name:58s} {value}", flush=True)


def on_processor(name: str) -> LoadedModel:
    """The model in float32, off the card: what all others are held against."""
    model = SentenceTransformer(
        str(folder_of(name)), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    size = int(model.get_embedding_dimension() or 0)
    return LoadedModel(name, size, "cpu", model, copy.deepcopy(model.tokenizer), 1024)


def embed(name: str, texts: list[str]) -> None:
    quire = load_encoder(name)
    wanted = on_processor(name).encode(texts[::10])
    plain = SentenceTransformer(
        str(folder_of(name)), device="cuda", model_kwargs={"dtype": torch.float32}
    )
    first, slow = timed(lambda: plain.encode(texts, show_progress_bar=False))
    row("sentence-transformers, float32, defaults", f"{len(texts) / slow:,.0f} texts/s")
    torch.cuda.reset_peak_memory_stats()
    ours, fast = timed(lambda: quire.encode(texts))
    peak = torch.cuda.max_memory_allocated() / 2**20
    kind = next(quire.model.parameters()).dtype
    row(
        f"Quire, {kind}, {quire.tokens:,} tokens at once",
        f"{len(texts) / fast:,.0f} texts/s, {slow / fast:.2f} times; peak {peak:,.0f} MB",
    )
    row("  of which finding the lengths", f"{timed(lambda: quire._lengths(texts))[1] / fast:.0%}")
    row("smallest cosine to the processor in float32", f"{cosines(ours[::10], wanted).min():.6f}")
    row("  of plain float32 on the card", f"{cosines(first[::10], wanted).min():.6f}")
    for tokens in (256, 4096):
        again = replace(quire, tokens=tokens)
        made, seconds = timed(lambda again=again: again.encode(texts), 1)
        row(
            f"  with {tokens:,} tokens at once",
            f"{cosines(made, ours).min():.6f} to the above, {len(texts) / seconds:,.0f} texts/s",
        )
    long = [" ".join(texts)[:1500]] * 2048
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 400 * 2**20) / total)
    before = torch.cuda.memory_stats()["num_ooms"]
    made = replace(quire, tokens=1 << 20).encode(long)
    row(
        "2,048 long texts in 400 MB",
        f"{torch.cuda.memory_stats()['num_ooms'] - before} times out of memory, halved; "
        f"all there: {len(made) == len(long)}, alike: {cosines(made[:1] * len(made), made).min():.6f}",
    )
    torch.cuda.set_per_process_memory_fraction(1.0)


def pictures() -> list[Any]:
    found = []
    for file in sorted((ROOT / "samples").glob("*.pdf")):
        with pypdfium2.PdfDocument(file) as document:
            found += [page.render(scale=150 / 72).to_pil().convert("RGB") for page in document]
    return [found[i % len(found)] for i in range(PAGES)]


def layout() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        models = (
            str(layout_model(folder / "layout", tiny=False)),
            str(table_model(folder / "table", tiny=False)),
        )
        there = detection.load_detector(*models)
        pages = pictures()
        squares = [page.resize((1000, 1000)) for page in pages]
        for name, boxes, given in (
            ("layout", there.layout, pages),
            ("table", there.table, squares),
        ):
            processor = replace(boxes, model=boxes.model.cpu(), device="cpu", together=1)
            _, slow = timed(lambda b=processor, g=given[:4]: b.find(g, 0.9), 1)
            boxes.model.to(boxes.device)
            for together in (1, 8, 32):
                wide = replace(boxes, together=together)
                torch.cuda.reset_peak_memory_stats()
                _, fast = timed(lambda w=wide, g=given: w.find(g, 0.9))
                peak = torch.cuda.max_memory_allocated() / 2**20
                row(
                    f"{name}, {together} at once",
                    f"{len(given) / fast:.1f} a second, {slow / 4 * len(given) / fast:.1f} times the "
                    f"processor's {4 / slow:.2f}; peak {peak:,.0f} MB",
                )
            prepared, seconds = timed(
                lambda b=boxes, g=given: b.processor(images=g[:8], return_tensors="pt")
            )
            row("  preparing 8 pictures on the processor", f"{1000 * seconds:.0f} ms")
            agree(name, boxes, prepared)


def agree(name: str, boxes: Any, prepared: Any) -> None:
    """Raw answers of the card, one by one and together, beside the processor's. Of the layout model
    those of its encoder: from random weights its decoder begins with boxes that are equally good."""
    answer = "enc_outputs_class" if name == "layout" else "pred_boxes"

    def raw(device: str, together: int, *, half: bool) -> Any:
        model = boxes.model.to(device)
        made = []
        for i in range(0, 8, together):
            part = {k: v[i : i + together].to(device) for k, v in prepared.items()}
            with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=half):
                made.append(model(**part)[answer].float().cpu())
        return torch.cat(made)

    wanted = raw("cpu", 1, half=False)
    for told, together, half in (
        ("float32, one by one", 1, False), ("float32, 8 at once", 8, False),
        ("half precision, one by one", 1, True), ("half precision, 8 at once", 8, True),
    ):  # fmt: skip
        apart = (raw("cuda", together, half=half) - wanted).abs()
        row(
            f"  {name}, {told}: apart from the processor's",
            f"at most {float(apart.max()):.1e}, median {float(apart.median()):.1e}",
        )


def borrow(name: str, texts: list[str]) -> None:
    os.environ["CARD"] = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    wanted = on_processor(name).encode(texts[::10])
    with (
        tempfile.TemporaryDirectory() as home,
        started(Path(home)) as device,
        in_zero(device, errors=None) as zero,
    ):
        device.set(warm=True)
        call = {"user": "ada", "texts": texts, "count": 0, "token_seconds": 60, "model": name}
        for n in range(6):
            (one,) = zero.run(call)
            found = read_parts(Path(one["folder"]), "embed")
            row(
                f"call {n + 1}: {one['found']} of {len(texts)} texts",
                f"{one['wall']:.2f} s, of which at work {one['seconds']:.2f} s {one['notes']} {one['reason'] or ''}",
            )
            if len(found) == len(texts):
                rows = [found[i] for i in range(0, len(texts), 10)]
                row("  smallest cosine to the processor", f"{cosines(rows, wanted).min():.6f}")
        for count in (8, 100, STEPS["embed"].part):
            (one,) = zero.run({**call, "texts": texts[:count]})
            row(f"warm, {count} texts", f"{one['wall']:.2f} s, at work {one['seconds']:.2f} s")
        for asked in device.log("/schedule"):
            print("  ", {k: asked.get(k) for k in ("durationSeconds", "used")})
        row("GPUs kept", str(device.held()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("parts", nargs="*", default=["embed", "layout", "borrow"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    chosen = parser.parse_args()
    texts = json.loads(chosen.texts.read_text(encoding="utf-8"))
    print(torch.cuda.get_device_name(0), torch.__version__, f"{len(texts)} texts")
    for part in chosen.parts:
        print(f"\n{part}")
        if part == "layout":
            layout()
        else:
            {"embed": embed, "borrow": borrow}[part](chosen.model, texts)


if __name__ == "__main__":
    main()
