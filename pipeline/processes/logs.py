"""Log lines as JSON objects, one a line: time, level, logger, message, and what `extra` adds.

Extras name a job, a stage, a batch, never what a document says or a caller sends. Every line is bounded.
Knows nothing of what is logged.
"""

import json
import logging
import time

FIELDS = ("job", "attempt", "stage", "batch", "seconds", "code", "worker")
_MESSAGE, _TRACE = 2_000, 16_000  # characters


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        quotes = _quotes_callers(record.name)
        message = f"see {record.module}:{record.lineno}" if quotes else record.getMessage()
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(message, _MESSAGE),
            **{name: _extra(record.__dict__[name]) for name in FIELDS if name in record.__dict__},
        }
        if record.exc_info:
            kind = record.exc_info[0]
            trace = kind.__name__ if quotes and kind else self.formatException(record.exc_info)
            line["trace"] = _cut(trace, _TRACE)
        return json.dumps(line, ensure_ascii=False)


def _quotes_callers(name: str) -> bool:
    """Loggers whose messages repeat what a caller sent, passwords included: of the MCP server, which
    also writes to the root logger."""
    return name == "root" or name.partition(".")[0] == "mcp"


def _cut(text: str, most: int) -> str:
    """Its beginning and its end: the last line of a trace says what happened."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _extra(value: object) -> object:
    return _cut(value, _MESSAGE) if isinstance(value, str) else value


OURS = ("__main__", "app", "pipeline", "storage", "web")


def configure() -> None:
    """To standard error; once per process. Our own lines from `info` on, a library's from `warning`
    on: at `info`, HTTP clients write whole addresses, and with them tokens."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
