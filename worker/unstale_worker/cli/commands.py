"""The commands: they parse arguments and call the parts that do the work; no decisions."""

import asyncio
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unstale.errors import ConfigurationError, UnstaleError
from unstale.version import __version__
from unstale_worker.cli import (
    agents_command,
    audit_command,
    forecast_commands,
    replay_command,
    tracing_commands,
)
from unstale_worker.cli.running import DONE, FAILED, USAGE, Json
from unstale_worker.cli.running import run as _run

app = typer.Typer(
    name="unstale",
    help="Keep Redis and in-process caches consistent with a Supabase Postgres.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from the environment and .env; docs/settings.md lists them.",
)


class DevRedis(StrEnum):
    """Kind of the Redis server that ``unstale dev`` starts; docs/providers.md describes them."""

    SINGLE = "single"
    NO_INFO = "no-info"
    CLUSTER = "cluster"


class WorkerRole(StrEnum):
    """Role of a worker process."""

    LEAD = "lead"
    REFRESH = "refresh"


class DeadLetterAction(StrEnum):
    """Action on dead letters."""

    LIST = "list"
    RETRY = "retry"
    DROP = "drop"


def main() -> None:
    """Run the command line; exit with 0 if done, 1 if failed, 2 for wrong usage or configuration."""
    try:
        app()
    except ConfigurationError as error:
        _print_error(error)
        sys.exit(USAGE)
    except UnstaleError as error:
        _print_error(error)
        sys.exit(FAILED)
    except BrokenPipeError:
        # The reader of the output has gone, so nothing can be printed any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", envvar="UNSTALE_CONFIG", help="Path of the rules file; by default unstale.toml."
        ),
    ] = None,
) -> None:
    if version:
        typer.echo(f"unstale {__version__}")
        raise typer.Exit
    if config is not None:
        os.environ["UNSTALE_CONFIG"] = str(config)


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option("--for", min=1, max=86_400, help="Seconds to run; by default until Ctrl-C."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on the last line of the output.")
    ] = False,
    rate: Annotated[float, typer.Option(min=1, max=5_000, help="Changes per second.")] = 100.0,
    agents: Annotated[int, typer.Option(min=1, max=12, help="Number of agent processes.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.")] = 1,
    model_calls: Annotated[
        int, typer.Option(min=1, help="With OPENAI_API_KEY: maximum number of paid greetings.")
    ] = 200,
) -> None:
    """Run a demo on real servers: a worker, a writer, and agents that check every read."""
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
def dev(
    redis: Annotated[
        DevRedis,
        typer.Option(
            help="single; no-info: the user may not call INFO, as on many rented servers; or cluster, of one "
            "node."
        ),
    ] = DevRedis.SINGLE,
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_532,
            help="Port of Postgres; Redis has the next one, then the worker's page. 0: free ports, and new "
            "passwords at each start.",
        ),
    ] = 18420,
    data: Annotated[
        Path | None, typer.Option(help="Folder that keeps the data of Postgres; by default nothing is kept.")
    ] = None,
    env_file: Annotated[
        Path | None, typer.Option(help="File, such as .env, that gets the URLs; its other lines stay.")
    ] = None,
    supabase: Annotated[
        bool, typer.Option("--supabase", help="Also serve the REST API and Realtime, for Supabase's clients.")
    ] = False,
) -> None:
    """Start Postgres, Redis and the worker for your own code, with your Supabase project, until Ctrl-C."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.dev.session import Options, run_dev
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env()
        configure_logging(settings.log)
        options = Options(
            config=settings.config, port=port, data=data, env_file=env_file, supabase=supabase,
            restricted=redis is DevRedis.NO_INFO, cluster=redis is DevRedis.CLUSTER,
        )  # fmt: skip
        await run_dev(Rules.load(settings.config), options, stop=stop, say=_print_line)
        return DONE

    _run(run)


@app.command()
def worker(
    role: Annotated[
        WorkerRole,
        typer.Option(
            help="lead: apply changes, or stand by; refresh: run the Python loaders that the rules name."
        ),
    ] = WorkerRole.LEAD,
) -> None:
    """Apply changes to Redis and notify the agents; run a second worker as a standby."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.page.service import run_refresh_service, run_service
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env()
        configure_logging(settings.log)
        rules = Rules.load(settings.config)
        if role is WorkerRole.REFRESH:
            await run_refresh_service(settings, rules, stop=stop)
        else:
            await run_service(settings, rules, stop=stop)
        return DONE

    _run(run)


@app.command()
def migration(
    name: Annotated[str | None, typer.Option(help="Name of the file, after its timestamp.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder of your Supabase migrations.")] = Path(
        "supabase/migrations"
    ),
    everything: Annotated[
        bool, typer.Option("--all", help="Write every watch again, for a database that has lost some.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; exit with 1 if a migration is missing or differs, or if the database that "
            "the settings name cannot be compared.",
        ),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not compare the captures of the database.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the SQL migration that makes the database capture the changes the rules need.

    If the files match the rules, the captures of the database are compared as well, where it can be reached.
    """

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.dev_servers import migrations_folder
        from unstale_worker.forecast.migrations import Compared, compare_database, differences
        from unstale_worker.migration.writer import write_migration
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings, output = WorkerSettings.from_env(), Output(json=json)
        configure_logging("error")
        rules = Rules.load(settings.config)
        compared = Compared(skipped="--offline" if offline else "")
        if not offline:
            compared = await compare_database(settings, rules, folder)
        if compared.unknown:
            raise ConfigurationError(
                "\n".join((*compared.unknown, "Nothing was written. Correct the rules, or add the migration"))
            )
        result = write_migration(
            rules, folder, base=migrations_folder(), name=name, everything=everything, dry=check
        )
        found = differences(rules, folder, result) if check else []
        if check:
            found += compared.differences
            output.migration_check(found, compared)
            return FAILED if found or compared.failed else DONE
        output.migration(result, folder, compared if result.unchanged else Compared())
        return DONE

    _run(run)


@app.command()
def learn(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help="After `--`: the command to run; without one, the last recording is shown again."
        ),
    ] = None,
    recording: Annotated[
        Path | None, typer.Option(help="The file of the recording; by default .unstale/loaders.jsonl.")
    ] = None,
    json: Json = False,
) -> None:
    """Find missing rules: run your tests or application, and compare what loaders read with the rules.

    Exits with 1 if a rule is missing, nothing was recorded, or the command failed. Not for production:
    statements are planned twice.
    """
    from unstale.settings import WorkerSettings
    from unstale_worker.cli.output import Output
    from unstale_worker.learn.run import KEPT, learned, run_recorded

    path, code = recording or KEPT, DONE
    if command:
        code = run_recorded(command, keep=path)
    found = learned(path, WorkerSettings.from_env().config)
    Output(json=json).learned(found)
    raise typer.Exit(FAILED if code or found.missing or found.empty else DONE)


@app.command()
def doctor(
    json: Json = False,
    loaders: Annotated[
        bool, typer.Option("--loaders", help="Also compare what `unstale learn` recorded with the rules.")
    ] = False,
) -> None:
    """Check the rules, Postgres, Redis and the worker, and report problems with their remedies."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.doctor import Severity, examine
        from unstale_worker.runtime.logs import configure_logging

        configure_logging("error")
        from unstale_worker.learn.run import KEPT

        findings = await examine(WorkerSettings.from_env(), recording=KEPT if loaders else None)
        Output(json=json).findings(findings)
        return FAILED if any(finding.severity is Severity.ERROR for finding in findings) else DONE

    _run(run)


@app.command()
def stats(
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second, until Ctrl-C.")] = False,
) -> None:
    """Show the state of the worker and its agents, as recorded in Redis."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.agents.read import read_agents
        from unstale_worker.agents.show import pairs, sums_as_dict
        from unstale_worker.cli.output import Output
        from unstale_worker.observe.overview import lines, read_stats
        from unstale_worker.redis.client import open_redis
        from unstale_worker.redis.explained import explained
        from unstale_worker.refresh.redis import budgets, totals
        from unstale_worker.runtime.event_loop import stopped_within

        settings = WorkerSettings.from_env().in_one_partition("`unstale stats`")
        output = Output(json=json, repeating=watch)
        limited = budgets.specs_of(settings.config)
        async with explained(settings), open_redis(settings, connections=1) as redis:
            while True:
                found = await read_stats(redis, settings.names)
                agents = await read_agents(redis, settings.names)
                refreshes = await totals.read_totals(redis, settings.names)
                used = await budgets.read_used(redis, settings.names, limited)
                output.pairs(
                    [*lines(found), *pairs(agents), *totals.lines(refreshes), *budgets.lines(used)],
                    {
                        **found.as_dict(),
                        "reports": sums_as_dict(agents),
                        "refreshes": [each.as_dict() for each in refreshes],
                        "budgets": [each.as_dict() for each in used],
                    },
                )
                if not watch or await stopped_within(stop, seconds=1.0):
                    return DONE

    _run(run)


@app.command("dead-letters")
def dead_letters(
    action: Annotated[DeadLetterAction, typer.Argument(help="Action to take.")] = DeadLetterAction.LIST,
    key: Annotated[str | None, typer.Argument(help="The key to retry or drop.")] = None,
    json: Json = False,
) -> None:
    """List the keys whose refresh has failed permanently; retry or drop one."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.redis.client import open_redis
        from unstale_worker.redis.explained import explained
        from unstale_worker.refresh.redis.dead_letters import drop_dead, list_dead, retry_dead

        output = Output(json=json)
        settings = WorkerSettings.from_env().in_one_partition("`unstale dead-letters`")
        async with explained(settings), open_redis(settings, connections=1) as redis:
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
    pattern: Annotated[str | None, typer.Argument(help="Show only keys that match this Redis glob.")] = None,
    json: Json = False,
) -> None:
    """Print invalidations as they happen, until Ctrl-C."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import Output
        from unstale_worker.cli.tail import follow
        from unstale_worker.cli.tracing_commands import known_rules
        from unstale_worker.redis.client import open_redis
        from unstale_worker.redis.explained import explained

        output = Output(json=json)
        settings = WorkerSettings.from_env().in_one_partition("`unstale tail`")
        async with explained(settings), open_redis(settings, connections=2) as redis:
            rules = known_rules(settings.config)
            async for line in follow(redis, settings.names, pattern=pattern, stop=stop, rules=rules):
                output.tail(line)
        return DONE

    _run(run)


app.command()(tracing_commands.explain)
app.command()(agents_command.agents)
app.command()(forecast_commands.plan)
app.command()(tracing_commands.why)
app.command()(audit_command.audit)
app.command()(replay_command.replay)


@app.command()
def mcp(user: Annotated[str, typer.Option(help="Id of the user whose keys the tools may access.")]) -> None:
    """Serve the agent tools over MCP on standard input and output, for one user."""

    async def run(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.cli.mcp_command import serve
        from unstale_worker.runtime.logs import configure_logging

        configure_logging(WorkerSettings.from_env().log)
        await serve(user=user, stop=stop)
        return DONE

    _run(run)


def _print_line(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()


def _print_error(error: Exception) -> None:
    from unstale_worker.runtime.logs import without_passwords

    typer.echo(f"unstale: {without_passwords(str(error))}", err=True)


if __name__ == "__main__":
    main()
