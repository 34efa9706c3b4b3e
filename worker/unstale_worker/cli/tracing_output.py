"""Print what `unstale_worker.tracing` found: aligned text, or JSON."""

import sys
from collections.abc import Iterator
from dataclasses import asdict

import orjson

from unstale_worker.tracing.explain import Explanation, KeyEffect, RuleEffect


def print_explanation(explanation: Explanation, *, json: bool) -> None:
    """Print the effect of a change."""
    if json:
        _print_json(asdict(explanation))
        return
    _print_lines(_explanation(explanation))


def _explanation(explanation: Explanation) -> Iterator[str]:
    if explanation.ignored is not None:
        yield f"{explanation.table}: nothing is removed; {explanation.ignored}"
    for rule in explanation.rules:
        yield f"{explanation.file}:{rule.line}  {explanation.table}{'  (purge)' if rule.purge else ''}"
        yield from (f"  {line}" for line in _rule(rule))


def _rule(rule: RuleEffect) -> Iterator[str]:
    if rule.query is not None:
        yield f"query    {' '.join(rule.query.split())}"
        for arguments in rule.arguments:
            given = ", ".join(f"{name} = {value!r}" for name, value in arguments.items())
            yield f"with     {given}"
    if rule.failure is not None:
        yield f"failed   {rule.failure}"
    width = max((len(effect.key) for effect in rule.keys), default=0)
    for effect in rule.keys:
        yield f"key      {effect.key:<{width}}  {_life(effect)}"
    for pattern in rule.patterns:
        yield f"pattern  {pattern}"
    if not rule.keys and not rule.patterns:
        yield "no key" if rule.query is None else "no key: the query returns no row now"


def _life(effect: KeyEffect) -> str:
    ttl = "default TTL" if effect.ttl is None else f'TTL {effect.ttl:g} s by [ttl] "{effect.ttl_pattern}"'
    if effect.refresh_line is None:
        return ttl
    stale = f", stale for at most {effect.serve_stale:g} s" if effect.serve_stale else ""
    return f"{ttl}; refreshed by line {effect.refresh_line}{stale}"


def _print_json(data: object) -> None:
    sys.stdout.write(orjson.dumps(data).decode() + "\n")
    sys.stdout.flush()


def _print_lines(lines: Iterator[str]) -> None:
    for line in lines:
        # A key may hold any character; one that moves the cursor must not reach a terminal.
        sys.stdout.write("".join(char if char.isprintable() else repr(char)[1:-1] for char in line) + "\n")
    sys.stdout.flush()
