"""SQL files are split where psql splits them."""

from __future__ import annotations

from pathlib import Path

import pytest

from unstale import ConfigurationError
from unstale_worker.dev_servers.migrations import migrations_folder
from unstale_worker.dev_servers.statements import Kind, read_sql, split

WHOLE = [
    "select 'a;b', \"c;d\", E'it\\'s; one', $$ ; $$, $tag$ $$ ; $other$ $tag$",
    "select 1 /* ; /* nested ; */ ; */ + 2 -- ;\n + 3",
    "create rule r as on delete to t do instead (select 1; select 2)",
    "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
    "select a$b$c from t where x = $1",
    "create function f() returns text language sql as 'select ''a;b'';'",
    "do $_$ begin if true then null; end if; end $_$",
]


@pytest.mark.parametrize("text", WHOLE)
def test_a_semicolon_inside_ends_nothing(text: str) -> None:
    found = list(split(f"-- before;\n{text} ;\n;;\nselect 'next'"))
    assert [statement.text.strip() for statement in found] == [text, "select 'next'"]
    assert (found[0].line, found[1].line) == (2, 4 + text.count("\n"))


def test_rows_of_a_copy_are_data() -> None:
    text = "COPY a.b (c) FROM stdin;\n;1\n\\N\n\\.\n\n\\restrict abc\nselect 1;\ncopy t from stdin;\nlast"
    copy, command, select, last = split(text)
    assert (copy.kind, copy.data, copy.line) == (Kind.COPY, ";1\n\\N\n", 1)
    assert (command.kind, command.ignored, command.line) == (Kind.COMMAND, True, 6)
    assert (select.text, last.data) == ("select 1", "last")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("begin", Kind.BEGIN), ("START TRANSACTION", Kind.BEGIN), ("commit", Kind.COMMIT),
        ("rollback", Kind.ROLLBACK), ("rollback to savepoint a", Kind.NORMAL), ("savepoint a", Kind.NORMAL),
        ("create unique index concurrently i on t (a)", Kind.ALONE), ("create index i on t (a)", Kind.NORMAL),
        ("alter type mood add value if not exists 'x'", Kind.ALONE), ("vacuum", Kind.ALONE),
        ("alter type mood rename to m", Kind.NORMAL), ("create database d", Kind.ALONE),
        ("reindex (verbose) table concurrently t", Kind.ALONE), ("end", Kind.COMMIT),
        ("refresh materialized view concurrently v", Kind.NORMAL), ("copy t to stdout", Kind.NORMAL),
        ("alter table t detach partition p concurrently", Kind.ALONE), ("copy t from '/file'", Kind.NORMAL),
    ],
)  # fmt: skip
def test_how_a_statement_is_run(text: str, kind: Kind) -> None:
    (statement,) = split(text)
    assert statement.kind is kind


def test_our_own_migrations_lose_no_character() -> None:
    for path in migrations_folder().glob("*.sql"):
        text = read_sql(path)
        at = 0
        for statement in split(text):
            at = text.index(statement.text, at) + len(statement.text)
            assert statement.line == text.count("\n", 0, at - len(statement.text)) + 1
        assert not [statement for statement in split(text[at:]) if statement.text]


def test_an_encoding_is_recognised_or_named(tmp_path: Path) -> None:
    file = tmp_path / "a.sql"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes("select 'é';\r\nselect 2;\r".encode(encoding))
        assert read_sql(file) == "select 'é';\nselect 2;\n"
    file.write_bytes(b"select 1;\nselect '\xe9';")
    with pytest.raises(ConfigurationError, match=r"a\.sql:2: the file is not UTF-8"):
        read_sql(file)
