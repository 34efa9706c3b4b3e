"""Compare unstale with what users would pick instead, on the same servers and the same work.

Three agents (processes) read profiles, a writer changes rows by SQL, as another program would. Every value
carries its version, so staleness is exact. The ways take turns, and several rounds are run. The peers come
from the package index into an environment of their own, in a temporary folder (``--environment`` keeps it).
With ``--write`` the figures go to bench/results/peers.json, and into the picture and tables of the pages.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
from harness import arguments, finish, machine, run, servers
from peers_pages import RESULTS, merged, write_pages
from peers_turn import GIVE_UP, RACES, Turn
from peers_ways import WAYS

from unstale_worker.dev_servers import EmbeddedValkey, Stack

HERE: Final = Path(__file__).parent
ROWS: Final = 20_000
SCHEMA: Final = """
create table public.{name} (
    id bigint primary key, name text not null, bio text not null, version bigint not null default 0
);
insert into public.{name} select g, 'Ada Lovelace', repeat('x', 380), 0 from generate_series(1, {rows}) as g;
"""
NOTIFY: Final = """
create function public.notify_profile() returns trigger language plpgsql as $$
begin
    perform pg_notify('profile_changed', 'user:' || coalesce(new.id, old.id) || ':profile');
    return null;
end
$$;
create trigger notify_profile after insert or update or delete on public.profiles_notify
    for each row execute function public.notify_profile();
"""
AGAIN: Final = ".venv/bin/python bench/peers.py --write"


def environment(path: str) -> str:
    """The Python of an environment with the peers; made from the package index unless it is there."""
    folder = Path(path).absolute()
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts",
             "--requirement", HERE / "peers.txt"],
            check=True,
        )  # fmt: skip
    return str(python)


async def prepare(running: Stack, python: str) -> None:
    """One table for each kind of trigger, with the same rows."""
    connection = await asyncpg.connect(running.database_url)
    for name in sorted({way.table for way in WAYS}):
        await connection.execute(SCHEMA.format(name=name, rows=ROWS))
    await connection.execute(NOTIFY)
    await connection.execute("select unstale.watch('public.profiles', '{id}')")
    await connection.execute("vacuum analyze")
    await connection.close()
    # PGCacheWatch's own command. It takes host and port from these variables even if it is given a URL.
    url = urlsplit(running.database_url)
    await asyncio.to_thread(
        subprocess.run,
        [python, "-m", "pgcachewatch", "install", "--commit", "public.profiles_pgcachewatch"],
        env={
            **os.environ, "PGHOST": str(url.hostname), "PGPORT": str(url.port), "PGUSER": str(url.username),
            "PGPASSWORD": str(url.password), "PGDATABASE": url.path[1:],
        },
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


async def main() -> None:
    options = arguments(__doc__ or "", repeats=2, write=False, environment="", only="")
    scale = 0.4 if options.quick else 1.0
    ways = [way for way in WAYS if not options.only or way.name in options.only.split(",")]
    began, load = time.monotonic(), os.getloadavg()[0]
    turns: dict[str, list[dict[str, Any]]] = {way.name: [] for way in ways}
    with ExitStack() as cleanup:
        folder = options.environment or cleanup.enter_context(TemporaryDirectory(prefix="unstale-peers-"))
        python = environment(folder)
        # Redis itself: redis-py's client-side cache refuses Valkey.
        async with servers(sql="") as both, EmbeddedValkey(program="redis") as redis:
            running = replace(both, redis_url=redis.url, valkey=redis)
            await prepare(running, python)
            for number in range(options.repeats):
                for way in ways:
                    turn = Turn(running, way, python, scale=scale, seed=number)
                    turns[way.name].append(await turn.take())
                    print(f"round {number + 1}: {way.title}", file=sys.stderr, flush=True)
    figures = {name: merged(found) for name, found in turns.items()}
    finish("peers", figures, as_json=options.json, repeats=options.repeats)
    print(f"  took {time.monotonic() - began:.0f} s")
    if options.write:
        result = {
            "figures": figures, "machine": machine(), "repeats": options.repeats, "again": AGAIN,
            "load": round(load, 1), "raced": RACES * options.repeats, "give_up": GIVE_UP,
            "ways": {way.name: {"title": way.title, "how": way.how} for way in ways},
        }  # fmt: skip
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        for path in write_pages():
            print(f"written: {path}")


if __name__ == "__main__":
    run(main)
