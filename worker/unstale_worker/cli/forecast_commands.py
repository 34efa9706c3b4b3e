"""The commands that say beforehand what a push or a restart would do; see `unstale_worker.forecast`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from unstale_worker.cli.running import DONE, Json, run


def plan(
    against: Annotated[
        str | None,
        typer.Option(help="Compare with this rules file or git revision, and ask no server."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Folder of your Supabase migrations.")] = Path(
        "supabase/migrations"
    ),
    count: Annotated[
        bool, typer.Option("--count/--no-count", help="Count the keys in Redis, by visiting each once.")
    ] = True,
    json: Json = False,
) -> None:
    """Show what restarting the worker with the rules on disk would drop and cost; changes nothing."""

    async def work(stop: asyncio.Event) -> int:
        import orjson

        from unstale.settings import WorkerSettings
        from unstale_worker.dev_servers import migrations_folder
        from unstale_worker.forecast.plan import as_dict, lines, plan_offline, plan_running
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        base = migrations_folder()
        settings = WorkerSettings.from_env().in_one_partition("`unstale plan`")
        configure_logging("error")
        rules = Rules.load(settings.config).require_watches()
        if against is not None:
            found = plan_offline(rules, against, folder=folder, base=base)
        else:
            found = await plan_running(settings, rules, folder=folder, base=base, count=count)
        if json:
            typer.echo(orjson.dumps(as_dict(found)).decode())
        else:
            for line in lines(found):
                typer.echo(line)
        return DONE

    run(work)
