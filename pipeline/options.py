"""What a reader of a document may ask for. Values only."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from errors import InputError
from pipeline.pdf.router import STRATEGIES

VERSION = "9"
_LANGUAGES = 20
_CODE = re.compile(r"[A-Za-z_-]{2,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOptions:
    """`languages` are ISO 639-1 codes or tesseract's own names, for OCR; `models` name the layout
    and the table model when the strategy is hi_res; for reference, others than the library's own."""

    strategy: str = "auto"
    languages: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def checked(self) -> "PartitionOptions":
        if self.strategy not in STRATEGIES:
            raise InputError(
                "strategy_unknown",
                f"There is no strategy {str(self.strategy)[:40]!r}.",
                f"Use one of: {', '.join(STRATEGIES)}.",
            )
        if len(self.languages) > _LANGUAGES or not all(map(_is_code, self.languages)):
            raise InputError(
                "languages_unknown", "Those are no codes of languages.", "Use codes like en or deu."
            )
        return self

    @classmethod
    def of(cls, spec: Mapping[str, Any], *models: str) -> "PartitionOptions":
        """What a job's spec asks for; the models are named when they have a part in it."""
        strategy = spec["strategy"]
        return cls(
            strategy=strategy,
            languages=tuple(spec["languages"]),
            models=models if strategy == "hi_res" else (),
        ).checked()

    def version(self) -> str:
        """Names what the elements were made with; part of their folder's name."""
        seen = json.dumps([VERSION, self.strategy, list(self.languages), *self.models])
        return f"v{VERSION}-{self.strategy}-{hashlib.sha256(seen.encode()).hexdigest()[:8]}"


def _is_code(given: object) -> bool:
    return isinstance(given, str) and _CODE.fullmatch(given) is not None
