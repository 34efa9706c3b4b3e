"""Runs every check, each of them whatever the others found."""

from collections.abc import AsyncIterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from unstale.errors import ConfigurationError, SettingError
from unstale.settings import WorkerSettings
from unstale.settings.variables import unknown_variables, variables
from unstale_worker.doctor import refresh_checks
from unstale_worker.doctor.database_checks import Database
from unstale_worker.doctor.findings import Finding, Severity, collected, error, ok, warning
from unstale_worker.doctor.redis_checks import RedisDoctor
from unstale_worker.rules import Rules
from unstale_worker.sources.opening import check_settings, has_project, project_of
from unstale_worker.sources.postgres_connections import PostgresConnections


async def examine(settings: WorkerSettings) -> list[Finding]:
    """Everything there is to say about rules, Postgres, Redis and the worker. Changes nothing that lasts."""
    rules, findings = _rules(settings.config)
    findings[:0] = _misspelt()
    if rules is not None:
        findings += await collected(
            refresh_checks.SUBJECT, lambda: refresh_checks.functions(rules), remedy="See docs/refresh.md."
        )
    findings += await _database(settings, rules)
    findings += await _redis(settings, rules)
    return findings


def _misspelt() -> list[Finding]:
    names = [name.removeprefix("UNSTALE_") for name in variables().values() if name.startswith("UNSTALE_")]
    findings = []
    for name in unknown_variables():
        near = get_close_matches(name.upper().removeprefix("UNSTALE_"), names, n=1, cutoff=0.75)
        remedy = f"Write UNSTALE_{near[0]}" if near else "Remove it"
        findings.append(
            warning(
                "settings",
                f"{name} is no setting: it changes nothing",
                f"{remedy}; docs/settings.md lists them all.",
            )
        )
    return findings


def _rules(path: Path | None) -> tuple[Rules | None, list[Finding]]:
    try:
        rules = Rules.load(path)
    except ConfigurationError as mistake:
        return None, [
            error("rules", str(mistake), "Correct the rules file; docs/rules.md describes every field.")
        ]
    counted = f"{len(rules.watches)} [[watch]], {len(rules.ttl)} [ttl], {len(rules.refreshes)} [refresh]"
    return rules, [ok("rules", f"{rules.file}: {counted}")]


async def _database(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    """What a worker with these settings would read from; with ``auto``, HTTPS if the database fails."""
    try:
        check_settings(settings)
    except SettingError as mistake:
        return [error("source", str(mistake), "Set what it names; see docs/supabase.md.")]
    if settings.source == "supabase" or settings.database_url is None:
        return await _project(settings, rules)
    doctor = Database(
        settings.database_url.get_secret_value(), timeout=settings.database_timeout, rules=rules
    )
    findings: list[Finding] = []
    async with doctor.connected(findings) as reached:
        for subject, check in doctor.checks() if reached else ():
            findings += await collected(
                subject,
                check,
                remedy="See whether DATABASE_URL's role is unstale_worker, or owns the schema.",
            )
    if not reached and settings.source == "auto" and has_project(settings):
        findings = [replace(finding, severity=Severity.WARNING) for finding in findings]
        findings += await _project(settings, rules)
    elif reached:
        findings.insert(0, ok("source", "outbox: over a connection to Postgres"))
    return findings


async def _project(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    from unstale_worker.doctor.supabase_checks import Supabase  # heavy: the clients, only where they are used

    findings = [ok("source", "supabase: over HTTPS")]
    doctor = Supabase(project_of(settings), rules=rules)
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


def _loaders_beside(settings: WorkerSettings, rules: Rules) -> AsyncIterator[Finding]:
    """Row and SQL loaders of a worker that reads over HTTPS: they go by a connection all the same."""
    if settings.database_url is None:
        return refresh_checks.without_connection(rules)
    dsn = settings.database_url.get_secret_value()
    return refresh_checks.queries(PostgresConnections(dsn, settings.database_timeout), rules)


async def _redis(settings: WorkerSettings, rules: Rules | None) -> list[Finding]:
    findings: list[Finding] = []
    async with RedisDoctor.connected(settings, rules, findings) as doctor:
        for subject, check in doctor.checks() if doctor is not None else ():
            findings += await collected(
                subject, check, remedy="Give the Redis user the right to run what the finding names."
            )
    return findings
