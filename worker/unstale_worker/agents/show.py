"""The agents as JSON-ready values, and as lines for people."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from unstale.protocol.agent_reports import Counted
from unstale.protocol.tags import shown
from unstale_worker.agents.read import Agent, Agents


def as_dict(found: Agents) -> dict[str, object]:
    """Return JSON-ready values."""
    return {**sums_as_dict(found), "agents": [agent_as_dict(agent) for agent in found.agents]}


def sums_as_dict(found: Agents) -> dict[str, object]:
    """Return JSON-ready values of all agents together."""
    return {
        "rules": found.rules,
        "reporting": len(found.agents),
        "attached": sum(agent.report.attached is not None for agent in found.agents),
        "other_rules": len(found.others),
        "unreadable": found.unreadable,
        "left_out": found.left_out,
        "former_watches": [
            {
                "table": f"{each.watch.schema}.{each.watch.table}",
                "template": shown(each.watch.template),
                "since": round(found.now - each.since, 3),
                "agents": [agent.id for agent in found.users_of(each)],
            }
            for each in found.kept
        ],
        "patterns": {name: _counts(counted) for name, counted in found.patterns.items()},
        "unowned": {
            name: {"meant": shape.meant or None, "former": shape.former or None, **_counts(shape.counted)}
            for name, shape in found.shapes.items()
        },
    }


def agent_as_dict(agent: Agent) -> dict[str, object]:
    """Return JSON-ready values of one agent."""
    report = agent.report
    return {
        "id": agent.id,
        "name": report.name or None,
        "host": report.host,
        "pid": report.pid,
        "version": report.version,
        "rules": report.rules,
        "follows": agent.follows,
        "running": report.running,
        "attached": report.attached,
        "staleness": report.staleness,
        "last": report.last,
        "reported": agent.ago,
        "near_entries": report.near_entries,
        "near_bytes": report.near_bytes,
        **_counts(report.counted),
        "patterns": {name: _counts(counted) for name, counted in report.patterns.items()},
        "unowned": {
            name: {"meant": shape.meant or None, "former": shape.former or None, **_counts(shape.counted)}
            for name, shape in report.shapes.items()
        },
    }


def _counts(counted: Counted) -> dict[str, object]:
    return {"reads": counted.reads, "hits": counted.hits, **asdict(counted)}


def lines(found: Agents) -> Iterator[str]:
    """Return the agents, and the counts of all of them by pattern, as lines of text."""
    if not found.agents:
        yield "no agent reports; those of version 0.1, or with UNSTALE_REPORT_INTERVAL=0, do not"
    for agent in found.agents:
        yield from agent_lines(agent)
    yield from pattern_lines(found)
    yield from former_lines(found)
    if found.unreadable:
        yield f"{found.unreadable} reports could not be read: agents of a later version?"
    if found.left_out:
        yield f"{found.left_out} more agents are left out"


def agent_lines(agent: Agent) -> Iterator[str]:
    """Return one agent as lines of text."""
    report = agent.report
    state = "DETACHED" if report.attached is None else f"attached for {duration(report.attached)}"
    stale = "" if report.staleness is None else f", staleness {report.staleness:.2f} s"
    yield f"{agent.label}  {state}{stale}, version {report.version}, reported {agent.ago:.0f} s ago"
    if agent.follows != "same":
        known = f"OTHER RULES ({report.rules[:8]})" if report.rules else "NO RULES YET"
        yield f"    follows    {known} than those in force" if report.rules else f"    follows    {known}"
    yield f"    reads      {summary(report.counted)}"
    yield f"    memory     {report.near_entries:,} values, {report.near_bytes / 1e6:.1f} MB"


def former_lines(found: Agents) -> Iterator[str]:
    """Return the former watches, and the agents for which they are applied."""
    for each in found.kept:
        users = found.users_of(each)
        why = f"used by {named(users)}" if users else "no agent that reports uses it"
        table, age = f"{each.watch.schema}.{each.watch.table}", duration(found.now - each.since)
        template = shown(each.watch.template)
        yield f"former watch of {table}, {template}: applied, though not in the rules for {age}; {why}"


def pairs(found: Agents) -> list[tuple[str, str]]:
    """Return names and values of all agents together, for ``unstale stats``."""
    others = f", {len(found.others)} with OTHER RULES" if found.others else ""
    detached = sum(agent.report.attached is None for agent in found.agents)
    away = f", {detached} detached" if detached else ""
    total = sum((agent.report.counted for agent in found.agents), Counted())
    each = [(name, summary(counted)) for name, counted in found.patterns.items()]
    each += [
        (name, f"{summary(shape.counted)}; {unowned(shape.meant, shape.former)}")
        for name, shape in found.shapes.items()
    ]
    return [("reporting", f"{len(found.agents)} agents{away}{others}"), ("reads", summary(total)), *each]


def problems(found: Agents) -> Iterator[tuple[str, str]]:
    """Return what is wrong with the agents, each with its remedy."""
    if found.others:
        yield (
            f"{named(found.others)} follow other rules than those in force",
            "That ends within seconds of a deploy. If it does not, the agent is detached: see its log.",
        )
    for name, shape in found.shapes.items():
        readers = named([agent for agent in found.agents if name in agent.report.shapes])
        reads = f"{readers} read keys like {name} ({_many(shape.counted.reads, 'read')})"
        if shape.former:
            yield (
                f"{reads}: no rule owns them any more, as {shape.former} was removed from the rules",
                "Deploy the code that uses the new key, or add the template to keys again until then.",
            )
        elif shape.meant:
            yield (
                f"{reads}, which no rule owns, so no change removes them: did you mean {shape.meant}?",
                "Correct the key in the agent's code, or add its template to keys.",
            )


def named(agents: Sequence[Agent], *, most: int = 5) -> str:
    """Return the labels of some agents."""
    more = f" and {len(agents) - most} more" if len(agents) > most else ""
    return ", ".join(agent.label for agent in agents[:most]) + more


def pattern_lines(found: Agents) -> Iterator[str]:
    """Return the counts of all agents together, by pattern and by shape."""
    names = [*found.patterns, *found.shapes]
    width = max(map(len, names), default=0)
    for name, counted in found.patterns.items():
        yield f"{name:<{width}}  {summary(counted)}"
    for name, shape in found.shapes.items():
        yield f"{name:<{width}}  {summary(shape.counted)}; {unowned(shape.meant, shape.former)}"


def unowned(meant: str, former: str) -> str:
    """Say why no rule owns a key, as far as that is known."""
    if former:
        return f"no rule owns it any more ({former} was removed)"
    return f"no rule owns it; did you mean {meant}?" if meant else "no rule owns it"


def summary(counted: Counted) -> str:
    """Return counts as text."""
    loads = counted.loads + counted.loads_ahead
    share = f"{counted.hits / counted.reads:.1%} hits" if counted.reads else "no reads"
    mean, longest = counted.load_seconds / max(1, loads) * 1000, counted.longest_load * 1000
    took = f" ({mean:.0f} ms, longest {longest:.0f})" if loads else ""
    refused = f", {counted.fills_refused:,} fills refused" if counted.fills_refused else ""
    return f"{_many(counted.reads, 'read')}, {share}, {_many(loads, 'load')}{took}{refused}"


def _many(count: int, one: str) -> str:
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
