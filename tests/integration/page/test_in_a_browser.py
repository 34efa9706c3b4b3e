"""The page in a real browser: what it shows, asks and does, and that it says and loads nothing else."""

from __future__ import annotations

import json

from redis.asyncio import Redis

from browser import Tab, tab
from servers import Database, eventually
from unstale.protocol.names import Names
from unstale_worker.observe.audit_result import Published, PublishedLine, PublishedViolation
from unstale_worker.page.service import serving_page
from unstale_worker.rules import Rules
from workers import SCHEMA, connected, redis_at, running_worker, settings_for
from workers.page_stage import served

RULES = """
[[watch]]
table = "public.profiles"
keys = ["user:{id}:profile", "name:{name}"]

[ttl]
"user:*:profile" = "1h"
"""
HOSTILE = "<img src=x onerror=alert(1)>\"'</td><script>document.title='owned'</script>\u202e{{7*7}}"
MOST_BYTES = 300_000


async def shows(opened: Tab, selector: str, text: str) -> None:
    """Wait until an element shows a text."""
    element = f"document.querySelector({json.dumps(selector)})"
    await opened.until(f"{element}.innerText.includes({json.dumps(text)})")


async def test_it_is_live_answers_questions_and_shows_hostile_names_as_text(
    database: Database, redis_url: str
) -> None:
    rules = Rules.parse(RULES)
    async with connected(database.dsn) as connection, tab() as opened:
        await connection.execute(SCHEMA.replace("'{id}'", "'{id,name}'"))
        async with running_worker(database.worker_dsn, redis_url, rules=RULES) as worker:
            settings = settings_for(database.worker_dsn, redis_url, http_port=0)
            async with serving_page(settings, rules, worker.status) as url:
                await opened.look(width=1280)
                await opened.go(url)
                await shows(opened, "#state", "leading")
                async with connection.transaction():
                    annotation = json.dumps({"actor": HOSTILE})
                    await connection.execute("select unstale.because($1)", annotation)
                    await connection.execute("insert into profiles values (7, $1)", HOSTILE)
                await shows(opened, "#newest", "insert of public.profiles")
                await shows(opened, "#newest", "<img src=x onerror=alert(1)>")
                assert "\u202e" not in await opened.text("body")
                await opened.until("document.querySelectorAll('.chart canvas').length === 2")

                # A click on a key asks what removed it.
                await opened.value(
                    "[...document.querySelectorAll('#newest .key')]"
                    ".find(e => e.dataset.key.startsWith('name:')).click()"
                )
                await shows(opened, "#answer", "insert of public.profiles in transaction")
                await shows(opened, "#answer", "made by name:{name} at")
                await opened.value("document.querySelector('[value=explain]').click()")
                await opened.value(
                    "const ask = document.querySelector('#ask');"
                    "ask.elements.table.value = 'public.profiles';"
                    "ask.elements.row.value = JSON.stringify({id: 42, name: 'Ada'}); ask.requestSubmit()"
                )
                await shows(opened, "#answer", "user:42:profile")
                await opened.value("ask.elements.row.value = '{'; ask.requestSubmit()")
                await shows(opened, "#answer", "the row is not JSON")
                await opened.click("#examine")
                await shows(opened, "#findings", "a worker leads with fence")

                # The result of an audit, as anybody may have written it.
                await shows(opened, "#audit", "unstale audit --publish")
                async with redis_at(redis_url) as redis:
                    await redis.set(Names().audit, audit_result("name:" + HOSTILE), px=600_000)
                await shows(opened, "#audit", "≥ 2.70 nines")
                await shows(opened, "#audit", "<img src=x onerror=alert(1)>")
                await opened.value("document.querySelector('#audit .removal .key').click()")
                await shows(opened, "#answer", "insert of public.profiles in transaction")

                # Many changes leave no more behind than few.
                for number in range(60):
                    await connection.execute("insert into profiles values ($1, 'x')", 100 + number)
                await eventually(lambda: worker.status().counters.entries >= 61)
                await connection.execute("insert into profiles values (200, 'x')")  # an entry of its own
                await shows(opened, "#newest", "user:200:profile")
                assert await opened.value("document.querySelectorAll('#newest tbody tr').length") <= 20
                assert await opened.value("document.title") == "unstale: leading"
                await opened.look(width=390, height=844, phone=True, dark=True)
                await opened.until("document.documentElement.scrollWidth <= 390")
            await shows(opened, "#problem", "does not answer")
        assert all(asked.startswith(url) for asked in opened.urls), opened.urls
        assert opened.loaded < MOST_BYTES
        assert [error for error in opened.errors if "ERR_CONNECTION_REFUSED" not in error] == []


async def test_signed_in_it_retries_and_drops_dead_letters(redis_url: str) -> None:
    names = Names()
    letter = json.dumps({"pattern": "p", "error": HOSTILE, "attempts": 5, "at": 1_700_000_000_000})
    async with redis_at(redis_url) as redis, tab() as opened:
        await redis.hset(names.dead_letters, mapping={"user:1:profile": letter, HOSTILE: letter})
        async with served(redis_url, token="secret") as (_, url):
            await opened.go(url)
            await sign_in(opened, "wrong")
            await shows(opened, "main", "not the token")
            await opened.value("history.back()")
            await sign_in(opened, "secret")
            await shows(opened, "#dead", "<img src=x")
            await opened.value(button(HOSTILE, "drop"))
            await gone(redis, HOSTILE)
            await shows(opened, "#dead-count", "1")
            await opened.value(button("user:1:profile", "retry"))
            await gone(redis, "user:1:profile")
            await shows(opened, "#dead", "None")
            assert await redis.zscore(names.refresh, "user:1:profile") is not None
            assert await opened.value("document.cookie") == ""
            await opened.click("#sign-out")
            await opened.until("document.querySelector('#token') !== null")
            assert [error for error in opened.errors if "401" not in error] == []
        await redis.delete(names.refresh)


def audit_result(key: str) -> str:
    """Return what an auditor publishes that has found one violation."""
    violation = PublishedViolation(
        key=key, table=HOSTILE, delay="10 s", fields=(HOSTILE,), found_ms=1.7e12, lasted_s=1.0, ended=None
    )
    line = PublishedLine(
        table=HOSTILE, delay="10 s", compared=1500, outcomes={"equal": 1499, "wrong": 1}, nines=3.18
    )
    return Published(
        by=HOSTILE, ended=False, seconds=80.0, bound_s=5.0, lines=(line,), compared=1500, equal=1500, wrong=1,
        nines=2.7, promised_within=1.0, seen_within=None, worst_promised_s=0.61, worst_seen_s=0.52,
        broken_promises=0, outages=0, violation_count=1, violations_lasting=1, violations=(violation,),
    ).model_dump_json()  # fmt: skip


def button(key: str, name: str) -> str:
    """Return a script that clicks a button of a dead letter."""
    return (
        f"[...document.querySelectorAll('#dead .removal')].find(e => e.querySelector('.key').dataset.key ==="
        f" {json.dumps(key)}).querySelectorAll('button')[{int(name == 'drop')}].click()"
    )


async def sign_in(opened: Tab, token: str) -> None:
    """Fill the form and send it."""
    await opened.until("document.querySelector('#token') !== null")
    await opened.value(f"document.querySelector('#token').value = {json.dumps(token)}")
    await opened.value("document.querySelector('form').requestSubmit()")


async def gone(redis: Redis, key: str) -> None:
    """Wait until a key is no dead letter any more."""

    async def no_more() -> bool:
        return not await redis.hexists(Names().dead_letters, key)

    await eventually(no_more)
