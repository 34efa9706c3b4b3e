"""Optional parts: an error that names the extra for a missing package."""

import contextlib
from collections.abc import Iterator

from unstale.errors import MissingExtra

OWN = ("unstale", "unstale_worker")


@contextlib.contextmanager
def needs(extra: str, *, what: str) -> Iterator[None]:
    """Raise `MissingExtra` if an import inside the block fails because ``extra`` is not installed.

    Example:
        >>> with needs("companion", what="ConnectionPool.openai"):
        ...     import openai
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in OWN:  # a mistake of our own, which no extra repairs
            raise
        raise MissingExtra(what, extra=extra, package=package) from error
