"""The demo's final summary: a table for people, one JSON object for programs."""

import orjson
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unstale_worker.demo.figures import DemoFigures


def table(figures: DemoFigures, *, model: str) -> RenderableType:
    """Return the figures and their verdict as a table."""
    rows = Table.grid(padding=(0, 3))
    rows.add_column(style="dim")
    rows.add_column(justify="right", style="bold")
    rows.add_column(style="dim")
    rows.add_row("changes", f"{figures.changes:,}", f"committed in {figures.seconds:.0f} s")
    rows.add_row("keys invalidated", f"{figures.invalidations:,}", "in Redis and in every agent")
    rows.add_row("reads", f"{figures.reads:,}", "all checked")
    rows.add_row(
        "hit rate", f"{figures.hit_rate:.1%}", f"{figures.near_hit_rate:.1%} from the agents' own memory"
    )
    rows.add_row("greetings", f"{figures.greetings:,}", f"written by: {model}")
    rows.add_row(
        "model calls", f"{figures.model_calls:,}", f"{figures.model_calls_saved:,} saved by the cache"
    )
    rows.add_row("… by the worker", f"{figures.refreshes:,}", "in the background, without waiting")
    rows.add_row("… not made", f"{figures.unchanged:,}", "a change that altered no input of the greeting")
    spent, saved = figures.tokens
    rows.add_row("tokens of the worker", f"{spent:,}", f"{saved:,} saved by unchanged inputs")
    rows.add_row(
        "searches", f"{figures.searches:,}", f"{figures.searches_saved:,} answered by the cache, by tag"
    )
    rows.add_row("visitors who waited", f"{figures.waited:,}", "mostly for a first greeting")
    if figures.p50 is not None and figures.p99 is not None:
        rows.add_row("latency p50", f"{figures.p50:.1f} ms", "from commit to the last agent's memory")
        rows.add_row("latency p99", f"{figures.p99:.1f} ms", "")
    if figures.unconfirmed or figures.outstanding:
        rows.add_row(
            "flushed changes",
            f"{figures.unconfirmed + figures.outstanding:,}",
            "covered by a flush instead of single keys",
        )
    color = "green" if figures.consistent else "red"
    rows.add_row(
        Text("stale reads", color),
        Text(f"{figures.stale_reads:,}", f"bold {color}"),
        Text("older than a received invalidation", "dim"),
    )
    rows.add_row(
        Text("late reads", color),
        Text(f"{figures.late_reads:,}", f"bold {color}"),
        Text("older than `cache.staleness` claimed", "dim"),
    )
    if figures.complaint:
        rows.add_row("first wrong read", "", Text(figures.complaint, "red"))
    return Panel.fit(rows, title="unstale demo", title_align="left", border_style=color, padding=(1, 2))


def as_json(figures: DemoFigures, *, model: str) -> str:
    """Return the figures as one line of JSON."""
    return orjson.dumps(
        {
            "changes": figures.changes,
            "invalidations": figures.invalidations,
            "reads": figures.reads,
            "hit_rate": round(figures.hit_rate, 4),
            "near_hit_rate": round(figures.near_hit_rate, 4),
            "stale_reads": figures.stale_reads,
            "late_reads": figures.late_reads,
            "unconfirmed": figures.unconfirmed + figures.outstanding,
            "greetings": figures.greetings,
            "model_calls": figures.model_calls,
            "model_calls_saved": figures.model_calls_saved,
            "model": model,
            "refreshes": figures.refreshes,
            "unchanged": figures.unchanged,
            "tokens": figures.tokens[0],
            "tokens_saved": figures.tokens[1],
            "searches": figures.searches,
            "searches_saved": figures.searches_saved,
            "stale_hits": figures.stale_hits,
            "waited": figures.waited,
            "seconds": round(figures.seconds, 1),
            "agents": len(figures.agents),
            "latency_ms": {
                "p50": None if figures.p50 is None else round(figures.p50, 3),
                "p99": None if figures.p99 is None else round(figures.p99, 3),
            },
        }
    ).decode()
