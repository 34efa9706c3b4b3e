"""Keeps what the `realtime` and `websockets` libraries log free of keys, and understandable.

They call one outage permanent, quote over thirty lines what they could not read, and at level debug the
address with the key in it. What an operator needs of that, `RealtimeWakeUps` says itself, once.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

REALTIME: Final = tuple(f"realtime._async.{part}" for part in ("client", "channel", "push", "timer"))
WEBSOCKETS: Final = "websockets.client"
UNREADABLE: Final = "Unrecognized message format"
"""How the client's log begins when it drops a message its models do not fit."""


@contextmanager
def kept_quiet(*, masked: Callable[[str], str], unreadable: Callable[[str], None]) -> Iterator[None]:
    """Inside, the libraries say nothing above debug, and nothing with a key.

    ``unreadable`` is called, in the listening task, with the line about each message that the client dropped.
    """

    def realtime(record: logging.LogRecord) -> bool:
        text = masked(record.getMessage())
        if record.levelno >= logging.ERROR and text.startswith(UNREADABLE):
            unreadable(text.partition("\n")[0])
        record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)

    def websockets(record: logging.LogRecord) -> bool:
        return False  # its debug lines quote the address and cut frames in the middle, so in a key, too

    filters = [(logging.getLogger(name), realtime) for name in REALTIME]
    filters.append((logging.getLogger(WEBSOCKETS), websockets))
    for logger, drop in filters:
        logger.addFilter(drop)
    try:
        yield
    finally:
        for logger, drop in filters:
            logger.removeFilter(drop)
