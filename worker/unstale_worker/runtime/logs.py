"""Sets up logging: readable on a terminal, elsewhere one JSON object per line, and never a password."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

_PASSWORD: Final = re.compile(r"(?P<user>\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+@", re.IGNORECASE)


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Log ``level`` (debug, info, warning, error) and above to ``stream``, by default stderr.

    Includes the core's messages, which go through the standard library's logging.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask_passwords,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=True)
        if stream.isatty()
        else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("unstale", "unstale_worker"):
        logging.getLogger(name).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger for code that may also run in an agent's process, where structlog is not configured.

    There it uses the standard library's logging, as the core does; structlog would print.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name), processors=[_as_configured], wrapper_class=structlog.stdlib.BoundLogger
    )
    return logger


def _as_configured(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
    """Process an event as configured, or else turn it into a line of text."""
    if structlog.is_configured():
        made: Any = event
        for processor in structlog.get_config()["processors"]:
            made = processor(logger, method, made)
        return made
    fields = dict(mask_passwords(logger, method, event))
    text, error = str(fields.pop("event", "")), fields.pop("exc_info", None)
    line = " ".join([text, *(f"{field}={value!r}" for field, value in fields.items())])
    return (line,), {"exc_info": error}


def mask_passwords(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask the password of every URL in an event's texts."""
    for name, value in event.items():
        if isinstance(value, str) and "@" in value:
            event[name] = without_passwords(value)
    return event


def without_passwords(text: str) -> str:
    """Return ``postgresql://worker:***@host`` for ``postgresql://worker:secret@host``."""
    return _PASSWORD.sub(r"\g<user>***@", text)
