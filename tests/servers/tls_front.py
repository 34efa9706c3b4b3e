"""A front for the wheels' servers, which lack TLS. It accepts TLS and, by default, plain connections."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from typing import Self

from servers import PATIENCE

HANDSHAKE = b"\x16"
"""First byte of a TLS connection. No Redis command begins with it."""


class TlsFront:
    """Forward to a port of this machine, with a thread for each connection.

    with TlsFront(server.port, context) as front: ...
    """

    def __init__(self, target: int, context: ssl.SSLContext, *, plain: bool = True) -> None:
        self._plain = plain
        self._target, self._context = target, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.encrypted = 0
        """TLS connections so far."""

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                taken, _ = self._listener.accept()
                self._start(partial(self._serve, taken))

    def _serve(self, taken: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):  # also a failed TLS handshake
            stack.callback(lambda: outer.close())
            outer = taken
            taken.settimeout(PATIENCE)
            if taken.recv(1, socket.MSG_PEEK) == HANDSHAKE:
                outer = self._context.wrap_socket(taken, server_side=True)
                self.encrypted += 1
            elif not self._plain:
                return
            inner = stack.enter_context(socket.create_connection(("127.0.0.1", self._target)))
            while not self._closed.is_set():
                pending = isinstance(outer, ssl.SSLSocket) and outer.pending()
                ready = [outer] if pending else select.select([outer, inner], [], [], 0.05)[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (inner if source is outer else outer).sendall(data)
