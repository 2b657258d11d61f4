"""The language of a text: named when the model is sure, in the codes unstructured uses."""

import pytest
from iso639 import Language

from pipeline.pdf import language

TEXTS = {
    "eng": "The board met on the third of March. The new crane arrived on time and lifts tonnes.",
    "deu": "Der Vorstand traf sich am dritten März. Der neue Kran kam pünktlich an und hebt viel.",
    "ell": "Η θάλασσα χωρίζει τα νησιά και ενώνει τους ανθρώπους. Τα καΐκια φεύγουν νωρίς.",
    "ara": "اجتمع المجلس في الثالث من مارس ووصلت الرافعة الجديدة في الوقت المحدد إلى الميناء.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_a_language_is_named(code: str) -> None:
    assert language.detect(TEXTS[code]) == (code,)


@pytest.mark.parametrize("text", ["", "1,203 4.5 % 12", "Rain"])
def test_there_is_none_rather_than_a_guess(text: str) -> None:
    assert language.detect(text) == ()


def test_codes_are_iso_639() -> None:
    for two, three in language.PART3.items():
        if two != "bh":  # withdrawn, still in the model
            assert Language.from_part1(two).part3 == three
