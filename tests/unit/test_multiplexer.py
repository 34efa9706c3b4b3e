"""The multiplexer's random pauses between attempts to connect."""

import pytest

from unstale.errors import RedisUnavailable
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.multiplexer import FIRST_PAUSE, Multiplexer


async def test_pauses_between_attempts_are_drawn_at_random() -> None:
    """Agents that lost the same Redis together do not reconnect together."""
    refused = Connections("redis://127.0.0.1:1/0", timeout=1.0)
    waits = []
    for _ in range(40):
        multiplexer = Multiplexer(refused, timeout=1.0, clock=lambda: 0.0)
        with pytest.raises(RedisUnavailable):
            await multiplexer.get("key")
        waits.append(multiplexer._retry_at)
        await multiplexer.close()
    assert all(FIRST_PAUSE / 2 <= wait <= FIRST_PAUSE for wait in waits)
    assert max(waits) - min(waits) > FIRST_PAUSE / 5
