"""Opens everything that an audit of a running system needs, and says what it cannot audit."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from redis.asyncio import Redis

from unstale.errors import ConfigurationError, SettingError
from unstale.sealing.sealer import sealer_of
from unstale.settings import WorkerSettings
from unstale_worker.audit.agenda import Agenda
from unstale_worker.audit.auditor import Auditor, Options
from unstale_worker.audit.changes import Changes
from unstale_worker.audit.comparing import Comparer
from unstale_worker.audit.violations import Violation, Violations
from unstale_worker.redis.client import open_redis
from unstale_worker.rules import PythonLoader, Rules
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.sources.outbox import OutboxSource
from unstale_worker.sources.pooler import is_transaction_pooler
from unstale_worker.sources.postgres_connections import PostgresConnections


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the rules that can be audited.

    Attributes:
        audited: The refreshes whose loaders are a row or a query.
        left_out: Key templates that no such loader makes, with the reason.
    """

    audited: tuple[RefreshSpec, ...]
    left_out: dict[str, str]


def scope_of(rules: Rules) -> Scope:
    """Return what can be audited; raises `ConfigurationError` if that is nothing."""
    audited = tuple(spec for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader))
    if not audited:
        raise ConfigurationError(
            f"nothing can be audited: no [refresh] of {rules.file} has the loader row or sql, which says "
            'what a key must hold. Add one, such as [refresh."user:{id}:profile"] with loader = "row"; '
            "docs/audit.md has an example"
        )
    left_out: dict[str, str] = {}
    made = {spec.pattern for spec in audited}
    python = {spec.pattern for spec in rules.refreshes} - made
    for watch in rules.watches:
        for template in watch.keys:
            if template.pattern not in made:
                named = template.pattern in python
                left_out[template.text] = "its loader is Python" if named else "no [refresh] says its value"
    return Scope(audited, left_out)


def connections_of(settings: WorkerSettings, scope: Scope) -> PostgresConnections:
    """Return how to reach the database; raises `SettingError`."""
    if settings.postgres is None:
        raise SettingError(
            "DATABASE_URL is not set; an audit compares values and changes in one snapshot, which needs a "
            "Postgres connection. Set it to the direct connection or the session pooler"
        )
    timeout = max(settings.database_timeout, *(spec.timeout + 1 for spec in scope.audited))
    return PostgresConnections(settings.postgres.dsn, timeout=timeout)


@asynccontextmanager
async def opened(
    settings: WorkerSettings,
    rules: Rules,
    options: Options,
    *,
    record: Path | None = None,
    say: Callable[[Violation], object] = lambda _: None,
    each_round: Callable[[Auditor], object] = lambda _: None,
) -> AsyncIterator[Auditor]:
    """Open an auditor; raises `ConfigurationError` if a loader does not run, and `Unavailable`."""
    scope = scope_of(rules)
    connections = connections_of(settings, scope)
    pooled = await is_transaction_pooler(connections)
    connections = replace(connections, pooled=pooled)
    source = OutboxSource(connections, read_entries=settings.read_entries, session="audit")
    redis: Redis
    async with open_redis(settings, connections=2) as redis:
        comparer = Comparer(redis, settings.names, rules, source, connections, sealer_of(settings))
        try:
            if problems := await comparer.check(scope.audited):
                raise ConfigurationError("; ".join(problems))
            agenda = Agenda(options.delays)
            changes = Changes(redis, settings.names, rules, source, agenda)
            violations = Violations(redis, settings.names, rules, record, say)
            auditor = Auditor(rules, source, changes, comparer, violations, agenda, options)
            auditor.each_round = lambda: each_round(auditor)
            yield auditor
        finally:
            await comparer.close()
            await source.close()
