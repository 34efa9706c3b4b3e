"""Logging: readable on a terminal, elsewhere one JSON object per line, and never a password."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_PASSWORD: Final = re.compile(r"(?P<user>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+@", re.IGNORECASE)

_BOLD, _FAINT, _RESET = "\033[1m", "\033[2m", "\033[0m"
_COLOURS: Final = {"debug": "\033[32m", "info": "\033[32m", "warning": "\033[33m"}
_RED: Final = "\033[31m"


class Event:
    """Message of a log record: an event and its fields. As text: ``event field='value'``."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name = without_passwords(name)
        self.fields = {
            field: without_passwords(value) if isinstance(value, str) else value
            for field, value in fields.items()
        }

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{field}={value!r}" for field, value in self.fields.items())])


class Logger:
    """Logs events with fields through the standard library.

    An agent's process, which configures logging for itself, gets them as text.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Log for a developer."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a change of state."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log a problem that the program lives with."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: Any) -> None:
        """Log a problem that needs somebody."""
        self._log(logging.ERROR, event, fields, exc_info)

    def exception(self, event: str, **fields: Any) -> None:
        """Log the exception that is being handled."""
        self._log(logging.ERROR, event, fields, sys.exception())

    def _log(
        self, level: int, event: str, fields: dict[str, Any], error: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, Event(event, fields), exc_info=error, stacklevel=3)


def get_logger(name: str) -> Logger:
    """Return the logger of this name."""
    return Logger(name)


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Log ``level`` (debug, info, warning, error) and above to ``stream``, by default stderr.

    Includes the core's messages.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines() if stream.isatty() else _Objects())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("unstale", "unstale_worker"):
        logging.getLogger(name).setLevel(level.upper())


def without_passwords(text: str) -> str:
    """Return ``postgresql://worker:***@host`` for ``postgresql://worker:secret@host``."""
    return _PASSWORD.sub(r"\g<user>***@", text) if "@" in text else text


class _Objects(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _content(record)
        shown = {
            **fields,
            "event": event,
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": _timestamp(record),
        }
        if error := self._error(record):
            shown["exception"] = error
        return json.dumps(shown, default=str)

    def _error(self, record: logging.LogRecord) -> str:
        return without_passwords(self.formatException(record.exc_info)) if record.exc_info else ""


class _Lines(_Objects):
    """A line of text in colour, and the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _content(record)
        level = record.levelname.lower()
        line = (
            f"{_FAINT}{_timestamp(record)}{_RESET} [{_COLOURS.get(level, _RED)}{level:<8}{_RESET}] "
            f"{_BOLD}{event}{_RESET} {_FAINT}[{record.name}]{_RESET}"
        )
        line += "".join(f" {field}={value!r}" for field, value in fields.items())
        error = self._error(record)
        return f"{line}\n{error}" if error else line


def _content(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    if isinstance(record.msg, Event):
        return record.msg.name, record.msg.fields
    return without_passwords(record.getMessage()), {}


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
