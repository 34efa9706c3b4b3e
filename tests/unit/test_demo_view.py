"""The demo's display fits the terminal; its plain line and its JSON have the same numbers."""

import io
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from unstale_worker.demo import summary
from unstale_worker.demo.figures import DemoFigures
from unstale_worker.demo.reports import AgentReport, WorkerReport
from unstale_worker.demo.view import View, shares

AGENTS = tuple(
    AgentReport(
        name=f"agent-{number}", reads=40_000, near_hits=38_000, redis_hits=1_000, loads=1_000, stale_reads=0,
        invalidations=3, staleness=0.25, attached=True, heard=(), samples=(), recent=(), complaint="",
    )
    for number in (1, 2, 3)
)  # fmt: skip
PAGE = "http://127.0.0.1:65535"
FIGURES = DemoFigures(
    seconds=60.0, changes=10_000, unwatched=1, rollbacks=400, reads=120_000, near_hits=114_000,
    redis_hits=3_000, loads=3_000, invalidations=25_000, stale_reads=0, late_reads=0, unconfirmed=0,
    outstanding=0, p50=1.234, p99=12.345, recent_ms=(1.0, 2.0, 12.0, 0.0) * 8, complaint="", agents=AGENTS,
    worker=WorkerReport(
        "leading", 0.012, True, 1, 9_000, 3, 4, 0, "", url=PAGE, unchanged=12, tokens=3_000, tokens_saved=400,
    ),
    greetings=7_654,
    model_calls=321, searches=900, search_loads=100,
    refreshes=205, waited=98, stale_hits=44,
    greeting="Welcome back, Ada.",
)  # fmt: skip
MODEL = "stand-in, no real model"
NEWS = tuple(f"user:{number}:profile" for number in range(30))


def rendered(what: RenderableType, *, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as said:
        console.print(what)
    return said.get()


def seen_twice(last: DemoFigures) -> View:
    view = View(seconds=90.0, model=MODEL)
    view.add(replace(last, seconds=last.seconds - 2, changes=last.changes - 200, reads=last.reads - 6_000))
    view.add(last)
    return view


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30), (200, 60)])
def test_nothing_is_cut_off(width: int, height: int) -> None:
    text = rendered(seen_twice(FIGURES).picture(FIGURES, news=NEWS, width=width, height=height), width=width)

    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for wanted in (
        "10,000",
        "120,000",
        "leading",
        "25,000",
        "100/s",
        "3,000/s",
        "1.2 ms",
        "12.3 ms",
        "0.25 s",
        "7,654",
        "321",
        "205 in advance",
        "98",
        MODEL,
        "Welcome back, Ada.",
    ):
        assert wanted in text, wanted
    assert "user:29:profile" in text
    assert "60 s of 90 s" in text
    assert PAGE + "/" in text


def test_a_low_terminal_shows_no_invalidations_instead_of_half_a_picture() -> None:
    text = rendered(seen_twice(FIGURES).picture(FIGURES, news=NEWS, width=80, height=18), width=80)

    assert "user:29" not in text
    assert "agent-3" in text
    assert len(text.rstrip("\n").splitlines()) <= 18


def test_before_anything_is_known() -> None:
    nothing = replace(
        FIGURES, seconds=0.0, changes=0, reads=0, near_hits=0, redis_hits=0, agents=(), worker=None, p50=None,
        p99=None, recent_ms=(),
    )  # fmt: skip
    view = View(seconds=None, model=MODEL)
    view.add(nothing)

    assert "starting" in rendered(view.picture(nothing, news=(), width=80, height=24), width=80)
    assert "hits 0.0%" in view.line(nothing)


def test_a_detached_agent_is_shown_as_such() -> None:
    figures = replace(FIGURES, agents=(replace(AGENTS[0], attached=False, staleness=None),))

    text = rendered(seen_twice(figures).picture(figures, news=(), width=80, height=24), width=80)

    assert "detached" in text


def test_the_line_and_the_json_say_the_same() -> None:
    line, data = seen_twice(FIGURES).line(FIGURES), json.loads(summary.as_json(FIGURES, model=MODEL))

    assert "changes 10,000 (100/s)" in line
    assert "near 95.0%" in line
    assert "p50 1.2 ms, p99 12.3 ms" in line
    assert "greetings 7,654, model calls 321 (205 in the background), waited 98" in line
    assert (data["greetings"], data["model_calls"], data["model_calls_saved"]) == (7_654, 321, 7_333)
    assert data["model"] == MODEL
    assert (data["unchanged"], data["tokens"], data["tokens_saved"]) == (12, 3_000, 400)
    assert (data["searches"], data["searches_saved"]) == (900, 800)
    assert (data["refreshes"], data["waited"], data["stale_hits"]) == (205, 98, 44)
    assert data["hit_rate"] == 0.9754
    assert data["latency_ms"] == {"p50": 1.234, "p99": 12.345}
    assert data["stale_reads"] == 0


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        (FIGURES, "stale reads"),
        (FIGURES, "7,333 saved by the cache"),
        (FIGURES, f"written by: {MODEL}"),
        (replace(FIGURES, stale_reads=3, complaint="agent-1: it was old"), "agent-1: it was old"),
        (replace(FIGURES, late_reads=1), "late reads"),
        (replace(FIGURES, unconfirmed=2, outstanding=1), "flushed changes"),
    ],
)
def test_the_summary_says_what_was_wrong(figures: DemoFigures, verdict: str) -> None:
    assert verdict in rendered(summary.table(figures, model=MODEL), width=100)
    assert figures.consistent is (figures.stale_reads + figures.late_reads == 0)


@given(parts=st.lists(st.integers(0, 10**9), min_size=1, max_size=5))
def test_shares_add_up_and_are_rounded_by_less_than_a_tenth(parts: list[int]) -> None:
    said = shares(*parts)
    if not sum(parts):
        assert said == ["–"] * len(parts)
        return
    tenths = [int(text.removesuffix("%").replace(".", "")) for text in said]
    assert sum(tenths) == 1000
    for part, tenth in zip(parts, tenths, strict=True):
        assert abs(tenth - 1000 * part / sum(parts)) < 1


def test_an_agents_answers_add_up_to_all_of_them() -> None:
    """There are more loads than reads that waited for one, and a loader's own reads count as answers."""
    agent = replace(AGENTS[0], reads=1_000, near_hits=870, redis_hits=50, stale_hits=5, misses=81, loads=95)
    text = rendered(seen_twice(FIGURES)._agents(replace(FIGURES, agents=(agent,))), width=100)
    assert "loaded" in text
    assert re.findall(r"\d+\.\d%", text) == ["86.5%", "5.5%", "8.0%"]
