"""What a page says beside its content: annotations, and form fields that hold a value but no picture
of it, as programs leave them that fill forms.

With `pdfium.py` and `text_layer.py` the only importer of pypdfium2. Knows nothing of words or elements.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from pipeline.pdf.page import Box, Frame, Note

MAX_NOTES = 2_000
_SAYS = {
    raw.FPDF_ANNOT_TEXT: "Text",
    raw.FPDF_ANNOT_FREETEXT: "FreeText",
    raw.FPDF_ANNOT_STAMP: "Stamp",
    raw.FPDF_ANNOT_HIGHLIGHT: "Highlight",
    raw.FPDF_ANNOT_UNDERLINE: "Underline",
    raw.FPDF_ANNOT_STRIKEOUT: "StrikeOut",
    raw.FPDF_ANNOT_CARET: "Caret",
}
_UNSEEN = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
_TYPED = {
    raw.FPDF_FORMFIELD_TEXTFIELD,
    raw.FPDF_FORMFIELD_COMBOBOX,
    raw.FPDF_FORMFIELD_LISTBOX,
}


def notes(page: Any, number: int, frame: Frame) -> tuple[Note, ...]:
    """What annotations of a loaded page say, counted from 1, and the values of its bare fields."""
    found: list[Note] = []
    bare: set[int] = set()
    for i, note in _annotations(page):
        if raw.FPDFAnnot_GetFlags(note) & _UNSEEN:
            continue
        kind = _SAYS.get(raw.FPDFAnnot_GetSubtype(note))
        if kind:
            said = _text(lambda *room, note=note: raw.FPDFAnnot_GetStringValue(note, b"Contents", *room))  # fmt: skip
            found += [Note(kind, said, _place(note, frame))] if said else []
        if _is_bare(note):
            bare.add(i)
    return (*found, *(_values(page, number, frame, bare) if bare else ()))


def fields(page: Any, frame: Frame) -> list[Box]:
    """Where the form fields of a page are."""
    return [_place(note, frame) for _, note in _annotations(page) if _is_field(note)]


def _values(page: Any, number: int, frame: Frame, bare: set[int]) -> Iterator[Note]:
    """The values of those fields. pdfium knows them, and draws them, where it fills forms: in a
    document of its own, so that the pages of this one are drawn as before."""
    try:
        filled = pdfium.PdfDocument(page.pdf._input)
    except pdfium.PdfiumError:
        return
    with closing(filled):
        filled.init_forms()
        if filled.formenv is None:
            return
        with closing(filled[number - 1]) as drawn:
            form = filled.formenv.raw
            for i, note in _annotations(drawn):
                if i not in bare:
                    continue
                if raw.FPDFAnnot_GetFormFieldType(form, note) not in _TYPED:
                    continue
                said = _text(lambda *room, note=note: raw.FPDFAnnot_GetFormFieldValue(form, note, *room))  # fmt: skip
                if said:
                    yield Note("Widget", said, _place(note, frame))


def _annotations(page: Any) -> Iterator[tuple[int, Any]]:
    for i in range(min(raw.FPDFPage_GetAnnotCount(page.raw), MAX_NOTES)):
        note = raw.FPDFPage_GetAnnot(page.raw, i)
        try:
            if note:
                yield i, note
        finally:
            raw.FPDFPage_CloseAnnot(note)


def _is_field(note: Any) -> bool:
    return bool(raw.FPDFAnnot_GetSubtype(note) == raw.FPDF_ANNOT_WIDGET)


def _is_bare(note: Any) -> bool:
    """Whether it is a form field without an appearance."""
    return _is_field(note) and not raw.FPDFAnnot_HasKey(note, b"AP")


def _place(note: Any, frame: Frame) -> Box:
    rect = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(note, ctypes.byref(rect))
    low, high = sorted((rect.bottom, rect.top))
    left, right = sorted((rect.left, rect.right))
    return frame.box(left, low, right, high)


def _text(call: Callable[..., int]) -> str:
    """A text that pdfium writes into room of a size that it names first."""
    size = min(call(None, 0), 1 << 16)
    if size <= 2:
        return ""
    buffer = (ctypes.c_ushort * (size // 2))()
    call(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return (
        bytes(buffer)[: size - 2].decode("utf-16-le", "replace").replace("\r", "\n").strip("\0 \n")
    )
