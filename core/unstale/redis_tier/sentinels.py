"""Asks the Sentinels of a service for the address of the primary."""

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import Connection, SSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from unstale.redis_tier.url import RedisUrl
from unstale.runtime.cancellation import cancelled

SHARE: Final = 0.5
"""Share of the connect timeout that asking the Sentinels may take; the rest is for the primary."""


class NoPrimary(RedisConnectionError):
    """There is no primary to connect to; the text is a complete sentence with its remedy."""


@dataclass(frozen=True, slots=True)
class NamedPrimary:
    """A Sentinel's answer: the address of the primary.

    Attributes:
        host: Host of the primary, as the Sentinel reaches it.
        port: Port of the primary.
        epoch: Number of the failover that made it the primary. A Sentinel that was cut off lags behind.
    """

    host: str
    port: int
    epoch: int


class Sentinels:
    """The Sentinels of one service.

    All are asked at the same time, and the answers of a majority are enough, so a Sentinel that hangs costs
    nothing. If the answers differ, the one with the newest failover counts, so a Sentinel that was cut off
    cannot mislead. (redis-py asks one after the other and believes the first.) Answers are not remembered:
    each new connection asks again.

    Example:
        >>> sentinels = Sentinels(RedisUrl.parse("redis+sentinel://a:26379,b,c/mymaster"), timeout=1.0)
        >>> await sentinels.get_master_address()
        ('10.0.0.7', 6379)
    """

    is_master: Final = True
    check_connection: Final = False
    # With `get_master_address`, this is all that redis-py's connection needs of its pool.

    def __init__(self, url: RedisUrl, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout * SHARE

    async def get_master_address(self) -> tuple[str, int]:
        """Return host and port of the primary; raises `NoPrimary` after at most ``timeout * SHARE`` s."""
        sentinels = self._url.sentinels
        answers: list[NamedPrimary] = []
        troubles: list[str] = []
        asked = {asyncio.create_task(self._ask(*place), name="unstale-sentinel") for place in sentinels}
        waiting = set(asked)
        try:
            until = asyncio.get_running_loop().time() + self._timeout
            while waiting and len(answers) <= len(sentinels) // 2:
                left = until - asyncio.get_running_loop().time()
                done, waiting = await asyncio.wait(
                    waiting, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    found = task.result()
                    answers.append(found) if isinstance(found, NamedPrimary) else troubles.append(found)
                if not done:
                    break
        finally:
            for task in asked:
                await cancelled(task)
        if not answers:
            raise NoPrimary(self._problem(troubles, silent=len(waiting)))
        newest = max(answers, key=lambda answer: answer.epoch)
        return newest.host, newest.port

    async def _ask(self, host: str, port: int) -> NamedPrimary | str:
        """Return the answer of one Sentinel, or its problem in words."""
        kind = SSLConnection if self._url.tls else Connection
        connection = kind(
            host=host, port=port, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=None,
            socket_connect_timeout=self._timeout, driver_info=None, **self._url.sentinel_options,
        )  # fmt: skip
        try:
            await connection.connect()
            await connection.send_command("SENTINEL", "MASTER", self._url.service)
            reply: list[Any] = await connection.read_response(timeout=math.inf)
            fields = {bytes(name): bytes(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}
            return NamedPrimary(fields[b"ip"].decode(), int(fields[b"port"]), int(fields[b"config-epoch"]))
        except (RedisError, OSError) as error:
            return _refusal(error, self._url.service)
        except (KeyError, ValueError, TypeError):
            return "one gave an answer that no Sentinel gives"
        finally:
            await connection.disconnect(nowait=True)

    def _problem(self, troubles: list[str], *, silent: int) -> str:
        shown = sorted(set(troubles))
        if silent:
            shown.append(f"{silent} did not answer within {self._timeout:g} s")
        return (
            f"no Sentinel in REDIS_URL could name the primary of {self._url.place}: {'; '.join(shown)}. "
            "Check hosts, ports and service in the URL, and ?sentinel_password=… if the Sentinels want one"
        )

    def __repr__(self) -> str:
        return f"<Sentinels of {self._url.place}>"


def _refusal(error: Exception, service: str) -> str:
    if isinstance(error, AuthenticationError | NoPermissionError):
        return "one refused the user or password"
    if not isinstance(error, ResponseError):
        return f"one cannot be reached ({str(error)[:120]})"
    if "no such master" in str(error).lower():
        return f"one does not know the service {service!r}"
    return f"one is not a Sentinel, or refused the command ({str(error)[:120]})"
