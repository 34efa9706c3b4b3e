"""Check that only those who may write unstale's keys may publish on its channel."""

from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from unstale.protocol.names import Names
from unstale.settings import WorkerSettings
from unstale_worker.doctor.findings import Finding, error, ok, warning
from unstale_worker.redis.client import open_redis

SUBJECT: Final = "Redis users"
REMEDY: Final = (
    "Give each of them `resetchannels` and the channels that it needs; docs/security.md has lines for all."
)


async def users(redis: Redis, settings: WorkerSettings) -> AsyncIterator[Finding]:
    """Report users that may publish watermarks without the right to write the state behind them.

    While a worker lives, agents would take such a user's watermarks for the worker's, and believe for a
    moment that a change was applied which was not.
    """
    names = settings.names
    open_to_all = await _anybody_may_publish(settings)
    if open_to_all:
        yield warning(
            SUBJECT,
            f"anyone who reaches Redis may publish on {names.channel} without a password",
            "Give Redis' default user a password and `resetchannels`, or switch it off: "
            "ACL SETUSER default off.",
        )
    try:
        known = [_text(name) for name in await redis.execute_command("ACL", "USERS")]
    except ResponseError:
        if not open_to_all:
            yield ok(
                SUBJECT,
                "a password is required; which users may publish is unknown here, as the user of REDIS_URL "
                "may not list users (run the doctor once with one that may call ACL USERS and ACL DRYRUN)",
            )
        return
    wrong = [name for name in known if await _publishes_only(redis, name, names)]
    if wrong:
        yield error(
            SUBJECT,
            f"{', '.join(sorted(wrong))} may publish on {names.channel}, but not write {names.state}: agents "
            "would take their watermarks for the worker's",
            REMEDY,
        )
    elif not open_to_all:
        yield ok(SUBJECT, f"only users that may write {names.state} may publish on {names.channel}")


async def _publishes_only(redis: Redis, user: str, names: Names) -> bool:
    if not await _allowed(redis, user, names.publish, names.channel, "x"):
        return False
    return not await _allowed(redis, user, "HSET", names.state, "applied_at", "0")


async def _allowed(redis: Redis, user: str, *command: str) -> bool:
    reply = await redis.execute_command("ACL", "DRYRUN", user, *command)
    return _text(reply) == "OK" and await _enabled(redis, user)


async def _enabled(redis: Redis, user: str) -> bool:
    reply = await redis.execute_command("ACL", "GETUSER", user)
    fields: dict[object, Any] = (
        reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    )
    flags = {_text(name): value for name, value in fields.items()}["flags"]
    return "on" in {_text(flag) for flag in flags}


async def _anybody_may_publish(settings: WorkerSettings) -> bool:
    """Return True if a connection without a password may publish on a channel below unstale's own."""
    stranger = open_redis(settings, stranger=True)
    try:
        await stranger.publish(f"{settings.names.channel}:doctor", "x")
    except RedisError:
        return False
    finally:
        await stranger.aclose()
    return True


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
