"""Scans: ruled tables, pages that lie askew or turned, language packs."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas

from errors import InputError
from pipeline.ingest.checkpoints import read_batch
from pipeline.ingest.partition import Batch, partition_batch
from pipeline.options import PartitionOptions
from pipeline.pdf.ocr import tesseract
from pipeline.pdf.ocr.image import ink, posture, rules
from pipeline.pdf.page import Box
from pipeline.pdf.tables.table import Table, to_html
from pipeline.pdf.text.blocks import Block
from pipeline.processes.pool import Pool
from tests.samples import DEJAVU

os.environ.setdefault("OMP_THREAD_LIMIT", "1")  # before tesseract is loaded
SIZE = (1240, 1754)  # A4 at 150 dpi
POINTS = (595.2, 841.9)
ROWS = (("Harbour", "Ships", "Tonnes"), ("Alder", "112", "48200"), ("Birch", "87", "31050"))
GERMAN = (
    "Die Fähre überquert den Fluss jeden Morgen um sechs Uhr.",
    "Während der Überfahrt trinken die Fischer süßen Kaffee und",
    "erzählen von früher, als die Brücke noch nicht gebaut war.",
    "Nachmittags kehren sie müde mit gefüllten Körben zurück.",
)

CAT = (
    "吾輩は猫である。名前はまだ無い。",
    "どこで生れたか見当がつかぬ。",
    "何でも薄暗い所で泣いていた。",
)
DROID = "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf"


def drawn(lines: tuple[str, ...], *, table: bool = False) -> Image.Image:
    picture = Image.new("L", SIZE, 245)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(DEJAVU), 30)
    for i, line in enumerate(lines):
        draw.text((150, 220 + 56 * i), line, fill=20, font=font)
    for r, row in enumerate(ROWS if table else ()):
        for c, cell in enumerate(row):
            draw.text((220 + 260 * c, 715 + 70 * r), cell, fill=20, font=font)
    for i in range(4 if table else 0):
        draw.line((200, 700 + 70 * i, 980, 700 + 70 * i), fill=0, width=3)
        draw.line((200 + 260 * i, 700, 200 + 260 * i, 910), fill=0, width=3)
    return picture


TEXT = (
    "The board met on the third of March and talked for hours.",
    "The new crane arrived on time and lifts forty tonnes now.",
    "The members agreed to deepen the eastern basin at once.",
)


@pytest.mark.slow
@pytest.mark.parametrize(("turned", "skew"), [(0, 0), (0, 5), (0, -9), (90, 0), (180, 0), (270, 2)])
def test_a_ruled_table_is_read_where_it_is_however_the_scan_lies(turned: int, skew: int) -> None:
    straight = drawn(TEXT, table=True)
    lying = straight.rotate(turned, expand=True)
    lying = lying.rotate(-skew, fillcolor=245, resample=Image.Resampling.BICUBIC)
    page = POINTS if turned in {0, 180} else POINTS[::-1]
    found = tesseract.read(lying, *page, ())
    (table,) = (t for t in found.things if isinstance(t, Table))
    assert "<th>Harbour</th><th>Ships</th><th>Tonnes</th>" in to_html(table)
    assert "<td>Alder</td><td>112</td><td>48200</td>" in to_html(table)
    said = " ".join(b.text for b in found.things if isinstance(b, Block))
    assert "lifts forty tonnes" in said
    assert "Harbour" not in said
    assert found.turned == turned
    # the middle of the table, turned as the picture was
    x, y = 590 * 0.48, 805 * 0.48
    wide, high = POINTS
    x, y = {0: (x, y), 90: (y, wide - x), 180: (wide - x, high - y), 270: (high - y, x)}[turned]
    near = Box(x - 30, y - 30, x + 30, y + 30)
    if not skew:
        assert near.holds(table.box)


def test_a_box_of_a_slanting_scan_is_mapped_back() -> None:
    straight, slanting = drawn(TEXT), drawn(TEXT).rotate(-7, fillcolor=245)
    before = tesseract.words(straight, *POINTS, ())
    after = tesseract.words(slanting, *POINTS, ())
    crane = next(w.box for w in before if w.text == "crane")
    shifted = next(w.box for w in after if w.text == "crane")
    assert abs(posture(ink(slanting)).skew - 7) < 0.5
    assert posture(ink(straight)).skew == 0
    moved = abs(shifted.y0 - crane.y0)
    assert 8 < moved < 40  # it did move on the page, by what seven degrees move it
    turned = Image.new("L", SIZE, 0)
    ImageDraw.Draw(turned).rectangle([v / 0.48 for v in crane], fill=255)
    seen = turned.rotate(-7).getbbox()
    assert seen is not None
    assert all(abs(a * 0.48 - b) < 8 for a, b in zip(seen, shifted, strict=True))


@given(st.data(), st.integers(20, 120), st.integers(0, 40), st.integers(0, 23))
def test_no_rule_is_passed_over(data: st.DataObject, least: int, start: int, after: int) -> None:
    """Wherever it begins and whichever twentieth of its pixels is missing."""
    gaps = data.draw(st.sets(st.integers(0, least - 1), max_size=least // 20))
    dark = np.zeros((9, start + least + after), dtype=bool)
    dark[4, start : start + least] = True
    dark[4, [start + gap for gap in gaps]] = False
    slack = least // 20  # a window that sticks out by so much is full enough as well

    def found(box: Box) -> bool:
        ends = abs(box.x0 - start) <= slack and abs(box.x1 - start - least) <= slack
        return ends and (box.y0, box.y1) == (3, 6)

    (across, down), (across_turned, down_turned) = rules(dark, least), rules(dark.T, least)
    assert (len(across), len(down), len(across_turned), len(down_turned)) == (1, 0, 0, 1)
    (turned,) = down_turned
    assert found(across[0])
    assert found(Box(turned.y0, turned.x0, turned.y1, turned.x1))


def test_a_pack_that_is_not_there_is_named_with_its_package() -> None:
    with pytest.raises(InputError) as caught:
        tesseract.read(drawn(TEXT), *POINTS, ("tlh",))
    assert caught.value.code == "language_missing"
    assert "tesseract-ocr-tlh" in caught.value.advice


def test_a_script_without_its_pack_is_named_instead_of_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("eng", "osd"):
        shutil.copy(tesseract.tessdata() / f"{name}.traineddata", tmp_path)
    monkeypatch.setattr(tesseract, "tessdata", lambda: tmp_path)
    greek = "Η θάλασσα χωρίζει τα νησιά και ενώνει τους ανθρώπους"
    lines = tuple(greek.split(" ", i)[-1] or greek for i in (0, 1, 0, 2, 0, 1, 0, 2, 0, 0, 1))
    with pytest.raises(InputError) as caught:
        tesseract.read(drawn(lines), *POINTS, ())
    assert caught.value.code == "language_missing"
    assert "tesseract-ocr-ell" in caught.value.advice


@pytest.mark.slow
@pytest.mark.parametrize("down", [False, True])
def test_japanese_is_read_across_and_downwards(down: bool) -> None:
    """Asked for as one language; columns need the pack for them."""
    font, size = ImageFont.truetype(DROID, 36), 36
    picture = Image.new("L", SIZE, 245)
    draw = ImageDraw.Draw(picture)
    for line, words in enumerate(CAT):
        for i, letter in enumerate(words):
            along, aside = 200 + size * i, 2 * size * line
            place = (1000 - aside, along) if down else (along, 300 + aside)
            draw.text(place, letter, fill=20, font=font)
    found = tesseract.read(picture, *POINTS, ("jpn",))
    text = "".join(b.text for b in found.things if isinstance(b, Block))
    wanted = "".join(CAT)
    assert SequenceMatcher(None, text, wanted).ratio() > 0.9, text
    assert found.pack == ("jpn_vert" if down else "jpn")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as made:
        yield made


def test_another_language_is_found_and_read_with_its_own_pack(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    page = canvas.Canvas(str(path), pagesize=POINTS)
    page.drawImage(ImageReader(drawn(GERMAN)), 0, 0, *POINTS)
    page.save()
    batch = Batch(index=0, first=1, last=1)
    options = PartitionOptions()
    done = partition_batch(pool, path, batch, options, out=tmp_path / "b", crops=tmp_path / "c")
    (record,), elements = read_batch(done.path)
    text = " ".join(e["text"] for e in elements)
    assert "language pack deu" in record.reason
    assert "süßen Kaffee" in text
    assert "früher" in text


def mixed(path: Path, kinds: str) -> Path:
    """A page per letter: (t)ext or a (s)can."""
    paper = canvas.Canvas(str(path), pagesize=POINTS)
    for kind in kinds:
        if kind == "s":
            paper.drawImage(ImageReader(drawn(TEXT)), 0, 0, *POINTS)
        else:
            paper.drawString(90, 700, "The minutes of the board, as they were typed that evening.")
        paper.showPage()
    paper.save()
    return path


def test_scans_of_a_batch_are_read_by_all_page_processes(tmp_path: Path) -> None:
    file, options = mixed(tmp_path / "mixed.pdf", "tsst"), PartitionOptions(languages=("eng",))
    before = set(psutil.Process().children())
    with Pool(2) as pool:
        whole = partition_batch(
            pool, file, Batch(index=0, first=1, last=4), options,
            out=tmp_path / "whole", crops=tmp_path / "crops",
        )  # fmt: skip
        assert len(set(psutil.Process().children()) - before) == 2
        single = [
            partition_batch(
                pool, file, Batch(index=n, first=n, last=n), options,
                out=tmp_path / "single", crops=tmp_path / "crops",
            )
            for n in range(1, 5)
        ]  # fmt: skip
    assert [(r.page, r.reader) for r in whole.pages] == [
        (1, "text"), (2, "ocr"), (3, "ocr"), (4, "text"),
    ]  # fmt: skip
    assert read_batch(whole.path)[1] == [e for s in single for e in read_batch(s.path)[1]]


def test_a_scan_that_breaks_its_process_costs_only_itself(tmp_path: Path) -> None:
    killed, others = [], set(psutil.Process().children())

    def kill_those_that_recognise() -> bool:
        """Asked all the time whether to go on; the answer is always yes."""
        for child in set(psutil.Process().children()) - others:
            with contextlib.suppress(psutil.NoSuchProcess):  # dead already
                if any("tesserocr" in m.path for m in child.memory_maps()):
                    child.kill()
                    killed.append(child.pid)
        return False

    with Pool(2) as pool:
        read = partition_batch(
            pool, mixed(tmp_path / "mixed.pdf", "tst"), Batch(index=0, first=1, last=3),
            PartitionOptions(), out=tmp_path / "out", crops=tmp_path / "crops",
            cancelled=kill_those_that_recognise,
        )  # fmt: skip
    assert len(set(killed)) == 2
    assert [(r.page, r.reader) for r in read.pages] == [(1, "text"), (2, "failed"), (3, "text")]
    assert read.pages[1].error
    assert read.pages[1].error["code"] == "page_process_died"
