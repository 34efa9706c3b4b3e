"""Error replies and broken connections of Redis: the cause in words, and the error for the caller."""

import socket
from typing import Any, Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from unstale.errors import RedisUnavailable
from unstale.redis_tier.refusal import problem

OWN: Final = "UNSTALE "
"""Begin of the errors that our scripts raise; they say what to do, and name no key of yours."""


def reason(error: BaseException | None) -> str:
    """Return the cause of a broken connection in a few words, without any key."""
    wrong = problem(error)
    if wrong is not None:
        return wrong
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return "timeout"
    cause = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "unknown host"
        if isinstance(cause, OSError):
            return type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ResponseError | AuthenticationError | BusyLoadingError):
        return str(error).rstrip(".")
    return "the connection broke"


def refuses_writes(reply: Any) -> bool:
    """Return True for the error of a server that answers reads, but takes no new value.

    It is out of memory, cannot save to its disk (MISCONF), or has too few replicas (NOREPLICAS).
    """
    if isinstance(reply, OutOfMemoryError):
        return True
    return isinstance(reply, ResponseError) and str(reply).startswith(("MISCONF", "NOREPLICAS"))


def out_of_memory(error: RedisUnavailable) -> bool:
    """Return True if Redis refused a value because it is out of memory; it still removes values."""
    return isinstance(error.__cause__, OutOfMemoryError)


def refused(error: RedisError) -> RedisUnavailable:
    """Return the error for a command that Redis refused; its text has the error code but no key."""
    if isinstance(error, OutOfMemoryError):
        text = "Redis is out of memory and stores no value; raise maxmemory, or evict with volatile-lru"
    elif isinstance(error, AskError | TryAgainError):
        text = (
            "Redis is moving the keys to another node, one by one; they are served again once all are there"
        )
    elif str(error).startswith(OWN):
        text = str(error).removeprefix(OWN).partition(" script:")[0]
    else:
        text = f"Redis refused a command ({str(error).split(' ', 1)[0]}); check the permissions of its user"
    problem = RedisUnavailable(text)
    problem.__cause__ = error
    return problem
