"""The language of a page's text, as ISO 639-3. The only importer of langdetect.

Looks at one page at a time, from a fixed seed, so that the answer does not depend on what was read
before. A page with little text has none rather than a guess.
"""

from functools import cache

from langdetect import LangDetectException
from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

_ENOUGH = 60
_LOOKED_AT = 400
_SURE = 0.9


@cache
def load() -> DetectorFactory:
    """The detector with its profiles; half a second, once per process."""
    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = 0
    return factory


def detect(factory: DetectorFactory, text: str) -> tuple[str, ...]:
    """One code when the detector is sure, none otherwise."""
    from iso639 import Language, LanguageNotFoundError  # its tables: 0.4 s, at first use

    if sum(map(str.isalpha, text)) < _ENOUGH:
        return ()
    detector = factory.create()
    detector.append(text[:_LOOKED_AT])
    try:
        best = detector.get_probabilities()[:1]
        if not best or best[0].prob < _SURE:
            return ()
        return (str(Language.from_part1(best[0].lang.split("-")[0]).part3),)
    except (LangDetectException, LanguageNotFoundError):
        return ()
