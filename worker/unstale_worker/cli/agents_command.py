"""``unstale agents``; see `unstale_worker.agents`."""

import asyncio

import typer

from unstale_worker.cli.running import DONE, Json, run


def agents(json: Json = False) -> None:
    """Show the agents that report: rules, staleness, and reads and loads by key pattern."""

    async def work(stop: asyncio.Event) -> int:
        import orjson

        from unstale.settings import WorkerSettings
        from unstale_worker.agents.read import read_agents
        from unstale_worker.agents.show import as_dict, lines
        from unstale_worker.cli.output import printable
        from unstale_worker.redis.client import open_redis
        from unstale_worker.redis.explained import explained

        settings = WorkerSettings.from_env().in_one_partition("`unstale agents`")
        async with explained(settings), open_redis(settings, connections=1) as redis:
            found = await read_agents(redis, settings.names)
        if json:
            typer.echo(orjson.dumps(as_dict(found)).decode())
        else:
            for line in lines(found):
                typer.echo(printable(line))
        return DONE

    run(work)
