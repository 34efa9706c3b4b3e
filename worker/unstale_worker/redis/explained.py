"""Tells a wrong ``REDIS_URL`` from a Redis that is away, for commands and for a worker's first start."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from unstale.errors import ConfigurationError, RedisRefused, RedisUnavailable

if TYPE_CHECKING:
    from unstale.settings import SharedSettings


@asynccontextmanager
async def explained(settings: "SharedSettings") -> AsyncIterator[None]:
    """Raise `RedisRefused` instead of `RedisUnavailable` if ``REDIS_URL`` is the reason, as far as known."""
    try:
        yield
    except RedisUnavailable as error:
        if isinstance(error, ConfigurationError):
            raise
        from unstale.redis_tier.refusal import tls_mismatch

        url = settings.redis_url.get_secret_value()
        why = await tls_mismatch(url, timeout=settings.redis_timeout)
        if why is None:
            raise
        raise RedisRefused(why) from error
