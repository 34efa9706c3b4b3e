"""Filters for the logs of the `realtime` and `websockets` libraries.

The libraries call a short outage permanent, quote unreadable messages over thirty lines, and at level debug
log the address with the key in it. `RealtimeWakeUps` itself logs, once, what an operator needs to know.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

REALTIME: Final = tuple(f"realtime._async.{part}" for part in ("client", "channel", "push", "timer"))
WEBSOCKETS: Final = "websockets.client"
UNREADABLE: Final = "Unrecognized message format"
"""Start of the log line with which the client drops a message that does not fit its models."""


@contextmanager
def kept_quiet(*, masked: Callable[[str], str], unreadable: Callable[[str], None]) -> Iterator[None]:
    """Lower the libraries' logs to debug and mask keys in them, during the block.

    ``unreadable`` is called in the listening task with the log line about each dropped message.
    """

    def realtime(record: logging.LogRecord) -> bool:
        text = masked(record.getMessage())
        if record.levelno >= logging.ERROR and text.startswith(UNREADABLE):
            unreadable(text.partition("\n")[0])
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)

    def websockets(record: logging.LogRecord) -> bool:
        return False  # debug lines quote the address, and may cut a frame in the middle of a key

    filters = [(logging.getLogger(name), realtime) for name in REALTIME]
    filters.append((logging.getLogger(WEBSOCKETS), websockets))
    for logger, drop in filters:
        logger.addFilter(drop)
    try:
        yield
    finally:
        for logger, drop in filters:
            logger.removeFilter(drop)
