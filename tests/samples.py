"""Makes the PDFs of `samples/`: `python -m tests.samples DIR`. The same bytes each time."""

import io
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen import canvas
from reportlab.platypus import Frame, Paragraph, Table, TableStyle

DEJAVU = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
MONTHS = ("January", "February", "March", "April", "May", "June")
RAIN = (61, 48, 55, 72, 80, 34)
BIRDS = (
    "Birds travel south in autumn because food becomes scarce, not because they fear the cold. "
    "Shorter days change their hormones; they eat more, store fat and become restless at night. "
    "A warbler of twelve grams crosses the sea in a single flight of sixty hours."
)
TIDES = (
    "Tides follow the moon. Where a bay narrows towards its end the water has nowhere to go but "
    "up, and the range between high and low water can reach fifteen metres. Engineers have built "
    "mills and power stations in such places for eight hundred years."
)


def make(folder: Path) -> dict[str, Path]:
    """Write every sample; returns them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, draw in (
        ("report", _report),
        ("two-columns", _two_columns),
        ("scanned", _scanned),
        ("greek", _greek),
    ):
        path = folder / f"{name}.pdf"
        page = canvas.Canvas(str(path), pagesize=A4, invariant=True)
        page.setTitle(name)
        draw(page)
        page.save()
        made[name] = path
    return made


def _styles() -> tuple[ParagraphStyle, ParagraphStyle]:
    sheet = getSampleStyleSheet()
    body = ParagraphStyle("body", parent=sheet["BodyText"], fontSize=11, leading=14)
    return sheet["Heading1"], body


def _report(page: canvas.Canvas) -> None:
    heading, body = _styles()
    frame = Frame(60, 60, A4[0] - 120, A4[1] - 120, showBoundary=0)
    story = [
        Paragraph("Rainfall in the valley", heading),
        Paragraph(
            "In April 72 millimetres of rain fell in the valley, more than in any spring month of "
            "the ten years before. The figures come from one gauge that was read each morning. "
            "Table 1 gives every month; figure 1 shows the same numbers.",
            body,
        ),
    ]
    ruled = Table(
        [["Month", "Rain (mm)", "Days"]]
        + [[m, str(r), str(r // 6)] for m, r in zip(MONTHS, RAIN, strict=True)],
        colWidths=[120, 90, 70],
    )
    ruled.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.6, colors.black)]))
    frame.addFromList(story, page)
    page.drawString(60, 600, "Table 1. Rainfall by month, in millimetres")
    ruled.wrapOn(page, 400, 300)
    ruled.drawOn(page, 60, 460)
    page.setFillColorRGB(0.93, 0.93, 0.93)
    page.rect(80, 176, 360, 180, fill=1)
    for i, rain in enumerate(RAIN):
        page.setFillColorRGB(0.1, 0.35, 0.6)
        page.rect(90 + i * 60, 180, 36, rain * 2, fill=1)
        for step in range(0, rain * 2, 20):
            page.line(90 + i * 60, 180 + step, 126 + i * 60, 180 + step)
        page.setFillColorRGB(0, 0, 0)
        page.drawString(92 + i * 60, 166, MONTHS[i][:3])
    page.drawString(60, 140, "Figure 1. Rainfall by month as bars")
    page.drawString(290, 40, "1")
    page.showPage()
    frame = Frame(60, 60, A4[0] - 120, A4[1] - 120, showBoundary=0)
    frame.addFromList(
        [
            Paragraph("Rivers of the region", heading),
            Paragraph("Lengths and people along each river, from the survey of 2019.", body),
        ],
        page,
    )
    rows = [
        ("River", "Length km", "Population", "Bridges"),
        ("Alder", "112", "48,200", "14"),
        ("Birch", "87", "31,050", "9"),
        ("Cedar", "203", "120,400", "31"),
        ("Elm", "45", "8,730", "4"),
        ("Hazel", "158", "77,900", "22"),
    ]
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            x = 70 + c * 110
            if c:
                page.drawRightString(x + 70, 640 - r * 18, cell)
            else:
                page.drawString(x, 640 - r * 18, cell)
    noise = random.Random(7)
    picture = Image.new("RGB", (240, 160))
    for x in range(240):
        for y in range(160):
            picture.putpixel((x, y), (x, min(255, y + noise.randrange(20)), 140))
    page.drawImage(ImageReader(picture), 70, 300, 240, 160)
    page.drawString(70, 284, "Figure 2. The valley from the air")
    page.drawString(290, 40, "2")
    page.showPage()


def _two_columns(page: canvas.Canvas) -> None:
    heading, body = _styles()
    page.setFont("Helvetica-Bold", 18)
    page.drawString(60, 770, "Of birds and tides")
    left = Frame(55, 80, 230, 670, showBoundary=0)
    right = Frame(310, 80, 230, 670, showBoundary=0)
    left.addFromList([Paragraph("Birds", heading), *[Paragraph(BIRDS, body)] * 3], page)
    right.addFromList([Paragraph("Tides", heading), *[Paragraph(TIDES, body)] * 3], page)
    page.showPage()


def _scanned(page: canvas.Canvas) -> None:
    picture = Image.new("L", (1240, 1754), 250)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(DEJAVU), 34)
    lines = (
        "Minutes of the harbour board",
        "",
        "The board met on the third of March. The new crane",
        "arrived on time and lifts forty tonnes. The members",
        "agreed to deepen the eastern basin before winter and",
        "to paint the lighthouse white again.",
    )
    for i, line in enumerate(lines):
        draw.text((120, 160 + 60 * i), line, fill=20, font=font)
    out = io.BytesIO()
    picture.save(out, "PNG")
    out.seek(0)
    page.drawImage(ImageReader(out), 0, 0, *A4)
    page.showPage()


def _greek(page: canvas.Canvas) -> None:
    pdfmetrics.registerFont(TTFont("DejaVu", str(DEJAVU)))
    page.setFont("DejaVu", 16)
    page.drawString(60, 770, "Η θάλασσα")
    page.setFont("DejaVu", 11)
    for i, line in enumerate((
        "Η θάλασσα χωρίζει τα νησιά και ενώνει τους ανθρώπους. Τα καΐκια φεύγουν",
        "νωρίς το πρωί και γυρίζουν το βράδυ με σαρδέλες και καλαμάρια.",
        "Море разделяет острова и соединяет людей.",
    )):
        page.drawString(60, 730 - 18 * i, line)
    page.showPage()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
