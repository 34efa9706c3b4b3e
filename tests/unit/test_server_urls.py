"""Both URLs are parsed in one place: what is accepted means what it says, and no error shows a part of it."""

import traceback
from urllib.parse import unquote

import pytest
from asyncpg import connect_utils

from servers.odd_urls import BETWEEN, PIECES, leaks, odd_urls
from unstale.errors import SettingError
from unstale.redis_tier.connections import Connections
from unstale.redis_tier.url import RedisUrl
from unstale.runtime.postgres_url import FOREIGN, PostgresUrl
from unstale.runtime.project_url import project_url
from unstale.settings import WorkerSettings
from unstale_worker.sources.postgres_connections import PostgresConnections


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def as_asyncpg_reads(dsn: str) -> tuple[object, object, object, object]:
    """Return addresses, user, password and database, as asyncpg would use them."""
    nothing = dict.fromkeys(
        ("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile",
         "direct_tls", "server_settings", "target_session_attrs", "krbsrvname", "gsslib")
    )  # fmt: skip
    addresses, found = connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]  # no stub has it
        dsn=dsn, **nothing
    )
    return addresses, found.user, found.password, found.database


def test_there_are_enough_odd_urls() -> None:
    assert len(set(odd_urls("postgresql", "127.0.0.1:1"))) >= 200


@pytest.mark.parametrize("scheme", ["postgresql", "redis", "rediss", "https"])
def test_no_odd_url_is_shown(scheme: str) -> None:
    for url in odd_urls(scheme, "127.0.0.1:1"):
        said = ""
        for parse in (PostgresUrl.parse, RedisUrl.parse, project_url):
            try:
                said += repr(parse(url)) if parse is not project_url else str(bool(parse(url)))
            except SettingError as error:
                said += shown(error)
        try:
            said += repr(Connections(url, timeout=1))
        except SettingError as error:
            said += shown(error)
        said += repr(PostgresConnections(url)) + repr(WorkerSettings(database_url=url, redis_url=url))
        assert not leaks(said), (url, said)


@pytest.mark.parametrize("between", BETWEEN)
def test_an_accepted_password_is_the_one_that_was_meant(between: str) -> None:
    from urllib.parse import quote

    secret = between.join(PIECES)
    dsn = PostgresUrl.parse(f"postgresql://us%40er:{quote(secret, safe='')}@127.0.0.1:1/my%2Fdb").dsn
    assert as_asyncpg_reads(dsn) == ([("127.0.0.1", 1)], "us@er", secret, "my/db")
    assert RedisUrl.parse(f"redis://us%40er:{quote(secret, safe='')}@127.0.0.1:1/2").options == {
        "username": "us@er", "password": secret, "host": "127.0.0.1", "port": 1, "db": 2,
    }  # fmt: skip
    for raw in (f"postgresql://u:{secret}@127.0.0.1:1/db", f"redis://u:{secret}@127.0.0.1:1/0"):
        try:
            if raw.startswith("redis"):
                read = RedisUrl.parse(raw).options["password"]
            else:
                read = as_asyncpg_reads(PostgresUrl.parse(raw).dsn)[2]
        except SettingError:
            continue
        assert read == unquote(secret)  # refused, or read as it stands there


@pytest.mark.parametrize(
    ("url", "addresses", "database"),
    [
        ("postgresql://u:p@h/db", [("h", 5432)], "db"),
        ("postgres://u:p@h:6543/db?sslmode=require", [("h", 6543)], "db"),
        ("postgresql+asyncpg://u:p@h/db", [("h", 5432)], "db"),
        ("PostgreSQL://u:p@h/db", [("h", 5432)], "db"),
        ("  postgresql://u:p@h/db\n", [("h", 5432)], "db"),
        ("postgresql://u:p@a:1,b:2,[::1]:3/db", [("a", 1), ("b", 2), ("::1", 3)], "db"),
        ("postgresql://u:p@[::1]/db", [("::1", 5432)], "db"),
        ("postgresql://u:p@/db?host=/run/pg", ["/run/pg/.s.PGSQL.5432"], "db"),
        ("postgresql://u:p@%2Frun%2Fpg/db", ["/run/pg/.s.PGSQL.5432"], "db"),
        ("postgresql://h?user=u&password=p&dbname=db", [("h", 5432)], "db"),
        ("postgresql://u:p@büro.example/db", [("büro.example", 5432)], "db"),
        ("postgresql://u:p@h/db?application_name=a+b", [("h", 5432)], "db"),
    ],
)
def test_the_forms_that_postgres_takes(url: str, addresses: object, database: str) -> None:
    assert as_asyncpg_reads(PostgresUrl.parse(url).dsn) == (addresses, "u", "p", database)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("", "DATABASE_URL is not a URL"),
        ("host=localhost dbname=x", "DATABASE_URL is not a URL"),
        ("mysql://u:p@h/db", "DATABASE_URL begins with mysql://"),
        ("hunter2://u:p@h/db", "DATABASE_URL is not a URL"),
        ("postgresql://u:p#1@h/db", "host or port cannot be read"),
        ("postgresql://u:p@h:x/db", "host or port cannot be read"),
        ("postgresql://u:p@h:0/db", "host or port cannot be read"),
        ("postgresql://u:p@a,,b/db", "host or port cannot be read"),
        ("postgresql://u:p@h/d b", "a blank or a line break"),
        ("postgresql://u:p@h/db?sslmode", "option number 1 is not name=value"),
        ("postgresql://u:p@h/db?a=1&=2", "option number 2 is not name=value"),
        ("postgresql://u:p@h/db?sslmode=on", "option 'sslmode' must be one of disable, allow"),
        ("postgresql://u:p@h/db?target_session_attrs=x", "option 'target_session_attrs' must be one of any"),
        ("postgresql://u:p@h/db?port=x", "option 'port' must be a number"),
        *(
            (f"postgresql://u:p@h/db?{name}=1", f"option '{name}' is one of {FOREIGN[name]}")
            for name in FOREIGN
        ),
    ],
)
def test_a_mistake_names_its_part(url: str, part: str) -> None:
    with pytest.raises(SettingError, match="DATABASE_URL") as refused:
        PostgresUrl.parse(url)
    assert part in str(refused.value)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("x.supabase.co", "not a URL"),
        ("ftp://x.supabase.co", "not a URL of the web"),
        ("https://user:tops3cret@x.supabase.co", "contains a user or password"),
        ("https://x.supabase.co?apikey=tops3cret", "has options"),
        ("https://x.supabase.co#tops3cret", "cannot be read"),
        ("https://", "names no host"),
        ("https://x:y", "cannot be read"),
    ],
)
def test_a_project_url_holds_no_secret(url: str, part: str) -> None:
    with pytest.raises(SettingError, match="SUPABASE_URL") as refused:
        project_url(url)
    assert part in str(refused.value)
    assert "tops3cret" not in shown(refused.value)
    assert project_url("https://x.supabase.co/") == "https://x.supabase.co/"
