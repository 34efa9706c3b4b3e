"""The command line: arguments in, calls out, no decisions."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from unstale.errors import ConfigurationError, UnstaleError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2

app = typer.Typer(
    name="unstale",
    help="Keeps Redis and in-process caches true to a Supabase Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from the environment and .env; docs/settings.md lists them.",
)


class WorkerRole(StrEnum):
    """What a worker process does."""

    LEAD = "lead"
    REFRESH = "refresh"


class DeadLetterAction(StrEnum):
    """What is done with dead letters."""

    LIST = "list"
    RETRY = "retry"
    DROP = "drop"


Json = Annotated[bool, typer.Option("--json", help="For programs: JSON instead of text.")]


def main() -> None:
    """Run the command line; exits 0 when done, 1 when failed, 2 on wrong usage or configuration."""
    try:
        app()
    except ConfigurationError as error:
        _complain(error)
        sys.exit(USAGE)
    except UnstaleError as error:
        _complain(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        # The reader of our output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", envvar="UNSTALE_CONFIG", help="The rules file; by default unstale.toml."),
    ] = None,
) -> None:
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"unstale {version_of('unstale')}")
        raise typer.Exit
    if config is not None:
        os.environ["UNSTALE_CONFIG"] = str(config)


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option("--for", min=1, max=86_400, help="Seconds to run; by default until Ctrl-C."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object on the last line.")] = False,
    rate: Annotated[float, typer.Option(min=1, max=5_000, help="Changes a second.")] = 100.0,
    agents: Annotated[int, typer.Option(min=1, max=12, help="Agent processes.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 1,
    model_calls: Annotated[
        int, typer.Option(min=1, help="With OPENAI_API_KEY set: greetings to pay for before it ends.")
    ] = 200,
) -> None:
    """Show it at work on real servers: a worker, companions that check every read, and a writer."""
    from rich.console import Console

    from unstale_worker.demo.reports import World
    from unstale_worker.demo.show import show

    async def run(stop: asyncio.Event) -> int:
        fresh = await show(
            World(rate=rate, seed=seed),
            agents=agents,
            seconds=seconds,
            json=json,
            model_calls=model_calls,
            stop=stop,
            console=Console(),
        )
        return DONE if fresh else FAILED

    _run(run)


@app.command()
def dev() -> None:
    """Start Postgres, Redis and the worker for your own code, with your migrations; Ctrl-C ends it."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.dev import run_dev
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env()
        configure_logging(settings.log)
        await run_dev(Rules.load(settings.config), config=settings.config, stop=stop, say=_say)
        return DONE

    _run(run)


@app.command()
def worker(
    role: Annotated[
        WorkerRole,
        typer.Option(
            help="lead: apply changes, or stand by; refresh: call the Python loaders that the rules name."
        ),
    ] = WorkerRole.LEAD,
) -> None:
    """Apply changes to Redis and tell the agents; run two for a standby."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.leader.service import run_service
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env()
        configure_logging(settings.log)
        rules = Rules.load(settings.config)
        if role is WorkerRole.REFRESH:
            from unstale_worker.refresh.refresh_worker import run_refresh_service

            await run_refresh_service(settings, rules, stop=stop)
        else:
            await run_service(settings, rules, stop=stop)
        return DONE

    _run(run)


@app.command()
def migration(
    name: Annotated[str | None, typer.Option(help="Name of the file, after its timestamp.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the Supabase command line keeps migrations.")] = Path(
        "supabase/migrations"
    ),
    everything: Annotated[
        bool, typer.Option("--all", help="Write every watch again, for a database that lost some.")
    ] = False,
) -> None:
    """Write the SQL that makes the database capture what the rules need."""
    from unstale.settings import WorkerSettings
    from unstale_worker.cli.output import Output
    from unstale_worker.dev_servers import migrations_folder
    from unstale_worker.migration.writer import write_migration
    from unstale_worker.rules import Rules

    rules = Rules.load(WorkerSettings.from_env().config)
    result = write_migration(rules, folder, base=migrations_folder(), name=name, everything=everything)
    Output(json=False).migration(result)


@app.command()
def doctor(json: Json = False) -> None:
    """Look at everything unstale stands on, and say what is wrong and what to do about it."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.doctor import Severity, examine
        from unstale_worker.runtime.logs import configure_logging

        configure_logging("error")
        findings = await examine(WorkerSettings.from_env())
        Output(json=json).findings(findings)
        return FAILED if any(finding.severity is Severity.ERROR for finding in findings) else DONE

    _run(run)


@app.command()
def stats(
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")] = False,
) -> None:
    """Show what Redis knows of the worker and its agents."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.observe.overview import lines, read_stats
        from unstale_worker.redis.client import open_redis
        from unstale_worker.runtime.event_loop import stopped_within

        settings, output = WorkerSettings.from_env(), Output(json=json, renewing=watch)
        async with open_redis(settings, connections=1) as redis:
            while True:
                found = await read_stats(redis, settings.names)
                output.pairs(lines(found), found.as_dict())
                if not watch or await stopped_within(stop, seconds=1.0):
                    return DONE

    _run(run)


@app.command("dead-letters")
def dead_letters(
    action: Annotated[DeadLetterAction, typer.Argument(help="What to do.")] = DeadLetterAction.LIST,
    key: Annotated[str | None, typer.Argument(help="Which key, for retry and drop.")] = None,
    json: Json = False,
) -> None:
    """Show the keys whose refresh failed for good; retry or drop one."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.redis.client import open_redis
        from unstale_worker.refresh.redis.dead_letters import drop_dead, list_dead, retry_dead

        settings, output = WorkerSettings.from_env(), Output(json=json)
        async with open_redis(settings, connections=1) as redis:
            if action is DeadLetterAction.LIST:
                output.dead_letters(await list_dead(redis, settings.names))
                return DONE
            if key is None:
                raise ConfigurationError(f"{action} needs a key: unstale dead-letters {action} KEY")
            act = retry_dead if action is DeadLetterAction.RETRY else drop_dead
            found = await act(redis, settings.names, key)
            output.done(f"{key}: {'done' if found else 'no such dead letter'}", {"key": key, "found": found})
            return DONE if found else FAILED

    _run(run)


@app.command()
def tail(
    pattern: Annotated[str | None, typer.Argument(help="Only keys that this Redis glob matches.")] = None,
    json: Json = False,
) -> None:
    """Follow the invalidations until Ctrl-C."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.cli.tail import follow
        from unstale_worker.redis.client import open_redis

        settings, output = WorkerSettings.from_env(), Output(json=json)
        async with open_redis(settings, connections=1) as redis:
            async for line in follow(redis, settings.names, pattern=pattern, stop=stop):
                output.tail(line)
        return DONE

    _run(run)


@app.command()
def mcp(user: Annotated[str, typer.Option(help="Whose keys the tools may reach.")]) -> None:
    """Offer the agent tools over MCP on standard input and output, for one user."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.mcp import serve
        from unstale_worker.runtime.logs import configure_logging

        configure_logging(WorkerSettings.from_env().log)
        await serve(user=user, stop=stop)
        return DONE

    _run(run)


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


def _run(work: Callable[[asyncio.Event], Awaitable[int]]) -> None:
    from unstale_worker.runtime.event_loop import run_until_stopped

    raise typer.Exit(run_until_stopped(work))


def _complain(error: Exception) -> None:
    from unstale_worker.runtime.logs import without_passwords

    typer.echo(f"unstale: {without_passwords(str(error))}", err=True)


if __name__ == "__main__":
    main()
