"""A watched table under random DDL and writes: each write goes on, and each change is captured or reported.

The oracle is the table itself. Its rows are read before and after each statement. The keys of every row
that came or went have to be in an entry, or there is a whole-table entry, or `unstale.watch_states` calls the
watch broken.
"""

# ruff: noqa: S608  (the names in these statements are the test's own)

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import asyncpg

from properties.ddl_commands import COMMANDS, any_value

SETUP = """
drop schema if exists app, shop, other, s1, s2, s3 cascade;
create schema app; create schema other;
create type app.mood as enum ('a', 'b', 'c');
create domain app.moods as app.mood;
create type app.pair as (x float8, m app.mood);
create function app.refuse() returns trigger language plpgsql as
    $$ begin if new::text like '%gone%' then return null; end if; return new; end $$;
create table app.logs (
    id int not null, day int not null, note text, mood app.mood, moods app.moods, pair app.pair, n int,
    primary key (id, day)
) {partitioned};
"""

PARTITIONS = """
create table app.p1 partition of app.logs for values in (1);
create table app.p2 partition of app.logs for values in (2);
create table app.p3 partition of app.logs for values in (3, 4) partition by list (id);
create table app.p31 partition of app.p3 for values in (1, 2, 3);
create trigger refuse before insert on app.p2 for each row execute function app.refuse();
"""

CHILDREN = """
create table app.p1 (more int) inherits (app.logs); create table app.p2 () inherits (app.p1);
"""

WATCHES = [
    ("{id}", None),
    ("{note}", None),
    ("{mood,day}", None),
    ("{moods}", "{n}"),
    ("{id,note}", "{pair,mood,n}"),
]

STATE = """
select w.id, w.relation::oid as oid, w.relation::text as name, w.columns is not null as filtered,
    array(select r.name from unstale.resolve(w.relation, w.key_columns, w.key_numbers) as r
          order by r.ordinal) as keys,
    array(select r.name from unstale.resolve(w.relation, w.columns, w.column_numbers) as r) as columns,
    array(select a.attname::text from pg_index as i join pg_attribute as a on a.attrelid = i.indrelid
          and a.attnum = any (i.indkey) where i.indrelid = w.relation and i.indisprimary) as pkey
from unstale.watched as w join pg_class as c on c.oid = w.relation where w.state = 'watched'
"""

FAMILY = """
select f.member::regclass::text from unstale.family($1) as f where f.kind in ('r', 'p') order by f.member
"""

COLUMNS = """
select quote_ident(a.attname), t.typname, t.typtype::text,
    array(select e.enumlabel::text from pg_enum as e where e.enumtypid = unstale.base_type(t.oid)),
    (select count(*) from pg_attribute as p
     where p.attrelid = t.typrelid and p.attnum > 0 and not p.attisdropped)
from pg_attribute as a join pg_type as t on t.oid = a.atttypid
where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum
"""

Row = tuple[str, tuple[str | None, ...] | None]
Rows = Counter[Row]


class Watch(NamedTuple):
    """A watched table as it is now; `rows` queries what readers see of it, with the key of each row."""

    id: int
    relation: int
    table: str
    width: int
    rows: str


class World:
    """One watched table, its relatives, and sessions with plans of their own."""

    def __init__(self, sessions: list[asyncpg.Connection], rng: random.Random, *, followed: bool) -> None:
        self.owner, *self.writers = sessions
        self.sessions = sessions
        self.rng = rng
        self.followed = followed
        self.log: list[str] = []
        self.writes = 0
        self.changes = 0

    async def begin(self) -> None:
        """Make the tables anew and watch one."""
        partitioned = self.rng.random() < 0.6
        await self.owner.execute(
            "select unstale.unwatch(w.relation) from unstale.watched as w where w.state = 'watched'"
        )
        await self.owner.execute(
            SETUP.format(partitioned="partition by list (day)" if partitioned else "")
            + (PARTITIONS if partitioned else CHILDREN)
        )
        keys, columns = self.rng.choice(WATCHES)
        filtered = f", '{columns}'" if columns else ""
        # A child by inheritance has no primary key, which a column filter asks for.
        table = (
            self.rng.choice(["app.logs", "app.logs", "app.p1"]) if partitioned or not columns else "app.logs"
        )
        await self.run(f"select unstale.watch('{table}', '{keys}'{filtered})")
        for number in range(1, 4):
            await self.run(
                f"insert into app.logs (id, day, note, mood) values ({number}, {number}, 'x', 'a')"
            )

    async def run(self, statement: str, session: asyncpg.Connection | None = None) -> bool:
        """Run a statement; return False if it is refused for a reason of the user's own."""
        self.log.append(statement)
        try:
            await (session or self.owner).execute(statement)
        except asyncpg.UnsafeNewEnumValueUsageError:
            # Of this transaction.
            return False
        except asyncpg.IntegrityConstraintViolationError as error:
            # No partition for the row, a key that is there already, a null.
            if error.schema_name == "unstale":
                raise AssertionError(self.told(error)) from error
            return False
        return True

    def told(self, error: object) -> str:
        """Return what happened up to a failure."""
        return f"{error}\n" + ";\n".join(self.log)

    async def step(self) -> None:
        """Change something about the tables, then write from every session."""
        make = self.rng.choice(COMMANDS)
        command = await make(self.owner, self.rng)
        if command:
            await self.ddl(command)
        for session in self.rng.sample(self.sessions, len(self.sessions)):
            await self.write(session)

    async def ddl(self, command: str) -> None:
        """Run a command, at times in a transaction that writes, or is rolled back."""
        before = await self.seen()
        how = self.rng.choice(["plain", "plain", "transaction", "rollback"])
        if how == "plain" or "concurrently" in command:
            await self.attempt(command)
        else:
            change = self.owner.transaction()
            await change.start()
            failed = not await self.attempt(command)
            if not failed:
                await self.write(self.owner, check=False)
            if failed or how == "rollback":
                self.log.append("rollback")
                await change.rollback()
            else:
                self.log.append("commit")
                await change.commit()
        if self.followed:
            await self.expect_captured(before, command)

    async def attempt(self, command: str) -> bool:
        """Run a command; return False if Postgres refuses it, for a reason that is not a capture's."""
        try:
            return await self.run(command)
        except asyncpg.PostgresError as error:
            if "unstale" in str(error):
                raise AssertionError(self.told(error)) from error
            return False

    async def write(self, session: asyncpg.Connection, *, check: bool = True) -> None:
        """Write to a random member of the family; every row that changes must be captured."""
        before = await self.seen() if check else {}
        watches = list(before) if check else [await self.watch()]
        if not watches or watches[0] is None:
            return
        members = [row[0] for row in await self.owner.fetch(FAMILY, watches[0].relation)]
        table = self.rng.choice(members)
        statement = await self.statement(table)
        if check:
            try:
                done = await self.run(statement, session)
            except asyncpg.PostgresError as error:
                raise AssertionError(self.told(f"{type(error).__name__}: {error}")) from error
            self.writes += done
            await self.expect_captured(before, statement)
        else:
            inner = session.transaction()
            await inner.start()
            if await self.run(statement, session):
                await inner.commit()
            else:
                await inner.rollback()

    async def statement(self, table: str) -> str:
        """Return an insert, update or delete that fits the table's columns of the moment."""
        columns = [tuple(row) for row in await self.owner.fetch(COLUMNS, table)]
        values = {column[0]: any_value(self.rng, *column[1:]) for column in columns}
        integers = [column[0] for column in columns if column[1] in ("int4", "int8")]
        some = ""
        if integers and self.rng.random() < 0.7:
            some = f" where {self.rng.choice(integers)} = {self.rng.randint(1, 4)}"
        kind = self.rng.choice(["insert", "insert", "update", "update", "update", "delete", "truncate"])
        if kind == "insert" or not columns:
            return f"insert into {table} ({', '.join(values)}) values ({', '.join(values.values())})"
        if kind == "update":
            changed = self.rng.sample(list(values), min(len(values), self.rng.choice([1, 1, 2])))
            return f"update {table} set {', '.join(f'{name} = {values[name]}' for name in changed)}{some}"
        if kind == "delete" or self.rng.random() < 0.7:
            return f"delete from {table}{some}"
        return f"truncate {table}"

    async def watch(self) -> Watch | None:
        """Return the watch as the table is now."""
        row = await self.owner.fetchrow(STATE)
        if row is None:
            return None
        quoted = [f'r."{name}"::text' for name in row["keys"] if name is not None]
        whole = len(quoted) < len(row["keys"])
        key = f"array[{', '.join(quoted)}]" if not whole else "null::text[]"
        shown = "r"
        if row["filtered"] and not whole and None not in row["columns"] and row["pkey"]:
            names = sorted({*row["keys"], *row["columns"], *row["pkey"]})
            shown = f"row({', '.join(f'r.{chr(34)}{name}{chr(34)}' for name in names)})"
        return Watch(
            row["id"],
            row["oid"],
            row["name"],
            len(row["keys"]),
            f"select r.tableoid::text || ({shown})::text, {key} from {row['name']} as r",
        )

    async def seen(self) -> dict[Watch, Rows]:
        """Read the watched table, and empty the outbox."""
        watch = await self.watch()
        await self.owner.execute("delete from unstale.outbox")
        return {} if watch is None else {watch: await self.rows(watch)}

    async def rows(self, watch: Watch) -> Rows:
        found = await self.owner.fetch(watch.rows)
        return Counter((row[0], None if row[1] is None else tuple(row[1])) for row in found)

    async def expect_captured(self, before: dict[Watch, Rows], statement: str) -> None:
        """Raise `AssertionError` where a row changed and neither an entry nor a finding says so."""
        after = await self.watch()
        for watch, rows in before.items():
            entries = await self.owner.fetch(
                "select case when keys is not null then array(select unnest(keys)) end "
                "from unstale.outbox where watch = $1",
                watch.id,
            )
            if any(row[0] is None for row in entries):
                continue
            now = await self.rows(after) if after and after.id == watch.id else Counter()
            changed = (rows - now) + (now - rows)
            self.changes += len(changed)
            told = {
                tuple(row[0][i : i + watch.width])
                for row in entries
                for i in range(0, len(row[0]), watch.width)
            }
            missing = [key for _, key in changed if key is None or key not in told]
            if missing:
                broken = await self.owner.fetchval(
                    "select s.broken from unstale.watch_states(null) as s where s.watch = $1", watch.id
                )
                assert broken, self.told(f"not captured and not reported: {missing} after {statement}")
