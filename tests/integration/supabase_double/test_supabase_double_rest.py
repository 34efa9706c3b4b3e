"""The REST double: real functions under real roles, through the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from postgrest.exceptions import APIError
from supabase import AsyncClient, AsyncClientOptions

from servers import Database, eventually
from supabase_double import SupabaseDouble
from unstale_worker.supabase_double.safeupdate import refusal

END = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = $1 and application_name = 'postgrest'
"""
FUNCTIONS = Path(__file__).with_name("supabase_functions.sql")


@pytest.fixture
async def project(empty_database: Database) -> AsyncIterator[SupabaseDouble]:
    connection = await asyncpg.connect(empty_database.dsn)
    await connection.execute(FUNCTIONS.read_text())
    await connection.close()
    async with SupabaseDouble(empty_database) as double:
        yield double


@pytest.fixture
async def client(project: SupabaseDouble) -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient() as http:
        yield supabase(project, http, project.keys.secret)


def supabase(project: SupabaseDouble, http: httpx.AsyncClient, key: str) -> AsyncClient:
    options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    return AsyncClient(project.url, key, options)


async def call(client: AsyncClient, function: str, get: bool = False, /, **arguments: Any) -> Any:
    return (await client.rpc(function, arguments, get=get).execute()).data


async def refused(client: AsyncClient, function: str, **arguments: Any) -> APIError:
    with pytest.raises(APIError) as caught:
        await call(client, function, **arguments)
    return caught.value


async def test_both_kinds_of_keys_are_their_roles(project: SupabaseDouble, client: AsyncClient) -> None:
    assert await call(client, "who") == {"role": "service_role", "claim": "service_role"}
    async with httpx.AsyncClient() as http:
        old = supabase(project, http, project.keys.service_role)
        assert await call(old, "who") == {"role": "service_role", "claim": "service_role"}
        for key in (project.keys.publishable, project.keys.anon):
            assert (await refused(supabase(project, http, key), "who")).code == "42501"
            assert await call(supabase(project, http, key), "add", a=1, b=2) == 3
        for key, message in (
            ("sb_secret_wrong", "Invalid API key"),
            (project.keys.token("service_role", expires_in=-9), "JWT expired"),
        ):
            assert (await refused(supabase(project, http, key), "who")).message == message
    assert [request.role for request in project.rest.requests[:2]] == ["service_role", "service_role"]


async def test_arguments_and_answers(client: AsyncClient) -> None:
    assert await call(client, "add", a=1) == 11
    assert await call(client, "add", b=2, a=1) == 3
    assert await call(client, "whole", x=[1, 2]) == [1, 2]
    assert await call(client, "one_thing") == {"id": 7, "name": "seven"}
    assert await call(client, "pairs", n=2) == [{"a": 1, "b": "x1"}, {"a": 2, "b": "x2"}]
    assert await call(client, "numbers", n=3) == [1, 2, 3]
    assert await call(client, "numbers", n=0) == []
    assert not await call(client, "nothing")


async def test_a_set_is_cut_at_a_thousand_rows_without_a_word(client: AsyncClient) -> None:
    assert len(await call(client, "numbers", n=1_001)) == 1_000
    assert len(await call(client, "pairs", n=5_000)) == 1_000


async def test_unknown_and_ambiguous_functions(client: AsyncClient) -> None:
    for function, arguments in (("absent", {}), ("add", {}), ("add", {"a": 1, "c": 2})):
        assert (await refused(client, function, **arguments)).code == "PGRST202"
    assert (await refused(client, "twice", a=1)).code == "PGRST203"


async def test_a_function_made_later_is_found_and_one_changed_is_called_anew(
    client: AsyncClient, empty_database: Database
) -> None:
    assert (await refused(client, "late")).code == "PGRST202"
    connection = await asyncpg.connect(empty_database.dsn)
    await connection.execute("create function public.late() returns int language sql as 'select 1'")
    assert await call(client, "late") == 1
    await connection.execute(
        """
        drop function public.late();
        create function public.late(a int) returns int language sql as 'select 2'
        """
    )
    assert (await refused(client, "late")).code in ("42883", "PGRST202")
    assert await call(client, "late", a=1) == 2
    await connection.close()


async def test_errors_of_the_database(project: SupabaseDouble, client: AsyncClient) -> None:
    error = await refused(client, "complains")
    assert (error.code, error.message, error.details, error.hint) == ("UNS01", "no", "why", "do")
    assert (await refused(client, "writes_though_stable")).code == "25006"
    assert await call(client, "count_things") == 0
    project.rest.timeout = "100ms"
    assert (await refused(client, "sleeps", seconds=5)).code == "57014"


async def test_an_update_or_delete_needs_a_where(client: AsyncClient) -> None:
    for function in ("clear", "clear_by_another"):
        error = await refused(client, function)
        assert (error.code, error.message) == ("21000", "DELETE requires a WHERE clause")
    assert not await call(client, "clear_all")


async def test_get_is_refused_or_answered_by_a_replica_that_is_behind(
    project: SupabaseDouble, client: AsyncClient
) -> None:
    assert await call(client, "put", name="a") == 1
    with pytest.raises(APIError) as caught:
        await call(client, "count_things", True)
    assert caught.value.code == "DOUBLE"
    await project.rest.freeze_replica()
    assert await call(client, "put", name="b") == 2
    assert await call(client, "count_things", True) == 1
    assert await call(client, "count_things") == 2
    await project.rest.freeze_replica()
    assert await call(client, "count_things", True) == 2


async def test_only_exposed_schemas_can_be_called(client: AsyncClient) -> None:
    with pytest.raises(APIError) as caught:
        await client.schema("unstale").rpc("read", {}).execute()
    assert caught.value.code == "PGRST106"


async def test_what_is_done_and_not_answered_was_done_once(
    project: SupabaseDouble, client: AsyncClient
) -> None:
    project.rest.faults.lose_answers = 1
    with pytest.raises(httpx.RemoteProtocolError):
        await call(client, "put", name="a")
    project.rest.faults.refuse = True
    with pytest.raises(httpx.RemoteProtocolError):
        await call(client, "put", name="b")
    project.rest.faults.refuse = False

    assert await call(client, "count_things") == 1


async def test_the_other_faults(project: SupabaseDouble, client: AsyncClient) -> None:
    project.rest.faults.status = 503
    with pytest.raises(APIError):
        await call(client, "who")
    project.rest.faults.status, project.rest.faults.garbage = None, True
    assert await call(client, "who") == "<html>ok</html>"  # the client passes off any text as data
    project.rest.faults.garbage = False
    project.rest.hold()
    waiting = asyncio.create_task(call(client, "put", name="later"))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    project.rest.release()
    assert await waiting == 1
    await project.outage()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as http:
            await call(supabase(project, http, project.keys.secret), "who")
    await project.back()
    assert (await call(client, "who"))["role"] == "service_role"


async def test_a_database_that_is_away_is_a_503(project: SupabaseDouble, empty_database: Database) -> None:
    async with httpx.AsyncClient() as http:
        address, headers = f"{project.url}/rest/v1/rpc/who", {"apikey": project.keys.secret}
        assert (await http.post(address, headers=headers)).status_code == 200
        superuser = await asyncpg.connect(empty_database.server.superuser_dsn)
        try:
            await superuser.fetch(END, empty_database.name)

            async def answered() -> bool:
                answer = await http.post(address, headers=headers)
                assert answer.status_code in (200, 503)
                return answer.status_code == 200

            await eventually(answered)
        finally:
            await superuser.close()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("update t set a = 1", "UPDATE"),
        ("update only s.t as x set a = (select 1 where true)", "UPDATE"),
        ("update t set a = 1 where b = 2; delete from t", "DELETE"),
        ("with gone as (delete from t returning a) select a from gone where a > 1", "DELETE"),
        ("with gone as (delete from t where a < 1 returning a) select a from gone", None),
        ("insert into t values (1) on conflict (a) do update set a = 2", None),
        ("select a from t for update", None),
        ("-- delete from t\nselect 'delete from t'", None),
        ("delete from t using (select 1) as s where t.a = s.a", None),
        ("select public.other()", "DELETE"),
    ],
)
def test_what_safeupdate_refuses(body: str, expected: str | None) -> None:
    functions = {"public.it": body, "public.other": "delete from public.t"}

    assert refusal("public.it", functions) == (expected and f"{expected} requires a WHERE clause")
