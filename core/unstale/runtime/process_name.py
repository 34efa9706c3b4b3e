"""The name by which people find this process."""

import os
import socket
from functools import cache


def process_name() -> str:
    """Return host and process id, as in ``web-1:77``; right in a forked child too."""
    return f"{_host()}:{os.getpid()}"


@cache
def _host() -> str:
    return socket.gethostname()[:24]
