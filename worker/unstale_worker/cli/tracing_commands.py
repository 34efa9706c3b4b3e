"""The commands that trace a change to its keys, and a key to its change; see `unstale_worker.tracing`."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unstale.errors import ConfigurationError
from unstale_worker.cli.running import DONE, Json, run

if TYPE_CHECKING:
    from unstale_worker.rules import Rules


def known_rules(path: Path | None) -> "Rules | None":
    """Return the rules, which give tables their names; None if there is no valid file."""
    from unstale_worker.rules import Rules

    try:
        return Rules.load(path)
    except ConfigurationError:
        return None


def explain(
    table: Annotated[str, typer.Argument(help="The changed table, such as public.profiles.")],
    row: Annotated[str, typer.Argument(help="The row as a JSON object: its columns that the rules need.")],
    old: Annotated[
        str | None, typer.Option("--old", help="The row before an update, as a JSON object.")
    ] = None,
    json: Json = False,
) -> None:
    """Show which keys a change of a row removes, and by which rule; changes nothing."""

    async def work(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.tracing_output import print_explanation
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging
        from unstale_worker.sources.opening import open_source
        from unstale_worker.tracing import explain
        from unstale_worker.tracing.row import completed

        settings = WorkerSettings.from_env()
        configure_logging("error")
        rules = Rules.load(settings.config)
        given, before = explain.read_row(row), None if old is None else explain.read_row(old)
        source, note = None, None
        name = explain.watched_table(rules, table)
        if before is None:
            given, note = await completed(settings, name, given, rules.tables[name.schema, name.name].keys)
        if explain.asks_database(rules, name, given):
            source = await open_source(settings)
        try:
            explanation = await explain.explain(rules, table, given, old=before, source=source)
        finally:
            if source is not None:
                await source.close()
        print_explanation(replace(explanation, note=note), json=json)
        return DONE

    run(work)


def why(
    key: Annotated[str, typer.Argument(help="The cache key, such as user:42:profile.")],
    tag: Annotated[bool, typer.Option("--tag", help="The name is that of a tag.")] = False,
    most: Annotated[int, typer.Option("--most", min=1, help="Show at most this many removals.")] = 10,
    json: Json = False,
) -> None:
    """Show what removed a key, newest first: change, rule, transaction and times."""

    async def work(stop: asyncio.Event) -> int:
        from unstale.protocol.tags import record
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.tracing_output import print_why
        from unstale_worker.redis.client import open_redis
        from unstale_worker.redis.explained import explained
        from unstale_worker.rules import Rules
        from unstale_worker.tracing.why import why

        settings = WorkerSettings.from_env()
        rules = Rules.load(settings.config)
        name = record(key) if tag else key
        settings = settings.in_partition(name)
        async with explained(settings), open_redis(settings, connections=1) as redis:
            print_why(await why(redis, settings.names, rules, name, most=most), json=json)
        return DONE

    run(work)
