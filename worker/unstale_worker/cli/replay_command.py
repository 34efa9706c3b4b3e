"""``unstale replay``; see `unstale_worker.replay.run`."""

import asyncio
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from unstale_worker.cli.running import DONE, FAILED, Json, run

if TYPE_CHECKING:
    from unstale_worker.replay.replay import Replayed

UNITS: Final = {"s": 1, "m": 60, "h": 3_600}


def seconds(text: str) -> float:
    """Parse a duration such as ``90s``, ``10m`` or ``1h``; raises `typer.BadParameter`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text)
    if found is None or not float(found[1]):
        raise typer.BadParameter(f"{text!r} is not a duration such as 90s, 10m or 1h")
    return float(found[1]) * UNITS[found[2]]


def replay(
    since: Annotated[str, typer.Option(help="How far back: 90s, 10m, 1h.")],
    table: Annotated[
        str | None, typer.Option(help="Only changes of this table, such as public.profiles.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be announced, and announce nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Announce the changes of the last minutes again: their keys are removed everywhere once more."""
    back = seconds(since)

    async def work(stop: asyncio.Event) -> int:
        import orjson

        from unstale.settings import WorkerSettings
        from unstale_worker.cli.output import printable
        from unstale_worker.replay.run import run_replay
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env().in_one_partition("`unstale replay`")
        configure_logging("error")
        found = await run_replay(settings, since=back, table=table, dry_run=dry_run)
        if json:
            typer.echo(orjson.dumps(asdict(found)).decode())
        else:
            for line in lines(found):
                typer.echo(printable(line))
        return FAILED if found.failures else DONE

    run(work)


def lines(found: "Replayed") -> list[str]:
    """Return the result as lines of text."""
    begun = "from the beginning of the outbox" if found.age is None else f"of the last {found.age:.0f} s"
    done = "would be announced again" if found.dry_run else "were announced again"
    text = [f"{sum(found.entries.values()):,} entries of the outbox {begun}:"]
    text += [f"  {count:,} {name}" for name, count in sorted(found.entries.items())]
    text += [f"{found.keys:,} keys and {found.patterns:,} patterns {done}"]
    text += [f"  {key}" for key in found.first_keys]
    text += [f"  {pattern} (pattern)" for pattern in found.first_patterns]
    left = found.keys - len(found.first_keys) + found.patterns - len(found.first_patterns)
    text += [f"  and {left:,} more"] if left > 0 else []
    text += [f"a query failed, so its patterns stand for its keys: {failure}" for failure in found.failures]
    return text
