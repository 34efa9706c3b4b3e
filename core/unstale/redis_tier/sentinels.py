"""Asks the Sentinels of a service for the address of the primary."""

from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from unstale.redis_tier.asking import SHARE, NoPrimary, Place, ask_all, question
from unstale.redis_tier.url import RedisUrl


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

    async def get_master_address(self) -> Place:
        """Return host and port of the primary; raises `NoPrimary` after at most ``timeout * SHARE`` s."""
        sentinels = self._url.sentinels
        asked = await ask_all(
            sentinels,
            self._ask,
            enough=lambda answers: len(answers) > len(sentinels) // 2,
            seconds=self._timeout,
        )
        if not asked.answers:
            raise NoPrimary(
                f"no Sentinel in REDIS_URL could name the primary of {self._url.place}: "
                f"{'; '.join(asked.problems)}. Check hosts, ports and service in the URL, and "
                "?sentinel_password=… if the Sentinels want one"
            )
        newest = max(asked.answers, key=lambda answer: answer.epoch)
        return newest.host, newest.port

    async def _ask(self, host: str, port: int) -> NamedPrimary | str:
        """Return the answer of one Sentinel, or its problem in words."""
        url, service = self._url, self._url.service
        options = dict(url.sentinel_options)
        try:
            reply: list[Any] = await question(
                (host, port), options, url.tls, self._timeout, "SENTINEL", "MASTER", service
            )
            fields = {bytes(name): bytes(value) for name, value in zip(reply[::2], reply[1::2], strict=True)}
            return NamedPrimary(fields[b"ip"].decode(), int(fields[b"port"]), int(fields[b"config-epoch"]))
        except (RedisError, OSError) as error:
            return _refusal(error, service)
        except (KeyError, ValueError, TypeError):
            return "one gave an answer that no Sentinel gives"

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
