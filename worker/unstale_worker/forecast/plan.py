"""All that `unstale plan` says: patterns, migrations, agents and the load that follows."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unstale.protocol.messages import PublishedRules
from unstale.protocol.tags import is_record, shown
from unstale.settings import WorkerSettings
from unstale_worker.agents.show import former_lines, problems
from unstale_worker.forecast.migrations import Compared, Difference, compare_database, differences
from unstale_worker.forecast.repository import other_rules
from unstale_worker.forecast.restart import KEEP, PatternFate, Restart, restart
from unstale_worker.forecast.running import Running, count_keys, read_running
from unstale_worker.leader.former_rules import FormerRules
from unstale_worker.migration.writer import write_migration
from unstale_worker.redis.client import open_redis
from unstale_worker.redis.explained import explained
from unstale_worker.rules import Rules


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """The effect of starting a worker with the rules on disk.

    Attributes:
        file: The rules file.
        restart: The fate of each pattern.
        migrations: What the migration files lack.
        database: What the database lacks, or why it was not asked.
        running: The running system; None if the comparison is with other files.
    """

    file: str
    restart: Restart
    migrations: tuple[Difference, ...]
    database: Compared
    running: Running | None


def plan_offline(rules: Rules, against: str, *, folder: Path, base: Path) -> RestartPlan:
    """Compare the rules with those of a file or a git revision; asks no server."""
    other = other_rules(against, rules)
    before = PublishedRules.decode(other.published())
    former = FormerRules(rules, keep=WorkerSettings.model_fields["former_rules"].default)
    found = restart(before, former.follow(before, now=time.time()), name=against)
    skipped = Compared(skipped="--against compares files")
    return RestartPlan(rules.file, found, _migrations(rules, folder, base), skipped, None)


async def plan_running(
    settings: WorkerSettings, rules: Rules, *, folder: Path, base: Path, count: bool
) -> RestartPlan:
    """Compare the rules with those in force; reads from Redis and Postgres, and changes nothing.

    With ``count``, the keys of each pattern are counted with SCAN.
    """
    async with explained(settings), open_redis(settings, connections=1) as redis:
        running = await read_running(redis, settings.names)
        patterns = {*running.published.patterns, *running.pending, *rules.patterns}
        counts = await count_keys(redis, settings.names, patterns) if count else None
    database = await compare_database(settings, rules, folder)
    former = FormerRules(rules, keep=settings.former_rules)
    former.follow(running.published, now=time.time())
    if not database.skipped:
        former.captured(database.captures)
        former.follow(running.published, now=time.time())
    found = restart(
        running.published, former.rules, name="the rules in force", recovery=running.recovery,
        pending=running.pending, counts=counts,
    )  # fmt: skip
    return RestartPlan(rules.file, found, _migrations(rules, folder, base), database, running)


def _migrations(rules: Rules, folder: Path, base: Path) -> tuple[Difference, ...]:
    return tuple(differences(rules, folder, write_migration(rules, folder, base=base, dry=True)))


def as_dict(plan: RestartPlan) -> dict[str, object]:
    """Return JSON-ready values."""
    found, running = plan.restart, plan.running
    data: dict[str, object] = {
        "file": plan.file,
        "compared_with": found.before,
        "same": found.same,
        "recovery": found.recovery or None,
        "patterns": [asdict(fate) for fate in found.patterns],
        "loads_at_most": found.loads,
        "migrations": [asdict(each) for each in plan.migrations],
        "database": [asdict(each) for each in plan.database.differences],
        "database_not_compared": plan.database.skipped or None,
    }
    if running is not None:
        data["running"] = {
            "rules": running.published.hash,
            "agents": running.agents,
            "reporting": len(running.reports.agents),
            "other_rules": [
                {"agent": agent.label, "rules": agent.report.rules} for agent in running.reports.others
            ],
            "agent_problems": [problem for problem, _ in problems(running.reports)],
            "leader": running.leader,
            "waiting_refreshes": running.refreshes,
        }
    return data


def lines(plan: RestartPlan) -> Iterator[str]:
    """Return the plan as lines of text."""
    found = plan.restart
    yield f"{plan.file}, compared with {found.before}: {'no difference' if found.same else 'other rules'}"
    width = max((len(shown(fate.pattern)) for fate in found.patterns), default=0)
    for fate in found.patterns:
        if fate.action != KEEP or fate.why:
            yield f"  {fate.action:<7}  {shown(fate.pattern):<{width}}  {_keys(fate)}{fate.why}"
    kept = [fate for fate in found.patterns if fate.action == KEEP]
    if kept:
        counts = [fate.keys for fate in kept if fate.keys is not None]
        total = f", about {sum(counts):,} keys" if counts else ""
        yield f"  keep     {len(kept)} {'pattern' if len(kept) == 1 else 'patterns'}{total}"
    yield from _load(plan)
    for difference in plan.migrations:
        yield f"migrations: {difference}"
    if not plan.migrations:
        yield "migrations: the files match the rules"
    for difference in plan.database.differences:
        yield f"database: {difference}"
    if plan.database.skipped:
        yield f"database: not compared: {plan.database.skipped}"
    elif not plan.database.differences:
        yield "database: every table is captured as the rules need"
    yield from _agents(plan)


def _load(plan: RestartPlan) -> Iterator[str]:
    found = plan.restart
    tags = [fate for fate in found.dropped if is_record(fate.pattern) and fate.keys != 0]
    for fate in found.dropped:
        if fate.keys != 0:
            by = (
                "each value stored with it, by the reader's loader"
                if fate in tags
                else "by " + " or ".join(fate.loaders)
            )
            yield f"load: {shown(fate.pattern)}: {_keys(fate)}{by}"
    if found.dropped and found.loads is not None:
        yield f"load: at most {found.loads:,} loads follow, each when its key is next read"
    elif found.dropped:
        why = "values with a dropped tag cannot be counted" if tags else "the keys were not counted"
        yield f"load: each dropped key is loaded when it is next read; {why}"
    else:
        yield "load: none, as nothing is dropped"
    if plan.running is not None and plan.running.refreshes:
        yield f"load: {plan.running.refreshes:,} keys wait for a refresh already"


def _agents(plan: RestartPlan) -> Iterator[str]:
    running = plan.running
    if running is None:
        return
    if not running.leader:
        yield "worker: none leads, so no change is applied"
    followed = running.published.hash[:8] or "none"
    connected = "unknown number" if running.agents is None else running.agents
    if plan.restart.same:
        yield f"agents: {connected} connected; the rules in force are these ({followed})"
    else:
        yield (
            f"agents: {connected} connected, which follow the rules in force ({followed}) until a "
            "worker with these leads"
        )
    for line in former_lines(running.reports):
        yield f"worker: {line}"
    for problem, _ in problems(running.reports):
        yield f"agents: {problem}"


def _keys(fate: PatternFate) -> str:
    if fate.keys is None:
        return ""
    unit = "tag" if is_record(fate.pattern) else "key"
    return f"{fate.keys:,} {unit}{'' if fate.keys == 1 else 's'}  "
