"""Check the tier of the Redis server, and those of its settings that matter here."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from unstale_worker.doctor.findings import Finding, ok, warning
from unstale_worker.redis.tiers import PROMISES, Tier

TIER: Final = "Redis tier"
SUBJECT: Final = "Redis settings"
UNSEEN: Final = {
    "maxmemory-policy": "it must be volatile-* or noeviction, or Redis may evict unstale's state",
    "appendonly": "without persistence the cache is empty after a restart, and fills again",
    "client-output-buffer-limit": "its pubsub part cuts off agents that read too slowly; they replay the log",
    "timeout": "it must be 0 or some seconds; unstale uses its connections every second",
}
"""Settings that matter, and why; named where the server does not show them."""
SHORTEST_TIMEOUT: Final = 5
"""Seconds of a connection's idle time below which a slow worker or agent is cut off."""
SMALLEST_LIMIT: Final = 1 << 20
"""Bytes an agent's subscription may lie behind: 16 messages of the largest size."""


async def tier(found: Tier) -> AsyncIterator[Finding]:
    """Report the tier and what it promises."""
    text = f"{found.value}: {PROMISES[found]}"
    if found is Tier.NO_RUN_ID:
        yield warning(
            TIER,
            text,
            "If the server knows ACL users, grant the user of REDIS_URL the command INFO. docs/providers.md "
            "has the table of promises.",
        )
    else:
        yield ok(TIER, text)


async def settings(redis: Redis) -> AsyncIterator[Finding]:
    """Report settings that cost promises or connections; name those that the server does not show."""
    shown = await _shown(redis)
    unseen = [name for name in UNSEEN if name not in shown]
    policy = shown.get("maxmemory-policy", "")
    if policy.startswith("allkeys-") and shown.get("maxmemory") != "0":
        yield warning(
            SUBJECT,
            f"maxmemory-policy is {policy}: Redis may evict unstale's own state and log, and then every "
            "owned key is dropped once",
            "Use a volatile-* policy (every cached value has a TTL), or noeviction.",
        )
    idle = shown.get("timeout", "0")
    if idle.isdecimal() and 0 < int(idle) < SHORTEST_TIMEOUT:
        yield warning(
            SUBJECT,
            f"timeout is {idle}: Redis closes connections that are idle for {idle} s, also those of a "
            "process that is only slow",
            f"Set timeout to 0, or to {SHORTEST_TIMEOUT} at least.",
        )
    limit = _pubsub_limit(shown.get("client-output-buffer-limit", ""))
    if limit and limit < SMALLEST_LIMIT:
        yield warning(
            SUBJECT,
            f"client-output-buffer-limit cuts off a subscriber that lies {limit:,} bytes behind",
            f"Set its pubsub part to {SMALLEST_LIMIT:,} bytes at least, or to 0.",
        )
    if shown.get("appendonly") == "no" and shown.get("save", "") == "":
        yield ok(SUBJECT, "nothing is kept on disk: after a restart the cache is empty, and fills again")
    if unseen:
        yield ok(
            SUBJECT,
            "cannot be seen here: " + "; ".join(f"{name} ({UNSEEN[name]})" for name in unseen),
        )
    else:
        yield ok(SUBJECT, f"maxmemory-policy {policy}, timeout {idle}, appendonly {shown['appendonly']}")


async def _shown(redis: Redis) -> Mapping[str, str]:
    """Return the settings that CONFIG shows, or else those that INFO shows."""
    try:
        found = await redis.config_get(*UNSEEN, "maxmemory", "save")
        return {_text(name): _text(value) for name, value in found.items()}
    except ResponseError:
        pass
    try:
        memory, saving = await redis.info("memory"), await redis.info("persistence")
    except ResponseError:
        return {}
    shown = {}
    if "maxmemory_policy" in memory:
        shown["maxmemory-policy"] = str(memory["maxmemory_policy"])
        shown["maxmemory"] = str(memory.get("maxmemory", "0"))
    if "aof_enabled" in saving:
        shown["appendonly"] = "yes" if saving["aof_enabled"] else "no"
        shown["save"] = "unknown"
    return shown


def _pubsub_limit(value: str) -> int:
    """Return the hard limit of subscribers in bytes; 0 means none, or unknown."""
    words = value.split()
    if "pubsub" not in words:
        return 0
    hard = words[words.index("pubsub") + 1]
    return int(hard) if hard.isdecimal() else 0


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
