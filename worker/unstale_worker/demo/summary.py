"""What the demo says at its end: a table for people, one JSON object for programs."""

import orjson
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unstale_worker.demo.ledger import Tally


def table(tally: Tally, *, model: str) -> RenderableType:
    """The numbers, and the verdict on them."""
    rows = Table.grid(padding=(0, 3))
    rows.add_column(style="dim")
    rows.add_column(justify="right", style="bold")
    rows.add_column(style="dim")
    rows.add_row("changes", f"{tally.changes:,}", f"committed in {tally.seconds:.0f} s")
    rows.add_row("keys invalidated", f"{tally.invalidations:,}", "in Redis and in every agent")
    rows.add_row("reads", f"{tally.reads:,}", "all checked")
    rows.add_row(
        "hit rate", f"{tally.hit_rate:.1%}", f"{tally.near_hit_rate:.1%} from the agents' own memory"
    )
    rows.add_row("greetings", f"{tally.greetings:,}", f"written by: {model}")
    rows.add_row("model calls", f"{tally.model_calls:,}", f"{tally.model_calls_saved:,} saved by the cache")
    rows.add_row("… by the worker", f"{tally.refreshes:,}", "in the background: nobody waits")
    rows.add_row("visitors who waited", f"{tally.waited:,}", "mostly those who came first")
    if tally.p50 is not None and tally.p99 is not None:
        rows.add_row("latency p50", f"{tally.p50:.1f} ms", "from commit to the last agent's memory")
        rows.add_row("latency p99", f"{tally.p99:.1f} ms", "")
    if tally.unconfirmed or tally.outstanding:
        rows.add_row(
            "not heard of singly", f"{tally.unconfirmed + tally.outstanding:,}", "changes covered by a flush"
        )
    color = "green" if tally.true else "red"
    rows.add_row(
        Text("stale reads", color),
        Text(f"{tally.stale_reads:,}", f"bold {color}"),
        Text("older than the agent had been told of", "dim"),
    )
    rows.add_row(
        Text("late reads", color),
        Text(f"{tally.late_reads:,}", f"bold {color}"),
        Text("older than `cache.staleness` said", "dim"),
    )
    if tally.complaint:
        rows.add_row("first wrong read", "", Text(tally.complaint, "red"))
    return Panel.fit(rows, title="unstale demo", title_align="left", border_style=color, padding=(1, 2))


def as_json(tally: Tally, *, model: str) -> str:
    """One line."""
    return orjson.dumps(
        {
            "changes": tally.changes,
            "invalidations": tally.invalidations,
            "reads": tally.reads,
            "hit_rate": round(tally.hit_rate, 4),
            "near_hit_rate": round(tally.near_hit_rate, 4),
            "stale_reads": tally.stale_reads,
            "late_reads": tally.late_reads,
            "unconfirmed": tally.unconfirmed + tally.outstanding,
            "greetings": tally.greetings,
            "model_calls": tally.model_calls,
            "model_calls_saved": tally.model_calls_saved,
            "model": model,
            "refreshes": tally.refreshes,
            "stale_hits": tally.stale_hits,
            "waited": tally.waited,
            "seconds": round(tally.seconds, 1),
            "agents": len(tally.agents),
            "latency_ms": {
                "p50": None if tally.p50 is None else round(tally.p50, 3),
                "p99": None if tally.p99 is None else round(tally.p99, 3),
            },
        }
    ).decode()
