"""The command line: arguments in, calls out, no decisions."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
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
) -> None:
    """Show it at work on real servers: a worker, agents that check every read, and a writer."""
    from rich.console import Console

    from unstale_worker.demo.reports import World
    from unstale_worker.demo.show import show

    async def run(stop: asyncio.Event) -> int:
        fresh = await show(
            World(rate=rate, seed=seed),
            agents=agents,
            seconds=seconds,
            json=json,
            stop=stop,
            console=Console(),
        )
        return DONE if fresh else FAILED

    _run(run)


def _run(work: Callable[[asyncio.Event], Awaitable[int]]) -> None:
    """Run ``work(stop)``: a first SIGINT or SIGTERM sets ``stop``, a second one exits at once."""
    from unstale_worker.loop import new_event_loop

    async def guarded() -> int:
        stop = asyncio.Event()

        def stopping(number: signal.Signals) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopping, number)
        return await work(stop)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        raise typer.Exit(runner.run(guarded()))


def _complain(error: Exception) -> None:
    from unstale_worker.logs import without_passwords

    typer.echo(f"unstale: {without_passwords(str(error))}", err=True)


if __name__ == "__main__":
    main()
