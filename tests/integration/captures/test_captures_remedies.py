"""What `unstale.check()` says to do about a broken capture is done to the letter, and repairs it."""

from __future__ import annotations

import re

import asyncpg
import pytest

from integration.captures.test_captures_watched import AGAIN, CASES
from servers import Database
from servers.outbox import connected, tuples_of

CREATED = "create table profiles (id bigint primary key, name text, version bigint);"
BY_HAND = {
    "drop the rule, or create the table and watch it: unstale migration --all": CREATED + AGAIN,
    "detach it, or stop watching the table": "alter table profiles detach partition profiles_far; " + AGAIN,
}
ERRORS = "select finding, remedy from unstale.check() where severity = 'error'"


def command(remedy: str) -> str:
    """Return the SQL that a remedy names."""
    if found := re.search(r"(select unstale\.watch\(.*\)|alter table .*)$", remedy):
        return found[1]
    if remedy.startswith("call unstale.watch again"):
        return AGAIN
    return BY_HAND[remedy]


async def repaired(owner: asyncpg.Connection) -> None:
    """Do what the errors say, until there are none."""
    done: list[str] = []
    while found := await owner.fetch(ERRORS):
        sql = command(found[0]["remedy"])
        assert sql not in done, f"{sql} did not help against: {found[0]['finding']}"
        await owner.execute(sql)
        done.append(sql)
    assert done


@pytest.mark.parametrize("followed", [True, False], ids=["event triggers", "no event triggers"])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CASES
        if name not in ("a view in its place", "fed by a subscription", "no longer watched")
    ],
)
async def test_the_remedy_is_the_command_that_works(
    database: Database, plain_database: Database, name: str, followed: bool
) -> None:
    chosen = database if followed else plain_database
    async with connected(chosen.dsn) as owner, connected(chosen.superuser_dsn) as admin:
        await owner.execute(CASES[name].schema)
        await admin.execute(CASES[name].broken)
        if followed and not await owner.fetch(ERRORS):
            return  # the event trigger has undone it
        await repaired(owner)
        await owner.execute("insert into profiles (id, name) values (1, 'x') on conflict do nothing")
        assert await tuples_of(
            owner,
            "insert into profiles (id, name) values (7, 'x')",
            "update profiles set name = 'y' where id = 7",
            "delete from profiles where id = 7",
        ) == [{("7",)}] * 3  # fmt: skip
