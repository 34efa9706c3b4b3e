"""Print what `unstale_worker.tracing` found: aligned text, or JSON."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

import orjson

from unstale.protocol.reasons import OPERATION_NAMES
from unstale.protocol.tags import shown
from unstale_worker.cli.output import printable
from unstale_worker.tracing.explain import Explanation, KeyEffect, RuleEffect
from unstale_worker.tracing.why import Heard, Removal, Why

SHOWN_AGENTS = 5
"""Agents that one line names; --json has all."""


UNNAMED: Final = OPERATION_NAMES["-"]
"""Operation of an entry that names none: `unstale.watch`, `unstale.unwatch` and DDL drop a table's keys."""


def print_explanation(explanation: Explanation, *, json: bool) -> None:
    """Print the effect of a change."""
    if json:
        print_json(asdict(explanation))
        return
    print_lines(_explanation(explanation))


def _explanation(explanation: Explanation) -> Iterator[str]:
    if explanation.ignored is not None:
        yield f"{explanation.table}: nothing is removed; {explanation.ignored}"
    if explanation.note is not None:
        yield explanation.note
    for rule in explanation.rules:
        yield f"{explanation.file}:{rule.line}  {explanation.table}{'  (purge)' if rule.purge else ''}"
        yield from (f"  {line}" for line in _rule(rule))
    for wrong, right in explanation.misspelt:
        yield f"no rule needs the column {wrong!r}; did you mean {right!r}?"


def _rule(rule: RuleEffect) -> Iterator[str]:
    if rule.query is not None and not rule.unknown:
        yield f"query    {' '.join(rule.query.split())}"
        for arguments in rule.arguments:
            given = ", ".join(f"{name} = {value!r}" for name, value in arguments.items())
            yield f"with     {given}"
    if rule.failure is not None:
        yield f"failed   {rule.failure}"
    width = max((len(effect.key) for effect in rule.keys), default=0)
    for effect in rule.keys:
        yield f"key      {effect.key:<{width}}  {_life(effect)}"
    for tag in rule.tags:
        yield f"tag      {tag}  every value stored with it"
    for pattern in (*rule.patterns, *(f"{glob}  (of tags)" for glob in rule.tag_patterns)):
        yield f"pattern  {pattern}"
    for template, lacking in rule.unknown:
        yield f"unknown  {shown(template)}  needs {', '.join(lacking)}, which the row lacks"
    if not (rule.keys or rule.tags or rule.patterns or rule.tag_patterns or rule.unknown):
        yield "no key" if rule.query is None else "no key: the query returns no row now"


def _life(effect: KeyEffect) -> str:
    ttl = "default TTL" if effect.ttl is None else f'TTL {effect.ttl:g} s by [ttl] "{effect.ttl_pattern}"'
    if effect.refresh_line is None:
        return ttl + _older(effect)
    stale = f", stale for at most {effect.serve_stale:g} s" if effect.serve_stale else ""
    budget = f", budget {' and '.join(effect.budgets)}" if effect.budgets else ""
    after = f", then {effect.over_budget}" if effect.budgets else ""
    return f"{ttl}; refreshed by line {effect.refresh_line}{stale}{budget}{after}{_older(effect)}"


def _older(effect: KeyEffect) -> str:
    """Describe the older value that a reader may get."""
    if not effect.stale_if_error:
        return ""
    slow = f", after {effect.soft_timeout:g} s of a load, too" if effect.soft_timeout else ""
    return f"; the last value for {effect.stale_if_error:g} s if its loader fails{slow}"


def print_why(found: Why, *, json: bool) -> None:
    """Print what removed a key."""
    if json:
        print_json(asdict(found))
        return
    print_lines(_why(found))


def _why(found: Why) -> Iterator[str]:
    left = "" if found.expires_in_ms is None else f", {found.expires_in_ms / 1000:.0f} s to live"
    content = f"a {found.content}" if found.content in ("value", "lease") else found.content
    yield f"{shown(found.key)}: {content} in Redis{left}"
    for owner in found.owners:
        yield f"  made by {shown(owner.template)} at {found.file}:{owner.line}"
    if not found.owners:
        hint = "" if found.nearest is None else f"; did you mean {shown(found.nearest)}?"
        yield f"  no rule of {found.file} owns it, so no change removes it{hint}"
    if found.tags:
        yield f"  stored under the tags {', '.join(found.tags)}"
    if found.refresh_line is not None:
        yield f"  recomputed after a change by [refresh] at {found.file}:{found.refresh_line}"
    for budget, calls in found.budgets:
        yield f"  budget {budget}: {calls:,} used"
    if not found.same_rules:
        yield f"  the worker has other rules than {found.file} here, so names and lines may differ"
    for removal in found.removals:
        yield from _removal(found.file, removal)
    yield _reach(found)
    if found.recovered is not None:
        yield f"{_clock(found.recovered.at_ms)}  every key of the rules was dropped: {found.recovered.why}"
    if found.renewed is not None:
        yield f"{_clock(found.renewed.at_ms)}  every agent dropped its near cache: {found.renewed.why}"


def _removal(file: str, removal: Removal) -> Iterator[str]:
    at = "?" if removal.applied_ms is None else _clock(removal.applied_ms)
    pattern = "" if removal.pattern is None else f", by the pattern {shown(removal.pattern)}"
    tag = "" if removal.tag is None else f", by the tag {removal.tag}"
    yield f"{at}  {_cause(removal)}{pattern}{tag}"
    if removal.lines:
        yield f"    rule       {', '.join(f'{file}:{line}' for line in removal.lines)}"
    if removal.annotation is not None:
        yield f"    because    {orjson.dumps(removal.annotation).decode()}"
    if removal.committed_after_ms is not None:
        yield f"    committed  after {_clock(removal.committed_after_ms)}"
    if removal.read_ms is not None and removal.applied_ms is not None:
        took = removal.applied_ms - removal.read_ms
        yield f"    read       {_clock(removal.read_ms)}, applied {took} ms later as log entry {removal.id}"
    yield from _agents(removal)


def _agents(removal: Removal) -> Iterator[str]:
    """Yield which agents have heard of a removal, and which have filled the key again."""
    told = [each for each in removal.heard if each.heard]
    due = [each.due_ms for each in removal.heard if each.due_ms is not None and each.due_ms > 0]
    overdue = [each for each in removal.heard if each.due_ms is not None and each.due_ms <= 0]
    missing = [each for each in removal.heard if not each.heard and each.due_ms is None]
    if removal.heard:
        last = max(told, key=lambda each: each.by_ms or 0, default=None)
        by = (
            "" if last is None or last.by_ms is None else f", the last by {_clock(last.by_ms)} ({last.agent})"
        )
        yield f"    heard      by {len(told)} of {len(removal.heard)} agents that report{by}"
    if due:
        again = f"agents report every 10 s: ask again in {math.ceil(max(due) / 1000)} s"
        yield f"    waiting    {_count(len(due))} not reported since; {again}"
    if overdue:
        gone = "an agent that ended without closing its cache is listed for 35 s"
        yield f"    overdue    {_count(len(overdue))} not reported since: {_named(overdue)}; {gone}"
    if missing:
        yield f"    NOT HEARD  by {_named(missing)}, which reported later; see unstale agents"
    for fill in removal.filled[:SHOWN_AGENTS]:
        yield f"    filled     {_clock(fill.at_ms)} by {fill.agent}"


def _count(agents: int) -> str:
    return "1 agent has" if agents == 1 else f"{agents} agents have"


def _named(agents: Sequence[Heard]) -> str:
    names = [each.agent if each.attached else f"{each.agent} (detached)" for each in agents[:SHOWN_AGENTS]]
    more = f" and {len(agents) - SHOWN_AGENTS} more" if len(agents) > SHOWN_AGENTS else ""
    return ", ".join(names) + more


def _cause(removal: Removal) -> str:
    match removal.kind:
        case "changes" if removal.table is not None:
            transaction = "" if removal.xid is None else f" in transaction {removal.xid}"
            if removal.operation == UNNAMED and removal.pattern is not None:
                return f"{removal.table} was watched, watched again, unwatched or altered (DDL){transaction}"
            return f"{removal.operation} of {removal.table}{transaction}"
        case "captures":
            return "a table's captures are missing, so the worker invalidates its keys; see unstale doctor"
        case "rules":
            return "the rules had changed a moment before"
        case "replay":
            return f"unstale replay by {removal.process}"
        case "delete":
            return f"cache.delete or cache.invalidate_tag, or a set that stored nothing, by {removal.process}"
        case "pattern":
            return f"cache.invalidate_pattern by {removal.process}"
        case "set":
            return f"cache.set by {removal.process}"
    return "for a reason that this version cannot read"


def _reach(found: Why) -> str:
    if found.reaches_back_ms is None:
        return "the log is empty: nothing removed it since the log began"
    since = f"{_clock(found.reaches_back_ms)}, where the log begins ({found.entries} entries)"
    if found.more:
        return f"and more; --most shows them. The log goes back to {since}"
    if found.removals:
        return f"nothing else removed it since {since}"
    return f"nothing removed it since {since}; it may have expired, or been evicted or deleted by hand"


def _clock(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000)) + f".{ms % 1000:03}"


def print_json(data: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(orjson.dumps(data).decode() + "\n")
    sys.stdout.flush()


def print_lines(lines: Iterator[str]) -> None:
    """Print lines that may hold any text."""
    for line in lines:
        sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
