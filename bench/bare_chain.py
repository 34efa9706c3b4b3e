"""The bare chain: the least that bare tools need from a commit until three processes know.

A trigger writes an entry and sends NOTIFY; a process with asyncpg and redis-py selects the new entries by
an index, and runs one script that unlinks the keys and publishes them; processes that subscribed read the
message. Nothing else: an entry that commits after one with a higher id is lost, and so is every change while
a process is away. It is the floor for `latency.py` and `waterfall.py`, which start its processes.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final

import asyncpg
import orjson
from harness import end_of_input, run
from redis.asyncio import Redis

SCHEMA: Final = """
create schema bare;
create table bare.profiles (id bigint primary key, name text not null, version bigint not null default 0);
create table bare.outbox (id bigint generated always as identity primary key, key text not null);
create function bare.capture() returns trigger language plpgsql as $$
begin
    insert into bare.outbox (key) values ('bare:' || new.id || ':profile');
    perform pg_notify('bare', '');
    return null;
end
$$;
create trigger capture after update on bare.profiles for each row execute function bare.capture();
"""
CHANNEL: Final = "bare"
APPLY: Final = """
redis.call('UNLINK', unpack(KEYS))
redis.call('PUBLISH', 'bare', ARGV[1])
return 1
"""


async def worker(dsn: str, redis_url: str) -> None:
    """Carry changes from the database to Redis; at end of input print when each step of each batch was."""
    reader, listener = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    redis = Redis.from_url(redis_url)
    apply: Any = redis.register_script(APPLY)
    await apply(keys=["bare:none"], args=["[]"])
    select = await reader.prepare("select id, key from bare.outbox where id > $1 order by id limit 1000")
    woken, heard, last = asyncio.Event(), 0.0, 0
    batches: list[tuple[float, float, float, float, list[str]]] = []

    def notified(*_: object) -> None:
        nonlocal heard
        if not woken.is_set():
            heard = time.monotonic()
            woken.set()

    async def carry() -> None:
        nonlocal last
        while True:
            await woken.wait()
            woken.clear()
            rows = await select.fetch(last)
            if rows:
                read = time.monotonic()
                last, keys = rows[-1][0], [row[1] for row in rows]
                message = orjson.dumps(keys)
                sent = time.monotonic()
                await apply(keys=keys, args=[message])
                batches.append((heard, read, sent, time.monotonic(), keys))

    await listener.add_listener("bare", notified)
    carrying = asyncio.create_task(carry())
    print("ready", flush=True)
    await end_of_input()
    carrying.cancel()
    await asyncio.wait([carrying])
    print(json.dumps(batches), flush=True)


async def subscriber(redis_url: str) -> None:
    """Note when each key is heard of; print it at end of input."""
    heard: dict[str, float] = {}
    redis = Redis.from_url(redis_url)
    subscription = redis.pubsub()
    await subscription.subscribe(CHANNEL)
    await subscription.get_message(timeout=10)

    async def follow() -> None:
        async for message in subscription.listen():
            if message["type"] == "message":
                keys = orjson.loads(message["data"])
                now = time.monotonic()
                for key in keys:
                    heard.setdefault(key, now)

    following = asyncio.create_task(follow())
    print("ready", flush=True)
    await end_of_input()
    following.cancel()
    await asyncio.wait([following])
    print(json.dumps(heard), flush=True)


if __name__ == "__main__":
    role, *values = sys.argv[1:]
    run(lambda: worker(*values) if role == "worker" else subscriber(*values))
