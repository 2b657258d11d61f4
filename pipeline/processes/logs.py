"""Log lines as JSON objects, one a line: time, level, logger, message, and what `extra` adds.

Extras name a job, a stage, a batch, never what a document says. Knows nothing of what is logged.
"""

import json
import logging
import time

FIELDS = ("job", "attempt", "stage", "batch", "seconds", "code", "worker")


class Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: record.__dict__[name] for name in FIELDS if name in record.__dict__},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


OURS = ("__main__", "app", "pipeline", "storage", "web")


def configure() -> None:
    """To standard error; once per process. Our own lines from `info` on, a library's from `warning`
    on: at `info`, HTTP clients write whole addresses, and with them tokens."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
