"""Runs every check, each of them whatever the others found."""

from pathlib import Path

from unstale.errors import ConfigurationError
from unstale.settings import Settings
from unstale_worker.doctor.database import Database
from unstale_worker.doctor.findings import Finding, collected, error, ok
from unstale_worker.doctor.redis import RedisDoctor
from unstale_worker.rules import Rules


async def examine(settings: Settings) -> list[Finding]:
    """Everything there is to say about rules, Postgres, Redis and the worker. Changes nothing that lasts."""
    rules, findings = _rules(settings.config)
    findings += await _database(settings, rules)
    findings += await _redis(settings, rules)
    return findings


def _rules(path: Path | None) -> tuple[Rules | None, list[Finding]]:
    try:
        rules = Rules.load(path)
    except ConfigurationError as mistake:
        return None, [
            error("rules", str(mistake), "Correct the rules file; docs/rules.md describes every field.")
        ]
    return rules, [ok("rules", f"{rules.file}: {len(rules.watches)} [[watch]], {len(rules.ttl)} [ttl]")]


async def _database(settings: Settings, rules: Rules | None) -> list[Finding]:
    if settings.database_url is None:
        return [
            error(
                "Postgres",
                "DATABASE_URL is not set",
                "Set it to the direct connection or the session pooler of your Supabase database.",
            )
        ]
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
    return findings


async def _redis(settings: Settings, rules: Rules | None) -> list[Finding]:
    findings: list[Finding] = []
    async with RedisDoctor.connected(settings, rules, findings) as doctor:
        for subject, check in doctor.checks() if doctor is not None else ():
            findings += await collected(
                subject, check, remedy="Give the Redis user the right to run what the finding names."
            )
    return findings
