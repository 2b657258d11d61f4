"""Which pages and places are found: `python bench/retrieval.py FOLDER`, or `make bench-retrieval FOLDER=…`.

FOLDER has `pdfs/` and `questions.json`: a list of {"id", "doc", "question", "pages" (from 1), "boxes" (page,
x0, y0, x1, y1, w, h)}, as MMDocIR's questions give them. Starts an app of its own, puts the PDFs into one
collection and asks each question within its document and over all. Beside it BM25 over the words of whole
pages. Printed by half: documents fall into two by the sha1 of their name; tune on the one, only measure
the other.

page@k is the share of a question's pages among the first k pages, box@k the share of its boxes of which half
is covered by a box of the first k hits, mrr one by the rank of the first right page.
"""

import argparse
import hashlib
import json
import re
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pypdfium2
from gradio_client.exceptions import AppError

from quire_client import Quire
from tests.conftest import start_app

Json = dict[str, Any]
Found = Sequence[tuple[str, int, Sequence[Json]]]  # document, page, boxes; best first
KS = (1, 3, 5, 10)
DEEP = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--modes", default="hybrid,dense,keyword")
    asked = parser.parse_args()
    questions = json.loads((asked.folder / "questions.json").read_text(encoding="utf-8"))
    pdfs = sorted((asked.folder / "pdfs").glob("*.pdf"))
    columns = [*(f"page@{k}" for k in KS), "mrr", *(f"box@{k}" for k in KS)]
    print(f"{'finder':<12} {'among':<4} {'half':<8}", *(f"{c:>8}" for c in columns))
    with tempfile.TemporaryDirectory() as room:
        app = start_app(Path(room) / "data", QUIRE_MAX_FILE_MB="500")
        try:
            quire = Quire(app.url)
            began = time.perf_counter()
            for job in [quire.submit(p, collection="retrieval")[0]["id"] for p in pdfs]:
                quire.wait(job)
            print(
                f"# {len(pdfs)} PDFs read in {time.perf_counter() - began:.0f} s", file=sys.stderr
            )
            for mode in asked.modes.split(","):
                report(mode, questions, lambda q, doc, mode=mode: ask(quire, q, doc, mode), columns)  # type: ignore[misc]
        finally:
            app.stop()
    pages = Pages(pdfs)
    report("BM25 pages", questions, pages.find, columns)


def ask(quire: Quire, question: str, doc: str | None, mode: str) -> Found:
    where = {"filename": doc} if doc else None
    for _ in range(60):
        try:
            hits = quire.search(
                question, collection="retrieval", mode=mode, top_k=DEEP, where=where
            )
            break
        except AppError as problem:  # its store is copied to be published
            if problem.title != "restoring":
                raise
            time.sleep(1)
    return [(h["filename"], h["page"], h["boxes"]) for h in hits]


class Pages:
    """The words of whole pages, as pdfium gives them, in one FTS5 table."""

    def __init__(self, pdfs: Sequence[Path]) -> None:
        self._db = sqlite3.connect(":memory:")
        self._db.execute(
            "CREATE VIRTUAL TABLE pages USING fts5(text, doc UNINDEXED, page UNINDEXED)"
        )
        for path in pdfs:
            with pypdfium2.PdfDocument(path) as document:
                for number in range(len(document)):
                    text = document[number].get_textpage().get_text_range()
                    self._db.execute(
                        "INSERT INTO pages VALUES(?,?,?)", (text, path.name, number + 1)
                    )

    def find(self, question: str, doc: str | None) -> Found:
        words = " OR ".join(f'"{w}"' for w in re.findall(r"\w+", question))
        sql = "SELECT doc, page FROM pages WHERE pages MATCH ? AND (? IS NULL OR doc=?) ORDER BY rank LIMIT ?"
        return [(d, int(p), []) for d, p in self._db.execute(sql, (words, doc, doc, DEEP))]


def report(
    name: str,
    questions: Sequence[Json],
    find: Callable[[str, str | None], Found],
    columns: list[str],
) -> None:
    for among in ("own", "all"):
        scores: dict[str, list[dict[str, float]]] = defaultdict(list)
        for q in questions:
            half = int(hashlib.sha1(Path(q["doc"]).stem.encode()).hexdigest(), 16) % 2
            found = find(q["question"], q["doc"] if among == "own" else None)
            scores["measure" if half else "tune"].append(dict(scored(q, found)))
        for half_name in ("tune", "measure"):
            told = [
                [s[c] for s in scores[half_name] if c in s] for c in columns
            ]  # a question without boxes has no share of them
            values = (f"{100 * statistics.fmean(v):8.1f}" if v else f"{'-':>8}" for v in told)
            print(f"{name:<12} {among:<4} {half_name:<8}", *values, flush=True)


def scored(question: Json, found: Found) -> Iterator[tuple[str, float]]:
    wanted = {(question["doc"], page) for page in question["pages"]}
    pages = list(dict.fromkeys((doc, page) for doc, page, _ in found))
    for k in KS:
        yield f"page@{k}", len(wanted.intersection(pages[:k])) / len(wanted)
    yield "mrr", next((1 / n for n, page in enumerate(pages, 1) if page in wanted), 0.0)
    if gold := question["boxes"]:
        for k in KS:
            boxes = [b for doc, _, placed in found[:k] if doc == question["doc"] for b in placed]
            yield f"box@{k}", statistics.fmean(any(covers(b, g) for b in boxes) for g in gold)


def covers(box: Json, gold: Json) -> bool:
    """Both share half of the smaller one, as parts of their page."""
    if box["page"] != gold["page"]:
        return False
    a, b = ([s[n] / s[of] for n, of in SIDES] for s in (box, gold))
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((s[2] - s[0]) * (s[3] - s[1]) for s in (a, b))
    return wide > 0 and high > 0 and wide * high >= smaller / 2


SIDES = (("x0", "w"), ("y0", "h"), ("x1", "w"), ("y1", "h"))


if __name__ == "__main__":
    main()
