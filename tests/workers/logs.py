"""Collect what the worker logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unstale_worker.runtime.logs import Event


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Event):
            level = record.levelname.lower()
            self.events.append({**record.msg.fields, "event": record.msg.name, "log_level": level})


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Collect the events of all levels as dictionaries; nothing is printed during the block."""
    logger, collector = logging.getLogger("unstale"), _Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield collector.events
    finally:
        logger.propagate = True
        logger.setLevel(level)
        logger.removeHandler(collector)
