"""Run all checks; each runs regardless of the results of the others."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from unstale.errors import ConfigurationError, SettingError
from unstale.redis_tier.partition_count import check_partitions
from unstale.settings import WorkerSettings
from unstale.settings.variables import unknown_variables
from unstale_worker.doctor import history_check, loader_checks, refresh_checks
from unstale_worker.doctor.database_checks import DatabaseChecks
from unstale_worker.doctor.findings import Finding, Severity, collected, error, ok, warning
from unstale_worker.doctor.redis_checks import RedisChecks
from unstale_worker.observe.preflight import check_redis
from unstale_worker.redis.client import open_redis
from unstale_worker.rules import Rules
from unstale_worker.sources.opening import check_settings, has_project, project_of
from unstale_worker.sources.postgres_connections import PostgresConnections


async def examine(settings: WorkerSettings, *, recording: Path | None = None) -> list[Finding]:
    """Check rules, Postgres, Redis and the worker. Leaves no lasting change.

    With ``recording``, also compare what loaders were seen to read with the rules.
    """
    rules, findings = _rules(settings.config)
    findings[:0] = _misspelt()
    if rules is not None:
        findings += await collected(
            refresh_checks.SUBJECT,
            lambda: refresh_checks.functions(settings, rules),
            remedy="See docs/refresh.md.",
        )
    if rules is not None and recording is not None:
        path = recording
        findings += await collected(
            loader_checks.SUBJECT, lambda: loader_checks.missing(rules, path), remedy=loader_checks.RECORD
        )
    findings += await _database(settings, rules)
    findings += await _redis(settings, rules)
    findings += await collected(
        history_check.SUBJECT,
        lambda: history_check.same_history(settings),
        remedy="Correct the settings of the database and of Redis first.",
    )
    return findings


def _misspelt() -> list[Finding]:
    findings = []
    for name, meant in unknown_variables().items():
        remedy = f"Write {meant}" if meant else "Remove it"
        findings.append(
            warning(
                "settings",
                f"{name} is not a setting and has no effect",
                f"{remedy}; docs/settings.md lists them all.",
            )
        )
    return findings


def _rules(path: Path | None) -> tuple[Rules | None, list[Finding]]:
    try:
        rules = Rules.load(path).require_watches()
    except ConfigurationError as mistake:
        return None, [
            error("rules", str(mistake), "Correct the rules file; docs/rules.md describes every field.")
        ]
    counted = f"{len(rules.watches)} [[watch]], {len(rules.ttl)} [ttl], {len(rules.refreshes)} [refresh]"
    older = [
        f"{each.template.text} (stale_if_error {each.stale_if_error:g} s"
        + (f", soft_timeout {each.soft_timeout:g} s)" if each.soft_timeout else ")")
        for each in rules.reads
        if each.stale_if_error
    ]
    kept = f"; older values are kept of {', '.join(older)}" if older else ""
    return rules, [ok("rules", f"{rules.file}: {counted}{kept}"), *_globs(rules)]


def _globs(rules: Rules) -> list[Finding]:
    """Warn about templates that are meant as patterns; a pattern would be a SCAN for each change."""
    meant = [
        f"{template.text} (line {watch.line})"
        for watch in rules.watches
        for template in watch.keys
        if not template.is_tag and not {*"*?["}.isdisjoint("".join(template.literals))
    ]
    if not meant:
        return []
    return [
        warning(
            "rules",
            f"{', '.join(meant)}: a star in keys is part of the key's name, so a change removes only the key "
            "that is called so",
            "To invalidate values whose keys no row can name, store them with tags= and write tags = [...] "
            "in the [[watch]]: docs/values.md. It is one step, where a pattern would scan all keys.",
        )
    ]


async def _database(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    """Check the source that a worker would read; with ``auto``, also HTTPS if the database fails."""
    try:
        check_settings(settings)
    except SettingError as mistake:
        return [error("source", str(mistake), "Set the variables it names; see docs/supabase.md.")]
    if settings.source == "supabase" or settings.database_url is None:
        return await _project(settings, rules)
    assert settings.postgres is not None
    doctor = DatabaseChecks(settings.postgres.dsn, timeout=settings.database_timeout, rules=rules)
    findings: list[Finding] = []
    async with doctor.connected(findings) as reached:
        for subject, check in doctor.checks() if reached else ():
            findings += await collected(
                subject,
                check,
                remedy="Check that the role of DATABASE_URL is unstale_worker or owns the schema.",
            )
    if not reached and settings.source == "auto" and has_project(settings):
        findings = [replace(finding, severity=Severity.WARNING) for finding in findings]
        findings += await _project(settings, rules)
    elif reached:
        findings.insert(0, ok("source", "outbox: over a connection to Postgres"))
    return findings


async def _project(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    from unstale_worker.doctor.supabase_checks import SupabaseChecks  # slow to import: the HTTPS clients

    findings = [ok("source", "supabase: over HTTPS")]
    doctor = SupabaseChecks(project_of(settings), rules=rules)
    async with doctor.connected(findings) as reached:
        for subject, check in doctor.checks() if reached else ():
            findings += await collected(subject, check, remedy="See docs/supabase.md.")
    if rules is not None:
        findings += await collected(
            refresh_checks.SUBJECT,
            lambda: _loaders_beside(settings, rules),
            remedy="Row and sql loaders need DATABASE_URL; without it their keys are only invalidated.",
        )
    return findings


async def _partitions(settings: WorkerSettings) -> AsyncIterator[Finding]:
    """Check each partition's node as a worker does at its start; their contents are not looked at."""
    url, timeout = settings.redis_url.get_secret_value(), settings.redis_timeout
    try:
        await check_partitions(url, settings.names, settings.partitions, timeout=timeout)
    except ConfigurationError as mistake:
        yield error("Redis", str(mistake), "Set UNSTALE_PARTITIONS to that number for every process.")
        return
    for each in settings.in_partitions:
        redis = open_redis(each, connections=2)
        try:
            server = await check_redis(redis, each.names)
        finally:
            await redis.aclose()
    yield ok("Redis", f"{server.name}: {settings.partitions} partitions, each on a node that can carry them")
    yield warning(
        "Redis",
        "with several partitions the doctor does not look into them",
        "Watch the worker's /readyz, and `get_stats()` of an agent, which has a line for each partition.",
    )


def _loaders_beside(settings: WorkerSettings, rules: Rules) -> AsyncIterator[Finding]:
    """Check the row and SQL loaders of a worker that reads over HTTPS; they need a Postgres connection."""
    if settings.postgres is None:
        return refresh_checks.without_connection(rules)
    connections = PostgresConnections(settings.postgres.dsn, settings.database_timeout)
    return refresh_checks.queries(connections, rules)


async def _redis(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    findings: list[Finding] = []
    if settings.partitions > 1:
        return await collected("Redis", lambda: _partitions(settings), remedy="Correct REDIS_URL.")
    async with RedisChecks.connected(settings, rules, findings) as doctor:
        for subject, check in doctor.checks() if doctor is not None else ():
            findings += await collected(
                subject, check, remedy="Grant the Redis user the right to run the command in the finding."
            )
    return findings
