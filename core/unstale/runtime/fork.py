"""Drops connections, threads and locks in a forked child, which must not use those of its parent."""

import os
import weakref
from typing import Final, Protocol

_INHERITED: Final[list[object]] = []
"""Objects a forked child inherited, kept for ever. Finalizing them would disturb the parent, which shares the
sockets and the epoll set."""


class Forgets(Protocol):
    """A holder of connections that drops them in a forked child."""

    def after_fork(self) -> object:
        """Forget every connection and lock; return what must never be finalized in this process."""


_forgetful: Final["weakref.WeakSet[Forgets]"] = weakref.WeakSet()


def forget_after_fork(holder: Forgets) -> None:
    """Call ``holder.after_fork()`` in every child that this process forks, as long as ``holder`` lives."""
    _forgetful.add(holder)


def _in_child() -> None:
    for holder in tuple(_forgetful):
        _INHERITED.append(holder.after_fork())


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
