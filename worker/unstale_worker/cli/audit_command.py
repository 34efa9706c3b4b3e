"""``unstale audit``; see `unstale_worker.audit`."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unstale.errors import ConfigurationError
from unstale_worker.cli.running import DONE, FAILED, Json, run

if TYPE_CHECKING:
    from unstale_worker.audit.auditor import Auditor, Options
    from unstale_worker.audit.violations import Violation


def audit(
    duration: Annotated[
        str | None, typer.Option("--for", help="How long, such as 10m; by default until Ctrl-C.")
    ] = None,
    delays: Annotated[
        str, typer.Option(help="When to compare a key after it changed, separated by commas.")
    ] = "10s,1m,5m",
    rate: Annotated[
        float, typer.Option(min=0, max=100_000, help="Keys to compare at random, per second.")
    ] = 20.0,
    bound: Annotated[
        str | None,
        typer.Option(help="Staleness to measure time and reads against; by default UNSTALE_MAX_SILENCE."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Append each violation to this file when it is found, as JSON.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            help="Write Prometheus metrics to this file, for the node exporter's textfile collector."
        ),
    ] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Keep the result in Redis, for the worker's page and metrics."),
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow", help="Measure how stale a cache is that unstale does not keep true; needs no worker."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Compare cached values with the database, and count in nines; changes no value.

    Exits with 1 if a violation was found, or if nothing could be compared.
    """
    if shadow:
        run(lambda stop: _shadow(stop, duration, json=json))

    async def work(stop: asyncio.Event) -> int:
        from unstale.settings import WorkerSettings
        from unstale_worker.audit.metrics import write_metrics
        from unstale_worker.audit.opening import opened, scope_of
        from unstale_worker.audit.publishing import publishing
        from unstale_worker.audit.report import Report, violation_lines
        from unstale_worker.cli.tracing_output import print_json, print_lines
        from unstale_worker.redis.explained import explained
        from unstale_worker.rules import Rules
        from unstale_worker.runtime.logs import configure_logging

        settings = WorkerSettings.from_env().in_one_partition("`unstale audit`")
        configure_logging("warning")
        rules = Rules.load(settings.config).require_watches()
        options = options_of(delays, rate, bound, default_bound=settings.max_silence)
        seconds = None if duration is None else seconds_in(duration, "--for")
        scope = scope_of(rules)
        for path in (record, metrics):
            _check_writable(path)

        def say(violation: "Violation") -> None:
            if not json:
                print_lines(violation_lines(violation))

        def each_round(auditor: "Auditor") -> None:
            if metrics is not None:
                write_metrics(metrics, auditor)

        async with (
            explained(settings),
            opened(settings, rules, options, record=record, say=say, each_round=each_round) as auditor,
        ):
            async with publishing(settings, auditor) if publish else nullcontext():
                await auditor.run(stop, seconds=seconds)
            report = Report(scope, auditor)
            if json:
                print_json(report.as_dict())
            else:
                print_lines(report.lines())
            return DONE if report.sound else FAILED

    run(work)


def _check_writable(path: Path | None) -> None:
    """Raise `ConfigurationError` if a file cannot be written, before the audit begins."""
    try:
        if path is not None:
            path.open("ab").close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}); name another file") from None


async def _shadow(stop: asyncio.Event, duration: str | None, *, json: bool) -> int:
    from unstale.settings import WorkerSettings
    from unstale_worker.audit.shadow import shadowing
    from unstale_worker.cli.tracing_output import print_json, print_lines
    from unstale_worker.redis.explained import explained
    from unstale_worker.rules import Rules
    from unstale_worker.runtime.logs import configure_logging

    settings = WorkerSettings.from_env()
    configure_logging("warning")
    seconds = None if duration is None else seconds_in(duration, "--for")
    async with explained(settings), shadowing(settings, Rules.load(settings.config)) as shadow:
        await shadow.run(stop, seconds=seconds)
    if json:
        print_json(shadow.as_dict())
    else:
        print_lines(shadow.lines())
    return DONE if shadow.looks else FAILED


def options_of(delays: str, rate: float, bound: str | None, *, default_bound: float) -> "Options":
    """Return the options; raises `ConfigurationError`."""
    from unstale_worker.audit.auditor import Options

    after = tuple(seconds_in(delay.strip(), "--delays") for delay in delays.split(",") if delay.strip())
    return Options(
        delays=after,
        rate=rate,
        tick=min([0.5, *(max(0.05, delay / 4) for delay in after)]),
        bound=default_bound if bound is None else seconds_in(bound, "--bound"),
    )


def seconds_in(text: str, option: str) -> float:
    """Return a duration in seconds; raises `ConfigurationError`."""
    from unstale_worker.rules.field_checks import seconds_of

    seconds = seconds_of(int(text) if text.isdecimal() else text)
    if seconds is None:
        raise ConfigurationError(f"{option} is {text!r}; write a duration such as 10s, 5m or 1h30m")
    return seconds
