"""Faults before or after a method of a class, by replacing the method: no line in the product is needed.

In this process with `before` and `after`; in a process of its own with ``worker_process(..., armed="…")``,
see `workers.child`.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from unstale.runtime.failpoints import Point
from unstale_worker.redis.applier import Applier
from unstale_worker.sources.outbox import OutboxSource

SEAMS: Final[dict[str, tuple[type, str, bool]]] = {
    "source.before_read": (OutboxSource, "read", False),
    "source.after_read": (OutboxSource, "read", True),
    "applier.before_apply": (Applier, "apply", False),
    "applier.after_apply": (Applier, "apply", True),
    "applier.before_watermark": (Applier, "watermark", False),
}
"""Places at which a worker process can be armed: class, method, and True for after the method."""


@contextmanager
def before(
    owner: type,
    method: str,
    *,
    where: Callable[..., bool] = lambda *_, **__: True,
    **action: Any,
) -> Iterator[Point]:
    """Act, see `Point`, before each call of an async method whose arguments ``where`` accepts."""
    with _replaced(owner, method, late=False, where=where, action=action) as point:
        yield point


@contextmanager
def after(
    owner: type,
    method: str,
    *,
    where: Callable[..., bool] = lambda *_, **__: True,
    **action: Any,
) -> Iterator[Point]:
    """Act, see `Point`, after each call of an async method whose arguments ``where`` accepts."""
    with _replaced(owner, method, late=True, where=where, action=action) as point:
        yield point


def snapshot_only(position: str | None, *_: object) -> bool:
    """For ``where``: a `Source.read` that takes a snapshot instead of reading on from a position."""
    return position is None


@contextmanager
def _replaced(
    owner: type, method: str, *, late: bool, where: Callable[..., bool], action: dict[str, Any]
) -> Iterator[Point]:
    original = getattr(owner, method)
    point = Point(f"{'after' if late else 'before'} {owner.__name__}.{method}", **action)

    @functools.wraps(original)
    async def replaced(self: Any, *args: Any, **options: Any) -> Any:
        acts = where(*args, **options)
        if acts and not late:
            await point.act()
        result = await original(self, *args, **options)
        if acts and late:
            await point.act()
        return result

    setattr(owner, method, replaced)
    try:
        yield point
    finally:
        point.release()
        setattr(owner, method, original)
