"""What the demo looks like: the flow from Postgres to the agents on a terminal, or a plain line."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from rich.align import Align
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from unstale_worker.demo.ledger import Tally

WINDOW: Final = 8
"""Looks that a rate is taken over: two seconds at four a second."""
BARS: Final = "▁▂▃▄▅▆▇█"
WIDTH: Final = 96
MOST_NEWS: Final = 12
"""Invalidations shown on a high terminal."""
FIXED_LINES: Final = 18
"""Lines that the view takes besides one for each agent and invalidation."""


class View:
    """Remembers the last looks, so that it can show rates."""

    def __init__(self, *, seconds: float | None, model: str) -> None:
        self._seconds, self._model = seconds, model
        self._looks: deque[Tally] = deque(maxlen=WINDOW)

    def look(self, tally: Tally) -> None:
        """Take new numbers in."""
        self._looks.append(tally)

    def picture(self, tally: Tally, *, news: Sequence[str], width: int, height: int) -> RenderableType:
        """The live view of the numbers looked at last, for a terminal of that size."""
        width = min(WIDTH, width)
        parts = [
            self._title(tally),
            Text(),
            self._flow(tally, width=width),
            Text(),
            self._agents(tally),
            Text(),
            self._greetings(tally),
            Text(),
            _latency(tally, bars=min(32, max(0, width - 58))),
            _visit(tally, gap=10 if width == WIDTH else 3),
        ]
        lines = min(MOST_NEWS, height - FIXED_LINES - len(tally.agents))
        if lines > 0:
            parts += [Text(), _news(news, lines)]
        return Align.center(Group(*parts), width=width)

    def line(self, tally: Tally) -> str:
        """One plain line."""
        return (
            f"{tally.seconds:6.1f} s  changes {tally.changes:,} ({self._rate('changes'):.0f}/s)  "
            f"reads {tally.reads:,} ({self._rate('reads'):,.0f}/s)  "
            f"hits {tally.hit_rate:.1%}, near {tally.near_hit_rate:.1%}  "
            f"commit to last agent p50 {_ms(tally.p50)}, p99 {_ms(tally.p99)}  "
            f"greetings {tally.greetings:,}, model calls {tally.model_calls:,}, waited {tally.waited:,}  "
            f"stale reads {tally.stale_reads}"
        )

    def _title(self, tally: Tally) -> RenderableType:
        clock = f"{tally.seconds:.0f} s" + (f" of {self._seconds:.0f} s" if self._seconds else "")
        row = Table.grid(expand=True)
        row.add_column()
        row.add_column(justify="right")
        row.add_row(
            Text.assemble(("unstale", "bold cyan"), ("  every read is checked", "dim")),
            Text.assemble((clock, "bold"), ("   Ctrl-C ends it", "dim")),
        )
        return row

    def _flow(self, tally: Tally, *, width: int) -> RenderableType:
        worker = tally.worker
        arrow = 4 if width >= WIDTH else 3
        each = (width - 3 * arrow) // 4
        boxes = (
            _box(
                "Postgres",
                ("changes", f"{tally.changes:,}"),
                ("rate", f"{self._rate('changes'):,.0f}/s"),
                ("rollbacks", f"{tally.rollbacks:,}"),
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
                ("dropped", f"{tally.invalidations:,}"),
                ("rate", f"{self._rate('invalidations'):,.0f}/s"),
                ("hits", f"{tally.redis_hits:,}"),
                width=each,
            ),
            _box(
                f"{len(tally.agents)} agents",
                ("reads", f"{tally.reads:,}"),
                ("rate", f"{self._rate('reads'):,.0f}/s"),
                ("near", f"{tally.near_hit_rate:.1%}"),
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

    def _agents(self, tally: Tally) -> RenderableType:
        table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
        table.add_column("agent")
        for name in ("reads", "near hits", "Redis hits", "loaded", "staleness", "stale reads"):
            table.add_column(name, justify="right")
        for agent in tally.agents:
            # Values and stale values both come from Redis; what neither tier answered was loaded.
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

    def _greetings(self, tally: Tally) -> RenderableType:
        """The numbers; below them the newest greeting and who wrote it."""
        newest = Table.grid(expand=True, padding=(0, 1, 0, 0))
        newest.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        newest.add_column(justify="right", no_wrap=True)
        newest.add_row(Text(tally.greeting, "italic"), Text(f"({self._model})", "yellow"))
        return Group(
            Text.assemble(
                ("greetings ", "dim"),
                (f"{tally.greetings:,}", "bold"),
                ("   model calls ", "dim"),
                (f"{tally.model_calls:,}", "bold"),
                (f" ({tally.refreshes:,} in advance)", "dim"),
                ("   waited ", "dim"),
                (f"{tally.waited:,}", "bold"),
            ),
            newest,
        )

    def _rate(self, name: str) -> float:
        if len(self._looks) < 2:
            return 0.0
        first, last = self._looks[0], self._looks[-1]
        seconds = last.seconds - first.seconds
        return float(getattr(last, name) - getattr(first, name)) / seconds if seconds > 0 else 0.0


def _box(title: str, *rows: tuple[str, str], width: int) -> Panel:
    """Names to the left, values to the right; each row shares the width as it needs."""
    margin = 1 if width > 20 else 0
    inner = width - 2 - 2 * margin
    lines = [
        Text.assemble((name, "dim"), " " * max(1, inner - len(name) - len(value)), (value, "bold"))
        for name, value in rows
    ]
    return Panel(
        Text("\n").join(lines), title=title, title_align="left", border_style="cyan", padding=(0, margin)
    )


def _latency(tally: Tally, *, bars: int) -> RenderableType:
    top = max(10.0, *tally.recent_ms) if tally.recent_ms else 10.0
    newest = tally.recent_ms[len(tally.recent_ms) - min(bars, len(tally.recent_ms)) :]
    picture = "".join(BARS[min(7, int(value / top * 8))] for value in newest)
    row = Table.grid(expand=True)
    row.add_column(no_wrap=True)
    row.add_column(justify="right", no_wrap=True, overflow="crop")
    row.add_row(
        Text.assemble(
            ("commit to the last agent   p50 ", "dim"),
            (_ms(tally.p50), "bold"),
            ("   p99 ", "dim"),
            (_ms(tally.p99), "bold"),
        ),
        Text(picture, "cyan"),
    )
    return row


def _visit(tally: Tally, *, gap: int) -> RenderableType:
    if not tally.agents or not tally.agents[0].url:
        return Text()
    command = f"curl -d '{{\"user_id\": 7}}' {tally.agents[0].url}/session"
    return Text.assemble(("visit one yourself" + " " * gap, "dim"), command, no_wrap=True, overflow="crop")


def _news(news: Sequence[str], lines: int) -> RenderableType:
    shown = list(news)[-lines:]
    text = Text(
        "\n".join(shown + [""] * (lines - len(shown))), style="dim", no_wrap=True, overflow="ellipsis"
    )
    return Panel(
        text, title="agents are told to drop", title_align="left", border_style="bright_black", padding=(0, 1)
    )


def _count(number: int) -> Text:
    return Text(f"{number:,}", "bold red" if number else "bold green")


def shares(*parts: int) -> list[str]:
    """Percentages of the whole with one decimal, which add up to 100.0; nothing yet: dashes.

    Each is rounded down, and those that lost most by it get the tenths that are missing.

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
