"""``unstale why``: what removed a key, newest first, from the log in Redis."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from unstale.errors import ConfigurationError, MessageError, RedisUnavailable
from unstale.freshness.near_miss import near_miss
from unstale.protocol.globs import matches
from unstale.protocol.key_watches import file_hash
from unstale.protocol.messages import Invalidation, decode_log_entry, key_list
from unstale.protocol.names import TAGGED, Epoch, Names
from unstale.protocol.newest_fills import key_number
from unstale.protocol.reasons import OPERATION_NAMES, Cause, Kind, Reason, cause_of, decode_reason
from unstale.protocol.tags import MOST_HEADER, record, tags_of
from unstale_worker.agents.read import Agents, read_agents
from unstale_worker.redis.applier import unavailable
from unstale_worker.refresh.redis.budgets import read_used_of
from unstale_worker.rules import Rules
from unstale_worker.tracing.table_names import TableNames

REPORTS_MS: Final = 12_000
"""Most milliseconds between two reports of an agent, by the default of `UNSTALE_REPORT_INTERVAL`."""
ARRIVAL_MS: Final = 1_000
"""A report that arrives so soon after a log entry may have been written before the entry had arrived."""

PAGE: Final = 1_000
"""Log entries in one reply: up to 64 MB if all are as large as a message may be, and usually below 1 MB."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An agent, and a log entry.

    Attributes:
        agent: Name, host and process of the agent.
        heard: True if its newest report says that it has processed the entry.
        by_ms: When it had done so at the latest, by the clock of Redis; None if its report does not say.
        due_ms: Only if it has not reported since the entry: milliseconds until its next report. Negative if
            that is overdue.
        attached: False if its near cache answers nothing, as of its newest report.
    """

    agent: str
    heard: bool
    by_ms: int | None
    due_ms: int | None = None
    attached: bool = True


@dataclass(frozen=True, slots=True)
class Filled:
    """An agent that stored the key.

    Attributes:
        agent: Name, host and process of the agent.
        at_ms: When, by the clock of Redis.
    """

    agent: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Removal:
    """One log entry that removed the key.

    Attributes:
        id: Id of the log entry.
        kind: What happened: the name of a `Kind` in lower case; ``unknown`` for an entry without a reason.
        pattern: The pattern that removed the key; None if it was named itself.
        table: The changed table.
        operation: ``insert``, ``update``, ``delete``, ``truncate``, or ``change`` if that is not known.
        xid: The transaction.
        lines: Lines of the table's rules that own the key.
        annotation: What ``unstale.because()`` was given in the transaction.
        process: For a call of the cache: host and process id.
        committed_after_ms: The read before did not find the change. Times are the clock of Redis, in
            milliseconds since 1970.
        read_ms: When the read that found it began.
        applied_ms: When the key was removed from Redis and the agents were told.
        tag: The tag by which it was invalidated; None if it was removed itself.
        heard: For each agent that reports: when it had processed the entry.
        filled: The agents that have stored the key since, as far as they remember.
    """

    id: int
    kind: str
    pattern: str | None
    table: str | None
    operation: str | None
    xid: int | None
    lines: tuple[int, ...]
    annotation: Mapping[str, object] | None
    process: str | None
    committed_after_ms: int | None
    read_ms: int | None
    applied_ms: int | None
    tag: str | None = None
    heard: tuple[Heard, ...] = ()
    filled: tuple[Filled, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that removed more than the log can tell.

    Attributes:
        at_ms: When, by the clock of Redis, in milliseconds since 1970.
        why: The reason.
    """

    at_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class Owner:
    """A key template that makes the key.

    Attributes:
        line: Line of its ``[[watch]]`` block.
        template: The template.
    """

    line: int
    template: str


@dataclass(frozen=True, slots=True)
class Why:
    """The answer about one key.

    Attributes:
        key: The key.
        file: The rules file.
        same_rules: False if the worker has other rules than the file, so that lines may differ.
        owners: The templates that make the key; empty if no rule owns it.
        nearest: The template that it resembles most, if no rule owns it.
        refresh_line: Line of the ``[refresh]`` that recomputes the key; None without one.
        budgets: Each budget of that, and how many of its calls are used for this key in the current window.
        content: ``value``, ``lease``, ``missing`` or ``other type``: what Redis has now.
        expires_in_ms: Remaining life of that; None if it has none.
        removals: The log entries that removed it, newest first.
        more: True if there are older ones.
        tags: The tags that the value or the lease in Redis carries; a removal of one is among the removals.
        reaches_back_ms: When the oldest log entry was written; None for an empty log.
        entries: How many entries the log has.
        recovered: When the worker last dropped every key of the rules and started an empty log.
        renewed: When every agent last dropped its near cache, because of a new epoch.
    """

    key: str
    file: str
    same_rules: bool
    owners: tuple[Owner, ...]
    nearest: str | None
    refresh_line: int | None
    budgets: tuple[tuple[str, int], ...]
    content: str
    expires_in_ms: int | None
    removals: tuple[Removal, ...]
    more: bool
    tags: tuple[str, ...]
    reaches_back_ms: int | None
    entries: int
    recovered: Event | None
    renewed: Event | None


async def why(redis: Redis, names: Names, rules: Rules, key: str, *, most: int) -> Why:
    """Find what removed ``key``: at most ``most`` entries of the log; raises `RedisUnavailable`."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"the key {key!r} is not UTF-8, so it is no key of a cache") from None
    try:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hmget(names.state, "rules", "recovered", "renewed")
            pipe.type(names.stored(key))
            pipe.pttl(names.stored(key))
            pipe.xrange(names.log, count=1)
            pipe.xlen(names.log)
            state, kind, life, oldest, entries = await pipe.execute()
            first: Any = await redis.getrange(names.stored(key), 0, MOST_HEADER) if kind == b"string" else b""
        tags = tuple(tag.removeprefix(names.prefix) for tag in tags_of(first))
        removals: list[Removal] = []
        tables = TableNames(rules)
        async for entry_id, fields in _backwards(redis, names):
            removal = removal_of(key, entry_id, fields, tables)
            for tag in tags if removal is None else ():
                removal = removal_of(record(tag), entry_id, fields, tables)
                if removal is not None:
                    removal = replace(removal, tag=tag)
                    break
            if removal is not None:
                removals.append(removal)
                if len(removals) > most:
                    break
    except RedisError as error:
        raise unavailable(error) from error
    with suppress(RedisUnavailable):  # who may read the log need not have the right to read reports
        removals = followed(key, removals, await read_agents(redis, names))
    owners = tuple(
        Owner(watch.line, template.text)
        for watch in rules.watches
        for template in watch.keys
        if matches(template.pattern, key)
    )
    reason = decode_reason(oldest[0][1].get(b"w", b"")) if oldest else None
    refresh = rules.refresh_of(key)
    used = [] if refresh is None else await read_used_of(redis, names, refresh, key)
    return Why(
        key=key,
        file=rules.file,
        same_rules=file_hash((state[0] or b"").decode("utf-8", "replace")) == rules.hash,
        owners=owners,
        nearest=None if owners else nearest(rules, key),
        refresh_line=None if refresh is None else refresh.line,
        budgets=tuple((str(budget), calls) for budget, calls in used),
        content=_content(kind, first),
        expires_in_ms=life if life >= 0 else None,
        removals=tuple(removals[:most]),
        more=len(removals) > most,
        tags=tags,
        reaches_back_ms=None if reason is None else reason.applied_ms,
        entries=entries,
        recovered=_event(state[1]),
        renewed=_event(state[2]),
    )


def followed(key: str, removals: Sequence[Removal], agents: Agents) -> list[Removal]:
    """Return the removals, newest first, with what the agents report of each.

    An agent that follows another history of the log has dropped everything, and is left out.
    """
    number, until = key_number(key), float("inf")
    fills = [
        Filled(agent.label, agent.at_ms - agent.report.fills[number])
        for agent in agents.agents
        if number in agent.report.fills
    ]
    found = []
    for removal in removals:
        since = removal.applied_ms
        heard = []
        for agent in agents.agents:
            report = agent.report
            if report.epoch != agents.epoch:
                continue
            by = [agent.at_ms - age for last, age in report.heard if last >= removal.id]
            before = [last for last, _ in report.heard if last < removal.id]
            known = report.last >= removal.id
            silent = not known and since is not None and agent.at_ms < since + ARRIVAL_MS
            heard.append(
                Heard(
                    agent.label,
                    known,
                    # Without an older mark, the agent may have heard of it long before the oldest mark.
                    min(by) if by and before else None,
                    round(agent.at_ms + REPORTS_MS - agents.now * 1000) if silent else None,
                    report.attached is not None,
                )
            )
        mine = [fill for fill in fills if since is not None and since <= fill.at_ms < until]
        found.append(replace(removal, heard=tuple(heard), filled=tuple(sorted(mine, key=lambda f: f.at_ms))))
        until = until if since is None else since
    return found


def nearest(rules: Rules, key: str) -> str | None:
    """Return the key template that ``key`` resembles most; None without any rule."""
    templates = {template.text: template.pattern for watch in rules.watches for template in watch.keys}
    meant = near_miss(key, templates.values())
    return max(
        templates,
        key=lambda text: (templates[text] == meant, SequenceMatcher(None, text, key).ratio()),
        default=None,
    )


def removal_of(
    key: str, entry_id: bytes, fields: Mapping[bytes, bytes], tables: TableNames
) -> Removal | None:
    """Return how a log entry removed ``key``; None if it did not."""
    body, number = fields.get(b"m", b""), int(entry_id.partition(b"-")[0])
    named = key_list([key])[1:-1] in body  # a quick look; most entries are about other keys
    if not named and (b'"patterns":' not in body or body.endswith(b'"patterns":[]')):
        return None
    try:
        entry = decode_log_entry(Epoch(""), number, body)
    except MessageError:
        return None
    reason = decode_reason(fields.get(b"w", b""))
    if key in entry.keys:
        cause = None if reason is None else cause_of(reason, entry.keys, key)
        return _removal(entry, reason, cause, None, key, tables)
    pattern = next((pattern for pattern in entry.patterns if matches(pattern, key)), None)
    if pattern is None:
        return None
    cause = None if reason is None else _cause_of_pattern(reason, pattern, tables)
    return _removal(entry, reason, cause, pattern, key, tables)


def _cause_of_pattern(reason: Reason, pattern: str, tables: TableNames) -> Cause | None:
    """Return the last cause whose table has the pattern, or the last one if that is not known."""
    owning = [cause for cause in reason.causes if tables.owns(cause.table, pattern)]
    found = owning or reason.causes
    return found[-1] if found else None


def _removal(
    entry: Invalidation,
    reason: Reason | None,
    cause: Cause | None,
    pattern: str | None,
    key: str,
    tables: TableNames,
) -> Removal:
    table = None if cause is None else tables.name(cause.table, key)
    changes = reason is not None and reason.kind is Kind.CHANGES
    return Removal(
        id=entry.id,
        kind="unknown" if reason is None else reason.kind.name.lower(),
        pattern=pattern,
        table=table,
        operation=None if cause is None else OPERATION_NAMES[cause.operation],
        xid=cause.xid if cause is not None and cause.xid else None,
        lines=() if table is None else tables.lines(table, key),
        annotation=None if cause is None else cause.annotation,
        process=reason.process if reason is not None and reason.process else None,
        committed_after_ms=reason.read_ms - reason.gap_ms if reason and changes and reason.gap_ms else None,
        read_ms=reason.read_ms if reason and changes and reason.read_ms else None,
        applied_ms=None if reason is None else reason.applied_ms,
    )


async def _backwards(redis: Redis, names: Names) -> AsyncIterator[tuple[bytes, Mapping[bytes, bytes]]]:
    """Yield the log's entries, newest first."""
    before = "+"
    while True:
        page: Any = await redis.xrevrange(names.log, max=before, count=PAGE)
        for entry in page:
            yield entry
        if len(page) < PAGE:
            return
        before = "(" + page[-1][0].decode()


def _content(kind: bytes, first: Any) -> str:
    if kind == b"none":
        return "missing"
    if kind != b"string":
        return "other type"
    return "lease" if first.startswith(b"\0") and not first.startswith(TAGGED) else "value"


def _event(field: bytes | None) -> Event | None:
    at, _, why = (field or b"").decode("utf-8", "replace").partition(" ")
    return Event(int(at), why) if at.isdecimal() else None
