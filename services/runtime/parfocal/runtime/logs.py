"""Logs as one JSON object a line, for people with `jq` and for log collectors."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: time, level, logger, message, everything passed as `extra`, and the traceback."""

    def __init__(self, **constants: Any) -> None:
        super().__init__()
        self._constants = constants

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._constants,
        }
        content.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def configure_logging(**constants: Any) -> None:
    """Send all logs of this process to standard error as JSON; `constants` stand in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(**constants))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
