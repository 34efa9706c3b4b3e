"""Any text in a key column: the key that an agent makes of it with an f-string is removed, and no other."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers import Database
from workers import applied, connected, redis_at, running_worker

pytestmark = pytest.mark.leaves_keys("(?s:(doc|other):.*)")

RULES = """
[[watch]]
table = "public.docs"
keys = ["doc:{id}:text"]
"""
SCHEMA = """
create table if not exists public.docs (id text, version bigint not null);
select unstale.watch('public.docs', '{id}');
"""
CHANGE = "insert into public.docs (id, version) select t.id, 1 from unnest($1::text[]) as t(id)"

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
HOSTILE = st.text(alphabet="*?[]^-\\{}:'\"%$ \n\té\u2028\U0001f600", max_size=12)
LONG = st.sampled_from(["x" * 512, "x" * 513, "é" * 257, "*" * 2_000, "{" * 1_000_000])
UNUSABLE = frozenset(map(chr, (*range(32), *range(127, 160))))
BATCHES = st.lists(st.lists(ANY | HOSTILE | LONG, min_size=1, max_size=6), min_size=10, max_size=10)


def makes_a_key(value: str) -> bool:
    """What docs/rules.md says of values."""
    return len(value.encode()) <= 512 and not UNUSABLE & set(value)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.large_base_example,
    ],
)
@given(batches=BATCHES)
async def test_any_text_in_a_key_column(batches: list[list[str]], database: Database, redis_url: str) -> None:
    async with connected(database.dsn) as connection, redis_at(redis_url) as redis:
        await connection.execute(SCHEMA)
        async with running_worker(database.dsn, redis_url, rules=RULES):
            for values in batches:
                keys = [f"doc:{value}:text" for value in values]
                bystanders = ["other:1", "doc:nobody:texts"]
                if all(map(makes_a_key, values)):
                    bystanders += ["doc:nobody:text", "doc::text*"]
                bystanders = [key for key in bystanders if key not in keys]
                await redis.mset(dict.fromkeys([*keys, *bystanders], "1"))
                await connection.execute(CHANGE, values)
                await applied(redis, connection)
                assert await redis.exists(*keys) == 0, values
                assert await redis.exists(*bystanders) == len(bystanders), values
