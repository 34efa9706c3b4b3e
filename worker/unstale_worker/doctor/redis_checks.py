"""Check the Redis that holds the values, and the state that the worker keeps in it."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from unstale.errors import SettingError, UnstaleError
from unstale.protocol.globs import escape_glob
from unstale.protocol.key_watches import file_hash
from unstale.redis_tier.scripts import Script
from unstale.redis_tier.url import RedisUrl
from unstale.settings import WorkerSettings
from unstale_worker.agents.read import read_agents
from unstale_worker.agents.show import former_lines, problems
from unstale_worker.doctor import redis_settings, redis_users, refresh_checks, value_checks
from unstale_worker.doctor.findings import Check, Finding, error, error_of, ok, warning
from unstale_worker.observe.overview import read_stats
from unstale_worker.observe.preflight import check_redis
from unstale_worker.redis.claim import GONE_AFTER, NamespaceTaken, holder
from unstale_worker.redis.client import open_redis, subscribe
from unstale_worker.redis.explained import explained
from unstale_worker.redis.tiers import Tier
from unstale_worker.rules import Rules

TRIAL: Final = Script("unstale_worker.redis", "doctor")
RIGHTS: Final = (
    "Grant the user of REDIS_URL the commands listed in docs/operations.md, the keys of your rules, "
    "~unstale:* and ~{tag}:*, and the channels &{tag}:*."
)


class RedisChecks:
    """The checks of one Redis."""

    def __init__(self, redis: Redis, settings: WorkerSettings, rules: Rules | None, tier: Tier) -> None:
        self._redis, self._settings, self._rules, self._tier = redis, settings, rules, tier
        self._names = settings.names

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, settings: WorkerSettings, rules: Rules | None, findings: list[Finding]
    ) -> AsyncIterator["RedisChecks | None"]:
        """Connect; yield the checks if Redis answers and supports the protocol, else None.

        The result is added to ``findings``.
        """
        if not settings.uses_redis:
            alone = "REDIS_URL is not set, and UNSTALE_EMBEDDED_WORKER is"
            why = alone if settings.redis_enabled else "REDIS_ENABLED is false"
            if settings.embedded_worker:
                text = f"{why}: every process follows the outbox and has its own cache"
                findings.append(ok("Redis", text))
            else:
                findings.append(
                    warning(
                        "Redis",
                        f"{why}: every process has its own cache, and no change reaches it",
                        "Set REDIS_URL and REDIS_ENABLED=true to share values and receive invalidations, or "
                        "UNSTALE_EMBEDDED_WORKER=true to let every process follow the outbox itself.",
                    )
                )
            yield None
            return
        try:
            redis = open_redis(settings, connections=2)
        except SettingError as mistake:
            findings.append(error("Redis", str(mistake), "Correct REDIS_URL; see docs/settings.md."))
            yield None
            return
        try:
            try:
                async with explained(settings):
                    server = await check_redis(
                        redis,
                        settings.names,
                        sentinels=bool(RedisUrl.parse(settings.redis_url.get_secret_value()).sentinels),
                    )
            except UnstaleError as failure:
                otherwise = "Set REDIS_URL to a supported server that answers: docs/providers.md."
                findings.append(error_of("Redis", failure, otherwise))
                yield None
                return
            findings.append(ok("Redis", f"{server.name}, a primary"))
            yield cls(redis, settings, rules, server.tier)
        finally:
            await redis.aclose()

    def checks(self) -> Sequence[tuple[str, Check]]:
        """Return subject and check, in order of execution."""
        return (
            (redis_settings.TIER, lambda: redis_settings.tier(self._tier)),
            ("Redis rights", self._rights),
            (redis_users.SUBJECT, self._users),
            (redis_settings.SUBJECT, lambda: redis_settings.settings(self._redis)),
            ("Redis memory", self._memory),
            ("worker", self._worker),
            ("agents", self._agents),
            ("namespace", self._namespace),
            (
                value_checks.SUBJECT,
                lambda: value_checks.values(self._redis, self._settings, self._rules),
            ),
            (
                refresh_checks.BUDGETS,
                lambda: refresh_checks.budgets(self._redis, self._names, self._rules),
            ),
            ("database number", self._database_numbers),
        )

    async def _rights(self) -> AsyncIterator[Finding]:
        sharded = ":sharded" if self._names.cluster else ""
        own = f"{self._names.tag}:doctor:{secrets.token_hex(8)}"
        remedy = RIGHTS.replace("{tag}", self._names.tag)
        try:
            await TRIAL(
                self._redis,
                keys=[f"{own}:hash", f"{own}:stream", f"{own}:string"],
                args=[f"{own}:channel{sharded}"],
            )
        except ResponseError as failure:
            yield error(
                "Redis rights", f"a command of unstale's scripts is refused: {str(failure)[:200]}", remedy
            )
            return
        refused = [problem async for problem in self._refused(own)]
        if refused:
            yield error("Redis rights", "; ".join(refused), remedy)
        else:
            yield ok(
                "Redis rights",
                "scripts may write and publish, values may be removed, the channel may be subscribed to",
            )

    async def _refused(self, own: str) -> AsyncIterator[str]:
        """Describe what the user may not do outside of scripts."""
        patterns = self._rules.patterns if self._rules is not None else ()
        for pattern in patterns:
            try:  # a random key that matches the pattern and does not exist
                await self._redis.unlink(self._names.stored(pattern.replace("*", own.rpartition(":")[2])))
            except ResponseError as failure:
                yield f"keys like {pattern} may not be removed ({str(failure)[:120]})"
        try:
            await self._redis.scan(count=10, match=f"{own}*")
        except ResponseError as failure:
            yield f"SCAN is refused ({str(failure)[:120]})"
        pubsub = self._redis.pubsub()
        try:
            await subscribe(pubsub, self._names)
            await pubsub.get_message(timeout=self._settings.redis_timeout)
        except ResponseError as failure:
            yield f"the channel {self._names.channel} may not be subscribed to ({str(failure)[:120]})"
        finally:
            await pubsub.aclose()

    async def _users(self) -> AsyncIterator[Finding]:
        async for finding in redis_users.users(self._redis, self._settings):
            yield finding

    async def _memory(self) -> AsyncIterator[Finding]:
        try:
            memory = await self._redis.info("memory")
        except ResponseError:
            yield ok("Redis memory", "cannot be seen here, as INFO is refused")
        else:
            yield ok("Redis memory", f"{memory.get('used_memory_human', '?')} used")

    async def _database_numbers(self) -> AsyncIterator[Finding]:
        """Warn of agents that follow another database of this server: they hear nothing of this worker."""
        if self._names.cluster:
            return  # it has no other database
        channel = self._names.channel
        try:
            found = await self._redis.execute_command(
                "PUBSUB", "CHANNELS", escape_glob(self._names.tag) + ":invalidations*"
            )
        except ResponseError:
            return  # the user may not ask, and a worker need not
        others = sorted(name for name in map(_text, found) if name != channel)
        if others:
            yield warning(
                "database number",
                f"REDIS_URL names database {self._names.database}, whose agents follow {channel}, but other "
                f"agents of this namespace follow {', '.join(others)}",
                "Give worker and agents a REDIS_URL with the same number at its end. If another worker leads "
                "there on purpose, give it an UNSTALE_NAMESPACE of its own.",
            )

    async def _namespace(self) -> AsyncIterator[Finding]:
        """Compare the namespace with the one that has claimed this database."""
        found, silent = await holder(self._redis, self._names)
        if found in ("", self._names.namespace):
            return
        if silent < GONE_AFTER:
            mistake, _, remedy = str(NamespaceTaken(self._names, found)).partition(". ")
            yield error("namespace", mistake, f"{remedy}.")
        else:
            yield warning(
                "namespace",
                f"database {self._names.database} of REDIS_URL was used by the namespace {found!r}, whose "
                f"worker was there {silent / 3600:.1f} h ago",
                "If it is not to come back, start the worker: it takes the database over. Else use another "
                "database number, or a Redis of its own.",
            )

    async def _worker(self) -> AsyncIterator[Finding]:
        stats = await read_stats(self._redis, self._names)
        start = "Start a worker: `unstale worker`."
        if not stats.epoch:
            yield warning("worker", "no worker has led yet, so nothing is stored in Redis", start)
            return
        if not stats.leader:
            yield error("worker", "no worker leads: changes are not applied, and agents detach", start)
        else:
            counted = "unknown" if stats.agents is None else stats.agents
            yield ok("worker", f"a worker leads with fence {stats.fence}; subscribers: {counted}")
        age = stats.watermark_age
        if stats.leader and (age is None or age > self._settings.max_silence):
            yield error(
                "watermark",
                "there is none" if age is None else f"the newest is {age:.1f} s old",
                "The worker makes no progress: see its log and /readyz.",
            )
        elif stats.leader:
            yield ok("watermark", f"{age:.2f} s old")
        if self._rules is not None and file_hash(stats.rules) != self._rules.hash:
            yield warning(
                "worker",
                "its rules differ from the rules file found here",
                "Restart it with this rules file, or run the doctor with the worker's rules file.",
            )

    async def _agents(self) -> AsyncIterator[Finding]:
        """Look for agents with other rules, and for keys that they read and no rule owns."""
        found = await read_agents(self._redis, self._names)
        wrong = list(problems(found))
        for problem, remedy in wrong:
            yield warning("agents", problem, remedy)
        for line in former_lines(found):
            yield ok("agents", line)
        if found.agents and not wrong:
            yield ok("agents", f"{len(found.agents)} report; all follow the rules in force")


def _text(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
