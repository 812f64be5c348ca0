"""The server's log: a line of text or JSON for each event.

The log holds no keys and no images: query strings and bodies are not logged. Control characters in
paths and file names are escaped, so that they begin no line and move no cursor.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal

_FIELDS: Final = (
    "request_id", "client", "api", "route", "status", "milliseconds", "bytes_in", "error"
)  # fmt: skip


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            if getattr(record, name, None) is not None:
                event[name] = getattr(record, name)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return escape_controls(json.dumps(event, ensure_ascii=False))


class TextFormatter(logging.Formatter):
    """A line for people; of a request also its id and time."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name for it
        """Return the line, without a traceback."""
        line = escape_controls(super().formatMessage(record))
        request_id = getattr(record, "request_id", None)
        if request_id is None:
            return line
        return f"{line} {getattr(record, 'milliseconds', 0)} ms {request_id}"

    def formatException(self, ei: Any) -> str:  # logging's name for it
        """Return a traceback, indented so that no error's text looks like another event."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {escape_controls(line)}" for line in lines)


def escape_controls(text: str) -> str:
    """Return a text with characters that are not printable escaped as in JSON."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1] if sign != "\x7f" else "\\u007f"


def build_log_config(form: Literal["text", "json"]) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`."""
    here = __name__
    formatter = (
        {"()": f"{here}.JsonFormatter"}
        if form == "json"
        else {"()": f"{here}.TextFormatter", "format": "%(asctime)s %(levelname)s %(message)s"}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            "perception_encoder": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }
