"""Budgets of Python loaders: what counts, what a used-up one means, and the tokens that are counted."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from redis.asyncio import Redis

import refresh_loaders
from servers import Database, eventually
from unstale.protocol import sealed
from unstale_worker.cli.tracing_output import print_why
from unstale_worker.doctor import refresh_checks
from unstale_worker.doctor.findings import Severity
from unstale_worker.page.redis_figures import RedisFigures
from unstale_worker.refresh.redis.budgets import Budgets, OverBudgetError, read_used, read_used_of
from unstale_worker.refresh.redis.dead_letters import list_dead
from unstale_worker.refresh.redis.store import open_store
from unstale_worker.refresh.redis.totals import read_totals
from unstale_worker.rules import Rules
from unstale_worker.rules.budget import Budget
from unstale_worker.rules.refresh import RefreshSpec
from unstale_worker.tracing.why import why
from workers import applied, connected, redis_at, running_worker, settings_for
from workers.double import attached_cache
from workers.refresh_stage import NAMES, counts_of, filled

PATTERN = "user:{user_id}:greeting"
SCHEMA = """
create table public.profiles (id bigint primary key, name text, seen int not null default 0);
insert into public.profiles select n, 'User ' || n from generate_series(1, 10) n;
select unstale.watch('public.profiles', '{id}');
"""
DAY = 86_400_000


def rules(more: str, loader: str = "greeting") -> str:
    return f"""
[[watch]]
table = "public.profiles"
keys = ["user:{{id}}:greeting"]

[refresh."{PATTERN}"]
loader = "refresh_loaders:{loader}"
{more}
"""


WAITS = 'serve_stale = "10m"\ninputs = "select name from public.profiles where id = {user_id}"\n'


@pytest.fixture(autouse=True)
def _fresh_loaders() -> None:
    refresh_loaders.reset()


def key(user: int) -> str:
    return f"user:{user}:greeting"


async def change(redis: Redis, db: asyncpg.Connection, user: int, name: str | None = None) -> None:
    """Change a row whose key is in Redis, and wait until that is applied."""
    await redis.set(key(user), '"old"', px=600_000, nx=True)
    await db.execute(
        "update public.profiles set seen = seen + 1, name = coalesce($2, name) where id = $1", user, name
    )
    await applied(redis, db)


async def over(redis: Redis, number: int) -> None:
    """Wait until so many refreshes had no budget."""

    async def counted() -> bool:
        return (await counts_of(redis, PATTERN)).get("over_budget", 0) == number

    await eventually(counted, timeout=60, message=f"{number} refreshes over the budget")


async def test_a_used_up_budget_lets_keys_wait_or_leaves_them_to_readers(
    database: Database, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        budget = 'budget = { user_id = "2/d", total = "3/d" }\n'
        async with running_worker(
            database.dsn, redis_url, rules=rules(WAITS + budget), refresh_backoff=0.05
        ) as worker:
            await change(redis, db, 1, "Ada")
            first = await filled(redis, key(1), timeout=60)
            refresh_loaders.mood[key(1)] = "fail"
            await change(redis, db, 1, "Eve")
            await over(redis, 1)  # the attempt that failed has counted, so its repetition finds no budget
            assert refresh_loaders.calls[key(1)] == 2
            assert await list_dead(redis, NAMES) == [], "that is no failure"
            assert await redis.get(NAMES.stale(key(1))) == first, "the old value goes on to be served"
            due: Any = await redis.zscore(NAMES.refresh, key(1))
            seconds, micro = await redis.time()
            assert due % DAY < 5_000, "it waits until the next day begins"
            assert 0 < due - (seconds * 1000 + micro / 1000) <= DAY + 5_000

            await change(redis, db, 2, "Bob")
            await filled(redis, key(2), timeout=60)
            await change(redis, db, 3, "Cleo")  # the total is used up now
            await over(redis, 2)
            assert refresh_loaders.calls == {key(1): 2, key(2): 1}
            found = await counts_of(redis, PATTERN)
            assert (found["calls"], found["over_budget"]) == (3, 2)
            refreshed = worker.status().refreshed
            assert (refreshed.calls, refreshed.over_budget) == ({(PATTERN,): 3}, {(PATTERN,): 2})
            (spec,) = Rules.parse(rules(WAITS + budget)).refreshes
            assert [str(each) for each in await read_used(redis, NAMES, [spec])] == [
                "2/d for each user_id, used by 2",
                "3 of 3/d used",
            ]
            assert await read_used_of(redis, NAMES, spec, key(1)) == [
                (Budget(2, "d", "user_id"), 2),
                (Budget(3, "d"), 3),
            ]
            await shown(redis, Rules.parse(rules(WAITS + budget)), capsys)
        refresh_loaders.mood.clear()
        # The counts are those of before; with other rules the waiting keys are tried at once.
        leave = WAITS + budget + 'over_budget = "load_on_read"\n'
        async with running_worker(database.dsn, redis_url, rules=rules(leave)):

            async def left() -> bool:
                return not await redis.exists(NAMES.refresh, NAMES.stale(key(1)), key(1), key(3))

            await eventually(left, timeout=60, message="the keys are left to their next readers")
            assert refresh_loaders.calls == {key(1): 2, key(2): 1}


async def shown(redis: Redis, given: Rules, capsys: pytest.CaptureFixture[str]) -> None:
    """Compare what `unstale stats`, `doctor`, `why` and the page show of the used-up budget."""
    (totals,) = await read_totals(redis, NAMES)
    assert str(totals) == "3 calls; 0 saved; 2 without a call, over budget"
    (finding,) = [each async for each in refresh_checks.budgets(redis, NAMES, given)]
    assert finding.finding == (
        f"{PATTERN}: 2/d for each user_id, used by 2; 3 of 3/d used. Until the next window the old value is "
        "served"
    )
    assert finding.severity is Severity.WARNING
    for budget, level, end in (
        ('"3/d"\nover_budget = "load_on_read"\n', Severity.WARNING, "Until the next window readers load"),
        ('"4/d"\n', Severity.OK, f"{PATTERN}: 3 of 4/d used"),
    ):
        other = Rules.parse(rules(WAITS + f"budget = {budget}"))
        (found,) = [each async for each in refresh_checks.budgets(redis, NAMES, other)]
        assert (found.severity, found.finding.endswith(end)) == (level, True), found
    print_why(await why(redis, NAMES, given, key(1), most=5), json=False)
    assert "budget 2/d for each user_id: 2 used\n  budget 3/d: 3 used" in capsys.readouterr().out
    figures = (await RedisFigures(redis, NAMES, given).read())["refresh"]
    assert [each["calls"] for each in figures["budgets"]] == [None, 3]
    assert figures["refreshes"] == [totals.as_dict()]


class Model:
    """A server with the API of OpenAI, which says how many tokens each call has used."""

    url = ""
    calls = 0

    async def complete(self, request: web.Request) -> web.Response:
        self.calls += 1
        message = {"role": "assistant", "content": f"Hello {self.calls}"}
        return web.json_response(
            {
                "id": "c", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
        )  # fmt: skip


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    found = Model()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield found
    await runner.cleanup()


async def test_tokens_spent_and_saved(database: Database, redis_url: str, model: Model) -> None:
    """A loader that finds its inputs unchanged gives its call back, and saves what the value had cost.

    The values are encrypted, also the one that is stored again.
    """
    keys = f"a:{base64.b64encode(bytes(32)).decode()}"
    async with connected(database.dsn) as db, redis_at(redis_url) as redis:
        await db.execute(SCHEMA)
        given = rules('serve_stale = "10m"\nbudget = "2/d"\n', loader="told")
        async with (
            running_worker(
                database.dsn,
                redis_url,
                rules=given,
                openai_api_key="k",
                openai_base_url=model.url,
                value_keys=keys,
            ) as worker,
            attached_cache(redis_url, value_keys=keys) as cache,
        ):
            await change(redis, db, 1, "Ada")
            first = await filled(redis, key(1), timeout=60)
            assert first.startswith(sealed.ENCRYPTED)
            assert await cache.get(key(1)) == {"greeting": "Hello 1", "call": 1}
            noted: Any = await redis.get(NAMES.inputs(key(1)))
            filled_at = int(noted.split(b"\n")[1])

            async def later() -> bool:
                return float(await redis.hget(NAMES.state, "read_at") or 0) > filled_at

            await eventually(later)
            await change(redis, db, 1)
            assert await filled(redis, key(1), timeout=60) == first
            assert await cache.get(key(1)) == {"greeting": "Hello 1", "call": 1}
            await change(redis, db, 2, "Bob")
            await filled(redis, key(2), timeout=60)
            await change(redis, db, 3, "Cleo")
            await over(redis, 1)
            assert model.calls == 2, "the unchanged one cost nothing"
            assert await counts_of(redis, PATTERN) == {
                "calls": 2, "tokens_in": 200, "tokens_out": 40, "over_budget": 1,
                "unchanged": 1, "saved_tokens_in": 100, "saved_tokens_out": 20,
            }  # fmt: skip
            assert worker.status().refreshed.tokens == {
                (PATTERN, "in", "spent"): 200,
                (PATTERN, "out", "spent"): 40,
                (PATTERN, "in", "saved"): 100,
                (PATTERN, "out", "saved"): 20,
            }


async def test_windows(redis_url: str) -> None:
    """A window that has passed counts no more; one that has begun goes on if the clock is set back."""
    (spec,) = Rules.parse(rules('budget = { user_id = "2/h", total = "9/d" }')).refreshes
    place = NAMES.refresh_budget(PATTERN, "h", "user_id")
    async with redis_at(redis_url) as redis, open_store(settings_for(None, redis_url), _rules()) as store:
        budgets: Budgets = store.budgets
        spent = await budgets.spend(spec, key(1))
        await budgets.give_back(spent)
        assert await redis.hget(place, "=1") == b"0"
        await budgets.spend(spec, key(1))
        last = await budgets.spend(spec, key(1))
        assert await refused(budgets, spec) <= 3600
        await budgets.spend(spec, key(2))
        assert await read_used_of(redis, NAMES, spec, key(1)) == [(spec.budgets[0], 2), (spec.budgets[1], 3)]
        begin = int(await redis.hget(place, "window") or 0)
        assert begin % 3_600_000 == 0
        await redis.hset(place, "window", str(begin + 3_600_000))  # a server ahead of this one had begun it
        assert await refused(budgets, spec) > 3600
        await redis.hset(place, "window", str(begin - 3_600_000))
        assert await read_used_of(redis, NAMES, spec, key(1)) == [(spec.budgets[0], 0), (spec.budgets[1], 3)]
        await budgets.spend(spec, key(1))
        assert await redis.hgetall(place) == {b"window": str(begin).encode(), b"=1": b"1"}
        await redis.hset(place, "window", str(begin - 3_600_000))
        await budgets.give_back(last)
        assert await redis.hget(place, "=1") == b"1", "it was counted in another window"
        await redis.set(place, "foreign")
        await budgets.spend(spec, key(1))


def _rules() -> Rules:
    return Rules.parse(rules(""))


async def refused(budgets: Budgets, spec: RefreshSpec) -> float:
    """Return the seconds until the next window."""
    with pytest.raises(OverBudgetError) as caught:
        await budgets.spend(spec, key(1))
    assert caught.value.budget.field == "user_id"
    return caught.value.seconds
