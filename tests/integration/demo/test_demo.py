"""The demo: it shows real numbers, fails when a read is stale, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

from companion.stand_in import StandIn
from servers import eventually
from workers.commands import COMMAND, SECONDS, all_gone, environment, run, started


async def test_ends_with_one_json_object_of_what_happened(tmp_path: Path) -> None:
    async with started("demo", "--for", "80", "--json", "--rate", "60", cwd=tmp_path) as demo:
        while not re.search(r"\((\d\d+|[3-9]) in the background\)", await demo.line("changes")):
            pass  # until the worker has refreshed some greetings
        family = demo.family()
        assert len(family) > 8  # the servers' guards, the servers, worker, agents, writer
        assert await demo.end(signal.SIGTERM) == 0, (demo.lines, await demo.errors())
        await all_gone(family)

    *before, last = demo.lines
    numbers = json.loads(last)
    assert numbers["changes"] >= 20
    assert numbers["invalidations"] >= numbers["changes"]
    assert numbers["reads"] > 500
    assert 0.3 < numbers["near_hit_rate"] <= numbers["hit_rate"] <= 1
    assert numbers["stale_reads"] == numbers["late_reads"] == 0
    assert numbers["unconfirmed"] == 0
    assert numbers["greetings"] > 50
    assert 0 < numbers["model_calls"] < numbers["greetings"]
    assert numbers["model_calls_saved"] == numbers["greetings"] - numbers["model_calls"]
    assert 0 < numbers["refreshes"] < numbers["model_calls"]
    assert numbers["stale_hits"] > 0
    assert numbers["tokens"] > 0
    assert numbers["searches"] > numbers["searches_saved"] > 0
    assert numbers["waited"] < numbers["greetings"]
    assert numbers["model"] == "stand-in, no real model"
    assert any("stand-in, no real model" in line for line in before)
    assert 0 < numbers["latency_ms"]["p50"] <= numbers["latency_ms"]["p99"]
    assert any("changes" in line and "p99" in line for line in before)
    assert "\x1b" not in "".join(demo.lines)


def test_fails_when_agents_do_not_hear_invalidations(tmp_path: Path) -> None:
    broken = {"UNSTALE_DEMO_BREAK": "1"}
    ended = run("demo", "--for", "4", "--json", "--agents", "1", cwd=tmp_path, settings=broken)

    assert ended.code == 1, ended.err
    numbers = json.loads(ended.out.splitlines()[-1])
    assert numbers["stale_reads"] > 0
    assert numbers["late_reads"] > 0
    assert "first wrong read" in ended.out


async def test_with_a_key_the_model_writes_until_enough_is_paid_for(tmp_path: Path) -> None:
    async with StandIn(seconds=(0.0, 0.1)) as model:
        settings = {"OPENAI_API_KEY": "sk-somebody", "OPENAI_BASE_URL": model.url}
        ended = await asyncio.to_thread(
            run,
            "demo",
            "--for",
            "80",
            "--json",
            "--model-calls",
            "20",
            "--agents",
            "1",
            cwd=tmp_path,
            settings=settings,
        )
        calls = model.calls
    assert ended.code == 0, ended.err
    numbers = json.loads(ended.out.splitlines()[-1])
    assert 20 <= numbers["model_calls"] <= calls  # some were under way at the end
    assert numbers["seconds"] < 79
    assert numbers["model"] == "gpt-5.4-mini over its API"
    assert "costs money" in ended.out.splitlines()[0]
    assert "stand-in" not in ended.out
    assert "sk-somebody" not in ended.out + ended.err


def test_settings_of_production_do_not_reach_it_and_a_refused_key_leads_to_the_stand_in(
    tmp_path: Path,
) -> None:
    """A user's .env and environment may name production's servers: the demo starts its own."""
    nowhere = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    (tmp_path / ".env").write_text("".join(f"{name}={url}\n" for name, url in nowhere.items()))
    settings = {
        **{"OPENAI_API_KEY": "sk-somebody", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"},
        **{"REDIS_URL": nowhere["REDIS_URL"], "UNSTALE_NAMESPACE": "mine"},
    }
    ended = run("demo", "--for", "4", "--json", "--agents", "1", cwd=tmp_path, settings=settings)

    assert ended.code == 0, ended.err
    assert "(APIConnectionError): greetings come from the stand-in" in ended.out
    numbers = json.loads(ended.out.splitlines()[-1])
    assert numbers["changes"] > 0
    assert numbers["model"] == "stand-in, no real model"


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with started("demo", "--agents", "1", cwd=tmp_path) as demo:
        await demo.line("changes")
        family = demo.family()
        (writer,), (agent, *_) = demo.parts("demo.writer_process"), demo.parts("demo.agent_process")
        agent.suspend()  # so that it cannot end in order
        demo.process.send_signal(signal.SIGINT)
        await all_gone([writer])  # the first signal has been heard

        assert await demo.end(signal.SIGINT) == 128 + signal.SIGINT

        agent.resume()
        await all_gone(family)


async def test_a_signal_while_it_starts_ends_it(tmp_path: Path) -> None:
    async with started("demo", "--agents", "1", cwd=tmp_path) as demo:
        await demo.line("starting the worker")
        agents = await eventually(lambda: demo.parts("demo.agent_process"))
        agents[0].suspend()  # so that it never attaches

        assert await demo.end(signal.SIGINT) == 1

        assert "ended before the first change" in await demo.errors()


async def test_a_killed_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    async with started("demo", "--agents", "1", cwd=tmp_path) as demo:
        await demo.line("changes")
        family = demo.family()
        folders = [Path(process.cwd()) for process in demo.parts("demo.agent_process")]

        demo.process.kill()

        await all_gone(family)
        assert folders
        assert not any(folder.exists() for folder in folders)


async def test_a_part_that_dies_fails_it(tmp_path: Path) -> None:
    async with started("demo", "--agents", "1", cwd=tmp_path) as demo:
        await demo.line("changes")
        agents = demo.parts("demo.agent_process")
        agents[0].kill()

        await demo.rest()

        assert await demo.process.wait() == 1
        assert "agent-" in await demo.errors()


PICTURE = (b"Postgres", b"worker", b"Redis", b"3 agents", b"agent-1", b"staleness", b"stale reads", b"p99")


def test_a_terminal_gets_a_picture(tmp_path: Path) -> None:
    """On a terminal: the live view on the alternate screen; after Ctrl-C the summary on the ordinary one."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "demo"],
        cwd=tmp_path,
        env=environment(TERM="xterm-256color", COLUMNS="100", LINES="30"),
        stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        said, stopped = bytearray(), False
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # how a pty says that nobody writes any more
                break
            if not chunk:
                break
            said += chunk
            if not stopped and re.search(rb"[2-9] s", said) and all(word in said for word in PICTURE):
                process.send_signal(signal.SIGINT)
                stopped = True
        assert process.wait(timeout=SECONDS) == 0, said.decode(errors="replace")
    finally:
        os.close(ours)
        if process.poll() is None:
            process.kill()
            process.wait()
    text = said.decode()
    live, _, after = text.rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in live
    for word in PICTURE:
        assert word.decode() in live
    assert "latency p50" in after
    assert "latency p50" not in live
