"""Runs one instance of the service: ``python -m companion --port 8080``."""

import argparse
import asyncio
import signal
import sys
from contextlib import AsyncExitStack

from aiohttp import web

from companion.agent import Companion
from companion.service import application
from unstale import Cache, ConnectionPool, PoolSettings


async def serve(*, port: int) -> None:
    """Serve on loopback until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as cleanup:
        settings = PoolSettings.from_env()
        if settings.openai_api_key is None:
            sys.exit("OPENAI_API_KEY is not set. Without one: python -m companion.stand_in")
        pool = await cleanup.enter_async_context(ConnectionPool(settings))
        cache = await cleanup.enter_async_context(Cache.from_env())
        await pool.warm()
        runner = web.AppRunner(application(Companion(cache, pool)))
        cleanup.push_async_callback(runner.cleanup)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
        except OSError as error:
            sys.exit(
                f"Port {port} cannot be used ({error.strerror}). Take another one: --port 0 is any free one."
            )
        print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m companion", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0: any free one")
    asyncio.run(serve(port=parser.parse_args().port))
