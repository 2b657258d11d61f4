"""Which reader a page gets, from cheap signals, and why. Decides only; reads nothing."""

from typing import NamedTuple

from pipeline.pdf.page import PageContent

STRATEGIES = ("auto", "fast", "ocr_only", "hi_res", "reference")


LINE = 3.0  # points: what is thinner is a rule
LITTLE = 400  # letters: a page with more of them is text, whatever picture lies under it


class Route(NamedTuple):
    """`reader` is `text`, `ocr` or `blank`."""

    reader: str
    reason: str


def route(content: PageContent, strategy: str) -> Route:
    """The reader for a page under `auto`, `fast` or `ocr_only`."""
    lost = is_lost(content)
    inked = bool(content.paths or content.images or content.words or content.notes or lost)
    if strategy == "fast":
        if content.words:
            return Route("text", "text layer, as asked")
        return Route("blank", "no text layer, and only the text layer was asked for")
    if not inked:
        return Route("blank", "no text and no ink")
    if strategy == "ocr_only":
        return Route("ocr", "as asked")
    page = max(content.width * content.height, 1.0)
    cover = sum(b.area for b in content.images) / page
    if content.characters < 25 and not lost:
        if cover > 0.4:
            return Route("ocr", f"a picture covers {min(cover, 1):.0%} of the page")
        if len(content.paths) > 200 or content.objects > 500:
            return Route("ocr", "drawn, with hardly any text")
        if content.images:
            return Route("ocr", "pictures and hardly any text")
        if content.notes:
            return Route("text", "annotations only")
        if not content.words:
            if all(min(p.width, p.height) < LINE for p in content.paths):
                return Route("blank", "lines only, no text")
            return Route("ocr", "drawn, without a text layer")
    if lost:
        drawn = f"{content.texts} pieces of text are drawn"
        return Route("ocr", f"text lost: {drawn}, {content.characters} letters can be read")
    if content.garbled > 0.1:
        return Route("ocr", f"{content.garbled:.0%} of the text layer is unreadable")
    return Route("text", "text layer")


def may_hide_more(content: PageContent) -> bool:
    """Whether a picture takes most of a page that has little text: a scan with a stamp typed on it, a
    slide whose title is part of the picture. Its ink is then compared with the text's places."""
    page = max(content.width * content.height, 1.0)
    cover = sum(b.area for b in content.images) / page
    return cover > 0.5 and content.characters < LITTLE


def is_lost(content: PageContent) -> bool:
    """Whether the page draws far more text than its text layer gives, as where a font names no
    letters or the lines run downwards. Text drawn a few times over itself is not lost."""
    return content.texts >= 50 and content.characters < 0.2 * content.texts
