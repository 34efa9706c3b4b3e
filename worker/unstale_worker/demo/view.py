"""The demo's live view on a terminal, or a plain line."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unstale_worker.demo.figures import DemoFigures

WINDOW: Final = 8
"""Number of updates that a rate is computed over: two seconds at four updates per second."""
BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 96
MOST_NEWS: Final = 12
"""Maximum number of invalidations shown."""
FIXED_LINES: Final = 18
"""Lines of the view without the lines for agents and invalidations."""


class View:
    """Renders figures; keeps the last ones to compute rates."""

    def __init__(self, *, seconds: float | None, model: str) -> None:
        self._seconds, self._model = seconds, model
        self._updates: deque[DemoFigures] = deque(maxlen=WINDOW)

    def add(self, figures: DemoFigures) -> None:
        """Add new figures."""
        self._updates.append(figures)

    def picture(
        self, figures: DemoFigures, *, news: Sequence[str], width: int, height: int
    ) -> RenderableType:
        """Render the live view for a terminal of this size."""
        width = min(WIDTH, width)
        parts = [
            self._title(figures),
            Text(),
            self._flow(figures, width=width),
            Text(),
            self._agents(figures),
            Text(),
            self._greetings(figures),
            Text(),
            _latency(figures, bars=min(32, max(0, width - 58))),
            _visit(figures, gap=10 if width == WIDTH else 3),
        ]
        lines = min(MOST_NEWS, height - FIXED_LINES - len(figures.agents))
        if lines > 0:
            parts += [Text(), _news(news, lines)]
        return Align.center(Group(*parts), width=width)

    def line(self, figures: DemoFigures) -> str:
        """Format the figures as one plain line."""
        return (
            f"{figures.seconds:6.1f} s  changes {figures.changes:,} ({self._rate('changes'):.0f}/s)  "
            f"reads {figures.reads:,} ({self._rate('reads'):,.0f}/s)  "
            f"hits {figures.hit_rate:.1%}, near {figures.near_hit_rate:.1%}  "
            f"commit to last agent p50 {_ms(figures.p50)}, p99 {_ms(figures.p99)}  "
            f"greetings {figures.greetings:,}, model calls {figures.model_calls:,} "
            f"({figures.refreshes:,} in the background), waited {figures.waited:,}  "
            f"stale reads {figures.stale_reads}"
        )

    def _title(self, figures: DemoFigures) -> RenderableType:
        clock = f"{figures.seconds:.0f} s" + (f" of {self._seconds:.0f} s" if self._seconds else "")
        url = figures.worker.url if figures.worker else ""
        beside = f"  see {url}/" if url else "  every read is checked"
        row = Table.grid(expand=True)
        row.add_column()
        row.add_column(justify="right")
        row.add_row(
            Text.assemble(("unstale", "bold cyan"), (beside, "dim")),
            Text.assemble((clock, "bold"), ("   Ctrl-C to stop", "dim")),
        )
        return row

    def _flow(self, figures: DemoFigures, *, width: int) -> RenderableType:
        worker = figures.worker
        arrow = 4 if width >= WIDTH else 3
        each = (width - 3 * arrow) // 4
        boxes = (
            _box(
                "Postgres",
                ("changes", f"{figures.changes:,}"),
                ("rate", f"{self._rate('changes'):,.0f}/s"),
                ("rollbacks", f"{figures.rollbacks:,}"),
                width=each,
            ),
            _box(
                "worker",
                ("role", worker.role if worker else "starting"),
                ("batches", f"{worker.batches:,}" if worker else "–"),
                ("lag", _ms(worker.lag * 1000) if worker and worker.lag is not None else "–"),
                width=each,
            ),
            _box(
                "Redis",
                ("dropped", f"{figures.invalidations:,}"),
                ("rate", f"{self._rate('invalidations'):,.0f}/s"),
                ("hits", f"{figures.redis_hits:,}"),
                width=each,
            ),
            _box(
                f"{len(figures.agents)} agents",
                ("reads", f"{figures.reads:,}"),
                ("rate", f"{self._rate('reads'):,.0f}/s"),
                ("near", f"{figures.near_hit_rate:.1%}"),
                width=each,
            ),
        )
        row = Table.grid(padding=0)
        cells: list[RenderableType] = []
        for index, box in enumerate(boxes):
            if index:
                row.add_column(width=arrow, vertical="middle", justify="center")
                cells.append(Text("──▶", "cyan"))
            row.add_column(width=each)
            cells.append(box)
        row.add_row(*cells)
        return row

    def _agents(self, figures: DemoFigures) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
        table.add_column("agent")
        for name in ("reads", "near hits", "Redis hits", "loaded", "staleness", "stale reads"):
            table.add_column(name, justify="right")
        for agent in figures.agents:
            # Fresh and stale values come from Redis; the other reads were loaded.
            near, redis, loaded = shares(agent.near_hits, agent.redis_hits + agent.stale_hits, agent.misses)
            table.add_row(
                Text.assemble(("● ", "green" if agent.attached else "yellow"), agent.name),
                f"{agent.reads:,}",
                near,
                redis,
                loaded,
                f"{agent.staleness:.2f} s" if agent.staleness is not None else Text("detached", "yellow"),
                _count(agent.stale_reads),
            )
        return table

    def _greetings(self, figures: DemoFigures) -> RenderableType:
        """Render the greeting figures, and below them the newest greeting with its model."""
        newest = Table.grid(expand=True, padding=(0, 1, 0, 0))
        newest.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        newest.add_column(justify="right", no_wrap=True)
        newest.add_row(Text(figures.greeting, "italic"), Text(f"({self._model})", "yellow"))
        return Group(
            Text.assemble(
                ("greetings ", "dim"),
                (f"{figures.greetings:,}", "bold"),
                ("   model calls ", "dim"),
                (f"{figures.model_calls:,}", "bold"),
                (f" ({figures.refreshes:,} in advance)", "dim"),
                ("   waited ", "dim"),
                (f"{figures.waited:,}", "bold"),
            ),
            newest,
        )

    def _rate(self, name: str) -> float:
        if len(self._updates) < 2:
            return 0.0
        first, last = self._updates[0], self._updates[-1]
        seconds = last.seconds - first.seconds
        return float(getattr(last, name) - getattr(first, name)) / seconds if seconds > 0 else 0.0


def _box(title: str, *rows: tuple[str, str], width: int) -> Panel:
    """Render a box with names on the left and values on the right."""
    margin = 1 if width > 20 else 0
    inner = width - 2 - 2 * margin
    lines = [
        Text.assemble((name, "dim"), " " * max(1, inner - len(name) - len(value)), (value, "bold"))
        for name, value in rows
    ]
    return Panel(
        Text("\n").join(lines), title=title, title_align="left", border_style="cyan", padding=(0, margin)
    )


def _latency(figures: DemoFigures, *, bars: int) -> RenderableType:
    top = max(10.0, *figures.recent_ms) if figures.recent_ms else 10.0
    newest = figures.recent_ms[len(figures.recent_ms) - min(bars, len(figures.recent_ms)) :]
    picture = "".join(BARS[min(7, int(value / top * 8))] for value in newest)
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True)
    row.add_column(justify="right", no_wrap=True, overflow="crop")
    row.add_row(
        Text.assemble(
            ("commit to the last agent   p50 ", "dim"),
            (_ms(figures.p50), "bold"),
            ("   p99 ", "dim"),
            (_ms(figures.p99), "bold"),
        ),
        Text(picture, "cyan"),
    )
    return row


def _visit(figures: DemoFigures, *, gap: int) -> RenderableType:
    if not figures.agents or not figures.agents[0].url:
        return Text()
    command = f"curl -d '{{\"user_id\": 7}}' {figures.agents[0].url}/session"
    return Text.assemble(("visit one yourself" + " " * gap, "dim"), command, no_wrap=True, overflow="crop")


def _news(news: Sequence[str], lines: int) -> RenderableType:
    shown = list(news)[-lines:]
    text = Text(
        "\n".join(shown + [""] * (lines - len(shown))), style="dim", no_wrap=True, overflow="ellipsis"
    )
    return Panel(text, title="invalidations", title_align="left", border_style="bright_black", padding=(0, 1))


def _count(number: int) -> Text:
    return Text(f"{number:,}", "bold red" if number else "bold green")


def shares(*parts: int) -> list[str]:
    """Format parts as percentages with one decimal that add up to 100.0; dashes if all parts are zero.

    Each percentage is rounded down; the missing tenths go to the parts with the largest remainders.

    >>> shares(1, 1, 1)
    ['33.4%', '33.3%', '33.3%']
    """
    whole = sum(parts)
    if not whole:
        return ["–"] * len(parts)
    tenths = [1000 * part // whole for part in parts]
    lost = sorted(range(len(parts)), key=lambda index: 1000 * parts[index] % whole, reverse=True)
    for index in lost[: 1000 - sum(tenths)]:
        tenths[index] += 1
    return [f"{tenth / 10:.1f}%" for tenth in tenths]


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.1f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"
