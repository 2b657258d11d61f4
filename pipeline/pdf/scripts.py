"""Which script a letter belongs to, as far as reading depends on it."""

import re

_EASTERN = r"\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f"  # Chinese and Japanese
_RTL = r"\u0590-\u08ff\ufb1d-\ufefc"
# Hebrew, Arabic and their neighbours, presentation forms included.
RTL = re.compile(f"[{_RTL}]")
# Letters as wide as high: Chinese, Japanese, Korean.
SQUARE = re.compile(rf"[{_EASTERN}\uac00-\ud7a3]")
# Written without spaces: Thai and its neighbours, Chinese, Japanese; not Korean.
UNSPACED = re.compile(rf"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u31f0-\u31ff{_EASTERN}]")
# What pdfium gives letter by letter only: control characters, and what is read from right to left.
BY_LETTER = re.compile(rf"[\x01\x03-\x1f{_RTL}]")
