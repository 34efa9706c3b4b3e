"""The REST double's tables, through the official client, under real grants and policies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from postgrest.exceptions import APIError
from postgrest.types import CountMethod, ReturnMethod
from supabase import AsyncClient, AsyncClientOptions

from servers import Database
from supabase_double import SupabaseDouble
from unstale_worker.supabase_double.query_text import parts, read_list, read_query, read_select
from unstale_worker.supabase_double.rest_errors import Failure

ADA, BOB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
LIBRARY = Path(__file__).with_name("library.sql")


@pytest.fixture
async def project(empty_database: Database) -> AsyncIterator[SupabaseDouble]:
    connection = await asyncpg.connect(empty_database.dsn)
    await connection.execute(LIBRARY.read_text())
    await connection.close()
    async with SupabaseDouble(empty_database, platform=False, schemas=("public", "other")) as double:
        yield double


@asynccontextmanager
async def client(project: SupabaseDouble, key: str, token: str = "") -> AsyncIterator[AsyncClient]:
    async with httpx.AsyncClient() as http:
        options = AsyncClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        found = AsyncClient(project.url, key, options)
        if token:
            found.postgrest.auth(token)
        yield found


async def data(request: Any) -> Any:
    return (await request.execute()).data


async def refused(request: Any) -> APIError:
    with pytest.raises(APIError) as caught:
        await request.execute()
    return caught.value


async def test_rows_are_read_as_the_client_asks(project: SupabaseDouble) -> None:
    async with client(project, project.keys.secret) as sb:
        books = sb.table("books")
        by_price = books.select("id").order("price", desc=True, nullsfirst=False)
        assert await data(by_price) == [{"id": 1}, {"id": 2}, {"id": 3}]
        for request, wanted in (
            (books.select("*").eq("title", 'Notes, and "quotes"'), [2]),
            (books.select("*").in_("title", ['Notes, and "quotes"', "Silence"]), [2, 3]),
            (books.select("*").in_("id", []), []),
            (books.select("*").gt("price", 3).lte("price", "12.5"), [1]),
            (books.select("*").is_("price", "null"), [3]),
            (books.select("*").not_.is_("price", "null"), [1, 2]),
            (books.select("*").ilike("title", "%ENG%"), [1]),
            (books.select("*").like("title", "S*"), [3]),
            (books.select("*").contains("tags", ["b"]), [1, 2]),
            (books.select("*").overlaps("tags", ["a", "x"]), [1]),
            (books.select("*").or_("price.lt.5,and(price.is.null,title.eq.Silence)"), [2, 3]),
            (books.select("*").or_('title.in.("Silence","Notes, and \\"quotes\\""),id.eq.9'), [2, 3]),
            (books.select("*").neq("id", 1).gte("published", "2025-01-01"), [3]),
            (books.select("*").text_search("search", "run & engine"), [1]),
            (books.select("*").limit(1).offset(1), [2]),
            (books.select("*").range(1, 2), [2, 3]),
        ):
            assert [row["id"] for row in await data(request.order("id"))] == wanted, wanted
        one = await data(
            sb.table("authors")
            .select("who:name,settings->theme->dark,n:settings->>n,id::text")
            .eq("id", ADA)
            .single()
        )
        assert one == {"who": "Ada", "dark": True, "n": "3", "id": ADA}
        assert (
            await sb.table("authors")
            .select("*")
            .eq("id", "33333333-3333-4333-8333-333333333333")
            .maybe_single()
            .execute()
            is None
        )
        counted = await books.select("*", count=CountMethod.exact).limit(2).execute()
        assert (len(counted.data), counted.count) == (2, 3)
        assert (await books.select("*", count=CountMethod.exact, head=True).execute()).count == 3


async def test_tables_are_embedded_by_their_foreign_keys(project: SupabaseDouble) -> None:
    async with client(project, project.keys.secret) as sb:
        found = await data(
            sb.table("books")
            .select("title, author:authors!books_author_id_fkey(name), editor:editor_id(name), tags(label), "
                    "covers(url)")
            .order("id").limit(1).order("label", foreign_table="tags")
        )  # fmt: skip
        assert found == [
            {
                "title": "Running Engines", "author": {"name": "Ada"}, "editor": {"name": "Bob"},
                "tags": [{"label": "art"}, {"label": "math"}], "covers": {"url": "one.png"},
            }
        ]  # fmt: skip
        inner = sb.table("books").select("id, tags!inner(label)").eq("tags.label", "math")
        assert await data(inner) == [{"id": 1, "tags": [{"label": "math"}]}]
        outer = sb.table("authors").select("name, books!author_id(count)").order("name")
        assert await data(outer) == [
            {"name": "Ada", "books": [{"count": 2}]}, {"name": "Bob", "books": [{"count": 1}]}
        ]  # fmt: skip
        spread = sb.table("books").select("id, ...authors!author_id(writer:name)").eq("id", 3)
        assert await data(spread) == [{"id": 3, "writer": "Bob"}]
        empty = sb.table("books").select("covers(url), editor:authors!editor_id(name)").eq("id", 2)
        assert await data(empty) == [{"covers": None, "editor": None}]
        ambiguous = await refused(sb.table("books").select("*, authors(name)"))
        assert (ambiguous.code, "books_editor_id_fkey" in str(ambiguous.hint)) == ("PGRST201", True)
        assert (await refused(sb.table("books").select("*, secrets(*)"))).code == "PGRST200"


async def test_rows_are_written_as_the_client_asks(project: SupabaseDouble) -> None:
    async with client(project, project.keys.secret) as sb:
        books = sb.table("books")
        new = await data(books.insert({"title": "New", "author_id": ADA, "tags": ["x"], "price": 1.5}))
        assert (new[0]["id"], new[0]["tags"], new[0]["price"]) == (4, ["x"], 1.5)
        both = [{"title": "A"}, {"title": "B"}]
        assert await data(books.insert(both, returning=ReturnMethod.minimal)) == []
        many = await data(books.upsert([{"id": 4, "title": "Newer"}, {"id": 50, "title": "C"}]))
        assert [(row["id"], row["title"], row["author_id"]) for row in many] == [
            (4, "Newer", ADA),
            (50, "C", None),
        ]
        kept = await data(
            books.upsert({"title": "Newer", "price": 9}, on_conflict="title", ignore_duplicates=True)
        )
        assert kept == []
        changed = await data(books.update({"price": 2, "tags": None}).eq("title", "Newer"))
        assert [(row["price"], row["tags"]) for row in changed] == [(2, None)]
        gone = await data(books.delete().in_("title", ["A", "B", "C"]))
        assert len(gone) == 3
        embedded = await sb.postgrest.session.post(
            f"{project.url}/rest/v1/books?select=title,author:authors!author_id(name)",
            json={"title": "Last", "author_id": BOB},
            headers={"Prefer": "return=representation", "apikey": project.keys.secret},
        )  # fmt: skip
        assert (embedded.status_code, embedded.json()) == (
            201,
            [{"title": "Last", "author": {"name": "Bob"}}],
        )
        for request, code in (
            (books.insert({"title": "Last"}), "23505"),
            (books.insert({"nothing": 1}), "42703"),
            (books.update({"price": 1}), "21000"),
            (books.delete(), "21000"),
            (sb.table("none").select("*"), "PGRST205"),
            (books.select("*").eq("id", "x"), "22P02"),
            (books.select("*").single(), "PGRST116"),
            (sb.schema("private").table("books").select("*"), "PGRST106"),
        ):
            assert (await refused(request)).code == code
        assert [row["id"] for row in await data(sb.rpc("cheap", {}))] == [2, 4]
        assert await data(sb.rpc("one", {"a": 1})) == 3


async def test_grants_and_policies_hold(project: SupabaseDouble) -> None:
    async with client(project, project.keys.secret) as sb:
        lacking = await refused(sb.table("secrets").select("*"))
        assert (lacking.code, "grant select" in str(lacking.hint)) == ("42501", True)
    async with client(project, project.keys.publishable) as anon:
        assert (await refused(anon.table("books").select("*"))).code == "42501"
    for owner, other in ((ADA, BOB), (BOB, ADA)):
        token = project.keys.token("authenticated", sub=owner)
        async with client(project, project.keys.publishable, token) as sb:
            number = 1 if owner == ADA else 2
            assert await data(sb.table("notes").insert({"id": number, "body": owner})) != []
            assert [row["body"] for row in await data(sb.table("notes").select("body"))] == [owner]
            stolen = sb.table("notes").insert({"id": 9, "owner": other})
            assert (await refused(stolen)).code == "42501"
            assert await data(sb.table("notes").update({"body": "x"}).neq("id", number)) == []
    async with httpx.AsyncClient(base_url=project.url) as http:
        assert (await http.get("/rest/v1/books")).status_code == 401
        signed_in = await http.post("/auth/v1/token", headers={"apikey": project.keys.anon})
        assert (signed_in.status_code, "no auth service" in signed_in.json()["message"]) == (501, True)
        preflight = await http.options("/rest/v1/books", headers={"Origin": "http://localhost:3000"})
        assert preflight.headers["Access-Control-Allow-Origin"] == "*"


def test_text_is_read_as_postgrest_reads_it() -> None:
    assert list(parts('a,b(c,d(e)),"f,g"')) == ["a", "b(c,d(e))", '"f,g"']
    assert read_list('(1,"a,b","c\\"d")') == ["1", "a,b", 'c"d']
    (embed,) = read_select("x:rel!hint!inner(a,b:c->>d::int)")
    assert (embed.alias, getattr(embed, "hint", ""), getattr(embed, "inner", False)) == ("x", "hint", True)
    query = read_query(
        [("a.b.order", "c.desc.nullslast"), ("a.limit", "3"), ("not.or", "(x.eq.1,y.is.null)")]
    )
    assert (query.embeds["a"].limit, query.embeds["a"].embeds["b"].order[0][1]) == (3, "desc")
    assert (query.filters[0].negated, len(query.filters[0].parts)) == (True, 2)
    for wrong in ([("a", "1")], [("limit", "x")], [("or", "a.eq.1")]):
        with pytest.raises(Failure):
            read_query(wrong)
