"""Check the loaders that ``[refresh]`` names, as a worker does when it begins to lead."""

from collections.abc import AsyncIterator

from redis.asyncio import Redis

from unstale.protocol.names import Names
from unstale.settings import WorkerSettings
from unstale_worker.doctor.findings import Finding, error, ok, warning
from unstale_worker.refresh.python.loader_calls import mistakes
from unstale_worker.refresh.redis.budgets import read_used
from unstale_worker.refresh.sql.sql_loading import check
from unstale_worker.refresh.sql.sql_sessions import Sessions
from unstale_worker.rules import Rules
from unstale_worker.rules.refresh import PythonLoader
from unstale_worker.sources.postgres_connections import PostgresConnections

SUBJECT = "refreshes"
BUDGETS = "budgets"


async def functions(settings: WorkerSettings, rules: Rules) -> AsyncIterator[Finding]:
    """Check that the Python loaders can be imported here; the leader calls them if no refresh worker does."""
    missing = await mistakes(settings, rules)
    for mistake in missing:
        yield warning(
            SUBJECT, str(mistake.error), "Or run `unstale worker --role refresh` where it can be imported."
        )
    specs = [spec for spec in rules.refreshes if isinstance(spec.loader, PythonLoader)]
    if specs and not missing:
        yield ok(SUBJECT, f"{len(specs)} with Python loaders, all of which can be imported here")


async def budgets(redis: Redis, names: Names, rules: Rules | None) -> AsyncIterator[Finding]:
    """Show how much of each budget is used, and warn of those that are used up."""
    specs = () if rules is None else rules.refreshes
    used = await read_used(redis, names, specs)
    remedy = "Raise budget, or see which changes cost calls: `unstale stats`, `inputs` (docs/refresh.md)."
    for spec in specs:
        mine = [each for each in used if each.pattern == spec.template.text]
        said = f"{spec.template.text}: {'; '.join(map(str, mine))}"
        if any(each.used_up for each in mine):
            follows = "the old value is served" if spec.over_budget == "serve_stale" else "readers load"
            yield warning(BUDGETS, f"{said}. Until the next window {follows}", remedy)
        elif mine:
            yield ok(BUDGETS, said)


async def without_connection(rules: Rules) -> AsyncIterator[Finding]:
    """Warn about row and SQL loaders of a worker that reads over HTTPS only: it cannot run them."""
    lines = [
        f"{spec.template.text} (line {spec.line})"
        for spec in rules.refreshes
        if not isinstance(spec.loader, PythonLoader)
    ]
    if lines:
        yield warning(
            SUBJECT,
            "row and sql loaders need a Postgres connection; without one, these keys are only invalidated: "
            f"{', '.join(lines)}",
            "Set DATABASE_URL for the worker as well, or use Python loaders.",
        )


async def queries(connections: PostgresConnections, rules: Rules) -> AsyncIterator[Finding]:
    """Run each row and SQL loader once without a key."""
    specs = [spec for spec in rules.refreshes if not isinstance(spec.loader, PythonLoader)]
    if not specs:
        return
    failed = 0
    sessions = Sessions(connections, name="doctor", most=1)
    try:
        async with sessions.session() as (connection, statements):
            for spec in specs:
                if problem := await check(connection, statements, spec):
                    failed += 1
                    yield error(
                        SUBJECT,
                        f"{rules.file}, {problem}",
                        "Until this is corrected, its keys are only invalidated.",
                    )
    finally:
        await sessions.close()
    if not failed:
        yield ok(SUBJECT, f"{len(specs)} with row or sql loaders run, and no policy hides rows from them")
